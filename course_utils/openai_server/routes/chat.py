"""Chat completions, and responses over what they have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types.chat.completion_create_params import CompletionCreateParams
from starlette.concurrency import run_in_threadpool

from course_utils.openai_server import errors
from course_utils.openai_server.chat import Chat, ChatRequest
from course_utils.openai_server.parsing import json_body, parsed
from course_utils.openai_server.responses import ResponseRequest
from course_utils.openai_server.routes import responses
from course_utils.openai_server.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from course_utils.openai_server.completions import Completion
    from course_utils.openai_server.routes.responses import Whole


def router(service: Service) -> APIRouter:
    """Routes of chat completions and responses."""
    routes = APIRouter()

    def adapter_of(name: str) -> tuple[str, Path] | None:
        found = service.store.get("model", name)
        if found is not None:
            return found["_folder"], service.store.model_folder(found["_folder"])
        if name in (service.base, *service.names):
            return None
        raise errors.no_such_model(name)

    async def begin(asked: ChatRequest) -> Completion:
        adapter = await run_in_threadpool(adapter_of, asked.model)
        if service.token_budget is not None:
            await run_in_threadpool(service.check_budget)
        chat: Chat = await service.chat.get()
        return await chat.begin(asked, adapter)

    async def answer(request: Request, completion: Completion, whole: Whole, stream: AsyncIterator[str] | None) -> Response:
        if stream is not None:
            pieces = _counted(stream, completion, service)
            return StreamingResponse(pieces, headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        watch = _cancel_when_gone(request, completion)
        try:
            return JSONResponse(await whole())
        finally:
            watch.cancel()
            service.answered_tokens += completion.usage["total_tokens"]

    @routes.post("/v1/chat/completions", response_model=None)
    async def create(request: Request) -> Response:
        asked = parsed(ChatRequest, await json_body(request), CompletionCreateParams)
        completion = await begin(asked)
        return await answer(request, completion, completion.whole, completion.stream() if asked.stream else None)

    async def read(request: Request) -> ResponseRequest:
        return parsed(ResponseRequest, await json_body(request))

    responses.add_routes(routes, read, begin, answer)

    return routes


async def _counted(stream: AsyncIterator[str], completion: Completion, service: Service) -> AsyncIterator[str]:
    try:
        async for piece in stream:
            yield piece
    finally:
        completion.cancel()
        service.answered_tokens += completion.usage["total_tokens"]


def _cancel_when_gone(request: Request, completion: Completion) -> asyncio.Task[None]:
    """A client that went away is no reason to go on; returns the task that looks out for it."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        completion.cancel()

    return asyncio.create_task(watch())
