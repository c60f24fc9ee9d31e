"""Requests read: bodies, and what stands behind the question mark.

They are read here, not by FastAPI, so that whatever is wrong with one is said in the hosted API's form and nothing is read
into memory before its size is known.
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
Asked = TypeVar("Asked", bound=BaseModel)


async def json_body(request: Request) -> Any:
    """The body of a request as a value.

    Raises:
        ApiError: it is not JSON, or nested deeper than `MAX_DEPTH`.
    """
    data = await request.body()
    try:
        value = json.loads(data, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, NOT_JSON) from error
    if _deeper_than(value, MAX_DEPTH):
        raise ApiError(400, f"The JSON body is nested deeper than {MAX_DEPTH} levels.")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
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


def parsed(kind: type[Asked], body: Any, *known: Any) -> Asked:
    """A body as what is asked for, strictly: "1" is no number and 1 no text.

    Args:
        kind: what to make of it.
        body: as JSON gives it.
        known: the official client's types of it, to which arguments must belong; none where `kind` itself is strict.

    Raises:
        ApiError: the first thing that is wrong, in the hosted API's manner.
    """
    if not isinstance(body, dict):
        raise invalid(None, f"Invalid type for request body: expected an object, but got {_name_of(body)} instead.")
    if known:
        arguments.check_known(body, *known)
    try:
        return kind.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":  # half a character, which our own JSON can write and nobody can read
            raise ApiError(400, NOT_JSON) from error
        # a union names its branches in the place; the client knows fields and positions only
        missing = str(first["loc"][-1]) if first["type"] == "missing" else None
        inside = first["loc"][:-1] if missing else first["loc"]
        parts = [part for part in inside if isinstance(part, int) or part in _keys(body)]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
        if missing:
            place = f"{place}.{missing}".lstrip(".")
            raise invalid(place, f"Missing required parameter: '{place}'.", "missing_required_parameter") from error
        if first["type"] == "extra_forbidden":
            raise arguments.unknown(place) from error
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
