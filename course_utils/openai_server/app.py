"""The application: the state that its routes share, the routes of files, jobs, models and chat, the gate in front."""

from __future__ import annotations

import asyncio
import math
import os
import re
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from course_utils import models
from course_utils.openai_server import bodies
from course_utils.openai_server.bodies import ApiError, Strict, invalid, json_body, listing, no_such_file, no_such_model
from course_utils.openai_server.chat import ChatRequest
from course_utils.openai_server.completions import AdapterFolder, Completion, begin
from course_utils.openai_server.engine import Engine
from course_utils.openai_server.gate import Gate
from course_utils.openai_server.jobs import CreateJob, Jobs, Runner
from course_utils.openai_server.options import Options, base_name
from course_utils.openai_server.responses import Events, ResponseRequest, ResponseStore, frame, renamed, to_chat
from course_utils.openai_server.store import Store, public

Document = dict[str, Any]


class Service:
    """The state and settings that the routes share.

    Attributes:
        bases: names under which the base model is offered, its own first.
        started: creation time of the base model in the list of models.
        loaded: the engine, once it was needed: a server that only trains needs no memory for it.
    """

    def __init__(self, options: Options, store: Store) -> None:
        self.options, self.store = options, store
        self.bases = (base_name(options.model), *options.names)
        self.jobs = Jobs(store, self.bases, options.refuse)
        self.runner = Runner(store, options)
        self.started = int(time.time())
        self.loaded: Engine | None = None
        self._loading = asyncio.Lock()

    async def engine(self) -> Engine:
        """Return the engine; the first call loads the model.

        Raises:
            ApiError: the model could not be loaded.
        """
        async with self._loading:
            if self.loaded is None:
                try:
                    self.loaded = await asyncio.to_thread(
                        Engine, partial(models.load, self.options.model), self.options.rows
                    )
                except Exception as error:
                    raise ApiError(500, f"The model could not be loaded: {error}", type="server_error") from error
            return self.loaded

    def close(self) -> None:
        """Stop the jobs' processes and the engine."""
        self.runner.close()
        if self.loaded:
            self.loaded.close()


def _up_to(limit: int, maximum: int) -> int:
    """How many items to list: a larger number counts as the maximum, and a negative one as 0."""
    return max(0, min(limit, maximum))


class Upload(Strict):
    """The form of an upload; the specification's purpose "evals" is left out, since that platform has closed."""

    file: UploadFile
    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data"]
    anchor: Annotated[Literal["created_at"] | None, Field(alias="expires_after[anchor]")] = None
    seconds: Annotated[int | None, Field(alias="expires_after[seconds]", ge=3600, le=2592000)] = None


def _files_router(service: Service) -> APIRouter:
    """Return the routes of files."""
    routes = APIRouter()
    store = service.store

    def delete_expired() -> None:
        for file in store.all("file"):
            if file.get("expires_at", math.inf) <= time.time():
                store.delete_file(file["id"])

    @routes.post("/v1/files")
    def create(form: Annotated[Upload, Form()]) -> Document:
        # The name is only ever displayed: the bytes are stored under our own id. Folders and control characters are removed.
        filename = re.sub(r"[\x00-\x1f\x7f]", "", (form.file.filename or "").replace("\\", "/").rpartition("/")[2])[:255]
        if form.purpose == "fine-tune" and not filename.endswith(".jsonl"):
            raise invalid("file", "Invalid file format for Fine-Tuning API. Must be .jsonl")
        if not form.file.size:
            raise invalid("file", "File is empty.")
        scratch, expires_at = store.scratch("upload"), form.seconds and int(time.time()) + form.seconds
        try:
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
                shutil.copyfileobj(form.file.file, target, 1 << 20)
            return store.add_file(scratch, filename or "upload", form.purpose, expires_at)
        finally:
            scratch.unlink(missing_ok=True)

    @routes.get("/v1/files")
    def files(
        after: str | None = None,
        limit: int = 10_000,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> Document:
        delete_expired()
        where = {"purpose": purpose} if purpose else None
        page = store.page("file", after=after, limit=_up_to(limit, 10_000), newest_first=order == "desc", where=where)
        return listing(page, empty_id="")

    @routes.get("/v1/files/{file_id}")
    def retrieve(file_id: str) -> Document:
        delete_expired()
        file = store.get("file", file_id)
        if file is None:
            raise no_such_file(file_id)
        return file

    @routes.delete("/v1/files/{file_id}")
    def delete(file_id: str) -> Document:
        if not store.delete_file(file_id):
            raise no_such_file(file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    @routes.get("/v1/files/{file_id}/content")
    def content(file_id: str) -> FileResponse:
        return FileResponse(store.file_path(retrieve(file_id)["id"]), media_type="application/octet-stream")

    return routes


def _jobs_router(service: Service) -> APIRouter:
    """Return the routes of fine-tuning jobs, their events and checkpoints."""
    routes = APIRouter()
    store, jobs = service.store, service.jobs

    @routes.post("/v1/fine_tuning/jobs")
    def create(body: Annotated[CreateJob, json_body(CreateJob)]) -> Document:
        job = jobs.create(body)
        service.runner.wake()
        return public(job)

    @routes.get("/v1/fine_tuning/jobs")
    def jobs_list(request: Request, after: str | None = None, limit: int = 20) -> Document:
        where = {}
        for name, value in request.query_params.items():
            if match := re.fullmatch(r"metadata\[([^\[\]]*)\]", name, re.DOTALL):
                where[f"metadata.{match[1]}"] = value
            elif name.startswith("metadata") and value not in ("", "null"):
                raise invalid("metadata", "Invalid value for 'metadata': expected metadata[key]=value.")
        documents, has_more = store.page("job", after=after, limit=_up_to(limit, 100), where=where)
        return {"object": "list", "data": [public(job) for job in documents], "has_more": has_more}

    @routes.get("/v1/fine_tuning/jobs/{job_id}")
    def retrieve(job_id: str) -> Document:
        return public(jobs.get(job_id))

    def add_change(name: str, change: Callable[[str], Document], then: Callable[[str], None]) -> None:
        @routes.post(f"/v1/fine_tuning/jobs/{{job_id}}/{name}")
        def changed(job_id: str) -> Document:
            job = change(job_id)
            then(job_id)
            return public(job)

    add_change("cancel", jobs.cancel, service.runner.stop)
    add_change("pause", jobs.pause, service.runner.stop)
    add_change("resume", jobs.resume, lambda _: service.runner.wake())

    @routes.get("/v1/fine_tuning/jobs/{job_id}/events")
    def events(job_id: str, after: str | None = None, limit: int = 20) -> Document:
        documents, has_more = store.page("event", jobs.get(job_id)["id"], after, _up_to(limit, 100))
        return {"object": "list", "data": documents, "has_more": has_more}

    @routes.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
    def checkpoints(job_id: str, after: str | None = None, limit: int = 10) -> Document:
        return listing(store.page("checkpoint", jobs.get(job_id)["id"], after, _up_to(limit, 100)))

    return routes


def _models_router(service: Service) -> APIRouter:
    """Return the routes of models."""
    routes = APIRouter()
    store = service.store
    base = {"object": "model", "created": service.started, "shutdown_date": None}
    own, *stand_ins = service.bases
    bases = {own: {"id": own, **base, "owned_by": "local"}}
    bases |= {name: {"id": name, **base, "owned_by": f"local stand-in: {own}"} for name in stand_ins}

    @routes.get("/v1/models")
    def models_list() -> Document:
        tuned = [public(model) for model in store.all("model") if not model["_checkpoint"]]
        return {"object": "list", "data": [*bases.values(), *tuned]}

    @routes.get("/v1/models/{name:path}")
    def retrieve(name: str) -> Document:
        if not name:
            raise HTTPException(404)
        document = store.get("model", name) or bases.get(name)
        if document is None:
            raise no_such_model(name)
        return public(document)

    @routes.delete("/v1/models/{name:path}")
    def delete(name: str) -> Document:
        if name in bases:
            raise ApiError(403, f"The model '{name}' is a base model and can't be deleted", param="model")
        if not store.delete_model(name):
            raise ApiError(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
        return {"id": name, "object": "model", "deleted": True}

    return routes


def _chat_router(service: Service) -> APIRouter:
    """Return the routes of chat completions and responses."""
    routes = APIRouter()
    responses = ResponseStore()

    def adapter_of(name: str) -> AdapterFolder | None:
        model = service.store.get("model", name)
        if model is not None:
            return model["_folder"], service.store.model_folder(model["_folder"])
        if name in service.bases:
            return None
        raise no_such_model(name)

    async def begin_chat(request: ChatRequest) -> Completion:
        adapter = await run_in_threadpool(adapter_of, request.model)
        return await begin(await service.engine(), service.options.context, request, adapter)

    @routes.post("/v1/chat/completions")
    async def chat(request: Request, body: Annotated[ChatRequest, json_body(ChatRequest)]) -> Response:
        completion = await begin_chat(body)
        return await _send_answer(request, completion, completion, body.stream)

    @routes.post("/v1/responses")
    async def create(request: Request, body: Annotated[ResponseRequest, json_body(ResponseRequest)]) -> Response:
        chat_request, conversation = to_chat(body, responses)
        try:
            completion = await begin_chat(chat_request)
        except ApiError as error:
            raise renamed(error) from error
        keep = partial(responses.add, conversation=conversation) if body.store is not False else None
        return await _send_answer(request, completion, Events(frame(body), completion, keep), body.stream)

    @routes.get("/v1/responses/{response_id}")
    async def retrieve(response_id: str, stream: bool = False) -> Document:
        if stream:
            raise invalid("stream", "A stored response can be retrieved, but not streamed again.")
        if response_id not in responses:
            raise ApiError(404, f"Response with id '{response_id[:80]}' not found.")
        return responses[response_id].body

    @routes.delete("/v1/responses/{response_id}")
    async def delete(response_id: str) -> Document:
        await retrieve(response_id)  # which says it if there is none
        del responses[response_id]
        return {"id": response_id, "object": "response", "deleted": True}

    return routes


async def _send_answer(
    request: Request, completion: Completion, answer: Completion | Events, stream: bool | None
) -> Response:
    """Send a completion as one document or as a stream; it is cancelled if the client goes away."""
    if stream:
        pieces = _cancel_at_the_end(answer.stream(), completion)
        return StreamingResponse(pieces, headers={"cache-control": "no-cache"}, media_type="text/event-stream")

    async def cancel_on_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        completion.cancel()

    watcher = asyncio.create_task(cancel_on_disconnect())
    try:
        return JSONResponse(await answer.whole())
    finally:
        watcher.cancel()


async def _cancel_at_the_end(stream: AsyncIterator[str], completion: Completion) -> AsyncIterator[str]:
    try:
        async for piece in stream:
            yield piece
    finally:
        completion.cancel()


def build(service: Service, key: str) -> FastAPI:
    """Assemble the application of a service: its routes, the gate in front of them, and its error handlers."""
    app = FastAPI(title="Fine-tuning service", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Gate, key=key, hosts=service.options.allow_host)
    app.add_exception_handler(ApiError, bodies.refused)
    app.add_exception_handler(RequestValidationError, bodies.invalid_request)
    app.add_exception_handler(HTTPException, bodies.unknown_route)
    app.add_exception_handler(OSError, bodies.storage)
    app.add_exception_handler(sqlite3.Error, bodies.storage)
    app.add_exception_handler(Exception, bodies.bug)
    for router in (_files_router, _jobs_router, _models_router, _chat_router):
        app.include_router(router(service))

    @app.get("/health")
    def health() -> Document:
        return {
            "status": "ok",
            "model": service.bases[0],
            "loaded": service.loaded is not None,
            "busy": service.loaded.busy if service.loaded else 0,
            "training_process": service.runner.process_of("train"),
        }

    return app
