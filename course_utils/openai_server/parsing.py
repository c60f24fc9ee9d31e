"""Parses requests: bodies and query parameters.

They are parsed here and not by FastAPI, so that errors are reported in the hosted API's form and nothing is read into memory
before its size is known.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from course_utils.openai_server import arguments
from course_utils.openai_server.errors import ApiError, invalid

MAX_DEPTH = 64  # of a JSON body
NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)
RequestModel = TypeVar("RequestModel", bound=BaseModel)


async def json_body(request: Request) -> Any:
    """Parse the body of a request.

    Raises:
        ApiError: it is not JSON, or is nested deeper than `MAX_DEPTH`.
    """
    data = await request.body()
    try:
        value = json.loads(data, parse_constant=_reject_constant, parse_float=_parse_finite)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, NOT_JSON) from error
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


def parsed(model: type[RequestModel], body: Any, *client_types: Any) -> RequestModel:
    """Validate a body strictly: "1" is not a number, and 1 is not a string.

    Args:
        model: the pydantic model to validate it with.
        body: the parsed JSON.
        client_types: the official client's types, which limit the arguments; none where `model` itself is strict.

    Raises:
        ApiError: the first error, in the hosted API's form.
    """
    if not isinstance(body, dict):
        raise invalid(None, f"Invalid type for request body: expected an object, but got {_type_name(body)} instead.")
    if client_types:
        arguments.check_argument_names(body, *client_types)
    try:
        return model.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":  # a lone surrogate, which json.dumps writes and pydantic rejects
            raise ApiError(400, NOT_JSON) from error
        # pydantic's location includes the branches of unions; the client knows only fields and positions
        missing = str(first["loc"][-1]) if first["type"] == "missing" else None
        location = first["loc"][:-1] if missing else first["loc"]
        parts = [part for part in location if isinstance(part, int) or part in _keys(body)]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
        if missing:
            path = f"{path}.{missing}".lstrip(".")
            raise invalid(path, f"Missing required parameter: '{path}'.", "missing_required_parameter") from error
        if first["type"] == "extra_forbidden":
            raise arguments.unknown_argument(path) from error
        param = path or None
        raise invalid(param, f"Invalid value for '{path}': {first['msg']}.", "invalid_value") from error
    except (ValueError, RecursionError, UnicodeError) as error:  # a lone surrogate, which JSON can represent and UTF-8 can't
        raise ApiError(400, NOT_JSON) from error


def _keys(value: Any) -> set[Any]:
    keys, stack = set(), [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            keys |= set(item)
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return keys


def _type_name(value: Any) -> str:
    names = {type(None): "null", str: "a string", list: "an array", bool: "a boolean", int: "an integer", float: "a decimal"}
    return names.get(type(value), "something else")


class Query:
    """Validated query parameters."""

    def __init__(self, request: Request) -> None:
        self.values = request.query_params

    def text(self, name: str) -> str | None:
        """A parameter's text; None if it is missing or empty."""
        return self.values.get(name) or None

    def limit(self, default: int, maximum: int) -> int:
        """How many items to list; larger numbers count as the maximum."""
        values = self.values.getlist("limit")
        if not values:
            return default
        text = values[0] if len(values) == 1 else ", ".join(values)
        if not re.fullmatch(r"-?[0-9]{1,40}", text):
            raise invalid("limit", f"Invalid value for 'limit': {text[:40]!r} is not an integer.")
        return max(0, min(int(text), maximum))

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """A parameter with a fixed set of values; None if it is missing."""
        text = self.values.get(name)
        if text is not None and text not in allowed:
            raise invalid(name, f"{text[:40]!r} is not one of {list(allowed)} - '{name}'")
        return text

    def newest_first(self) -> bool:
        """Whether the newest come first, which is the default."""
        return self.one_of("order", ("asc", "desc")) != "asc"

    def metadata(self) -> dict[str, str] | None:
        """The metadata to filter by, given as `metadata[key]=value`; None if there is none, or for `metadata=null`."""
        metadata = {}
        for name, value in self.values.multi_items():
            if match := re.fullmatch(r"metadata\[([^\[\]]*)\]", name, re.DOTALL):
                if f"metadata.{match.group(1)}" in metadata:
                    raise invalid("metadata", "Invalid value for 'metadata': a key is given twice.")
                metadata[f"metadata.{match.group(1)}"] = value
            elif name.startswith("metadata") and value not in ("", "null"):
                raise invalid("metadata", "Invalid value for 'metadata': expected metadata[key]=value.")
        return metadata or None
