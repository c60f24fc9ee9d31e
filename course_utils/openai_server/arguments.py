"""Which arguments a request may have: those that the official client's own types know, nested ones included.

A misspelt argument that is passed over trains or answers with a default, and nobody notices. The hosted API refuses it by
its name, and so does this service. What the hosted API knows and a small local model can't do changes nothing here if it is
harmless: `IGNORED` names it.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict

from course_utils.openai_server.errors import ApiError, invalid

# Of a chat request: taken and without effect. They are about storage, billing, caching, speed, moderation or abilities that
# the hosted models alone have; without them the answer is still an answer to the question.
IGNORED = (
    "audio", "metadata", "moderation", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity", "web_search_options",
)  # fmt: skip
# What answers have and requests have not: a client sends an answer back as it got it.
ECHOED = {"annotations"}
KINDS = ("role", "type")  # by which the variants of an object are told apart


def check_known(body: Any, *allowed: Any) -> None:
    """Refuse the first argument that is in none of the types.

    Args:
        body: a request's, as JSON gives it; values of a wrong type are left to whoever reads them.
        allowed: the official client's types of it (TypedDicts, or unions of them).

    Raises:
        ApiError: its name and place, in the hosted API's words.
    """
    if (place := _unknown(body, allowed, "")) is not None:
        raise unknown(place)


def unknown(place: str) -> ApiError:
    """The refusal of an argument."""
    return invalid(place[:200], f"Unrecognized request argument supplied: {place[:200]}", "unknown_parameter")


def _unknown(value: Any, allowed: Iterable[Any], place: str) -> str | None:
    """Place of the first unknown argument in a value that may be of any of these types."""
    kinds = [kind for one in allowed for kind in _alternatives(one)]
    if isinstance(value, list):
        items = [item for kind in kinds if (item := _item(kind)) is not None]
        found = (_unknown(each, items, f"{place}[{i}]") for i, each in enumerate(value) if items)
        return next((each for each in found if each is not None), None)
    structures = [kind for kind in kinds if is_typeddict(kind)]
    if not isinstance(value, dict) or not structures or any(_is_free(kind) for kind in kinds):
        return None
    fields = _fields(value, structures)
    for name, inner in value.items():
        where = f"{place}.{name}" if place else name
        if name not in fields and not (name in ECHOED and value.get("role") == "assistant"):
            return where
        if (deeper := _unknown(inner, fields.get(name, ()), where)) is not None:
            return deeper
    return None


def _fields(value: Mapping[str, Any], structures: list[Any]) -> dict[str, list[Any]]:
    """Fields that the value may have, and the types of each: of the variants whose `type` or `role` it has."""
    variants = [_hints(each) for each in structures]
    for kind in KINDS:
        given = value.get(kind)
        fitting = [hints for hints in variants if get_origin(hints.get(kind)) is Literal and given in get_args(hints[kind])]
        variants = fitting or variants
    fields: dict[str, list[Any]] = {}
    for hints in variants:
        for name, hint in hints.items():
            fields.setdefault(name, []).append(hint)
    return fields


def _alternatives(kind: Any) -> list[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        return [inner for one in get_args(kind) for inner in _alternatives(one)]
    return [kind]


def _item(kind: Any) -> Any:
    """What a list of this type has in it; None if it is no list."""
    origin = get_origin(kind)
    is_list = isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)
    return get_args(kind)[0] if is_list and get_args(kind) else None


def _is_free(kind: Any) -> bool:
    """Whether any keys may stand there."""
    origin = get_origin(kind) or kind
    return kind in (Any, object) or (isinstance(origin, type) and issubclass(origin, Mapping) and not is_typeddict(origin))


@lru_cache(maxsize=512)
def _hints(structure: Any) -> dict[str, Any]:
    """The fields of a TypedDict; names that end in "_" in Python, as `schema_` may, are without it in JSON."""
    return {name.rstrip("_"): hint for name, hint in get_type_hints(structure).items()}
