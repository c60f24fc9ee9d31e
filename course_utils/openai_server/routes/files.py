"""Routes of files: upload, list, read and delete.

An upload's form is checked by hand: the hosted API refuses it in other words than its JSON bodies ("'purpose' is a required
property"), and in brackets ("expires_after[anchor]"), so that a model would need a second translation of its errors.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types import FileDeleted, FileObject
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from course_utils.openai_server import errors
from course_utils.openai_server.errors import invalid
from course_utils.openai_server.parsing import Query
from course_utils.openai_server.replies import checked, listing
from course_utils.openai_server.service import Service
from course_utils.openai_server.store import Store

if TYPE_CHECKING:
    from starlette.datastructures import FormData


# "evals" appears in the specification's request but not in its response; that platform closes on 2026-11-30.
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data")
FORM_FIELDS = {"file", "purpose", "expires_after", "expires_after[anchor]", "expires_after[seconds]"}
EXPIRY = (3600, 2592000)  # seconds


def router(service: Service) -> APIRouter:
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

    return routes


async def _upload(request: Request, service: Service) -> JSONResponse:
    """Store an upload. While it arrives, file parts go to an unnamed file on disk, others (up to 1 MB) to memory."""
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
