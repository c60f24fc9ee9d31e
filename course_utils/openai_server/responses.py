"""The Responses API: its requests as chat completions, their answers as typed events, and the responses that are kept."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal, NamedTuple

from openai.types.responses import ResponseIncludable
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from course_utils.openai_server.bodies import ApiError, Metadata, Strict, invalid
from course_utils.openai_server.chat import MAX_TOOLS, ChatRequest, Function, NamedSchema, PlainFormat, ToolMode
from course_utils.openai_server.completions import Completion, Piece, new_call_id
from course_utils.openai_server.store import random_letters


class Echoed(Strict):
    """An item that a client sends back as it received it.

    An empty field counts as none, and ids and statuses mean nothing.
    """

    id: Any = None
    status: Any = None

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, value: Any) -> Any:
        return {name: inner for name, inner in value.items() if inner is not None} if isinstance(value, dict) else value


class TextPart(Echoed):
    """A text in a message or in an output."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Any = None
    logprobs: Any = None


Content = str | list[TextPart]


class MessageItem(Echoed):
    """A message of the conversation."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    phase: Any = None


class CallItem(Echoed):
    """A function call that the model has made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class OutputItem(Echoed):
    """The result of a function call."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content


def _with_type(item: Any) -> Any:
    """An item without a type is a message."""
    return {"type": "message", **item} if isinstance(item, dict) else item


Item = Annotated[MessageItem | CallItem | OutputItem, Field(discriminator="type"), BeforeValidator(_with_type)]


LOGPROBS = "message.output_text.logprobs"  # the only kind of `include` that this model generates
MAX_RESPONSES = 500


class SchemaFormat(NamedSchema):
    """The format of a text that is JSON and follows a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class TextConfig(Strict):
    """The form that is requested for text; the verbosity is the one that this model has anyway."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class FunctionTool(Function):
    """A function that the model may call; functions are the only tools here."""

    type: Literal["function"]


class ToolChoice(Strict):
    """A function that must be called."""

    type: Literal["function"]
    name: str


class ResponseRequest(Strict):
    """The body of a request for a response; arguments that are not declared here are refused."""

    model: Annotated[str, Field(min_length=1)]
    input: str | Annotated[list[Item], Field(min_length=1, max_length=2048)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolMode | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    include: list[ResponseIncludable] | None = None
    stream: bool | None = None
    # Only the values that describe what is done here anyway are accepted.
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    # The client's identity does not affect the answer.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


# -- responses that are kept ----------------------------------------------------------------------------------------------


class StoredResponse(NamedTuple):
    """A response that is kept.

    Attributes:
        body: the response as the client saw it.
        messages: the conversation up to and including the response, as chat messages.
    """

    body: dict[str, Any]
    messages: list[dict[str, Any]]


class ResponseStore(dict[str, StoredResponse]):
    """The latest responses of this process, by id; older ones are dropped, and all are gone when the process ends."""

    def add(self, body: dict[str, Any], conversation: list[dict[str, Any]]) -> None:
        """Store a response, and the conversation up to it."""
        self[body["id"]] = StoredResponse(body, [*conversation, _as_chat_message(body["output"])])
        if len(self) > MAX_RESPONSES:
            del self[next(iter(self))]


def _as_chat_message(output: list[dict[str, Any]]) -> dict[str, Any]:
    text = "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
    calls = [_chat_call(item["call_id"], item["name"], item["arguments"]) for item in output if "call_id" in item]
    return {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}


def _chat_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


# -- to chat and back -----------------------------------------------------------------------------------------------------


def to_chat(request: ResponseRequest, store: ResponseStore) -> tuple[ChatRequest, list[dict[str, Any]]]:
    """Convert a request into a chat request.

    Returns:
        The chat request, and the conversation without instructions, as chat messages.

    Raises:
        ApiError: a value is invalid; the error names the parameter.
    """
    conversation: list[dict[str, Any]] = []
    if request.previous_response_id is not None:
        if (previous := store.get(request.previous_response_id)) is None:
            message = f"Previous response with id '{request.previous_response_id[:80]}' not found."
            raise invalid("previous_response_id", message, "previous_response_not_found")
        conversation += previous.messages
    _add_messages(conversation, request.input)
    instructions = [{"role": "developer", "content": request.instructions}] if request.instructions else []
    text_format = _format(request.text)
    if text_format["type"] == "json_schema":
        schema = {name: value for name, value in text_format.items() if name != "type"}
        text_format = {"type": "json_schema", "json_schema": schema}
    logprobs = LOGPROBS in (request.include or ()) or bool(request.top_logprobs)
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": [*instructions, *conversation],
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": logprobs,
        "top_logprobs": request.top_logprobs if logprobs else None,
        "response_format": text_format,
    }
    if request.tools:
        fields["tools"] = [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in request.tools]
        fields["tool_choice"] = choice = request.tool_choice
        if isinstance(choice, ToolChoice):
            fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        fields["parallel_tool_calls"] = request.parallel_tool_calls
    elif request.tool_choice not in (None, "auto", "none"):
        raise invalid("tool_choice", "Tool choices other than 'auto' and 'none' need tools: 'tools' is empty.")
    try:
        return ChatRequest.model_validate(fields), conversation
    except ValidationError as error:
        raise invalid("input", f"Invalid value for 'input': {error.errors(include_url=False)[0]['msg']}.") from error


def _add_messages(messages: list[dict[str, Any]], new: str | Sequence[Item]) -> None:
    """Append a user's text, or items, to chat messages.

    Consecutive calls, also those after an assistant's text, become one message, as the model writes them.
    """
    for item in [MessageItem(type="message", role="user", content=new)] if isinstance(new, str) else new:
        if isinstance(item, MessageItem):
            messages.append({"role": item.role, "content": _text(item.content)})
        elif isinstance(item, OutputItem):
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        else:
            calls = [_chat_call(item.call_id, item.name, item.arguments)]
            last: dict[str, Any] = {"role": "assistant", "content": None}
            if messages and messages[-1]["role"] == "assistant":
                last = messages.pop()  # replaced by a new message, so that those of earlier responses stay unchanged
            messages.append({**last, "tool_calls": [*(last.get("tool_calls") or ()), *calls]})


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _format(text: TextConfig | None) -> dict[str, Any]:
    if text is None or text.format is None:
        return {"type": "text"}
    if isinstance(text.format, PlainFormat):
        return text.format.model_dump()
    return {**text.format.model_dump(by_alias=True), "strict": bool(text.format.strict)}


CHAT_NAMES = (
    (r"^messages\b.*", "input"),
    (r"^response_format\b.*", "text.format"),
    (r"^(tools\[\d+\])\.function\b", r"\1"),
)


def renamed(error: ApiError) -> ApiError:
    """Return an error of the chat request with the name that the parameter has in the Responses API."""
    for pattern, replacement in CHAT_NAMES:
        if error.body["error"]["param"] is not None:
            error.body["error"]["param"] = re.sub(pattern, replacement, error.body["error"]["param"])
    return error


def frame(request: ResponseRequest) -> dict[str, Any]:
    """Return a new response that has no output yet."""
    choice = request.tool_choice
    echoed = {"instructions", "max_output_tokens", "model", "previous_response_id", "prompt_cache_key", "safety_identifier",
              "user"}  # fmt: skip
    return request.model_dump(include=echoed) | {
        "id": f"resp_{random_letters(48)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "metadata": request.metadata or {},
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": _format(request.text), "verbosity": "medium"},
        "tool_choice": choice.model_dump() if isinstance(choice, ToolChoice) else choice or "auto",
        "tools": [{**tool.model_dump(), "strict": bool(tool.strict)} for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "usage": None,
    }


# -- the pieces of an answer as events ------------------------------------------------------------------------------------

Event = dict[str, Any]


class Events:
    """The events of one response that is being generated; each has a copy of its document as it is at that moment.

    Args:
        body: the response as created by `responses.frame`; it is filled in.
        completion: the chat completion that generates it.
        keep: called with the response once it has ended without an error; None if it is not to be stored.
    """

    def __init__(
        self, body: dict[str, Any], completion: Completion, keep: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.body, self.completion, self.keep = body, completion, keep
        self._number = -1
        self._item: dict[str, Any] | None = None  # the item in progress
        self._error: ApiError | None = None

    async def events(self) -> AsyncIterator[Event]:
        """Yield every event; an error on the way is an event too."""
        yield self._event("response.created", response=deepcopy(self.body))
        yield self._event("response.in_progress", response=deepcopy(self.body))
        truncated = False
        try:
            async for piece in self.completion.pieces():
                truncated = truncated or piece.reason == "length"
                for event in self._piece_events(piece):
                    yield event
        except ApiError as error:
            self._error = error
            self.body |= {"status": "failed", "error": {"code": "server_error", "message": str(error)}}
            yield self._event("response.failed", response=deepcopy(self.body))
            return
        if not self.body["output"]:
            for event in self._begin_text():
                yield event
        for event in self._finish_item("incomplete" if truncated else "completed"):
            yield event
        chat = self.completion.usage
        self.body["usage"] = {
            "input_tokens": chat["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": chat["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": chat["total_tokens"],
        }
        self.body["status"] = "incomplete" if truncated else "completed"
        if truncated:
            self.body["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.body["completed_at"] = int(time.time())
        response = deepcopy(self.body)
        if self.keep:
            self.keep(response)
        yield self._event(f"response.{self.body['status']}", response=response)

    async def stream(self) -> AsyncIterator[str]:
        """Yield the events in the form of server-sent events."""
        async for event in self.events():
            yield f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"

    async def whole(self) -> dict[str, Any]:
        """Wait for the end, and return the response as one document.

        Raises:
            ApiError: the engine failed.
        """
        async for _ in self.events():
            pass
        if self._error is not None:
            raise self._error
        return self.body

    def _piece_events(self, piece: Piece) -> Iterator[Event]:
        described = self.completion.token_logprobs(piece.tokens)
        in_text = self._item is not None and self._item["type"] == "message"
        if piece.text or (described and not piece.calls and in_text):
            if not in_text:
                yield from self._begin_text()
            yield from self._more_text(piece.text, described)
        for call in piece.calls:
            item = {"id": f"fc_{random_letters(48)}", "type": "function_call", "status": "in_progress"}
            yield from self._begin_item({**item, "arguments": "", "call_id": new_call_id(), "name": call.name})
            self.body["output"][-1]["arguments"] = call.arguments
            yield self._event("response.function_call_arguments.delta", **self._position(), delta=call.arguments)

    def _begin_text(self) -> Iterator[Event]:
        item = {"id": f"msg_{random_letters(48)}", "type": "message", "status": "in_progress", "role": "assistant"}
        yield from self._begin_item({**item, "content": []})
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        self.body["output"][-1]["content"].append(part)
        yield self._event("response.content_part.added", **self._position(), content_index=0, part=deepcopy(part))

    def _more_text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        part = self.body["output"][-1]["content"][0]
        part["text"] += text
        part["logprobs"] = [*part["logprobs"], *logprobs]
        yield self._event(
            "response.output_text.delta",
            **self._position(),
            content_index=0,
            delta=text,
            logprobs=[_short(token) for token in logprobs],
        )

    def _begin_item(self, item: dict[str, Any]) -> Iterator[Event]:
        yield from self._finish_item("completed")
        self._item = item
        self.body["output"].append(item)
        yield self._event("response.output_item.added", output_index=self._index, item=deepcopy(item))

    def _finish_item(self, status: str) -> Iterator[Event]:
        """Finish the item in progress."""
        item, position = self._item, self._position()
        if item is None:
            return
        if item["type"] == "message":
            part = item["content"][0]
            final_fields = {"text": part["text"], "logprobs": [_short(token) for token in part["logprobs"]]}
            yield self._event("response.output_text.done", **position, content_index=0, **final_fields)
            yield self._event("response.content_part.done", **position, content_index=0, part=deepcopy(part))
        else:
            final_fields = {"arguments": item["arguments"], "name": item["name"]}  # the client required the name until 2.x
            yield self._event("response.function_call_arguments.done", **position, **final_fields)
        item["status"] = status
        yield self._event("response.output_item.done", output_index=self._index, item=deepcopy(item))
        self._item = None

    @property
    def _index(self) -> int:
        return len(self.body["output"]) - 1

    def _position(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "output_index": self._index} if self._item else {}

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}


def _short(token: dict[str, Any]) -> dict[str, Any]:
    """A token's log-probabilities as events have them: without bytes."""
    tops = [{"token": top["token"], "logprob": top["logprob"]} for top in token["top_logprobs"]]
    return {"token": token["token"], "logprob": token["logprob"], "top_logprobs": tops}
