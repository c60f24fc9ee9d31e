"""Which arguments a request may have: those in the official client's own types, nested ones included.

If a misspelt argument were ignored, the service would train or answer with a default, and nobody would notice. The hosted
API refuses it by name, and so does this service. Arguments that the hosted API has and a small local model can't honour are
accepted without effect where that is harmless: `IGNORED` lists them.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict

from course_utils.openai_server.errors import ApiError, invalid

# Arguments of a chat request that are accepted without effect. They concern storage, billing, caching, speed, moderation or
# abilities that only the hosted models have; without them the answer still answers the question.
IGNORED = (
    "audio", "metadata", "moderation", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity", "web_search_options",
)  # fmt: skip
# Fields of answers that requests do not have: a client sends an answer back as it received it.
ECHOED = {"annotations"}
DISCRIMINATORS = ("role", "type")  # fields that tell the variants of an object apart


def check_argument_names(body: Any, *allowed: Any) -> None:
    """Refuse the first argument that is in none of the types.

    Args:
        body: a request's parsed JSON; values of a wrong type are left to later validation.
        allowed: the official client's types for it (TypedDicts, or unions of them).

    Raises:
        ApiError: with the argument's path, in the hosted API's words.
    """
    if (path := _first_unknown(body, allowed, "")) is not None:
        raise unknown_argument(path)


def unknown_argument(path: str) -> ApiError:
    """The error for an argument that no type has."""
    return invalid(path[:200], f"Unrecognized request argument supplied: {path[:200]}", "unknown_parameter")


def _first_unknown(value: Any, allowed: Iterable[Any], path: str) -> str | None:
    """Path of the first unknown argument in a value that may be of any of these types."""
    hints = [alternative for hint in allowed for alternative in _alternatives(hint)]
    if isinstance(value, list):
        items = [item for hint in hints if (item := _item(hint)) is not None]
        paths = (_first_unknown(element, items, f"{path}[{i}]") for i, element in enumerate(value) if items)
        return next((unknown for unknown in paths if unknown is not None), None)
    structures = [hint for hint in hints if is_typeddict(hint)]
    if not isinstance(value, dict) or not structures or any(_is_free(hint) for hint in hints):
        return None
    fields = _fields(value, structures)
    for name, inner in value.items():
        inner_path = f"{path}.{name}" if path else name
        if name not in fields and not (name in ECHOED and value.get("role") == "assistant"):
            return inner_path
        if (unknown_path := _first_unknown(inner, fields.get(name, ()), inner_path)) is not None:
            return unknown_path
    return None


def _fields(value: Mapping[str, Any], structures: list[Any]) -> dict[str, list[Any]]:
    """Fields that the value may have, with their types: those of the variants that match its `type` or `role`."""
    variants = [_hints(structure) for structure in structures]
    for discriminator in DISCRIMINATORS:
        tag = value.get(discriminator)
        matching = [
            hints
            for hints in variants
            if get_origin(hints.get(discriminator)) is Literal and tag in get_args(hints[discriminator])
        ]
        variants = matching or variants
    fields: dict[str, list[Any]] = {}
    for hints in variants:
        for name, hint in hints.items():
            fields.setdefault(name, []).append(hint)
    return fields


def _alternatives(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [inner for branch in get_args(hint) for inner in _alternatives(branch)]
    return [hint]


def _item(hint: Any) -> Any:
    """Element type of a list type; None if it is not a list."""
    origin = get_origin(hint)
    is_list = isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)
    return get_args(hint)[0] if is_list and get_args(hint) else None


def _is_free(hint: Any) -> bool:
    """Whether the type allows any keys."""
    origin = get_origin(hint) or hint
    return hint in (Any, object) or (isinstance(origin, type) and issubclass(origin, Mapping) and not is_typeddict(origin))


@lru_cache(maxsize=512)
def _hints(structure: Any) -> dict[str, Any]:
    """The fields of a TypedDict. A trailing "_" that a name needs in Python, as in `schema_`, is not in its JSON name."""
    return {name.rstrip("_"): hint for name, hint in get_type_hints(structure).items()}
