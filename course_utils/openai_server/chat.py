"""The bodies of chat requests, and what their tools allow; `completions` answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from course_utils.openai_server.bodies import Strict, invalid
from course_utils.openai_server.constrained import MAX_CALLS, Calls, Signature, json_grammar
from course_utils.openai_server.sampling import check_grammar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MAX_CHOICES, MAX_TOOLS = 128, 128
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
ToolMode = Literal["none", "auto", "required"]
Text = Annotated[str, Field(max_length=1_000_000)]


class Function(Strict):
    """A function that the model may call, with the schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; functions are the only kind here."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """A function, given by its name."""

    name: str


class ChatToolChoice(Strict):
    """One function that must be called."""

    type: Literal["function"]
    function: FunctionName


class CalledFunction(Strict):
    """The function that was called, and its arguments."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A tool call in an assistant's message of the conversation."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class Part(Strict):
    """A part of a message's content.

    The fields of all kinds are declared; kinds that the model cannot read are refused later.
    """

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    prompt_cache_breakpoint: Any = None


Content = Text | list[Part]


class InputMessage(Strict):
    """A message of the user or of the developer, whose older name is "system"."""

    role: Literal["developer", "system", "user"]
    content: Content
    name: str | None = None


class AssistantMessage(Strict):
    """A message of the model, with all fields of an answer, because a client sends an answer back as it received it."""

    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None
    function_call: CalledFunction | None = None
    name: str | None = None
    annotations: Any = None
    audio: Any = None


class ToolMessage(Strict):
    """The result of a tool call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[InputMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class StreamOptions(Strict):
    """What a stream contains besides text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class NamedSchema(Strict):
    """A named JSON Schema that the answer must follow."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] = Field(default={"type": "object"}, alias="schema")
    strict: bool | None = None


class PlainFormat(Strict):
    """The format of an answer that is free text, or JSON of any form."""

    type: Literal["text", "json_object"]


class SchemaFormat(Strict):
    """The format of an answer that is JSON and follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class ChatRequest(Strict):
    """The body of a request for a chat completion."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    model: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None  # the newer name of max_tokens
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolMode | ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None  # the older form of tools; accepted where none may be called
    function_call: str | FunctionName | None = None
    modalities: list[Literal["text"]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Accepted without effect. They concern storage, billing, caching, speed, moderation or abilities that only the hosted
    # models have; without them the answer still answers the question.
    audio: Any = None
    metadata: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None
    verbosity: Any = None
    web_search_options: Any = None


# -- tools: checked as the hosted API checks them ---------------------------------------------------------------------------


# schema for a function without parameters
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
COMBINING_KEYWORDS = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if", "unevaluatedProperties"}


def allowed_calls(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool] | None,
    choice: ToolMode | ChatToolChoice | None,
    parallel: bool | None,
) -> Calls | None:
    """Check `tools`, `tool_choice` and `parallel_tool_calls`, and return the calls that they allow, or None without tools.

    Raises:
        ApiError: a value is invalid; the error names the parameter.
    """
    if not tools:
        for name, value in (("tool_choice", choice), ("parallel_tool_calls", parallel)):
            if value is not None:
                raise invalid(name, f"'{name}' is only allowed when 'tools' are specified.")
        return None
    declared = [tool.function.name for tool in tools]
    for number, name in enumerate(declared):
        if name in declared[:number]:
            path = f"tools[{number}].function.name"
            raise invalid(path, f"Invalid '{path}': a function named '{name}' was given twice.")
    named = choice.function.name if isinstance(choice, ChatToolChoice) else None
    if named is not None and named not in declared:
        raise invalid("tool_choice", f"Tool choice '{named[:80]}' not found in 'tools' parameter.")
    # the schema of a function that can't be called is not needed
    callable_ = [] if choice == "none" else [pair for pair in enumerate(tools) if named in (None, pair[1].function.name)]
    signatures = tuple(_signature(tokenizer, tool.function, f"tools[{number}].function") for number, tool in callable_)
    mode: Literal["auto", "required"] = "required" if named is not None or choice == "required" else "auto"
    return Calls(signatures, mode, 1 if named is not None or parallel is False else MAX_CALLS)


def _signature(tokenizer: PreTrainedTokenizerBase, function: Function, path: str) -> Signature:
    """A function with the schema of its arguments, which may have only the properties that the schema names.

    Whatever satisfies the closed schema satisfies the given one. Functions can rarely use arguments that they do not know,
    and a small model fills an open object with noise.
    """
    parameters = function.parameters
    if parameters is None:
        return Signature(function.name, NO_ARGUMENTS)
    schema = {"type": "object", **parameters}
    if isinstance(schema.get("properties"), dict) and not schema.keys() & COMBINING_KEYWORDS:
        schema.setdefault("additionalProperties", False)
    if schema["type"] != "object":
        problem = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{str(schema['type'])[:80]}\"'."
    else:
        problem = check_grammar(tokenizer, json_grammar(schema, lenient=not function.strict)) or ""
    if problem:
        message = f"Invalid schema for function '{function.name}': {problem}"
        raise invalid(f"{path}.parameters", message, "invalid_function_parameters")
    return Signature(function.name, schema, bool(function.strict))


# -- the conversation ---------------------------------------------------------------------------------------------------


def check_conversation(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that every tool result belongs to a call, and that every call has a result before the conversation goes on.

    Raises:
        ApiError: one of them is missing; the error has the hosted API's words.
    """
    answered: dict[str, bool] = {}  # id of each call of the last message but its results → whether it has one
    for number, message in enumerate((*messages, {"role": "end"})):
        path = f"messages[{min(number, len(messages) - 1)}]"
        if message["role"] == "tool":
            if not answered:
                text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
                raise invalid(f"{path}.role", f"Invalid parameter: {text}")
            if message["tool_call_id"] not in answered:
                text = f"'tool_call_id' of '{message['tool_call_id']}' not found in 'tool_calls' of previous message."
                raise invalid(f"{path}.tool_call_id", f"Invalid parameter: {text}")
            answered[message["tool_call_id"]] = True
        elif unanswered := [call_id for call_id, done in answered.items() if not done]:
            raise invalid(
                f"{path}.role",
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(unanswered)}",
            )
        else:
            answered = {call["id"]: False for call in message.get("tool_calls") or ()}
