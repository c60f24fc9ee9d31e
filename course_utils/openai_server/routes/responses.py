"""Routes of the Responses API: create (also as a stream), retrieve and delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from course_utils.openai_server.chat import ChatRequest
from course_utils.openai_server.completions import Completion
from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.parsing import json_body
from course_utils.openai_server.response_events import Event, Events
from course_utils.openai_server.responses import ResponseRequest, ResponseStore, frame, renamed, to_chat

BeginChat = Callable[[ChatRequest], Awaitable[Completion]]
WholeAnswer = Callable[[], Awaitable[dict[str, Any]]]
SendAnswer = Callable[[Request, Completion, WholeAnswer, AsyncIterator[str] | None], Awaitable[Response]]


def add_routes(routes: APIRouter, begin_chat: BeginChat, send_answer: SendAnswer) -> None:
    """Add the routes to those of chat completions, whose helpers they share.

    Args:
        routes: the router to add to.
        begin_chat: starts a chat completion.
        send_answer: sends a completion as one document or as a stream, and counts its tokens.
    """
    store = ResponseStore()

    @routes.post("/v1/responses", response_model=None)
    async def create(request: Request, body: Annotated[ResponseRequest, json_body(ResponseRequest)]) -> Response:
        chat, conversation = to_chat(body, store)
        try:
            completion = await begin_chat(chat)
        except ApiError as error:
            raise renamed(error) from error
        response = frame(body)
        is_stored = body.store is not False
        events = StoredEvents(response, completion, conversation, store) if is_stored else Events(response, completion)
        return await send_answer(request, completion, events.whole, events.stream() if body.stream else None)

    @routes.get("/v1/responses/{response_id}", response_model=None)
    async def retrieve(request: Request, response_id: str) -> JSONResponse:
        if request.query_params.get("stream", "false") != "false":
            raise invalid("stream", "A stored response can be retrieved, but not streamed again.")
        if (stored := store.get(response_id)) is None:
            raise _not_found(response_id)
        return JSONResponse(stored.body)

    @routes.delete("/v1/responses/{response_id}", response_model=None)
    async def delete(response_id: str) -> JSONResponse:
        if not store.delete(response_id):
            raise _not_found(response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})


class StoredEvents(Events):
    """Events of a response that is stored once it has ended."""

    def __init__(
        self, body: dict[str, Any], completion: Completion, conversation: list[dict[str, Any]], store: ResponseStore
    ) -> None:
        super().__init__(body, completion)
        self._conversation, self._store = conversation, store

    async def events(self) -> AsyncIterator[Event]:
        """Yield every event, as `Events` does, and store the response at its end."""
        async for event in super().events():
            if event["type"] in ("response.completed", "response.incomplete"):
                self._store.add(event["response"], [*self._conversation, _message(self.body["output"])])
            yield event


def _message(output: list[dict[str, Any]]) -> dict[str, Any]:
    """The output as a chat message."""
    calls = [
        {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        for item in output
        if item["type"] == "function_call"
    ]
    text = "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
    return {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}


def _not_found(response_id: str) -> ApiError:
    return ApiError(404, f"Response with id '{response_id[:80]}' not found.")
