"""The application: the routes of files, jobs, graders, permissions, models, chat and responses, and the gate in front."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import IO, TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types import FileDeleted, FileObject, Model, ModelDeleted
from openai.types.fine_tuning import FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from course_utils.openai_server import bodies, errors, graders
from course_utils.openai_server.bodies import Query, Strict, checked, json_body, listing
from course_utils.openai_server.chat import ChatRequest
from course_utils.openai_server.completions import Chat, Completion
from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.gate import Gate
from course_utils.openai_server.jobs import CreateJob, public, shown
from course_utils.openai_server.response_events import Event, Events
from course_utils.openai_server.responses import ResponseRequest, ResponseStore, frame, renamed, to_chat
from course_utils.openai_server.service import Service
from course_utils.openai_server.store import Store, new_id

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.datastructures import FormData


# "evals" appears in the specification's request but not in its response; that platform closes on 2026-11-30.
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data")
FORM_FIELDS = {"file", "purpose", "expires_after", "expires_after[anchor]", "expires_after[seconds]"}
EXPIRY = (3600, 2592000)  # seconds


def _files_router(service: Service) -> APIRouter:
    """Return the routes of files."""
    routes = APIRouter()
    store = service.store

    def get_file(file_id: str) -> dict[str, Any]:
        file = store.get("file", file_id)
        if file and file.get("expires_at") and file["expires_at"] <= time.time():
            store.delete_file(file_id)
            file = None
        if file is None:
            raise errors.no_such_file(file_id)
        return file

    @routes.post("/v1/files", response_model=None)
    async def create(request: Request) -> JSONResponse:
        return await _upload(request, service)

    @routes.get("/v1/files", response_model=None)
    def files(request: Request) -> dict[str, Any]:
        query = Query(request)
        purpose = query.text("purpose")
        filters = {"purpose": purpose} if purpose else None
        for file in store.all("file"):
            if file.get("expires_at") and file["expires_at"] <= time.time():
                store.delete_file(file["id"])
        after, limit = query.text("after"), query.limit(10_000, 10_000)
        page = store.page("file", after=after, limit=limit, newest_first=query.newest_first(), where=filters)
        return listing(page, FileObject, empty_ids="")

    @routes.get("/v1/files/{file_id}", response_model=None)
    def retrieve(file_id: str) -> dict[str, Any]:
        return checked(FileObject, get_file(file_id))

    @routes.delete("/v1/files/{file_id}", response_model=None)
    def delete(file_id: str) -> dict[str, Any]:
        get_file(file_id)
        if not store.delete_file(file_id):
            raise errors.no_such_file(file_id)
        return checked(FileDeleted, {"id": file_id, "object": "file", "deleted": True})

    @routes.get("/v1/files/{file_id}/content", response_model=None)
    def content(file_id: str) -> Response:
        file = get_file(file_id)
        path = store.file_path(file_id)

        def read() -> Iterator[bytes]:
            with path.open("rb") as source:
                while block := source.read(1 << 20):
                    yield block

        if not path.exists():
            raise errors.no_such_file(file_id)
        headers = {"content-length": str(file["bytes"])}
        return StreamingResponse(read(), media_type="application/octet-stream", headers=headers)

    return routes


async def _upload(request: Request, service: Service) -> JSONResponse:
    """Store an upload. While it arrives, file parts go to an unnamed file on disk, others (up to 1 MB) to memory.

    The form is checked by hand: the hosted API refuses it in other words than its JSON bodies ("'purpose' is a required
    property"), and in brackets ("expires_after[anchor]"), so that a model would need a second translation of its errors.
    """
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        raise invalid(None, f"Invalid content type: expected multipart/form-data, got {content_type[:80] or 'none'}.")
    try:
        form = await request.form(max_files=1, max_fields=8)
    except (HTTPException, MultiPartException, ValueError, KeyError, AssertionError) as error:
        detail = getattr(error, "detail", None) or getattr(error, "message", None) or "it could not be read"
        raise invalid(None, f"Invalid multipart body: {detail}") from error
    try:
        names = [name for name, _ in form.multi_items()]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise invalid(repeated[:80], f"Invalid multipart body: '{repeated[:80]}' is given more than once.")
        upload, purpose = form.get("file"), form.get("purpose")
        if upload is None or isinstance(upload, str):
            raise invalid("file", "'file' is a required property")
        if purpose is None:
            raise invalid("purpose", "'purpose' is a required property")
        if not isinstance(purpose, str) or purpose not in PURPOSES:
            raise invalid("purpose", f"{str(purpose)[:80]!r} is not one of {list(PURPOSES)}")
        if unknown_fields := set(form) - FORM_FIELDS:
            raise errors.unknown_argument(min(unknown_fields)[:200])
        expires_at = _expires_at(form)
        # The name is only ever displayed: the bytes are stored under our own id. Folders and control characters are removed.
        filename = re.sub(r"[\x00-\x1f\x7f]", "", (upload.filename or "upload").replace("\\", "/").rpartition("/")[2])[:255]
        if purpose == "fine-tune" and not filename.endswith(".jsonl"):
            raise invalid("file", "Invalid file format for Fine-Tuning API. Must be .jsonl")
        if not upload.size:
            raise invalid("file", "File is empty.")
        body = await run_in_threadpool(_store_upload, service.store, upload.file, filename or "upload", purpose, expires_at)
    finally:
        await form.close()
    return JSONResponse(checked(FileObject, body))


def _store_upload(store: Store, source: IO[bytes], filename: str, purpose: str, expires_at: int | None) -> dict[str, Any]:
    scratch = store.scratch("upload")
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
        return store.add_file(scratch, filename, purpose, expires_at)
    finally:
        scratch.unlink(missing_ok=True)


def _expires_at(form: FormData) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if isinstance(json_part := form.get("expires_after"), str):  # as one JSON part instead of one part per field
        try:
            fields = json.loads(json_part)
            anchor, seconds = fields.pop("anchor", None), fields.pop("seconds", None)
            seconds = str(seconds) if type(seconds) is int else seconds
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise invalid("expires_after", "'expires_after' must be an object") from error
        if fields:
            raise invalid("expires_after", f"Unrecognized request argument supplied: {next(iter(fields))[:80]}")
    elif anchor is None and seconds is None:
        return None
    if seconds is None or anchor is None:
        missing = "expires_after[anchor]" if anchor is None else "expires_after[seconds]"
        raise invalid(missing, f"'{missing}' is a required property")
    if anchor != "created_at":
        raise invalid("expires_after[anchor]", "'expires_after[anchor]' must be 'created_at'")
    if not isinstance(seconds, str) or not re.fullmatch("[0-9]{1,9}", seconds) or not EXPIRY[0] <= int(seconds) <= EXPIRY[1]:
        raise invalid(
            "expires_after[seconds]", f"'expires_after[seconds]' must be an integer from {EXPIRY[0]} to {EXPIRY[1]}"
        )
    return int(time.time()) + int(seconds)


def _jobs_router(service: Service) -> APIRouter:
    """Return the routes of fine-tuning jobs, their events and checkpoints."""
    routes = APIRouter()
    store, jobs = service.store, service.jobs

    @routes.post("/v1/fine_tuning/jobs", response_model=None)
    async def create(body: Annotated[CreateJob, json_body(CreateJob)]) -> dict[str, Any]:
        job = await run_in_threadpool(jobs.create, body)
        service.runner.wake()
        return shown(job)

    @routes.get("/v1/fine_tuning/jobs", response_model=None)
    def jobs_list(request: Request) -> dict[str, Any]:
        query = Query(request)
        page = store.page("job", after=query.text("after"), limit=query.limit(20, 100), where=query.metadata())
        return {"object": "list", "data": [shown(job) for job in page[0]], "has_more": page[1]}

    @routes.get("/v1/fine_tuning/jobs/{job_id}", response_model=None)
    def retrieve(job_id: str) -> dict[str, Any]:
        return shown(jobs.get(job_id))

    @routes.post("/v1/fine_tuning/jobs/{job_id}/cancel", response_model=None)
    def cancel(job_id: str) -> dict[str, Any]:
        job = jobs.cancel(job_id)
        service.runner.stop(job_id)
        return shown(job)

    @routes.post("/v1/fine_tuning/jobs/{job_id}/pause", response_model=None)
    def pause(job_id: str) -> dict[str, Any]:
        job = jobs.pause(job_id)
        service.runner.stop(job_id)
        return shown(job)

    @routes.post("/v1/fine_tuning/jobs/{job_id}/resume", response_model=None)
    def resume(job_id: str) -> dict[str, Any]:
        job = jobs.resume(job_id)
        service.runner.wake()
        return shown(job)

    @routes.get("/v1/fine_tuning/jobs/{job_id}/events", response_model=None)
    def events(job_id: str, request: Request) -> dict[str, Any]:
        jobs.get(job_id)
        query = Query(request)
        events_page, has_more = store.page("event", job_id, query.text("after"), query.limit(20, 100))
        return {
            "object": "list",
            "data": [checked(FineTuningJobEvent, event) for event in events_page],
            "has_more": has_more,
        }

    @routes.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", response_model=None)
    def checkpoints(job_id: str, request: Request) -> dict[str, Any]:
        jobs.get(job_id)
        query = Query(request)
        page = store.page("checkpoint", job_id, query.text("after"), query.limit(10, 100))
        return listing(page, FineTuningJobCheckpoint, empty_ids=None)

    return routes


ERRORS = (
    "formula_parse_error", "invalid_variable_error", "model_grader_parse_error", "model_grader_refusal_error",
    "model_grader_server_error", "other_error", "python_grader_runtime_error", "python_grader_server_error",
    "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
)  # fmt: skip


def _graders_router(service: Service) -> APIRouter:
    """Return the routes of graders."""
    routes = APIRouter()

    @routes.post("/v1/fine_tuning/alpha/graders/validate", response_model=None)
    async def validate(body: Annotated[graders.Validate, json_body(graders.Validate)]) -> dict[str, Any]:
        graders.check_grader(body.grader)
        return {"grader": body.grader.model_dump(exclude_none=True)}

    @routes.post("/v1/fine_tuning/alpha/graders/run", response_model=None)
    async def run(body: Annotated[graders.Run, json_body(graders.Run)]) -> dict[str, Any]:
        started = time.perf_counter()
        reward, parts = await run_in_threadpool(graders.run, body.grader, body.model_sample, body.item)
        return {
            "reward": reward,
            "sub_rewards": parts,
            "model_grader_token_usage_per_model": {},
            "metadata": {
                "name": body.grader.name,
                "type": body.grader.type,
                "errors": dict.fromkeys(ERRORS, False),
                "execution_time": time.perf_counter() - started,
                "scores": parts or {body.grader.name: reward},
                "token_usage": None,
                "sampled_model_name": None,
            },
        }

    return routes


class NewPermissions(Strict):
    """The body of a request that lets other projects use a checkpoint."""

    project_ids: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=100)]


def _permissions_router(service: Service) -> APIRouter:
    """Return the routes of permissions."""
    routes = APIRouter()
    store = service.store
    path = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"

    def check_checkpoint(checkpoint: str) -> None:
        if store.get("model", checkpoint) is None:
            raise errors.no_such_model(checkpoint)

    @routes.get(path, response_model=None)
    def permissions(checkpoint: str, request: Request) -> dict[str, Any]:
        check_checkpoint(checkpoint)
        query = Query(request)
        order = query.one_of("order", ("ascending", "descending"))
        filters = {"project_id": project} if (project := query.text("project_id")) else None
        page = store.page(
            "permission",
            checkpoint,
            query.text("after"),
            query.limit(10, 100),
            newest_first=order != "ascending",
            where=filters,
        )
        return listing(page, None, empty_ids=None)

    @routes.post(path, response_model=None)
    async def create(checkpoint: str, body: Annotated[NewPermissions, json_body(NewPermissions)]) -> dict[str, Any]:
        check_checkpoint(checkpoint)

        def add() -> list[dict[str, Any]]:
            created = []
            with store.transaction():
                for project in dict.fromkeys(body.project_ids):
                    permission: dict[str, Any] = {
                        "id": new_id("permission"),
                        "object": "checkpoint.permission",
                        "created_at": int(time.time()),
                        "project_id": project,
                    }
                    created.append(store.add("permission", permission["id"], permission, parent=checkpoint))
            return created

        return listing((await run_in_threadpool(add), False), None, empty_ids=None)

    @routes.delete(path + "/{permission_id}", response_model=None)
    def delete(checkpoint: str, permission_id: str) -> dict[str, Any]:
        check_checkpoint(checkpoint)
        if permission_id not in {permission["id"] for permission in store.all("permission", checkpoint)}:
            raise ApiError(404, f"No such permission: {permission_id}", param="permission_id")
        store.delete("permission", permission_id)
        return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}

    return routes


def _models_router(service: Service) -> APIRouter:
    """Return the routes of models."""
    routes = APIRouter()
    store = service.store

    def bases() -> list[dict[str, Any]]:
        stand_in = f"local stand-in: {service.base}"
        return [
            {"id": name, "object": "model", "created": service.started, "owned_by": owner, "shutdown_date": None}
            for name, owner in [(service.base, "local"), *((name, stand_in) for name in service.names)]
        ]

    @routes.get("/v1/models", response_model=None)
    def models() -> dict[str, Any]:
        tuned = [public(model) for model in store.all("model") if not model["_checkpoint"]]
        return {"object": "list", "data": [checked(Model, model) for model in [*bases(), *tuned]]}

    @routes.get("/v1/models/{name:path}", response_model=None)
    def retrieve(name: str) -> dict[str, Any]:
        if not name:
            raise HTTPException(404)
        document = store.get("model", name) or next((model for model in bases() if model["id"] == name), None)
        if document is None:
            raise errors.no_such_model(name)
        return checked(Model, public(document))

    @routes.delete("/v1/models/{name:path}", response_model=None)
    def delete(name: str) -> dict[str, Any]:
        if any(model["id"] == name for model in bases()):
            raise ApiError(403, f"The model '{name}' is a base model and can't be deleted", param="model")
        with store.transaction():
            document = store.get("model", name)
            if document is None:
                raise ApiError(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
            store.delete("model", name)
            in_use = any(model["_folder"] == document["_folder"] for model in store.all("model"))
        if not in_use:
            remove = partial(shutil.rmtree, store.model_folder(document["_folder"]), ignore_errors=True)
            if service.chat.loaded:
                service.chat.loaded.engine.forget(document["_folder"], remove)
            else:
                remove()
        return checked(ModelDeleted, {"id": name, "object": "model", "deleted": True})

    return routes


BeginChat = Callable[[ChatRequest], Awaitable[Completion]]
WholeAnswer = Callable[[], Awaitable[dict[str, Any]]]
SendAnswer = Callable[[Request, Completion, WholeAnswer, AsyncIterator[str] | None], Awaitable[Response]]


def _add_responses(routes: APIRouter, begin_chat: BeginChat, send_answer: SendAnswer) -> None:
    """Add the routes to those of chat completions, whose helpers they share.

    Args:
        routes: the router to add to.
        begin_chat: starts a chat completion.
        send_answer: sends a completion as one document or as a stream.
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
            raise _no_such_response(response_id)
        return JSONResponse(stored.body)

    @routes.delete("/v1/responses/{response_id}", response_model=None)
    async def delete(response_id: str) -> JSONResponse:
        if not store.delete(response_id):
            raise _no_such_response(response_id)
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
                self._store.add(event["response"], [*self._conversation, _as_chat_message(self.body["output"])])
            yield event


def _as_chat_message(output: list[dict[str, Any]]) -> dict[str, Any]:
    """The output as a chat message."""
    calls = [
        {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        for item in output
        if item["type"] == "function_call"
    ]
    text = "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
    return {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}


def _no_such_response(response_id: str) -> ApiError:
    return ApiError(404, f"Response with id '{response_id[:80]}' not found.")


def _chat_router(service: Service) -> APIRouter:
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
        chat: Chat = await service.chat.get()
        return await chat.begin(chat_request, adapter)

    async def send_answer(
        request: Request, completion: Completion, whole_answer: WholeAnswer, stream: AsyncIterator[str] | None
    ) -> Response:
        if stream is not None:
            pieces = _cancel_at_the_end(stream, completion)
            return StreamingResponse(pieces, headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        watcher = _cancel_on_disconnect(request, completion)
        try:
            return JSONResponse(await whole_answer())
        finally:
            watcher.cancel()

    @routes.post("/v1/chat/completions", response_model=None)
    async def create(request: Request, body: Annotated[ChatRequest, json_body(ChatRequest)]) -> Response:
        completion = await begin_chat(body)
        return await send_answer(request, completion, completion.whole, completion.stream() if body.stream else None)

    _add_responses(routes, begin_chat, send_answer)

    return routes


async def _cancel_at_the_end(stream: AsyncIterator[str], completion: Completion) -> AsyncIterator[str]:
    try:
        async for piece in stream:
            yield piece
    finally:
        completion.cancel()


def _cancel_on_disconnect(request: Request, completion: Completion) -> asyncio.Task[None]:
    """Cancel the completion if the client disconnects; returns the task that watches for it."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        completion.cancel()

    return asyncio.create_task(watch())


def build(service: Service) -> FastAPI:
    """Assemble the application of a service: its routes, the gate in front of them, and its error handlers."""
    app = FastAPI(title="Fine-tuning service", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(ApiError, bodies.refused)
    app.add_exception_handler(RequestValidationError, bodies.invalid_request)
    app.add_exception_handler(HTTPException, bodies.unknown_route)
    app.add_exception_handler(OSError, bodies.storage)
    app.add_exception_handler(sqlite3.Error, bodies.storage)
    app.add_exception_handler(Exception, bodies.bug)
    for router in (_files_router, _jobs_router, _graders_router, _permissions_router, _models_router, _chat_router):
        app.include_router(router(service))

    @app.get("/health")
    def health() -> dict[str, Any]:
        loaded = service.chat.loaded
        return {
            "status": "ok",
            "model": service.base,
            "loaded": loaded is not None,
            "busy": loaded.engine.busy if loaded else 0,
            "adapters": loaded.engine.adapters.in_memory if loaded else 0,
            "adapter_bytes": loaded.engine.adapters.bytes if loaded else 0,
            "training_process": service.runner.process_of("train"),
        }

    return app
