"""Routes of chat completions, and of responses, which use the same helpers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from course_utils.openai_server import errors
from course_utils.openai_server.chat import Chat, ChatRequest
from course_utils.openai_server.parsing import json_body
from course_utils.openai_server.routes import responses
from course_utils.openai_server.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from course_utils.openai_server.completions import Completion
    from course_utils.openai_server.routes.responses import WholeAnswer


def router(service: Service) -> APIRouter:
    """Return the routes of chat completions and responses."""
    routes = APIRouter()

    def adapter_of(name: str) -> tuple[str, Path] | None:
        model = service.store.get("model", name)
        if model is not None:
            return model["_folder"], service.store.model_folder(model["_folder"])
        if name in (service.base, *service.names):
            return None
        raise errors.no_such_model(name)

    async def begin_chat(chat_request: ChatRequest) -> Completion:
        adapter = await run_in_threadpool(adapter_of, chat_request.model)
        if service.token_budget is not None:
            await run_in_threadpool(service.check_budget)
        chat: Chat = await service.chat.get()
        return await chat.begin(chat_request, adapter)

    async def send_answer(
        request: Request, completion: Completion, whole_answer: WholeAnswer, stream: AsyncIterator[str] | None
    ) -> Response:
        if stream is not None:
            pieces = _count_tokens(stream, completion, service)
            return StreamingResponse(pieces, headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        watcher = _cancel_on_disconnect(request, completion)
        try:
            return JSONResponse(await whole_answer())
        finally:
            watcher.cancel()
            service.answered_tokens += completion.usage["total_tokens"]

    @routes.post("/v1/chat/completions", response_model=None)
    async def create(request: Request, body: Annotated[ChatRequest, json_body(ChatRequest)]) -> Response:
        completion = await begin_chat(body)
        return await send_answer(request, completion, completion.whole, completion.stream() if body.stream else None)

    responses.add_routes(routes, begin_chat, send_answer)

    return routes


async def _count_tokens(stream: AsyncIterator[str], completion: Completion, service: Service) -> AsyncIterator[str]:
    try:
        async for piece in stream:
            yield piece
    finally:
        completion.cancel()
        service.answered_tokens += completion.usage["total_tokens"]


def _cancel_on_disconnect(request: Request, completion: Completion) -> asyncio.Task[None]:
    """Cancel the completion if the client disconnects; returns the task that watches for it."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        completion.cancel()

    return asyncio.create_task(watch())
