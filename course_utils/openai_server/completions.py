"""A chat at work: tokens from the engine's thread put together as an answer, whole or as a stream of chunks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from course_utils.errors import CourseError
from course_utils.openai_server.adapters import AdapterGone
from course_utils.openai_server.choices import Called, CallReader, Choice
from course_utils.openai_server.engine import Answer, Engine
from course_utils.openai_server.errors import ApiError, invalid, no_such_model
from course_utils.openai_server.sampling import Sampling, Token
from course_utils.openai_server.store import random_letters
from course_utils.openai_server.tools import Offer

if TYPE_CHECKING:
    from course_utils.openai_server.chat import ChatRequest

MARK = "the text"
Adapter = tuple[str, Path]  # name and folder


class Work(NamedTuple):
    """A request as the engine takes it: prompt, sampling, the most tokens of an answer, and the tools offered."""

    prompt: list[int]
    sampling: Sampling
    limit: int
    offer: Offer


class Piece(NamedTuple):
    """What comes of a choice.

    Attributes:
        choice: its index.
        text: new text.
        calls: new pieces of calls, which come after the text.
        tokens: those of the piece, if log-probabilities were asked for.
        reason: at the end of a choice why it ended, or what went wrong.
    """

    choice: int
    text: str
    calls: list[Called]
    tokens: list[Token]
    reason: str | BaseException | None


class Completion:
    """A request at work: what comes from the engine's thread, on its way to the event loop."""

    def __init__(
        self,
        engine: Engine,
        request: ChatRequest,
        adapter: Adapter | None,
        work: Work,
    ) -> None:
        prompt, sampling, limit, self.offer = work
        self.tokenizer, self.request, self._engine = engine.tokenizer, request, engine
        self.id, self.created = f"chatcmpl-{random_letters(29)}", int(time.time())
        self.prompt_tokens, self.logprobs = len(prompt), sampling.top is not None
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece] = asyncio.Queue()
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        may_call = self.offer.calls if self.offer.calls is not None and self.offer.calls.functions else None
        self.calls = may_call is not None
        self.choices = [
            Choice(self.tokenizer, [s for s in stops if s], CallReader(may_call.how == "required") if may_call else None)
            for _ in range(request.n or 1)
        ]
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
                self._queue.put_nowait(Piece(index, "", [], [], "length"))

    async def pieces(self) -> AsyncIterator[tuple[Piece, str | None]]:
        """Pieces of all choices, and at the end of a choice the finish reason; until all have one.

        Raises:
            ApiError: the engine failed.
        """
        left = len(self.choices)
        try:
            while left:
                piece = await self._queue.get()
                reason = piece.reason
                if isinstance(reason, AdapterGone):
                    raise no_such_model(self.request.model)
                if isinstance(reason, CourseError):
                    raise invalid(None, str(reason))
                if isinstance(reason, BaseException):
                    message = f"The server had an error while processing your request ({reason})"
                    raise ApiError(500, message, type="server_error")
                left -= reason is not None
                yield piece, reason
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
        gathered = [Gathered() for _ in self.choices]
        async for piece, reason in self.pieces():
            gathered[piece.choice].add(piece, reason)
        choices: list[dict[str, Any]] = [
            {
                "index": index,
                "message": {"role": "assistant", "refusal": None, "annotations": [], **self._said(found)},
                "logprobs": self._logprobs(found.tokens),
                "finish_reason": found.reason,
            }
            for index, found in enumerate(gathered)
        ]
        body = self._frame("chat.completion", choices) | {"usage": self.usage}
        return ChatCompletion.model_validate(body).model_dump(mode="json", exclude_unset=True)

    def _said(self, found: Gathered) -> dict[str, Any]:
        if not found.calls:
            return {"content": found.text}
        content = found.text or None
        if self.offer.deprecated:
            return {"content": content, "function_call": found.calls[0]}
        calls = [{"id": new_call_id(), "type": "function", "function": call} for call in found.calls]
        return {"content": content, "tool_calls": calls}

    async def stream(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        extra = {"usage": None} if self.with_usage else {}
        first = {"role": "assistant", "content": None if self.calls else "", "refusal": None}
        for index in range(len(self.choices)):
            yield self._chunk([{"index": index, "delta": dict(first)}], extra)
        around = self._text_chunks(extra)
        try:
            async for (index, text, calls, tokens, _), reason in self.pieces():
                if text and not self.logprobs:
                    yield f"{around[index][0]}{json.dumps(text, ensure_ascii=False)}{around[index][1]}"
                elif text or (tokens and not calls):
                    part = {"index": index, "delta": {"content": text}, "logprobs": self._logprobs(tokens)}
                    yield self._chunk([part], extra)
                    tokens = []
                for call in calls:
                    part = {"index": index, "delta": self._called(call), "logprobs": self._logprobs(tokens)}
                    yield self._chunk([part], extra)
                    tokens = []
                if reason is not None:
                    yield self._chunk([{"index": index, "delta": {}, "finish_reason": reason}], extra)
        except ApiError as error:
            yield f"data: {json.dumps(error.body)}\n\n"
            return
        if self.with_usage:
            yield self._chunk([], {"usage": self.usage})
        yield "data: [DONE]\n\n"

    def _called(self, call: Called) -> dict[str, Any]:
        """A piece of a call as a delta."""
        function = {"arguments": call.arguments} if call.name is None else {"name": call.name, "arguments": ""}
        if self.offer.deprecated:
            return {"function_call": function}
        begun = {"id": new_call_id(), "type": "function"} if call.name is not None else {}
        return {"tool_calls": [{"index": call.number, **begun, "function": function}]}

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
        return {"content": self.described(tokens), "refusal": None} if self.logprobs else None

    def described(self, tokens: list[Token]) -> list[dict[str, Any]]:
        """Tokens with their log-probabilities, as the API writes them."""

        def one(token: int, value: float | None) -> dict[str, Any]:
            text = self.tokenizer.decode([token])
            return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8"))}

        return [
            one(token.id, token.log_probability) | {"top_logprobs": [one(*other) for other in token.alternatives]}
            for token in tokens
        ]

    # -- in the engine's thread ---------------------------------------------------------------------------------------

    def _on_token(self, index: int, token: Token) -> bool:
        choice = self.choices[index]
        text, stopped = choice.add(token)
        calls = choice.take_calls()
        if text or calls or self.logprobs:
            self._tell(Piece(index, text, calls, choice.take() if self.logprobs else [], None))
        return stopped

    def _on_end(self, index: int, reason: str | BaseException) -> None:
        choice = self.choices[index]
        try:
            text = choice.rest()
        except BaseException as error:  # whoever waits must hear that it is over
            text, reason = "", error
        if reason == "stop" and choice.called:
            reason = "function_call" if self.offer.deprecated else "tool_calls"
        self._tell(Piece(index, text, choice.take_calls(), choice.take() if self.logprobs else [], reason))

    def _tell(self, piece: Piece) -> None:
        self._engine.post(self._loop, self._queue.put_nowait, piece)


class Gathered:
    """A choice put together from its pieces."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[dict[str, str]] = []  # name and arguments of each
        self.tokens: list[Token] = []
        self.reason: str | None = None

    def add(self, piece: Piece, reason: str | None) -> None:
        """Take a piece in."""
        self.text += piece.text
        for call in piece.calls:
            if call.name is not None:
                self.calls.append({"name": call.name, "arguments": ""})
            self.calls[call.number]["arguments"] += call.arguments
        self.tokens += piece.tokens
        self.reason = reason or self.reason


def new_call_id() -> str:
    """An id for a call."""
    return f"call_{random_letters(24)}"


def _with_seed(sampling: Sampling, seed: int | None, index: int) -> Sampling:
    return sampling if seed is None else replace(sampling, seed=seed + 1_000_003 * index)
