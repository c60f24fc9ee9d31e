"""Chat completions: a request checked, sent to the engine, and its tokens put together as text, whole or in pieces."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ConfigDict, Field

from course_utils.errors import CourseError
from course_utils.openai_server.engine import Answer, Engine
from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.messages import flatten
from course_utils.openai_server.sampling import Sampling, Token, check_schema
from course_utils.openai_server.store import random_letters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_CHOICES = 128
MARK = "the text"
Adapter = tuple[str, Path]  # name and folder
Text = Annotated[str, Field(max_length=1_000_000)]


class Part(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(extra="allow")
    type: str


class Message(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="allow")
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None


class StreamOptions(BaseModel):
    """What a stream has beside text."""

    model_config = ConfigDict(extra="allow")
    include_usage: bool | None = None


class NamedSchema(BaseModel):
    """A schema that the answer must follow."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """Free text, any JSON, or JSON of a schema."""

    model_config = ConfigDict(extra="allow")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class ChatRequest(BaseModel):
    """What is asked for. Fields that only the hosted models have are taken and change nothing."""

    model_config = ConfigDict(extra="allow")
    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    model: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Chat:
    """Answers chat requests with one engine.

    Args:
        engine: see `Engine`.
        context: the most tokens that prompt and answer may have together.
    """

    def __init__(self, engine: Engine, context: int) -> None:
        self.engine, self.context = engine, context

    async def begin(self, request: ChatRequest, adapter: Adapter | None) -> Completion:
        """Check a request and hand it to the engine.

        Args:
            request: what is asked for.
            adapter: name and folder, or None for the base.

        Raises:
            ApiError: what is wrong with it.
        """
        # A schema or a long prompt takes its time; streams go on meanwhile.
        return Completion(self.engine, request, adapter, *await asyncio.to_thread(self._read, request))

    def _read(self, request: ChatRequest) -> tuple[list[int], Sampling, int]:
        """Prompt, sampling and the most tokens of an answer."""
        if request.top_logprobs is not None and not request.logprobs:
            message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
            raise invalid("top_logprobs", message)
        tokenizer = self.engine.tokenizer
        try:
            messages = flatten([message.model_dump(exclude_unset=True) for message in request.messages])
        except (CourseError, AttributeError, TypeError) as error:
            raise invalid("messages", f"Invalid value for 'messages': {error}") from error
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        if len(prompt) + (asked or 1) > self.context:
            raise invalid("messages", self._too_long(len(prompt), asked), "context_length_exceeded")
        room = self.context - len(prompt)
        sampling = Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            bias={int(k): v for k, v in (request.logit_bias or {}).items() if k.isascii() and k.isdigit() and len(k) < 10},
            top=(request.top_logprobs or 0) if request.logprobs else None,
            schema=self._schema(request.response_format),
        )
        return prompt, sampling, room if asked is None else min(asked, room)

    def _too_long(self, prompt: int, asked: int | None) -> str:
        start = f"This model's maximum context length is {self.context} tokens. However, "
        if asked is None:
            return start + f"your messages resulted in {prompt} tokens. Please reduce the length of the messages."
        return start + (
            f"you requested {prompt + asked} tokens ({prompt} in the messages, {asked} in the completion). Please reduce "
            "the length of the messages or completion."
        )

    def _schema(self, wanted: ResponseFormat | None) -> str | None:
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return '{"type": "object"}'
        if wanted.json_schema is None:
            raise invalid("response_format", "Missing required parameter: 'response_format.json_schema'.")
        schema = json.dumps(wanted.json_schema.schema_ if wanted.json_schema.schema_ is not None else {"type": "object"})
        if fault := check_schema(self.engine.tokenizer, schema):
            message = f"Invalid schema for response_format '{wanted.json_schema.name}': {fault}"
            raise invalid("response_format", message, "invalid_json_schema")
        return schema


class Completion:
    """A request at work: what comes from the engine's thread, on its way to the event loop."""

    def __init__(
        self,
        engine: Engine,
        request: ChatRequest,
        adapter: Adapter | None,
        prompt: list[int],
        sampling: Sampling,
        limit: int,
    ) -> None:
        self.tokenizer, self.request, self._engine = engine.tokenizer, request, engine
        self.id, self.created = f"chatcmpl-{random_letters(29)}", int(time.time())
        self.prompt_tokens, self.logprobs = len(prompt), sampling.top is not None
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, str, list[Token], str | Exception | None]] = asyncio.Queue()
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        self.choices = [Choice(self.tokenizer, [stop for stop in stops if stop]) for _ in range(request.n or 1)]
        self.answers = [
            Answer(
                prompt,
                adapter,
                # several choices of one seed differ from each other, and are the same again next time
                _with_seed(sampling, request.seed, index),
                limit,
                on_token=partial(self._on_token, index),
                on_end=partial(self._on_end, index),
            )
            for index in range(len(self.choices))
        ]
        if limit:
            engine.submit(self.answers)
        else:
            for index in range(len(self.choices)):
                self._queue.put_nowait((index, "", [], "length"))

    async def pieces(self) -> AsyncIterator[tuple[int, str, list[Token], str | None]]:
        """Index of the choice, new text, its tokens, and at the end of a choice the finish reason; until all have one.

        Raises:
            ApiError: the engine failed.
        """
        left = len(self.choices)
        try:
            while left:
                index, text, tokens, reason = await self._queue.get()
                if isinstance(reason, CourseError):
                    raise invalid(None, str(reason))
                if isinstance(reason, Exception):
                    message = f"The server had an error while processing your request ({reason})"
                    raise ApiError(500, message, type="server_error")
                left -= reason is not None
                yield index, text, tokens, reason
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Nobody waits for the rest."""
        for answer in self.answers:
            answer.cancelled = True

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens so far."""
        made = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        texts = [""] * len(self.choices)
        tokens: list[list[Token]] = [[] for _ in self.choices]
        reasons: list[str | None] = [None] * len(self.choices)
        async for index, text, new, reason in self.pieces():
            texts[index] += text
            tokens[index] += new
            reasons[index] = reason or reasons[index]
        choices: list[dict[str, Any]] = [
            {
                "index": index,
                "message": {"role": "assistant", "content": texts[index], "refusal": None, "annotations": []},
                "logprobs": self._logprobs(tokens[index]),
                "finish_reason": reasons[index],
            }
            for index in range(len(self.choices))
        ]
        body = self._frame("chat.completion", choices) | {"usage": self.usage}
        return ChatCompletion.model_validate(body).model_dump(mode="json", exclude_unset=True)

    async def stream(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        extra = {"usage": None} if self.with_usage else {}
        for index in range(len(self.choices)):
            yield self._chunk([{"index": index, "delta": {"role": "assistant", "content": "", "refusal": None}}], extra)
        around = self._text_chunks(extra)
        try:
            async for index, text, tokens, reason in self.pieces():
                if text and not self.logprobs:
                    yield f"{around[index][0]}{json.dumps(text, ensure_ascii=False)}{around[index][1]}"
                elif text or tokens:
                    part = {"index": index, "delta": {"content": text}, "logprobs": self._logprobs(tokens)}
                    yield self._chunk([part], extra)
                if reason is not None:
                    yield self._chunk([{"index": index, "delta": {}, "finish_reason": reason}], extra)
        except ApiError as error:
            yield f"data: {json.dumps(error.body)}\n\n"
            return
        if self.with_usage:
            yield self._chunk([], {"usage": self.usage})
        yield "data: [DONE]\n\n"

    @property
    def with_usage(self) -> bool:
        """Whether the stream is to end with the tokens used."""
        return bool(self.request.stream_options and self.request.stream_options.include_usage)

    def _chunk(self, choices: list[dict[str, Any]], extra: dict[str, Any]) -> str:
        for choice in choices:
            choice.setdefault("finish_reason", None)
            choice.setdefault("logprobs", None)
        body = self._frame("chat.completion.chunk", choices) | extra
        checked = ChatCompletionChunk.model_validate(body)
        return f"data: {checked.model_dump_json(exclude_unset=True)}\n\n"

    def _text_chunks(self, extra: dict[str, Any]) -> list[tuple[str, str]]:
        """For each choice what stands before and after the text of a chunk that is nothing but text.

        A token comes every few milliseconds for each stream, and building an object for it takes from the model's thread.
        """
        made = []
        for index in range(len(self.choices)):
            before, _, after = self._chunk([{"index": index, "delta": {"content": MARK}}], extra).partition(json.dumps(MARK))
            made.append((before, after))
        return made

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "service_tier": "default",
            "system_fingerprint": "fp_local",
            "choices": choices,
        }

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None

        def described(token: int, value: float | None) -> dict[str, Any]:
            text = self.tokenizer.decode([token])
            return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8"))}

        return {
            "content": [
                described(token.id, token.log_probability)
                | {"top_logprobs": [described(*other) for other in token.alternatives]}
                for token in tokens
            ],
            "refusal": None,
        }

    # -- in the engine's thread ---------------------------------------------------------------------------------------

    def _on_token(self, index: int, token: Token) -> bool:
        choice = self.choices[index]
        text, stopped = choice.add(token)
        if text or self.logprobs:
            self._tell(index, text, choice.take() if self.logprobs else [], None)
        return stopped

    def _on_end(self, index: int, reason: str | Exception) -> None:
        choice = self.choices[index]
        self._tell(index, choice.rest(), choice.take() if self.logprobs else [], reason)

    def _tell(self, *piece: Any) -> None:
        self._engine.post(self._loop, self._queue.put_nowait, piece)


class Choice:
    """Tokens of one answer as text that is safe to send: no half characters, nothing that may be a stop sequence's start."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[str]) -> None:
        from tokenizers.decoders import DecodeStream

        self.tokenizer, self.stops = tokenizer, stops
        self.ids: list[int] = []
        # looks at the last few tokens only, and waits for the rest of a character
        self._decoder = DecodeStream(skip_special_tokens=True)
        self.fresh: list[Token] = []
        self.sent = 0  # characters
        self.text = ""
        self.stopped = False

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return len(self.ids)

    def add(self, token: Token) -> tuple[str, bool]:
        """Take a token in; returns new text to send, and whether a stop sequence has come."""
        self.ids.append(token.id)
        self.fresh.append(token)
        new = self._decoder.step(self.tokenizer.backend_tokenizer, token.id) or ""
        start = max(0, len(self.text) - max(map(len, self.stops), default=0))  # earlier stops were found earlier
        self.text += new
        found = [at for stop in self.stops if (at := self.text.find(stop, start)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
            return "", True
        return self._send(len(self.text) - self._held_back()), False

    def rest(self) -> str:
        """What was held back, half characters too."""
        if not self.stopped:
            self.text = self.tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self._send(len(self.text))

    def take(self) -> list[Token]:
        """Tokens that were not reported yet."""
        fresh, self.fresh = self.fresh, []
        return fresh

    def _send(self, upto: int) -> str:
        piece = self.text[self.sent : upto] if upto > self.sent else ""
        self.sent = max(self.sent, upto)
        return piece

    def _held_back(self) -> int:
        """Characters at the end that can't be sent yet."""
        longest = max(map(len, self.stops), default=0)
        for size in range(min(longest - 1, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self.stops):
                return size
        return 0


def _with_seed(sampling: Sampling, seed: int | None, index: int) -> Sampling:
    return sampling if seed is None else replace(sampling, seed=seed + 1_000_003 * index)
