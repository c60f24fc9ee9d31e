"""Responses written: by the official client's own types, and errors in the hosted API's form."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from course_utils.openai_server import errors
from course_utils.openai_server.errors import ApiError
from course_utils.openai_server.store import is_busy, is_full


def checked(kind: type[BaseModel], body: dict[str, Any]) -> dict[str, Any]:
    """A document, once the official client's own type has accepted it."""
    return kind.model_validate(body).model_dump(mode="json", exclude_unset=True)


def listing(page: tuple[list[dict[str, Any]], bool], kind: type[BaseModel] | None, ends: str | None) -> dict[str, Any]:
    """A page of documents as the API lists them; `ends`: first and last id of an empty one."""
    found, more = page
    data = [checked(kind, body) if kind else body for body in found]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (ends, ends)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


def refused(request: Request, error: Exception) -> JSONResponse:
    """An error of the API."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


def unknown_route(request: Request, error: Exception) -> JSONResponse:
    """A path or a method that there is not."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 405:
        message = f"Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP method?)"
        found = ApiError(405, message, code="method_not_supported")
        return JSONResponse(found.body, 405, {"allow": ", ".join(_allowed(request))})
    if error.status_code == 404:
        return refused(request, ApiError(404, f"Invalid URL ({method} {path})"))
    return refused(request, ApiError(error.status_code, str(error.detail)))


def _allowed(request: Request) -> list[str]:
    """Methods that the path of a request has."""
    asked = [(method, {**request.scope, "method": method}) for method in ("DELETE", "GET", "POST")]
    return [m for m, scope in asked if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)]


def storage(request: Request, error: Exception) -> JSONResponse:
    """What the disk or the database would not do; anything else of theirs is a bug as any other."""
    if is_full(error):
        return refused(request, errors.no_room())
    if is_busy(error):
        return refused(request, errors.busy())
    raise error


def bug(request: Request, error: Exception) -> JSONResponse:
    """Anything that nobody thought of."""
    message = "The server had an error while processing your request. Sorry about that!"
    return refused(request, ApiError(500, message, type="server_error"))
