"""Reads requests: JSON bodies, which pydantic's models validate, and query parameters.

Bodies are parsed here and not by FastAPI, whose parser takes NaN, numbers larger than any, and any depth. Query parameters
are read by hand since FastAPI takes the last of several values and reads "1_000" as a number; the hosted API refuses both.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from course_utils.openai_server.errors import ApiError, invalid, not_json

MAX_DEPTH = 64  # of a JSON body


def json_body(model: type[BaseModel]) -> Any:
    """Mark a parameter of a route as the request's body: `body: Annotated[CreateJob, json_body(CreateJob)]`.

    The body is validated strictly: "1" is not a number, and 1 is not a string. What is wrong with it is raised as an
    `ApiError` if it is not JSON, else as a `RequestValidationError`, which `replies.invalid_request` answers.
    """

    async def read(request: Request) -> BaseModel:
        data = await request.body()
        body = _parse(data)
        try:
            return model.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False, include_input=False), body=body) from error

    return Depends(read)


def _parse(data: bytes) -> Any:
    try:
        value = json.loads(data, parse_constant=_reject_constant, parse_float=_parse_finite)
    except (ValueError, RecursionError) as error:
        raise not_json() from error
    if _deeper_than(value, MAX_DEPTH):
        raise ApiError(400, f"The JSON body is nested deeper than {MAX_DEPTH} levels.")
    return value


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _parse_finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is larger than any number")
    return number


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


class Query:
    """The query parameters of a request, which are validated when they are read."""

    def __init__(self, request: Request) -> None:
        self.values = request.query_params

    def text(self, name: str) -> str | None:
        """Return the text of a parameter, or None if it is missing or empty."""
        return self.values.get(name) or None

    def limit(self, default: int, maximum: int) -> int:
        """Return how many items to list: a larger number counts as the maximum, and a negative one as 0.

        Raises:
            ApiError: the parameter is not a whole number, or it is given more than once.
        """
        values = self.values.getlist("limit")
        if not values:
            return default
        text = values[0] if len(values) == 1 else ", ".join(values)
        if not re.fullmatch(r"-?[0-9]{1,40}", text):
            raise invalid("limit", f"Invalid value for 'limit': {text[:40]!r} is not an integer.")
        return max(0, min(int(text), maximum))

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """Return a parameter that must have one of the allowed values, or None if it is missing.

        Raises:
            ApiError: it has another value.
        """
        text = self.values.get(name)
        if text is not None and text not in allowed:
            raise invalid(name, f"{text[:40]!r} is not one of {list(allowed)} - '{name}'")
        return text

    def newest_first(self) -> bool:
        """Return whether the newest items come first, which is the default."""
        return self.one_of("order", ("asc", "desc")) != "asc"

    def metadata(self) -> dict[str, str] | None:
        """Return the metadata to filter by, given as `metadata[key]=value`; None without any, or for `metadata=null`."""
        metadata = {}
        for name, value in self.values.multi_items():
            if match := re.fullmatch(r"metadata\[([^\[\]]*)\]", name, re.DOTALL):
                if f"metadata.{match.group(1)}" in metadata:
                    raise invalid("metadata", "Invalid value for 'metadata': a key is given twice.")
                metadata[f"metadata.{match.group(1)}"] = value
            elif name.startswith("metadata") and value not in ("", "null"):
                raise invalid("metadata", "Invalid value for 'metadata': expected metadata[key]=value.")
        return metadata or None
