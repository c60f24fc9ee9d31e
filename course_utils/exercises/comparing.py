"""Whether a value is the right one, and what is different about it.

A value counts for what it says, not for how it is stored: an array, a tuple or a generator where a list is asked for, NumPy's
or PyTorch's scalar for a number, float32 where the solution computes in float64. The check in the notebook and the grading
both ask here.
"""

from __future__ import annotations

import array
import collections
import dataclasses
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from itertools import islice
from typing import Any, NamedTuple

MOST_PARTS = 300_000  # of what is read out of a generator, as in grading
SINGLE = 1e-6  # relative; what a few operations in float32 lose, and far less than any mistake changes
SHORTER = ("float32", "float16", "bfloat16")
_READ_OUT = (Iterator, KeysView, ValuesView, ItemsView, range, collections.deque, array.array)


class Listed(list):
    """What was read out of something that is no list; its subclasses have the names of the types."""


class Difference(NamedTuple):
    """The first place in which two values differ.

    Attributes:
        place: indexes that lead there, () for the values as wholes.
        expected, found: what stands there.
        storage: dtype of what was found, if it has one.
    """

    place: tuple[int, ...]
    expected: Any
    found: Any
    storage: str = ""


def settled(value: Any) -> Any:
    """A value as it is compared: generators and other things to run through read out, dataclasses as tuples, tables as arrays.

    Raises:
        ValueError: it has no end. And whatever the learner's own code raises when it is read out.
    """
    import numpy as np

    if isinstance(value, list) and not isinstance(value, Listed):
        return [settled(part) for part in value]
    if isinstance(value, tuple):
        return tuple(settled(part) for part in value)
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration that is text too, the text
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
        return settled(value.tolist())
    if value is None or isinstance(value, (bool, int, float, np.ndarray, np.generic)) or hasattr(value, "detach"):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(settled(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, _READ_OUT):
        parts = list(islice(value, MOST_PARTS + 1))
        if len(parts) > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS:,} parts")
        return type(type(value).__name__, (Listed,), {})(map(settled, parts))
    if hasattr(type(value), "__array__"):  # pandas' and others' columns
        return np.asarray(value)
    return value


def same(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether `found` says what `expected` says; `tolerance` is relative, and absolute near zero."""
    return difference(found, expected, tolerance) is None


def difference(found: Any, expected: Any, tolerance: float, place: tuple[int, ...] = ()) -> Difference | None:
    """Where the values differ first; None if they say the same. Never raises for what `found` is."""
    if isinstance(found, Exception):
        return Difference(place, expected, found)
    if expected is None:
        return None if found is None else Difference(place, expected, found)
    if isinstance(expected, (tuple, list)):
        parts = _parts(found)
        if parts is None or len(parts) != len(expected):
            return Difference(place, expected, found)
        for index, (one, other) in enumerate(zip(parts, expected)):
            if (differs := difference(one, other, tolerance, (*place, index))) is not None:
                return differs._replace(storage=differs.storage or _storage(found))
        return None
    if isinstance(expected, (bool, str)):
        plain = _item(found)
        wanted = bool if isinstance(expected, bool) else str
        return None if isinstance(plain, wanted) and wanted(plain) == expected else Difference(place, expected, found)
    return _numeric(found, expected, tolerance, place)


def _numeric(found: Any, expected: Any, tolerance: float, place: tuple[int, ...]) -> Difference | None:
    import numpy as np

    differs = Difference(place, expected, found, _storage(found))
    if found is None or isinstance(found, (str, bytes, dict, set, frozenset)):
        return differs
    try:
        one, other = np.asarray(_on_cpu(found)), np.asarray(_on_cpu(expected))
        if np.iscomplexobj(one) or one.dtype.kind in "USMmV":  # as real numbers they would lose a part without a word
            return differs
        relative, absolute = tolerance, tolerance
        if other.dtype.kind == "f" and other.size:
            largest = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
            relative, absolute = max(tolerance, SINGLE), max(tolerance, SINGLE * largest)
        one, other = one.astype(float), other.astype(float)
        if one.shape != other.shape:
            return differs
        close = np.isclose(one, other, rtol=relative, atol=absolute)
        if close.all():
            return None
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return differs
    first = tuple(int(index) for index in np.argwhere(~close)[0])
    if not first:
        return differs
    return Difference((*place, *first), other[first].item(), one[first].item(), differs.storage)


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu().numpy() if _is_tensor(value) and value.dtype.itemsize != 2 else _widened(value)


def _widened(value: Any) -> Any:
    return value.detach().cpu().float().numpy() if _is_tensor(value) else value  # NumPy has no bfloat16


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _parts(value: Any) -> list | tuple | None:
    import numpy as np

    if isinstance(value, (list, tuple)):
        return value
    try:
        if (isinstance(value, np.ndarray) or _is_tensor(value)) and value.ndim:
            return value.tolist()
    except (RuntimeError, TypeError, NotImplementedError):  # a tensor without numbers
        pass
    return None


def _item(value: Any) -> Any:
    """The plain value in a NumPy or PyTorch scalar or a value without dimensions."""
    import numpy as np

    try:
        if isinstance(value, np.generic) or ((isinstance(value, np.ndarray) or _is_tensor(value)) and value.ndim == 0):
            return value.item()
    except (RuntimeError, TypeError, NotImplementedError):
        pass
    return value


def _storage(value: Any) -> str:
    return str(getattr(value, "dtype", "")).removeprefix("torch.")


def described(arguments: tuple, found: Any, expected: Any, tolerance: float) -> str:
    """What is wrong with `found`, in a sentence or two for the learner."""
    differs = difference(found, expected, tolerance)
    kinds = kind(expected), kind(found)
    if differs is None or (kinds[0] != kinds[1] and (not differs.place or _lengths(found) != _lengths(expected))):
        value = f" {short(found)}" if kinds[1] in ("a text", "a number", "a bool", "a str") else ""
        return f"Expected {kinds[0]}, got {kinds[1]}{value}."
    said = f"For {short(arguments)} expected {short(expected)}, got {short(found)}."
    if not differs.place:
        return said
    where = "".join(f"[{index}]" for index in differs.place)
    inner = kind(differs.expected), kind(differs.found)
    if inner[0] != inner[1]:
        return f"{said} At {where}: expected {inner[0]} {short(differs.expected)}, got {inner[1]} {short(differs.found)}."
    precision = f" ({differs.storage})" if differs.storage in SHORTER else ""
    return f"{said} At {where}: expected {short(differs.expected)}, got {short(differs.found)}{precision}."


def kind(value: Any) -> str:
    """What sort of thing a value is, with its size."""
    plain = _item(value)
    if plain is None:
        return "None"
    if isinstance(plain, bool):
        return "a bool"
    if isinstance(plain, (int, float)):
        return "a number"
    if hasattr(plain, "shape"):
        return f"a {type(plain).__name__} of shape {tuple(plain.shape)}"
    if type(plain) in (list, tuple):
        return f"a {type(plain).__name__} of {len(plain)}"
    return f"a {type(plain).__name__}"


def _lengths(value: Any) -> Any:
    parts = _parts(value)
    return len(parts) if parts is not None else None


def short(value: Any) -> str:
    """A value in at most 160 characters, numbers in full; tensors and arrays by their first values."""
    try:
        if (plain := _item(value)) is not value:
            return f"{plain!r}" + (f" ({_storage(value)})" if _storage(value) in SHORTER else "")
        if hasattr(value, "numel") and value.numel() > 6:
            first = value.flatten()[:3].tolist()
            rounded = [round(v, 4) if isinstance(v, float) else v for v in first]
            return f"tensor{tuple(value.shape)} starting {rounded}"
        if isinstance(value, tuple):
            return "(" + ", ".join(map(short, value)) + ")"
        return f"{value!r}"[:160]
    except Exception:  # an int of thousands of digits, or an object of the learner's
        return f"a {type(value).__name__} that cannot be shown"


def key(value: Any) -> str:
    """Text that is the same for values that say the same, up to the sixth digit."""
    parts, plain = _parts(value), _item(value)
    if parts is not None:
        return "[" + ",".join(map(key, parts)) + "]"
    return f"{float(plain):.6g}" if isinstance(plain, (int, float)) and not isinstance(plain, bool) else repr(plain)
