"""The Responses API's requests as chat requests, and its response objects; streams are in `response_events`.

The hosted API's present front door. Everything is done by `chat`; here are only the other names. Documents are checked by
the official client's types.
"""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from course_utils.openai_server.chat import ChatRequest
from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.response_items import to_messages
from course_utils.openai_server.store import random_letters
from course_utils.openai_server.tools import MOST_TOOLS, Name

LOGPROBS = "message.output_text.logprobs"
# What else may be asked to be included; this model makes none of it, so that there is nothing to include.
INCLUDABLE = {
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
}
KEPT_RESPONSES = 500
KEPT_CHARACTERS = 32_000_000


class Format(BaseModel):
    """Free text, any JSON, or JSON of a schema."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextConfig(BaseModel):
    """How text is to look."""

    model_config = ConfigDict(extra="forbid")
    format: Format | None = None
    verbosity: str | None = None


class FunctionTool(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")  # of other tools; refused by their type
    type: str
    name: Name | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(BaseModel):
    """A function that must be called, or the tools that may be."""

    model_config = ConfigDict(extra="forbid")
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_TOOLS)] | None = None


class StreamOptions(BaseModel):
    """What a stream has beside its events."""

    model_config = ConfigDict(extra="forbid")
    include_obfuscation: Literal[False] | None = None


class ResponseRequest(BaseModel):
    """What is asked for; whatever is not named here is refused."""

    model_config = ConfigDict(extra="forbid")
    model: Annotated[str, Field(min_length=1)]
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=2048)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
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
    # These have one value that asks for what is done here anyway.
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    # Who asks changes nothing about the answer.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class Kept(NamedTuple):
    """A response, and the conversation up to and with it, as chat messages."""

    body: dict[str, Any]
    messages: list[dict[str, Any]]
    size: int


class Memory:
    """Responses of this process, the latest; older ones are forgotten, as all are when it ends."""

    def __init__(self, most: int = KEPT_RESPONSES, characters: int = KEPT_CHARACTERS) -> None:
        self.most, self.characters = most, characters
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._size = 0

    def add(self, body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Keep a response."""
        size = len(json.dumps([body, messages]))
        self._kept[body["id"]] = Kept(body, messages, size)
        self._size += size
        while self._kept and (len(self._kept) > self.most or self._size > self.characters):
            self._size -= self._kept.popitem(last=False)[1].size

    def get(self, response_id: str) -> Kept | None:
        """A response, if it is still known."""
        return self._kept.get(response_id)

    def delete(self, response_id: str) -> bool:
        """Forget one; whether it was known."""
        found = self._kept.pop(response_id, None)
        self._size -= found.size if found else 0
        return found is not None


def to_chat(asked: ResponseRequest, memory: Memory) -> tuple[ChatRequest, list[dict[str, Any]]]:
    """The chat request that does it, and the conversation without instructions.

    Raises:
        ApiError: what can't be, naming the parameter.
    """
    _check(asked)
    before: list[dict[str, Any]] = []
    if asked.previous_response_id is not None:
        if (kept := memory.get(asked.previous_response_id)) is None:
            message = f"Previous response with id '{asked.previous_response_id[:80]}' not found."
            raise invalid("previous_response_id", message, "previous_response_not_found")
        before = kept.messages
    conversation = to_messages(asked.input, before)
    told = [{"role": "developer", "content": asked.instructions}] if asked.instructions else []
    wanted: dict[str, Any] = {
        "model": asked.model,
        "messages": [*told, *conversation],
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "max_completion_tokens": asked.max_output_tokens,
        "logprobs": with_logprobs(asked),
        "top_logprobs": asked.top_logprobs if with_logprobs(asked) else None,
        "response_format": _response_format(asked.text),
        "stream": asked.stream,
    }
    if asked.tools:
        wanted["tools"] = [_chat_tool(tool, number) for number, tool in enumerate(asked.tools)]
        wanted["tool_choice"] = _chat_choice(asked.tool_choice)
        wanted["parallel_tool_calls"] = asked.parallel_tool_calls
    elif asked.tool_choice not in (None, "auto", "none"):
        raise invalid("tool_choice", "Tool choices other than 'auto' and 'none' need tools: 'tools' is empty.")
    try:
        return ChatRequest.model_validate(wanted), conversation
    except ValidationError as error:
        raise invalid("input", f"Invalid value for 'input': {error.errors(include_url=False)[0]['msg']}.") from error


def with_logprobs(asked: ResponseRequest) -> bool:
    """Whether log-probabilities are wanted."""
    return LOGPROBS in (asked.include or ()) or bool(asked.top_logprobs)


def renamed(error: ApiError) -> ApiError:
    """An error of the chat's with the parameter's name here."""
    param = error.body["error"]["param"]
    if isinstance(param, str):
        for old, new in (
            (r"^messages\b.*", "input"),
            (r"^response_format\b.*", "text.format"),
            (r"^(tools\[\d+\])\.function\b", r"\1"),
            (r"^tool_choice\.allowed_tools\b", "tool_choice"),
        ):
            param = re.sub(old, new, param)
        error.body["error"]["param"] = param
    return error


def frame(asked: ResponseRequest) -> dict[str, Any]:
    """A response that has just begun."""
    chosen = asked.tool_choice
    return {
        "id": f"resp_{random_letters(48)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": asked.safety_identifier,
        "service_tier": "default",
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "text": {"format": _format(asked.text), "verbosity": "medium"},
        "tool_choice": chosen.model_dump(exclude_none=True) if isinstance(chosen, ToolChoice) else chosen or "auto",
        "tools": [{**tool.model_dump(), "strict": bool(tool.strict)} for tool in asked.tools or ()],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user,
    }


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """A response, once the official client's own type has accepted it."""
    Response.model_validate(body)
    return body


def usage(chat: Mapping[str, Any]) -> dict[str, Any]:
    """The chat's count of tokens under the names used here."""
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": chat["total_tokens"],
    }


def _check(asked: ResponseRequest) -> None:
    for value in asked.include or ():
        if value != LOGPROBS and value not in INCLUDABLE:
            raise invalid("include", f"Invalid value: '{value[:80]}'. Supported values are: '{LOGPROBS}'.", "invalid_value")
    if asked.text and asked.text.verbosity not in (None, "medium"):
        raise invalid("text.verbosity", "Invalid value for 'text.verbosity': this model knows 'medium' only.")
    if asked.stream_options is not None and not asked.stream:
        raise invalid("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None or text.format is None:
        return None
    wanted = text.format
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    for name, value in (("name", wanted.name), ("schema", wanted.schema_)):
        if value is None:
            place = f"text.format.{name}"
            raise invalid(place, f"Missing required parameter: '{place}'.", "missing_required_parameter")
    named = {"name": wanted.name, "schema": wanted.schema_, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": named}


def _format(text: TextConfig | None) -> dict[str, Any]:
    if text is None or text.format is None:
        return {"type": "text"}
    if text.format.type != "json_schema":
        return {"type": text.format.type}
    return {**text.format.model_dump(by_alias=True), "strict": bool(text.format.strict)}


def _chat_tool(tool: FunctionTool, number: int) -> dict[str, Any]:
    function = tool.model_dump(include={"name", "description", "parameters", "strict"})
    if tool.type == "function":
        if tool.name is None:
            place = f"tools[{number}].name"
            raise invalid(place, f"Missing required parameter: '{place}'.", "missing_required_parameter")
        if tool.model_extra:
            place = f"tools[{number}].{next(iter(tool.model_extra))[:80]}"
            raise invalid(place, f"Unrecognized request argument supplied: {place}", "unknown_parameter")
    return {"type": tool.type, "function": function if tool.type == "function" else None}


def _chat_choice(choice: str | ToolChoice | None) -> Any:
    if not isinstance(choice, ToolChoice):
        return choice
    if choice.type == "function" and choice.name is not None:
        return {"type": "function", "function": {"name": choice.name}}
    if choice.type == "allowed_tools" and choice.mode is not None and choice.tools is not None:
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": choice.tools}}
    message = "Invalid value for 'tool_choice': expected 'none', 'auto', 'required', a function or allowed_tools."
    raise invalid("tool_choice", message)
