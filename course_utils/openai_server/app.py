"""The HTTP surface: the hosted API's routes, bodies, errors and headers.

Responses are built from the official client's own types. Requests are read here, not by FastAPI, so that whatever is wrong
with one is said in the hosted API's form and nothing is read into memory or written to disk before its size is known.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import math
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types import FileDeleted, FileObject, Model, ModelDeleted
from openai.types.fine_tuning import FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from course_utils.openai_server import errors
from course_utils.openai_server.chat import Chat, ChatRequest
from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.jobs import CreateJob, Jobs, Runner, public, shown
from course_utils.openai_server.store import Store, new_id

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.datastructures import FormData
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from course_utils.openai_server.chat import Completion
    from course_utils.openai_server.serving import Loader

MAX_FILE = 512 * 1024 * 1024  # bytes; the hosted service's limit
MAX_JSON = 8 * 1024 * 1024
MAX_DEPTH = 64  # of a JSON body
# "evals" is in the specification's request and not in its response; that platform closes on 2026-11-30.
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data")
FORM_FIELDS = {"file", "purpose", "expires_after", "expires_after[anchor]", "expires_after[seconds]"}
EXPIRY = (3600, 2592000)  # seconds
NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)
Asked = TypeVar("Asked", bound=BaseModel)


@dataclass
class Service:
    """What the routes work with.

    Attributes:
        store, jobs, runner: see there.
        chat: called once, when the first chat comes: loads the model.
        base: the name under which the base model is offered.
        names: other names for it: stand-ins for hosted models.
        key: the API key.
        base64_results: give result files as the hosted service did, as base64 of the CSV.
        requests_per_minute: more than this answer 429; None for no limit.
        token_budget: tokens, trained and answered together, after which everything answers 429; None for no limit.
        max_file: largest upload in bytes.
        started: when the base model came to be, for the list of models.
    """

    store: Store
    jobs: Jobs
    runner: Runner
    chat: Loader
    base: str
    key: str
    names: tuple[str, ...] = ()
    base64_results: bool = True
    requests_per_minute: int | None = None
    token_budget: int | None = None
    max_file: int = MAX_FILE
    started: int = field(default_factory=lambda: int(time.time()))
    answered_tokens: int = 0

    def spent(self) -> int:
        """Tokens that were trained on and answered with."""
        trained = sum(job["trained_tokens"] or 0 for job in self.store.all("job"))
        return trained + self.answered_tokens

    def check_budget(self) -> None:
        """Raise ApiError if nothing is left."""
        if self.token_budget is not None and self.spent() >= self.token_budget:
            raise errors.no_money()


class NewPermissions(BaseModel):
    """Projects that may use a checkpoint."""

    model_config = ConfigDict(extra="forbid")
    project_ids: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=100)]


def build(service: Service) -> FastAPI:
    """The application."""
    app = FastAPI(title="Fine-tuning service", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _unknown_route)
    app.add_exception_handler(Exception, _bug)
    _files(app, service)
    _jobs(app, service)
    _permissions(app, service)
    _models(app, service)
    _chat(app, service)

    @app.get("/health")
    def health() -> dict[str, Any]:
        chat = service.chat.loaded
        return {
            "status": "ok",
            "model": service.base,
            "loaded": chat is not None,
            "busy": chat.engine.busy if chat else 0,
            "adapters": chat.engine.adapters.in_memory if chat else 0,
            "adapter_bytes": chat.engine.adapters.bytes if chat else 0,
            "training_process": service.runner.process_of("train"),
        }

    return app


# -- files --------------------------------------------------------------------------------------------------------------


def _files(app: FastAPI, service: Service) -> None:
    store = service.store

    def of(file_id: str) -> dict[str, Any]:
        found = store.get("file", file_id)
        if found and found.get("expires_at") and found["expires_at"] <= time.time():
            store.delete_file(file_id)
            found = None
        if found is None:
            raise errors.no_such_file(file_id)
        return found

    @app.post("/v1/files", response_model=None)
    async def create(request: Request) -> JSONResponse:
        return await _upload(request, service)

    @app.get("/v1/files", response_model=None)
    def files(request: Request) -> dict[str, Any]:
        query = Query(request)
        purpose = query.text("purpose")
        where = {"purpose": purpose} if purpose else None
        for file in store.all("file"):
            if file.get("expires_at") and file["expires_at"] <= time.time():
                store.delete_file(file["id"])
        after, limit = query.text("after"), query.limit(10_000, 10_000)
        page = store.page("file", after=after, limit=limit, newest_first=query.newest_first(), where=where)
        return _list(page, FileObject, ends="")

    @app.get("/v1/files/{file_id}", response_model=None)
    def retrieve(file_id: str) -> dict[str, Any]:
        return _checked(FileObject, of(file_id))

    @app.delete("/v1/files/{file_id}", response_model=None)
    def delete(file_id: str) -> dict[str, Any]:
        of(file_id)
        if not store.delete_file(file_id):
            raise errors.no_such_file(file_id)
        return _checked(FileDeleted, {"id": file_id, "object": "file", "deleted": True})

    @app.get("/v1/files/{file_id}/content", response_model=None)
    def content(file_id: str) -> Response:
        file = of(file_id)
        path = store.file_path(file_id)
        if file["purpose"] == "fine-tune-results" and not service.base64_results:
            return Response(base64.b64decode(path.read_bytes()), media_type="application/octet-stream")

        def read() -> Iterator[bytes]:
            with path.open("rb") as source:
                while block := source.read(1 << 20):
                    yield block

        if not path.exists():
            raise errors.no_such_file(file_id)
        headers = {"content-length": str(file["bytes"])}
        return StreamingResponse(read(), media_type="application/octet-stream", headers=headers)


async def _upload(request: Request, service: Service) -> JSONResponse:
    """A multipart body: parts of a file go to a nameless file on disk as they come, others into memory, up to a megabyte."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise invalid(None, f"Invalid content type: expected multipart/form-data, got {kind[:80] or 'none'}.")
    try:
        form = await request.form(max_files=1, max_fields=8)
    except (HTTPException, MultiPartException, ValueError, KeyError, AssertionError) as error:
        detail = getattr(error, "detail", None) or getattr(error, "message", None) or "it could not be read"
        raise invalid(None, f"Invalid multipart body: {detail}") from error
    try:
        upload, purpose = form.get("file"), form.get("purpose")
        if upload is None or isinstance(upload, str):
            raise invalid("file", "'file' is a required property")
        if purpose is None:
            raise invalid("purpose", "'purpose' is a required property")
        if not isinstance(purpose, str) or purpose not in PURPOSES:
            raise invalid("purpose", f"{str(purpose)[:80]!r} is not one of {list(PURPOSES)}")
        if unknown := set(form) - FORM_FIELDS:
            raise invalid(None, f"Unrecognized request argument supplied: {min(unknown)[:80]}")
        expires_at = _expiry(form)
        # A name is only ever shown: the bytes lie under an id of our own. What is no name at all is left out of it.
        filename = re.sub(r"[\x00-\x1f\x7f]", "", (upload.filename or "upload").replace("\\", "/").rpartition("/")[2])[:255]
        if purpose == "fine-tune" and not filename.endswith(".jsonl"):
            raise invalid("file", "Invalid file format for Fine-Tuning API. Must be .jsonl")
        if not upload.size:
            raise invalid("file", "File is empty.")
        body = await run_in_threadpool(_store_upload, service.store, upload.file, filename or "upload", purpose, expires_at)
    finally:
        await form.close()
    return JSONResponse(_checked(FileObject, body))


def _store_upload(store: Store, source: IO[bytes], filename: str, purpose: str, expires_at: int | None) -> dict[str, Any]:
    scratch = store.scratch("upload")
    try:
        with scratch.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
        return store.add_file(scratch, filename, purpose, expires_at)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise ApiError(507, f"The file could not be stored: {error.strerror}", type="server_error") from error


def _expiry(form: FormData) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if isinstance(whole := form.get("expires_after"), str):  # as one JSON part instead of one part a field
        try:
            given = json.loads(whole)
            anchor, seconds = given.pop("anchor", None), given.pop("seconds", None)
            seconds = str(seconds) if type(seconds) is int else seconds
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise invalid("expires_after", "'expires_after' must be an object") from error
        if given:
            raise invalid("expires_after", f"Unrecognized request argument supplied: {next(iter(given))[:80]}")
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


# -- fine-tuning --------------------------------------------------------------------------------------------------------


def _jobs(app: FastAPI, service: Service) -> None:
    store, jobs = service.store, service.jobs

    @app.post("/v1/fine_tuning/jobs", response_model=None)
    async def create(request: Request) -> dict[str, Any]:
        asked = _read(CreateJob, await _json(request))
        service.check_budget()
        job = await run_in_threadpool(jobs.create, asked)
        service.runner.wake()
        return shown(job)

    @app.get("/v1/fine_tuning/jobs", response_model=None)
    def jobs_list(request: Request) -> dict[str, Any]:
        query = Query(request)
        page = store.page("job", after=query.text("after"), limit=query.limit(20, 100), where=query.metadata())
        return {"object": "list", "data": [shown(job) for job in page[0]], "has_more": page[1]}

    @app.get("/v1/fine_tuning/jobs/{job_id}", response_model=None)
    def retrieve(job_id: str) -> dict[str, Any]:
        return shown(jobs.get(job_id))

    @app.post("/v1/fine_tuning/jobs/{job_id}/cancel", response_model=None)
    def cancel(job_id: str) -> dict[str, Any]:
        job = jobs.cancel(job_id)
        service.runner.stop(job_id)
        return shown(job)

    @app.post("/v1/fine_tuning/jobs/{job_id}/pause", response_model=None)
    def pause(job_id: str) -> dict[str, Any]:
        job = jobs.pause(job_id)
        service.runner.stop(job_id)
        return shown(job)

    @app.post("/v1/fine_tuning/jobs/{job_id}/resume", response_model=None)
    def resume(job_id: str) -> dict[str, Any]:
        job = jobs.resume(job_id)
        service.runner.wake()
        return shown(job)

    @app.get("/v1/fine_tuning/jobs/{job_id}/events", response_model=None)
    def events(job_id: str, request: Request) -> dict[str, Any]:
        jobs.get(job_id)
        query = Query(request)
        found, more = store.page("event", job_id, query.text("after"), query.limit(20, 100))
        return {"object": "list", "data": [_checked(FineTuningJobEvent, event) for event in found], "has_more": more}

    @app.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", response_model=None)
    def checkpoints(job_id: str, request: Request) -> dict[str, Any]:
        jobs.get(job_id)
        query = Query(request)
        page = store.page("checkpoint", job_id, query.text("after"), query.limit(10, 100))
        return _list(page, FineTuningJobCheckpoint, ends=None)


def _permissions(app: FastAPI, service: Service) -> None:
    store = service.store
    path = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"

    def check(checkpoint: str) -> None:
        if store.get("model", checkpoint) is None:
            raise errors.no_such_model(checkpoint)

    @app.get(path, response_model=None)
    def permissions(checkpoint: str, request: Request) -> dict[str, Any]:
        check(checkpoint)
        query = Query(request)
        order = query.one_of("order", ("ascending", "descending"))
        where = {"project_id": project} if (project := query.text("project_id")) else None
        page = store.page(
            "permission",
            checkpoint,
            query.text("after"),
            query.limit(10, 100),
            newest_first=order != "ascending",
            where=where,
        )
        return _list(page, None, ends=None)

    @app.post(path, response_model=None)
    async def create(checkpoint: str, request: Request) -> dict[str, Any]:
        asked = _read(NewPermissions, await _json(request))
        check(checkpoint)

        def add() -> list[dict[str, Any]]:
            made = []
            with store.transaction():
                for project in dict.fromkeys(asked.project_ids):
                    body: dict[str, Any] = {
                        "id": new_id("permission"),
                        "object": "checkpoint.permission",
                        "created_at": int(time.time()),
                        "project_id": project,
                    }
                    made.append(store.add("permission", body["id"], body, parent=checkpoint))
            return made

        return _list((await run_in_threadpool(add), False), None, ends=None)

    @app.delete(path + "/{permission_id}", response_model=None)
    def delete(checkpoint: str, permission_id: str) -> dict[str, Any]:
        check(checkpoint)
        if permission_id not in {found["id"] for found in store.all("permission", checkpoint)}:
            raise ApiError(404, f"No such permission: {permission_id}", param="permission_id")
        store.delete("permission", permission_id)
        return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}


# -- models and chat ----------------------------------------------------------------------------------------------------


def _models(app: FastAPI, service: Service) -> None:
    store = service.store

    def bases() -> list[dict[str, Any]]:
        stand_in = f"local stand-in: {service.base}"
        return [
            {"id": name, "object": "model", "created": service.started, "owned_by": owner, "shutdown_date": None}
            for name, owner in [(service.base, "local"), *((name, stand_in) for name in service.names)]
        ]

    @app.get("/v1/models", response_model=None)
    def models() -> dict[str, Any]:
        tuned = [public(model) for model in store.all("model") if not model["_checkpoint"]]
        return {"object": "list", "data": [_checked(Model, model) for model in [*bases(), *tuned]]}

    @app.get("/v1/models/{name:path}", response_model=None)
    def retrieve(name: str) -> dict[str, Any]:
        found = store.get("model", name) or next((model for model in bases() if model["id"] == name), None)
        if found is None:
            raise errors.no_such_model(name)
        return _checked(Model, public(found))

    @app.delete("/v1/models/{name:path}", response_model=None)
    def delete(name: str) -> dict[str, Any]:
        if any(model["id"] == name for model in bases()):
            raise ApiError(403, f"The model '{name}' is a base model and can't be deleted", param="model")
        with store.transaction():
            found = store.get("model", name)
            if found is None:
                raise ApiError(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
            store.delete("model", name)
            still = any(model["_folder"] == found["_folder"] for model in store.all("model"))
        if not still:
            if service.chat.loaded:
                service.chat.loaded.engine.forget(found["_folder"])
            shutil.rmtree(store.model_folder(found["_folder"]), ignore_errors=True)
        return _checked(ModelDeleted, {"id": name, "object": "model", "deleted": True})


def _chat(app: FastAPI, service: Service) -> None:
    def adapter_of(name: str) -> tuple[str, Path] | None:
        found = service.store.get("model", name)
        if found is not None:
            return found["_folder"], service.store.model_folder(found["_folder"])
        if name in (service.base, *service.names):
            return None
        raise errors.no_such_model(name)

    @app.post("/v1/chat/completions", response_model=None)
    async def create(request: Request) -> Response:
        asked = _read(ChatRequest, await _json(request))
        adapter = await run_in_threadpool(adapter_of, asked.model)
        if service.token_budget is not None:
            await run_in_threadpool(service.check_budget)
        chat: Chat = await service.chat.get()
        completion = await chat.begin(asked, adapter)
        if asked.stream:
            return StreamingResponse(
                _counted(completion, service), headers={"cache-control": "no-cache"}, media_type="text/event-stream"
            )
        watch = _cancel_when_gone(request, completion)
        try:
            return JSONResponse(await completion.whole())
        finally:
            watch.cancel()
            service.answered_tokens += completion.usage["total_tokens"]


async def _counted(completion: Completion, service: Service) -> AsyncIterator[str]:
    try:
        async for piece in completion.stream():
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


# -- reading requests ---------------------------------------------------------------------------------------------------


async def _json(request: Request) -> Any:
    """The body of a request as a value.

    Raises:
        ApiError: it is no JSON, or nested as nothing is that anybody means.
    """
    data = await request.body()
    try:
        value = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, NOT_JSON) from error
    if _deeper_than(value, MAX_DEPTH):
        raise ApiError(400, f"The JSON body is nested deeper than {MAX_DEPTH} levels.")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _read(kind: type[Asked], body: Any) -> Asked:
    """A body as what is asked for, strictly: "1" is no number and 1 no text.

    Raises:
        ApiError: the first thing that is wrong, in the hosted API's manner.
    """
    if not isinstance(body, dict):
        raise invalid(None, f"Invalid type for request body: expected an object, but got {_name_of(body)} instead.")
    try:
        return kind.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        # a union names its branches in the place; the client knows fields and positions only
        parts = [part for part in first["loc"] if isinstance(part, int) or part in _keys(body)]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
        missing = str(first["loc"][-1]) if first["type"] == "missing" else None
        if missing:
            place = f"{place}.{missing}".lstrip(".")
            raise invalid(place, f"Missing required parameter: '{place}'.", "missing_required_parameter") from error
        if first["type"] == "extra_forbidden":
            raise invalid(place, f"Unrecognized request argument supplied: {place}", "unknown_parameter") from error
        where = place or None
        raise invalid(where, f"Invalid value for '{place}': {first['msg']}.", "invalid_value") from error
    except (ValueError, RecursionError, UnicodeError) as error:  # half a character, which JSON can write and UTF-8 can't
        raise ApiError(400, NOT_JSON) from error


def _keys(value: Any) -> set[Any]:
    found, stack = set(), [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            found |= set(item)
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return found


def _name_of(value: Any) -> str:
    names = {type(None): "null", str: "a string", list: "an array", bool: "a boolean", int: "an integer", float: "a decimal"}
    return names.get(type(value), "something else")


class Query:
    """Parameters of an address, checked."""

    def __init__(self, request: Request) -> None:
        self.values = request.query_params

    def text(self, name: str) -> str | None:
        """A parameter as it is; None if it is missing or empty."""
        return self.values.get(name) or None

    def limit(self, default: int, most: int) -> int:
        """How many to list: a number too high counts as the most there may be."""
        given = self.values.getlist("limit")
        if not given:
            return default
        text = given[0] if len(given) == 1 else ", ".join(given)
        if not re.fullmatch(r"-?[0-9]{1,40}", text):
            raise invalid("limit", f"Invalid value for 'limit': {text[:40]!r} is not an integer.")
        return max(0, min(int(text), most))

    def one_of(self, name: str, known: tuple[str, ...]) -> str | None:
        """A parameter with few values."""
        text = self.values.get(name)
        if text is not None and text not in known:
            raise invalid(name, f"{text[:40]!r} is not one of {list(known)} - '{name}'")
        return text

    def newest_first(self) -> bool:
        """The order asked for, newest first unless said otherwise."""
        return self.one_of("order", ("asc", "desc")) != "asc"

    def metadata(self) -> dict[str, str] | None:
        """`metadata[key]=value`, or `metadata=null` for none, as what documents must have."""
        found = {}
        for name, value in self.values.multi_items():
            if match := re.fullmatch(r"metadata\[([^\[\]]*)\]", name, re.DOTALL):
                if f"metadata.{match.group(1)}" in found:
                    raise invalid("metadata", "Invalid value for 'metadata': a key stands there twice.")
                found[f"metadata.{match.group(1)}"] = value
            elif name.startswith("metadata") and value not in ("", "null"):
                raise invalid("metadata", "Invalid value for 'metadata': expected metadata[key]=value.")
        return found or None


# -- writing responses --------------------------------------------------------------------------------------------------


def _checked(kind: type[BaseModel], body: dict[str, Any]) -> dict[str, Any]:
    """A document, once the official client's own type has accepted it."""
    return kind.model_validate(body).model_dump(mode="json", exclude_unset=True)


def _list(page: tuple[list[dict[str, Any]], bool], kind: type[BaseModel] | None, ends: str | None) -> dict[str, Any]:
    found, more = page
    data = [_checked(kind, body) if kind else body for body in found]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (ends, ends)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


def _unknown_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 405:
        message = f"Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP method?)"
        found = ApiError(405, message, code="method_not_supported")
        here = [route for route in request.app.routes if getattr(route, "path_regex", None) and route.path_regex.match(path)]
        allowed = sorted(method for route in here for method in route.methods)
        return JSONResponse(found.body, 405, {"allow": ", ".join(dict.fromkeys(allowed))})
    if error.status_code == 404:
        return _refused(request, ApiError(404, f"Invalid URL ({method} {path})"))
    return _refused(request, ApiError(error.status_code, str(error.detail)))


def _bug(request: Request, error: Exception) -> JSONResponse:
    message = "The server had an error while processing your request. Sorry about that!"
    return _refused(request, ApiError(500, message, type="server_error"))


class Gate:
    """What every request passes: from this machine, with the key, not too many, not too large; and its id."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.times: deque[float] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = f"{1000 * (time.perf_counter() - started):.0f}".encode()
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", b"req_" + secrets.token_hex(16).encode()),
                    (b"openai-organization", b"local"),
                    (b"openai-version", b"2020-10-01"),
                    (b"openai-processing-ms", took),
                ]
            await send(message)

        body = Body(receive, self._limit(scope))
        try:
            self._check(scope)
            await body.check(dict(scope["headers"]).get(b"content-length"))
            await self.app(scope, body, send_with_headers)
        except ApiError as error:
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, send_with_headers)

    def _limit(self, scope: Scope) -> int:
        return self.service.max_file + MAX_JSON if scope["path"] == "/v1/files" else MAX_JSON

    def _check(self, scope: Scope) -> None:
        client = scope.get("client")
        if client and client[0] not in ("127.0.0.1", "::1", "testclient"):
            raise ApiError(403, "This server answers to its own machine only.", code="not_local")
        if scope["path"] == "/health":
            return
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise errors.no_key()
        if not hmac.compare_digest(key.strip().encode(), self.service.key.encode()):
            raise errors.wrong_key(key.strip())
        self._count()

    def _count(self) -> None:
        limit = self.service.requests_per_minute
        if limit is None:
            return
        now = time.monotonic()
        while self.times and now - self.times[0] >= 60:
            self.times.popleft()
        if len(self.times) >= limit:
            raise errors.too_fast(limit, math.ceil(60 - (now - self.times[0])))
        self.times.append(now)


class Body:
    """A request's body as it comes in, counted; what is too large is read to its end and thrown away.

    A client that is still sending would see a broken connection, and not the reason.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit, self.seen = receive, limit, 0

    async def check(self, length: bytes | None) -> None:
        """Refuse by what the request says of its length."""
        if length is not None and (not length.isdigit() or int(length) > self.limit):
            await self._refuse()

    async def __call__(self) -> Message:
        """The next message, as ASGI has it."""
        message = await self.receive()
        if message["type"] == "http.request":
            self.seen += len(message.get("body", b""))
            if self.seen > self.limit:
                await self._refuse(message)
        return message

    async def _refuse(self, message: Message | None = None) -> NoReturn:
        most = self.seen + 4 * self.limit
        while message is None or (message["type"] == "http.request" and message.get("more_body") and self.seen < most):
            message = await self.receive()
            self.seen += len(message.get("body", b""))
        raise ApiError(413, f"The request is larger than the {self.limit:,} bytes allowed.", code="request_too_large")
