"""The bodies of chat requests; `completions` answers them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from course_utils.openai_server.bodies import Strict

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
