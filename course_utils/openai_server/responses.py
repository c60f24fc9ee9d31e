"""The Responses API: its requests and items, translated to chat completions, and the responses that are stored."""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

from openai.types.responses import Response
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from course_utils.openai_server.bodies import Strict
from course_utils.openai_server.chat import ChatRequest, PlainFormat
from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.store import random_letters
from course_utils.openai_server.tools import MAX_TOOLS, Function, Name


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


class RefusalPart(Echoed):
    """A refusal in a message."""

    type: Literal["refusal"]
    refusal: str


Content = str | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]]


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


def to_messages(new_items: str | Sequence[Item], previous: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Append new items to the conversation, and return all of it as chat messages.

    Consecutive calls, also those after an assistant's text, become one message, as the model writes them.

    Args:
        new_items: a user's text, or items.
        previous: chat messages of the conversation so far.

    Raises:
        ApiError: a call has no output, or an output has no call.
    """
    messages = list(previous)
    if isinstance(new_items, str):
        messages.append({"role": "user", "content": new_items})
    else:
        for item in new_items:
            _add(messages, item)
    _check_calls(messages)
    return messages


def _add(messages: list[dict[str, Any]], item: MessageItem | CallItem | OutputItem) -> None:
    if isinstance(item, MessageItem):
        messages.append({"role": item.role, "content": _text(item.content)})
    elif isinstance(item, OutputItem):
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
    else:
        call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
        if messages and messages[-1]["role"] == "assistant":
            last = messages.pop()  # replaced by a new message, so that those of earlier responses stay unchanged
            messages.append({**last, "tool_calls": [*(last.get("tool_calls") or ()), call]})
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text(content: str | list[TextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that every output belongs to a call, and that every call has an output."""
    called: set[str] = set()
    unanswered: dict[str, None] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            called.add(call["id"])
            unanswered[call["id"]] = None
        if message["role"] == "tool":
            if message["tool_call_id"] not in called:
                _refuse("input", f"No tool call found for function call output with call_id {message['tool_call_id']}.")
            unanswered.pop(message["tool_call_id"], None)
    if unanswered:
        _refuse("input", f"No tool output found for function call {next(iter(unanswered))}.")


def _refuse(param: str, message: str) -> NoReturn:
    raise invalid(param, message, "invalid_value")


LOGPROBS = "message.output_text.logprobs"
# Values that `include` may also have; this model generates none of these, so there is nothing to include.
INCLUDABLE = {
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
}
MAX_RESPONSES = 500
MAX_CHARACTERS = 32_000_000


class SchemaFormat(Strict):
    """The format of a text that is JSON and follows a schema."""

    type: Literal["json_schema"]
    name: Name
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextConfig(Strict):
    """The form that is requested for text; the verbosity is the one that this model has anyway."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class FunctionTool(Function):
    """A function that the model may call; functions are the only tools here."""

    type: Literal["function"]


class ToolChoice(Strict):
    """A function that must be called, or the tools that may be called.

    Other kinds are refused as a whole, under `tool_choice`.
    """

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_TOOLS)] | None = None


class StreamOptions(Strict):
    """What a stream contains besides its events."""

    include_obfuscation: Literal[False] | None = None


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
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
    ] | None = None  # fmt: skip
    store: bool | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Only the values that describe what is done here anyway are accepted.
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    # The client's identity does not affect the answer.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class StoredResponse(NamedTuple):
    """A response that is kept.

    Attributes:
        body: the response as the client saw it.
        messages: the conversation up to and including the response, as chat messages.
        size: number of characters of both as JSON, for the limit of the store.
    """

    body: dict[str, Any]
    messages: list[dict[str, Any]]
    size: int


class ResponseStore:
    """Keeps the latest responses of this process; older ones are dropped, and all are gone when the process ends."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_characters: int = MAX_CHARACTERS) -> None:
        self.max_responses, self.max_characters = max_responses, max_characters
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._characters = 0

    def add(self, body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Store a response, and the conversation up to and including it."""
        size = len(json.dumps([body, messages]))
        self._responses[body["id"]] = StoredResponse(body, messages, size)
        self._characters += size
        while self._responses and (len(self._responses) > self.max_responses or self._characters > self.max_characters):
            self._characters -= self._responses.popitem(last=False)[1].size

    def get(self, response_id: str) -> StoredResponse | None:
        """Return a response, or None if it is not stored, or not any more."""
        return self._responses.get(response_id)

    def delete(self, response_id: str) -> bool:
        """Delete a response, and return whether it was stored."""
        removed = self._responses.pop(response_id, None)
        self._characters -= removed.size if removed else 0
        return removed is not None


def to_chat(request: ResponseRequest, store: ResponseStore) -> tuple[ChatRequest, list[dict[str, Any]]]:
    """Convert a request into a chat request.

    Returns:
        The chat request, and the conversation without instructions.

    Raises:
        ApiError: a value is invalid; the error names the parameter.
    """
    _check(request)
    earlier_messages: list[dict[str, Any]] = []
    if request.previous_response_id is not None:
        if (previous := store.get(request.previous_response_id)) is None:
            message = f"Previous response with id '{request.previous_response_id[:80]}' not found."
            raise invalid("previous_response_id", message, "previous_response_not_found")
        earlier_messages = previous.messages
    conversation = to_messages(request.input, earlier_messages)
    instructions = [{"role": "developer", "content": request.instructions}] if request.instructions else []
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": [*instructions, *conversation],
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": with_logprobs(request),
        "top_logprobs": request.top_logprobs if with_logprobs(request) else None,
        "response_format": _response_format(request.text),
        "stream": request.stream,
    }
    if request.tools:
        fields["tools"] = [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in request.tools]
        fields["tool_choice"] = _chat_choice(request.tool_choice)
        fields["parallel_tool_calls"] = request.parallel_tool_calls
    elif request.tool_choice not in (None, "auto", "none"):
        raise invalid("tool_choice", "Tool choices other than 'auto' and 'none' need tools: 'tools' is empty.")
    try:
        return ChatRequest.model_validate(fields), conversation
    except ValidationError as error:
        raise invalid("input", f"Invalid value for 'input': {error.errors(include_url=False)[0]['msg']}.") from error


def with_logprobs(request: ResponseRequest) -> bool:
    """Return whether log-probabilities are requested."""
    return LOGPROBS in (request.include or ()) or bool(request.top_logprobs)


def renamed(error: ApiError) -> ApiError:
    """Return an error of the chat request with the name that the parameter has in the Responses API."""
    param = error.body["error"]["param"]
    if isinstance(param, str):
        for pattern, replacement in (
            (r"^messages\b.*", "input"),
            (r"^response_format\b.*", "text.format"),
            (r"^(tools\[\d+\])\.function\b", r"\1"),
            (r"^tool_choice\.allowed_tools\b", "tool_choice"),
        ):
            param = re.sub(pattern, replacement, param)
        error.body["error"]["param"] = param
    return error


def frame(request: ResponseRequest) -> dict[str, Any]:
    """Return a new response that has no output yet."""
    tool_choice = request.tool_choice
    return {
        "id": f"resp_{random_letters(48)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": _format(request.text), "verbosity": "medium"},
        "tool_choice": tool_choice.model_dump(exclude_none=True)
        if isinstance(tool_choice, ToolChoice)
        else tool_choice or "auto",
        "tools": [{**tool.model_dump(), "strict": bool(tool.strict)} for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
    }


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """Return a response after validating it with the official client's own type."""
    Response.model_validate(body)
    return body


def usage(chat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chat's token counts under the names of the Responses API."""
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": chat["total_tokens"],
    }


def _check(request: ResponseRequest) -> None:
    for value in request.include or ():
        if value != LOGPROBS and value not in INCLUDABLE:
            raise invalid("include", f"Invalid value: '{value[:80]}'. Supported values are: '{LOGPROBS}'.", "invalid_value")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None or text.format is None:
        return None
    if isinstance(text.format, PlainFormat):
        return text.format.model_dump()
    return {"type": "json_schema", "json_schema": text.format.model_dump(exclude={"type"}, by_alias=True)}


def _format(text: TextConfig | None) -> dict[str, Any]:
    if text is None or text.format is None:
        return {"type": "text"}
    if isinstance(text.format, PlainFormat):
        return text.format.model_dump()
    return {**text.format.model_dump(by_alias=True), "strict": bool(text.format.strict)}


def _chat_choice(choice: str | ToolChoice | None) -> Any:
    if not isinstance(choice, ToolChoice):
        return choice
    if choice.type == "function" and choice.name is not None:
        return {"type": "function", "function": {"name": choice.name}}
    if choice.type == "allowed_tools" and choice.mode is not None and choice.tools is not None:
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": choice.tools}}
    message = "Invalid value for 'tool_choice': expected 'none', 'auto', 'required', a function or allowed_tools."
    raise invalid("tool_choice", message)
