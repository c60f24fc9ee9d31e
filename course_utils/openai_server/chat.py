"""Chat requests: checked, and sent to the engine; `completions` turns the generated tokens into answers."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from pydantic import Field

from course_utils.errors import CourseError
from course_utils.openai_server.bodies import Strict
from course_utils.openai_server.completions import AdapterFolder, Completion, EngineRequest
from course_utils.openai_server.engine import Engine
from course_utils.openai_server.errors import invalid
from course_utils.openai_server.grammar import answer_grammar, json_grammar
from course_utils.openai_server.messages import flatten
from course_utils.openai_server.sampling import Sampling, check_grammar
from course_utils.openai_server.tools import (
    CalledFunction,
    ChatToolChoice,
    FunctionName,
    Functions,
    Name,
    Offer,
    ToolCall,
    Tools,
    check_conversation,
    offered,
    offered_functions,
)

MAX_CHOICES = 128
Text = Annotated[str, Field(max_length=1_000_000)]


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


class Instructions(Strict):
    """A message of the developer; "system" is the older name of the role."""

    role: Literal["developer", "system"]
    content: Content
    name: str | None = None


class UserMessage(Strict):
    """A message of the user."""

    role: Literal["user"]
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


class FunctionMessage(Strict):
    """The result of a function call, in the older form that `ToolMessage` has replaced."""

    role: Literal["function"]
    content: Text | None
    name: str


Message = Annotated[
    Instructions | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]


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


class WithoutEffect(Strict):
    """Arguments of the hosted API that are accepted and change nothing.

    They concern storage, billing, caching, speed, moderation or abilities that only the hosted models have; without them the
    answer still answers the question.
    """

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


class ChatRequest(WithoutEffect):
    """The body of a request for a chat completion."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    model: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Tools | None = None
    tool_choice: str | ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Functions | None = None
    function_call: str | FunctionName | None = None
    modalities: list[Literal["text"]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Chat:
    """Answers chat requests with one engine.

    Args:
        engine: the engine that generates; see `Engine`.
        context: maximum number of tokens in prompt and answer together.
    """

    def __init__(self, engine: Engine, context: int) -> None:
        self.engine, self.context = engine, context

    async def begin(self, request: ChatRequest, adapter: AdapterFolder | None) -> Completion:
        """Check a request and hand it to the engine.

        Args:
            request: the parsed request.
            adapter: name and folder of the adapter, or None for the base model.

        Returns:
            The completion that is being generated.

        Raises:
            ApiError: the request is invalid.
        """
        # In a thread, since a schema or a long prompt takes a while and other streams must go on meanwhile.
        return Completion(self.engine, request, adapter, await asyncio.to_thread(self._read, request))

    def _read(self, request: ChatRequest) -> EngineRequest:
        if request.top_logprobs is not None and not request.logprobs:
            message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
            raise invalid("top_logprobs", message)
        tokenizer = self.engine.tokenizer
        offer = self._offer(request)
        dumped = [message.model_dump(exclude_unset=True) for message in request.messages]
        check_conversation(dumped)
        try:
            messages = flatten(dumped, offer.described)
        except CourseError as error:
            raise invalid("messages", f"Invalid value for 'messages': {error}") from error
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        requested = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        if len(prompt) + (requested or 1) > self.context:
            raise invalid("messages", self._too_long(len(prompt), requested), "context_length_exceeded")
        available = self.context - len(prompt)
        sampling = Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            bias={int(k): v for k, v in (request.logit_bias or {}).items() if k.isascii() and k.isdigit() and len(k) < 10},
            top=(request.top_logprobs or 0) if request.logprobs else None,
            grammar=self._grammar(request.response_format, offer),
        )
        return EngineRequest(prompt, sampling, available if requested is None else min(requested, available), offer)

    def _too_long(self, prompt: int, requested: int | None) -> str:
        start = f"This model's maximum context length is {self.context} tokens. However, "
        if requested is None:
            return start + f"your messages resulted in {prompt} tokens. Please reduce the length of the messages."
        return start + (
            f"you requested {prompt + requested} tokens ({prompt} in the messages, {requested} in the completion). "
            "Please reduce the length of the messages or completion."
        )

    def _offer(self, request: ChatRequest) -> Offer:
        deprecated_offer = offered_functions(
            self.engine.tokenizer, request.functions, request.function_call, bool(request.tools)
        )
        if deprecated_offer is not None:
            return deprecated_offer
        return offered(self.engine.tokenizer, request.tools, request.tool_choice, request.parallel_tool_calls)

    def _grammar(self, response_format: PlainFormat | SchemaFormat | None, offer: Offer) -> str | None:
        grammar = answer_grammar(self._schema(response_format), offer.calls)
        # Each part was checked alone; the combined grammar may still be too large.
        if offer.calls is not None and grammar is not None and (problem := check_grammar(self.engine.tokenizer, grammar)):
            raise invalid("tools", f"Invalid 'tools': together they can't be followed: {problem}")
        return grammar

    def _schema(self, response_format: PlainFormat | SchemaFormat | None) -> dict[str, Any] | None:
        if response_format is None or response_format.type == "text":
            return None
        if isinstance(response_format, PlainFormat):
            return {"type": "object"}
        schema = response_format.json_schema.schema_
        if problem := check_grammar(self.engine.tokenizer, json_grammar(schema)):
            message = f"Invalid schema for response_format '{response_format.json_schema.name}': {problem}"
            raise invalid("response_format", message, "invalid_json_schema")
        return schema
