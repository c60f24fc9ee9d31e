"""Chat requests checked, sent to the engine, and its tokens assembled into a whole answer or a stream of chunks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from course_utils.errors import CourseError
from course_utils.openai_server.adapters import AdapterGone
from course_utils.openai_server.bodies import ApiError, invalid, no_such_model
from course_utils.openai_server.chat import ChatRequest, PlainFormat, SchemaFormat, allowed_calls, check_conversation
from course_utils.openai_server.constrained import Call, CallReader, Calls, Choice, answer_grammar, json_grammar
from course_utils.openai_server.engine import Engine, Generation
from course_utils.openai_server.messages import flatten
from course_utils.openai_server.sampling import Sampling, Token, check_grammar
from course_utils.openai_server.store import random_letters

AdapterFolder = tuple[str, Path]  # name and folder


class Piece(NamedTuple):
    """The next piece of a choice.

    Attributes:
        choice: index of the choice.
        text: new text.
        calls: new calls, which come after the text.
        tokens: the piece's tokens, if log-probabilities were requested.
        reason: in the last piece of a choice, why it ended, or what went wrong.
    """

    choice: int
    text: str
    calls: list[Call]
    tokens: list[Token]
    reason: str | BaseException | None


async def begin(engine: Engine, context: int, request: ChatRequest, adapter: AdapterFolder | None) -> Completion:
    """Check a request, hand it to the engine, and return the completion that is being generated.

    Args:
        context: maximum number of tokens in prompt and answer together.
        adapter: None for the base model.

    Raises:
        ApiError: the request is invalid.
    """
    # In a thread, since a schema or a long prompt takes a while and other streams must go on meanwhile.
    return Completion(engine, request, adapter, *await asyncio.to_thread(read_request, engine.tokenizer, context, request))


class Completion:
    """A request that is being answered: it passes what the engine's thread generates on to the event loop."""

    def __init__(
        self,
        engine: Engine,
        request: ChatRequest,
        adapter: AdapterFolder | None,
        prompt: list[int],
        sampling: Sampling,
        limit: int,
        calls: Calls | None,
    ) -> None:
        self.tokenizer, self.request = engine.tokenizer, request
        self.prompt_tokens, self.logprobs = len(prompt), bool(request.logprobs)
        called = calls if calls and calls.functions else None
        self.may_call = called is not None
        self._id, self._created = f"chatcmpl-{random_letters(29)}", int(time.time())
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece] = asyncio.Queue()
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        self.choices = [
            Choice(self.tokenizer, [s for s in stops if s], CallReader(called.mode == "required") if called else None)
            for _ in range(request.n or 1)
        ]
        self.generations = [
            Generation(
                prompt,
                adapter,
                # choices with one seed differ from each other, but are the same each time
                sampling if request.seed is None else replace(sampling, seed=request.seed + 1_000_003 * index),
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
                self._queue.put_nowait(Piece(index, "", [], [], "length"))

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces of all choices until every choice has ended.

        Raises:
            ApiError: the engine failed.
        """
        unfinished = len(self.choices)
        try:
            while unfinished:
                piece = await self._queue.get()
                if isinstance(piece.reason, AdapterGone):
                    raise no_such_model(self.request.model)
                if isinstance(piece.reason, CourseError):
                    raise invalid(None, str(piece.reason))
                if isinstance(piece.reason, BaseException):
                    message = f"The server had an error while processing your request ({piece.reason})"
                    raise ApiError(500, message, type="server_error")
                unfinished -= piece.reason is not None
                yield piece
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop generating, since nobody is waiting for the rest."""
        for generation in self.generations:
            generation.cancelled = True

    @property
    def usage(self) -> dict[str, Any]:
        """Return the numbers of tokens used so far, as the API writes them."""
        completion_tokens = sum(len(choice.tokens) for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        }

    async def whole(self) -> dict[str, Any]:
        """Wait for the end, and return the answer as one document.

        Raises:
            ApiError: the engine failed.
        """
        reasons = {piece.choice: piece.reason async for piece in self.pieces() if piece.reason is not None}
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "refusal": None, "annotations": [], **_content(choice)},
                "logprobs": self._logprobs(choice.tokens),
                "finish_reason": reasons[index],
            }
            for index, choice in enumerate(self.choices)
        ]
        return self._document("chat.completion", choices) | {"usage": self.usage}

    async def stream(self) -> AsyncIterator[str]:
        """Yield the answer as server-sent events."""
        with_usage = self.request.stream_options and self.request.stream_options.include_usage
        no_usage = {"usage": None} if with_usage else {}

        def chunk(index: int, delta: dict[str, Any], logprobs: Any = None, reason: object = None) -> str:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            return _event(self._document("chat.completion.chunk", [choice]) | no_usage)

        sent = [0] * len(self.choices)  # calls
        for index in range(len(self.choices)):
            yield chunk(index, {"role": "assistant", "content": None if self.may_call else "", "refusal": None})
        try:
            async for piece in self.pieces():
                logprobs = self._logprobs(piece.tokens)
                deltas: list[dict[str, Any]] = (
                    [{"content": piece.text}] if piece.text or (piece.tokens and not piece.calls) else []
                )
                for call in piece.calls:
                    deltas.append({"tool_calls": [{"index": sent[piece.choice], **_tool_call(call)}]})
                    sent[piece.choice] += 1
                for delta in deltas:
                    yield chunk(piece.choice, delta, logprobs)
                    logprobs = self._logprobs([])
                if piece.reason is not None:
                    yield chunk(piece.choice, {}, reason=piece.reason)
        except ApiError as error:
            yield _event(error.body)
            return
        if with_usage:
            yield _event(self._document("chat.completion.chunk", []) | {"usage": self.usage})
        yield "data: [DONE]\n\n"

    def _document(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
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
        text, calls = self.choices[index].add(token)
        if text or calls or self.logprobs:
            self._put(Piece(index, text, calls, [token] if self.logprobs else [], None))
        return self.choices[index].stopped

    def _on_end(self, index: int, reason: str | BaseException) -> None:
        choice = self.choices[index]
        try:
            text, calls = choice.finish()
        except BaseException as error:  # the waiting client must be told that it is over
            text, calls, reason = "", [], error
        if reason == "stop" and choice.calls and not choice.stopped:
            reason = "tool_calls"
        self._put(Piece(index, text, calls, [], reason))

    def _put(self, piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is waiting any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)


def _content(choice: Choice) -> dict[str, Any]:
    if not choice.calls:
        return {"content": choice.text}
    return {"content": choice.text or None, "tool_calls": [_tool_call(call) for call in choice.calls]}


def _tool_call(call: Call) -> dict[str, Any]:
    return {"id": new_call_id(), "type": "function", "function": call._asdict()}


def new_call_id() -> str:
    """Return a new id for a function call."""
    return f"call_{random_letters(24)}"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


# -- requests -------------------------------------------------------------------------------------------------------------


def read_request(tokenizer: Any, context: int, request: ChatRequest) -> tuple[list[int], Sampling, int, Calls | None]:
    """Check a request, and return it as the engine needs it.

    Returns:
        The prompt's token ids, how tokens are chosen, the maximum number of them, and the calls that are allowed, if any.

    Raises:
        ApiError: the request is invalid.
    """
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs", "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.")
    if request.functions and request.function_call != "none":
        raise invalid("functions", "'functions' is deprecated, and this server does not call them. Use 'tools'.")
    calls = allowed_calls(tokenizer, request.tools, request.tool_choice, request.parallel_tool_calls)
    messages = [message.model_dump(exclude_unset=True) for message in request.messages]
    check_conversation(messages)
    try:
        flat = flatten(messages, [tool.model_dump() for tool in request.tools or ()])
    except CourseError as error:
        raise invalid("messages", f"Invalid value for 'messages': {error}") from error
    text = tokenizer.apply_chat_template(flat, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    limit = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    if len(prompt) + (limit or 1) > context:
        raise invalid("messages", _too_long(context, len(prompt), limit), "context_length_exceeded")
    sampling = Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        bias={int(k): v for k, v in (request.logit_bias or {}).items() if k.isascii() and k.isdigit() and len(k) < 10},
        top=(request.top_logprobs or 0) if request.logprobs else None,
        grammar=answer_grammar(_schema(tokenizer, request.response_format), calls),
    )
    # Each part was checked alone; the combined grammar may still be too large.
    if calls is not None and sampling.grammar is not None and (problem := check_grammar(tokenizer, sampling.grammar)):
        raise invalid("tools", f"Invalid 'tools': together they can't be followed: {problem}")
    return prompt, sampling, context - len(prompt) if limit is None else limit, calls


def _too_long(context: int, prompt: int, limit: int | None) -> str:
    start = f"This model's maximum context length is {context} tokens. However, "
    if limit is None:
        return start + f"your messages resulted in {prompt} tokens. Please reduce the length of the messages."
    return start + (
        f"you requested {prompt + limit} tokens ({prompt} in the messages, {limit} in the completion). "
        "Please reduce the length of the messages or completion."
    )


def _schema(tokenizer: Any, response_format: PlainFormat | SchemaFormat | None) -> dict[str, Any] | None:
    if response_format is None or response_format.type == "text":
        return None
    if isinstance(response_format, PlainFormat):
        return {"type": "object"}
    schema = response_format.json_schema.schema_
    if problem := check_grammar(tokenizer, json_grammar(schema)):
        message = f"Invalid schema for response_format '{response_format.json_schema.name}': {problem}"
        raise invalid("response_format", message, "invalid_json_schema")
    return schema
