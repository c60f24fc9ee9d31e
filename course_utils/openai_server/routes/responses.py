"""Routes of the Responses API: create, also as a stream, retrieve and delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from course_utils.openai_server.chat import ChatRequest
from course_utils.openai_server.completions import Completion
from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.response_events import Event, Events
from course_utils.openai_server.responses import Memory, ResponseRequest, frame, renamed, to_chat

Read = Callable[[Request], Awaitable[ResponseRequest]]
Begin = Callable[[ChatRequest], Awaitable[Completion]]
Whole = Callable[[], Awaitable[dict[str, Any]]]
Answer = Callable[[Request, Completion, Whole, AsyncIterator[str] | None], Awaitable[Response]]


def add_routes(routes: APIRouter, read: Read, begin: Begin, answer: Answer) -> None:
    """Add the routes to others that share a chat.

    Args:
        routes: of the chat.
        read: the body of a request, checked.
        begin: starts a chat.
        answer: gives a completion as one document or as a stream, and counts its tokens.
    """
    memory = Memory()

    @routes.post("/v1/responses", response_model=None)
    async def create(request: Request) -> Response:
        asked = await read(request)
        chat, conversation = to_chat(asked, memory)
        try:
            completion = await begin(chat)
        except ApiError as error:
            raise renamed(error) from error
        begun = frame(asked)
        stored = asked.store is not False
        events = Remembered(begun, completion, conversation, memory) if stored else Events(begun, completion)
        return await answer(request, completion, events.whole, events.stream() if asked.stream else None)

    @routes.get("/v1/responses/{response_id}", response_model=None)
    async def retrieve(request: Request, response_id: str) -> JSONResponse:
        if request.query_params.get("stream", "false") != "false":
            raise invalid("stream", "A response that is kept can be retrieved, but not streamed again.")
        if (kept := memory.get(response_id)) is None:
            raise _unknown(response_id)
        return JSONResponse(kept.body)

    @routes.delete("/v1/responses/{response_id}", response_model=None)
    async def delete(response_id: str) -> JSONResponse:
        if not memory.delete(response_id):
            raise _unknown(response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})


class Remembered(Events):
    """Events of a response that is kept once it has ended."""

    def __init__(
        self, body: dict[str, Any], completion: Completion, conversation: list[dict[str, Any]], memory: Memory
    ) -> None:
        super().__init__(body, completion)
        self._conversation, self._memory = conversation, memory

    async def all(self) -> AsyncIterator[Event]:
        """As of `Events`."""
        async for event in super().all():
            if event["type"] in ("response.completed", "response.incomplete"):
                self._memory.add(event["response"], [*self._conversation, _message(self.body["output"])])
            yield event


def _message(output: list[dict[str, Any]]) -> dict[str, Any]:
    """What was answered, as a chat message."""
    calls = [
        {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        for item in output
        if item["type"] == "function_call"
    ]
    text = "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
    return {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}


def _unknown(response_id: str) -> ApiError:
    return ApiError(404, f"Response with id '{response_id[:80]}' not found.")
