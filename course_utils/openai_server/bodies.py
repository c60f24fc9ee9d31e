"""Bodies of requests and replies: read and checked, and errors turned into the replies of the hosted API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from course_utils.openai_server.store import is_busy, is_full


class Strict(BaseModel):
    """Base class of request bodies and their parts.

    A field that is not declared is refused, since a misspelt one would silently change nothing.
    """

    model_config = ConfigDict(extra="forbid")


NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)]


def json_body(model: type[BaseModel]) -> Any:
    """Mark a parameter of a route as the request's body: `body: Annotated[CreateJob, json_body(CreateJob)]`.

    The body is validated strictly: "1" is not a number, and 1 is not a string. What is wrong with it is raised as an
    `ApiError` if it is not JSON, else as a `RequestValidationError`, which `invalid_request` answers.
    """

    async def read(request: Request) -> BaseModel:
        data = await request.body()
        try:
            body = from_json(data, allow_inf_nan=False)
            json.dumps(body, allow_nan=False)  # a number that is too large for a float was read as infinite
        except ValueError as error:  # also for what is nested too deeply
            raise invalid(None, NOT_JSON) from error
        try:
            return model.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False, include_input=False), body=body) from error

    return Depends(read)


def listing(page: tuple[list[dict[str, Any]], bool], empty_id: str | None = None) -> dict[str, Any]:
    """Return a page of documents in the API's list format.

    Args:
        page: the documents, and whether there are more.
        empty_id: `first_id` and `last_id` of an empty page.
    """
    documents, has_more = page
    first, last = (documents[0]["id"], documents[-1]["id"]) if documents else (empty_id, empty_id)
    return {"object": "list", "data": documents, "first_id": first, "last_id": last, "has_more": has_more}


# -- errors -------------------------------------------------------------------------------------------------------------


class ApiError(Exception):
    """An error response with the body {"error": {"message", "type", "param", "code"}}; `param` is the parameter at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers about retrying.

        The client retries 408, 409, 429 and 5xx on its own unless it is told not to.
        """
        return {503: {"retry-after": "1"}, 507: {"x-should-retry": "false"}}.get(self.status, {})


def no_such_file(file_id: str) -> ApiError:
    """Return the error for a file that does not exist."""
    return ApiError(404, f"No such File object: {file_id}", param="id")


def no_such_model(model: str) -> ApiError:
    """Return the error for a request that wants to use a model that does not exist."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """Return the error for a parameter with an invalid value."""
    return ApiError(400, message, param=param, code=code)


ABSENT = ("missing", "union_tag_not_found")  # pydantic's errors for what is not there


def refused(request: Request, error: Exception) -> JSONResponse:
    """Return the response for an `ApiError`."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


def invalid_request(request: Request, error: Exception) -> JSONResponse:
    """Return the response for a body or a query that its model refuses: the most telling one of pydantic's errors.

    A wrong `type` or `role` comes first, since it decides which fields there may be; then an unknown field, which is often a
    required one misspelt; then the error that lies deepest, since of a union that is the branch that was meant.
    """
    assert isinstance(error, RequestValidationError)

    def rank(path: str, kind: str) -> tuple[bool, bool, int]:
        return path.rpartition(".")[2] not in ("type", "role"), kind != "extra_forbidden", -path.count(".") - path.count("[")

    located = [(*_locate(one, error.body), one) for one in error.errors()]
    path, value, first = min(located, key=lambda entry: rank(entry[0], entry[2]["type"]))
    kind, reasons = first["type"], list(dict.fromkeys(one["msg"] for place, _, one in located if place == path))
    if kind in ABSENT:
        fault = invalid(path, f"Missing required parameter: '{path}'.", "missing_required_parameter")
    elif kind == "extra_forbidden":
        fault = invalid(path, f"Unrecognized request argument supplied: {path}", "unknown_parameter")
    elif kind in ("literal_error", "union_tag_invalid") and len(reasons) == 1:
        shown = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
        supported = first["ctx"].get("expected") or first["ctx"]["expected_tags"]
        fault = invalid(path, f"Invalid value: {shown[:80]}. Supported values are: {supported}.", "invalid_value")
    else:
        message = f"Invalid value for '{path or 'request body'}': {'; or: '.join(reasons)}."
        fault = invalid(path or None, message, "invalid_value")
    return refused(request, fault)


def _locate(error: Mapping[str, Any], body: Any) -> tuple[str, Any]:
    """Path and value of an error. pydantic's location also has branches of unions, but not the field that chooses one."""
    location, path, value = error["loc"], "", body
    if location[:1] in (("body",), ("query",)) and "input" in error:  # FastAPI's own, of a form or a query
        return ".".join(map(str, location[1:]))[:200], error["input"]
    if error["type"].startswith("union_tag"):
        location = (*location, error["ctx"]["discriminator"].strip("'"))
    for number, part in enumerate(location):
        if isinstance(value, list) and isinstance(part, int):
            path, value = f"{path}[{part}]", value[part]
        elif isinstance(value, dict) and part in value:
            path, value = f"{path}.{part}", value[part]
        elif error["type"] in ABSENT and number == len(location) - 1:
            path = f"{path}.{part}"
    return path.lstrip(".")[:200], value


def _allowed(request: Request) -> list[str]:
    """Methods that are allowed on the path of a request."""
    scopes = [(method, {**request.scope, "method": method}) for method in ("DELETE", "GET", "POST")]
    return [m for m, scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)]


def unknown_route(request: Request, error: Exception) -> JSONResponse:
    """Return the response for an unknown path or method, or for a form that can't be read."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__  # FastAPI says of a form only that it can't be read
    if isinstance(cause, ApiError):
        return refused(request, cause)
    if isinstance(cause, OSError):
        return storage(request, cause)
    if isinstance(cause, ClientDisconnect):
        raise cause
    method, path = request.method, request.url.path
    if error.status_code == 405:
        message = f"Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP method?)"
        api_error = ApiError(405, message, code="method_not_supported")
        return JSONResponse(api_error.body, 405, {"allow": ", ".join(_allowed(request))})
    if error.status_code == 404:
        return refused(request, ApiError(404, f"Invalid URL ({method} {path})"))
    return refused(request, ApiError(error.status_code, str(error.detail)))


def storage(request: Request, error: Exception) -> JSONResponse:
    """Return the response for a full disk or a busy database; other errors of the same types are raised again, as bugs."""
    if is_full(error):
        message = (
            "The server has no space left on its disk, and nothing was changed. Delete files or models that are not needed, "
            "or free disk space there, and try again."
        )
        return refused(request, ApiError(507, message, code="insufficient_storage", type="server_error"))
    if is_busy(error):
        message = "The server is busy with another change. Please try again."
        return refused(request, ApiError(503, message, code="busy", type="server_error"))
    raise error


def bug(request: Request, error: Exception) -> JSONResponse:
    """Return the response for an unexpected exception."""
    message = "The server had an error while processing your request. Sorry about that!"
    return refused(request, ApiError(500, message, type="server_error"))
