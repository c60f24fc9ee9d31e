"""Chat requests checked, sent to the engine, and its tokens assembled into a whole answer or a stream of chunks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from course_utils.errors import CourseError
from course_utils.openai_server.adapters import AdapterGone
from course_utils.openai_server.chat import ChatRequest, PlainFormat, SchemaFormat
from course_utils.openai_server.choices import CallPiece, CallReader, Choice
from course_utils.openai_server.constrained import answer_grammar, json_grammar
from course_utils.openai_server.engine import Engine, Generation
from course_utils.openai_server.errors import ApiError, invalid, no_such_model
from course_utils.openai_server.messages import flatten
from course_utils.openai_server.sampling import Sampling, Token, check_grammar
from course_utils.openai_server.store import random_letters
from course_utils.openai_server.tools import Offer, check_conversation, offered, offered_functions

TEXT_PLACEHOLDER = "the text"
AdapterFolder = tuple[str, Path]  # name and folder


class EngineRequest(NamedTuple):
    """A request as the engine needs it.

    Attributes:
        prompt: token ids.
        sampling: how tokens are chosen.
        limit: maximum number of tokens in an answer.
        offer: the functions that may be called.
    """

    prompt: list[int]
    sampling: Sampling
    limit: int
    offer: Offer


class ChoicePiece(NamedTuple):
    """The next piece of a choice.

    Attributes:
        choice: index of the choice.
        text: new text.
        calls: new pieces of calls, which come after the text.
        tokens: the piece's tokens, if log-probabilities were requested.
        reason: in the last piece of a choice, why it ended, or what went wrong.
    """

    choice: int
    text: str
    calls: list[CallPiece]
    tokens: list[Token]
    reason: str | BaseException | None


class Completion:
    """A request that is being answered: it passes what the engine's thread generates on to the event loop."""

    def __init__(
        self,
        engine: Engine,
        request: ChatRequest,
        adapter: AdapterFolder | None,
        engine_request: EngineRequest,
    ) -> None:
        prompt, sampling, limit, self.offer = engine_request
        self.tokenizer, self.request, self._engine = engine.tokenizer, request, engine
        self.id, self.created = f"chatcmpl-{random_letters(29)}", int(time.time())
        self.prompt_tokens, self.logprobs = len(prompt), sampling.top is not None
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[ChoicePiece] = asyncio.Queue()
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        may_call = self.offer.calls if self.offer.calls is not None and self.offer.calls.functions else None
        self.calls = may_call is not None
        self.choices = [
            Choice(self.tokenizer, [s for s in stops if s], CallReader(may_call.mode == "required") if may_call else None)
            for _ in range(request.n or 1)
        ]
        self.generations = [
            Generation(
                prompt,
                adapter,
                # choices with one seed differ from each other, but are the same each time
                _with_seed(sampling, request.seed, index),
                limit,
                on_token=partial(self._on_token, index),
                on_end=partial(self._on_end, index),
            )
            for index in range(len(self.choices))
        ]
        if limit:
            engine.submit(self.generations)
        else:
            for index in range(len(self.choices)):
                self._queue.put_nowait(ChoicePiece(index, "", [], [], "length"))

    async def pieces(self) -> AsyncIterator[tuple[ChoicePiece, str | None]]:
        """Yield the pieces of all choices until every choice has ended.

        A choice's last piece comes with its finish reason, the others with None.

        Raises:
            ApiError: the engine failed.
        """
        unfinished = len(self.choices)
        try:
            while unfinished:
                piece = await self._queue.get()
                reason = piece.reason
                if isinstance(reason, AdapterGone):
                    raise no_such_model(self.request.model)
                if isinstance(reason, CourseError):
                    raise invalid(None, str(reason))
                if isinstance(reason, BaseException):
                    message = f"The server had an error while processing your request ({reason})"
                    raise ApiError(500, message, type="server_error")
                unfinished -= reason is not None
                yield piece, reason
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop generating, since nobody is waiting for the rest."""
        for generation in self.generations:
            generation.cancelled = True

    @property
    def usage(self) -> dict[str, Any]:
        """Return the numbers of tokens used so far, as the API writes them."""
        completion_tokens = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    async def whole(self) -> dict[str, Any]:
        """Wait for the end, and return the answer as one document.

        Raises:
            ApiError: the engine failed.
        """
        gathered = [CollectedChoice() for _ in self.choices]
        async for piece, reason in self.pieces():
            gathered[piece.choice].add(piece, reason)
        choices: list[dict[str, Any]] = [
            {
                "index": index,
                "message": {"role": "assistant", "refusal": None, "annotations": [], **self._content(collected)},
                "logprobs": self._logprobs(collected.tokens),
                "finish_reason": collected.reason,
            }
            for index, collected in enumerate(gathered)
        ]
        body = self._frame("chat.completion", choices) | {"usage": self.usage}
        return ChatCompletion.model_validate(body).model_dump(mode="json", exclude_unset=True)

    def _content(self, collected: CollectedChoice) -> dict[str, Any]:
        if not collected.calls:
            return {"content": collected.text}
        content = collected.text or None
        if self.offer.deprecated:
            return {"content": content, "function_call": collected.calls[0]}
        calls = [{"id": new_call_id(), "type": "function", "function": call} for call in collected.calls]
        return {"content": content, "tool_calls": calls}

    async def stream(self) -> AsyncIterator[str]:
        """Yield the answer as server-sent events."""
        extra_fields = {"usage": None} if self.with_usage else {}
        first = {"role": "assistant", "content": None if self.calls else "", "refusal": None}
        for index in range(len(self.choices)):
            yield self._chunk([{"index": index, "delta": dict(first)}], extra_fields)
        text_chunks = self._text_chunks(extra_fields)
        try:
            async for (index, text, calls, tokens, _), reason in self.pieces():
                if text and not self.logprobs:
                    yield f"{text_chunks[index][0]}{json.dumps(text, ensure_ascii=False)}{text_chunks[index][1]}"
                elif text or (tokens and not calls):
                    part = {"index": index, "delta": {"content": text}, "logprobs": self._logprobs(tokens)}
                    yield self._chunk([part], extra_fields)
                    tokens = []
                for call in calls:
                    part = {"index": index, "delta": self._call_delta(call), "logprobs": self._logprobs(tokens)}
                    yield self._chunk([part], extra_fields)
                    tokens = []
                if reason is not None:
                    yield self._chunk([{"index": index, "delta": {}, "finish_reason": reason}], extra_fields)
        except ApiError as error:
            yield f"data: {json.dumps(error.body)}\n\n"
            return
        if self.with_usage:
            yield self._chunk([], {"usage": self.usage})
        yield "data: [DONE]\n\n"

    def _call_delta(self, call: CallPiece) -> dict[str, Any]:
        """A piece of a call as a delta."""
        function = {"arguments": call.arguments} if call.name is None else {"name": call.name, "arguments": ""}
        if self.offer.deprecated:
            return {"function_call": function}
        identity = {"id": new_call_id(), "type": "function"} if call.name is not None else {}
        return {"tool_calls": [{"index": call.number, **identity, "function": function}]}

    @property
    def with_usage(self) -> bool:
        """Whether the stream has to end with the number of tokens used."""
        return bool(self.request.stream_options and self.request.stream_options.include_usage)

    def _chunk(self, choices: list[dict[str, Any]], extra_fields: dict[str, Any]) -> str:
        for choice in choices:
            choice.setdefault("finish_reason", None)
            choice.setdefault("logprobs", None)
        body = self._frame("chat.completion.chunk", choices) | extra_fields
        checked = ChatCompletionChunk.model_validate(body)
        return f"data: {checked.model_dump_json(exclude_unset=True)}\n\n"

    def _text_chunks(self, extra_fields: dict[str, Any]) -> list[tuple[str, str]]:
        """For each choice, the parts of a text-only chunk before and after its text.

        Each stream gets a token every few milliseconds, and building an object for each takes time from the model's thread.
        """
        chunks = []
        for index in range(len(self.choices)):
            chunk = self._chunk([{"index": index, "delta": {"content": TEXT_PLACEHOLDER}}], extra_fields)
            before, _, after = chunk.partition(json.dumps(TEXT_PLACEHOLDER))
            chunks.append((before, after))
        return chunks

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
        return {"content": self.token_logprobs(tokens), "refusal": None} if self.logprobs else None

    def token_logprobs(self, tokens: list[Token]) -> list[dict[str, Any]]:
        """Return tokens with their log-probabilities, as the API writes them."""

        def with_bytes(token: int, value: float | None) -> dict[str, Any]:
            text = self.tokenizer.decode([token])
            return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8"))}

        return [
            with_bytes(token.id, token.log_probability)
            | {"top_logprobs": [with_bytes(*other) for other in token.alternatives]}
            for token in tokens
        ]

    # -- in the engine's thread ---------------------------------------------------------------------------------------

    def _on_token(self, index: int, token: Token) -> bool:
        choice = self.choices[index]
        text, stopped = choice.add(token)
        calls = choice.take_calls()
        if text or calls or self.logprobs:
            self._put(ChoicePiece(index, text, calls, choice.take_tokens() if self.logprobs else [], None))
        return stopped

    def _on_end(self, index: int, reason: str | BaseException) -> None:
        choice = self.choices[index]
        try:
            text = choice.flush()
        except BaseException as error:  # the waiting client must be told that it is over
            text, reason = "", error
        if reason == "stop" and choice.called:
            reason = "function_call" if self.offer.deprecated else "tool_calls"
        self._put(ChoicePiece(index, text, choice.take_calls(), choice.take_tokens() if self.logprobs else [], reason))

    def _put(self, piece: ChoicePiece) -> None:
        self._engine.post(self._loop, self._queue.put_nowait, piece)


class CollectedChoice:
    """A choice that is put together from its pieces."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[dict[str, str]] = []  # name and arguments of each
        self.tokens: list[Token] = []
        self.reason: str | None = None

    def add(self, piece: ChoicePiece, reason: str | None) -> None:
        """Add a piece; `reason` is the finish reason, in the last piece only."""
        self.text += piece.text
        for call in piece.calls:
            if call.name is not None:
                self.calls.append({"name": call.name, "arguments": ""})
            self.calls[call.number]["arguments"] += call.arguments
        self.tokens += piece.tokens
        self.reason = reason or self.reason


def new_call_id() -> str:
    """Return a new id for a function call."""
    return f"call_{random_letters(24)}"


def _with_seed(sampling: Sampling, seed: int | None, index: int) -> Sampling:
    return sampling if seed is None else replace(sampling, seed=seed + 1_000_003 * index)


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
