"""Whether a value is the expected one, and how it differs.

A value is judged by its content, not by how it is stored: an array, a tuple or a generator counts as the list that was asked
for, a NumPy or PyTorch scalar as a number, and float32 is accepted where the solution computes in float64. Both the check in
the notebook and the grading use this.

Neither NumPy nor PyTorch is imported here: a value can be theirs only if somebody has loaded them. So exercises on plain
values can be checked where there is neither, and without waiting for an import.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import math
import sys
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from itertools import islice
from typing import Any, NamedTuple

MOST_PARTS = 300_000  # items read from a generator; grading has a limit too
SINGLE = 1e-6  # relative; more than a few float32 operations lose, and far less than any mistake changes
SHORTER = ("float32", "float16", "bfloat16")
PLAIN_NUMBERS = (bool, int, float)
_READ_OUT = (Iterator, KeysView, ValuesView, ItemsView, range, collections.deque, array.array)


def _of(library: str, name: str) -> Any:
    """A class of a library, for `isinstance`; () if the library is not loaded, since no value can be of it then."""
    return getattr(sys.modules.get(library), name, ())


class Listed(list):
    """The items of an iterable other than a list; subclasses are named after its type."""


class Difference(NamedTuple):
    """The first place in which two values differ.

    Attributes:
        indexes: the indexes and keys that lead there; () for the values as a whole.
        expected, actual: the values there.
        storage: dtype of the actual value, if it has one.
    """

    indexes: tuple[int | str, ...]
    expected: Any
    actual: Any
    storage: str = ""


def settled(value: Any) -> Any:
    """A value in the form in which it is compared: iterables read out, dataclasses as tuples, tables as arrays.

    Raises:
        ValueError: it is endless or too long. Reading out the learner's own iterable can also raise any other error.
    """
    array_type = _of("numpy", "ndarray")
    if isinstance(value, list) and not isinstance(value, Listed):
        return [settled(part) for part in value]
    if isinstance(value, tuple):
        return tuple(settled(part) for part in value)
    if isinstance(value, dict):
        return {name: settled(part) for name, part in value.items()}
    if isinstance(value, str):
        return str.__str__(value)  # for a member of a string enumeration, its text
    if isinstance(value, array_type) and value.dtype.kind not in "biufc":
        return settled(value.tolist())
    if value is None or isinstance(value, (bool, int, float)) or hasattr(value, "detach"):
        return value
    if isinstance(value, (array_type, _of("numpy", "generic"))):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(settled(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, _READ_OUT):
        parts = list(islice(value, MOST_PARTS + 1))
        if len(parts) > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS:,} parts")
        return type(type(value).__name__, (Listed,), {})(map(settled, parts))
    if hasattr(type(value), "__array__"):  # columns of pandas and other libraries
        import numpy as np

        return np.asarray(value)
    return value


def same(actual: Any, expected: Any, tolerance: float) -> bool:
    """Whether the two values are equal in content; `tolerance` is relative, and absolute near zero."""
    return difference(actual, expected, tolerance) is None


def difference(actual: Any, expected: Any, tolerance: float, indexes: tuple[int | str, ...] = ()) -> Difference | None:
    """The first difference, or None if the values are equal in content. Never raises an error, whatever `actual` is."""
    if isinstance(actual, Exception):
        return Difference(indexes, expected, actual)
    if expected is None:
        return None if actual is None else Difference(indexes, expected, actual)
    if isinstance(expected, dict):
        if not isinstance(actual, dict) or actual.keys() != expected.keys():
            return Difference(indexes, expected, actual)
        for name, expected_part in expected.items():
            if (differs := difference(actual[name], expected_part, tolerance, (*indexes, name))) is not None:
                return differs
        return None
    if isinstance(expected, (tuple, list)):
        parts = _parts(actual)
        if parts is None or len(parts) != len(expected):
            return Difference(indexes, expected, actual)
        for index, (actual_part, expected_part) in enumerate(zip(parts, expected)):
            if (differs := difference(actual_part, expected_part, tolerance, (*indexes, index))) is not None:
                return differs._replace(storage=differs.storage or _storage(actual))
        return None
    if isinstance(expected, (bool, str)):
        plain = plain_number(actual)
        expected_type = bool if isinstance(expected, bool) else str
        return (
            None
            if isinstance(plain, expected_type) and expected_type(plain) == expected
            else Difference(indexes, expected, actual)
        )
    return _numeric(actual, expected, tolerance, indexes)


def _numeric(actual: Any, expected: Any, tolerance: float, indexes: tuple[int | str, ...]) -> Difference | None:
    differs = Difference(indexes, expected, actual, _storage(actual))
    if actual is None or isinstance(actual, (str, bytes, dict, set, frozenset)):
        return differs
    if "numpy" not in sys.modules or (type(actual) in PLAIN_NUMBERS and type(expected) in PLAIN_NUMBERS):
        return None if _close(actual, expected, tolerance) else differs
    import numpy as np

    try:
        actual_array, expected_array = np.asarray(_on_cpu(actual)), np.asarray(_on_cpu(expected))
        if (
            np.iscomplexobj(actual_array) or actual_array.dtype.kind in "USMmV"
        ):  # converting these to real numbers would silently lose a part
            return differs
        relative, absolute = tolerance, tolerance
        if expected_array.dtype.kind == "f" and expected_array.size:
            largest = float(np.abs(expected_array[np.isfinite(expected_array)]).max(initial=0.0))
            relative, absolute = max(tolerance, SINGLE), max(tolerance, SINGLE * largest)
        actual_array, expected_array = actual_array.astype(float), expected_array.astype(float)
        if actual_array.shape != expected_array.shape:
            return differs
        close = np.isclose(actual_array, expected_array, rtol=relative, atol=absolute)
        if close.all():
            return None
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return differs
    first = tuple(int(index) for index in np.argwhere(~close)[0])
    if not first:
        return differs
    return Difference((*indexes, *first), expected_array[first].item(), actual_array[first].item(), differs.storage)


def _close(actual: Any, expected: Any, tolerance: float) -> bool:
    """Whether two numbers are close; the rule of `_numeric` without arrays, so that nothing has to be imported for it."""
    relative = absolute = tolerance
    try:
        found, wanted = float(actual), float(expected)
    except (TypeError, ValueError, OverflowError):
        return False
    if not (math.isfinite(found) and math.isfinite(wanted)):
        return found == wanted
    if isinstance(expected, float):
        relative, absolute = max(tolerance, SINGLE), max(tolerance, SINGLE * abs(wanted))
    return abs(found - wanted) <= absolute + relative * abs(wanted)


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu().numpy() if is_tensor(value) and value.dtype.itemsize != 2 else _widened(value)


def _widened(value: Any) -> Any:
    return value.detach().cpu().float().numpy() if is_tensor(value) else value  # NumPy has no bfloat16


def is_tensor(value: Any) -> bool:
    """Whether a value is a PyTorch tensor."""
    return isinstance(value, _of("torch", "Tensor"))


def _parts(value: Any) -> list | tuple | None:
    if isinstance(value, (list, tuple)):
        return value
    try:
        if (isinstance(value, _of("numpy", "ndarray")) or is_tensor(value)) and value.ndim:
            return value.tolist()
    except (RuntimeError, TypeError, NotImplementedError):  # a tensor without numbers
        pass
    return None


def plain_number(value: Any) -> Any:
    """The plain value in a NumPy or PyTorch scalar or a value without dimensions."""
    try:
        if isinstance(value, _of("numpy", "generic")):
            return value.item()
        if (isinstance(value, _of("numpy", "ndarray")) or is_tensor(value)) and value.ndim == 0:
            return value.item()
    except (RuntimeError, TypeError, NotImplementedError):
        pass
    return value


def _storage(value: Any) -> str:
    return str(getattr(value, "dtype", "")).removeprefix("torch.")


def described(arguments: tuple, actual: Any, expected: Any, tolerance: float) -> str:
    """What is wrong with `actual`, in a sentence or two for the learner."""
    differs = difference(actual, expected, tolerance)
    kinds = kind(expected), kind(actual)
    if differs is None or (kinds[0] != kinds[1] and (not differs.indexes or _lengths(actual) != _lengths(expected))):
        if all(" of " in name and " of shape " not in name for name in kinds) and type(actual) is type(expected):
            return f"Expected {kinds[0]}, got {kinds[1]}. For {short(arguments)} expected {short(expected)}, got {short(actual)}."
        value = f" {short(actual)}" if kinds[1] in ("a text", "a number", "a bool", "a str") else ""
        return f"Expected {kinds[0]}, got {kinds[1]}{value}."
    summary = f"For {short(arguments)} expected {short(expected)}, got {short(actual)}."
    if not differs.indexes:
        return summary
    location = "".join(f"[{index!r}]" for index in differs.indexes)
    inner = kind(differs.expected), kind(differs.actual)
    if inner[0] != inner[1]:
        return f"{summary} At {location}: expected {inner[0]} {short(differs.expected)}, got {inner[1]} {short(differs.actual)}."
    precision = f" ({differs.storage})" if differs.storage in SHORTER else ""
    return f"{summary} At {location}: expected {short(differs.expected)}, got {short(differs.actual)}{precision}."


def kind(value: Any) -> str:
    """A value's type in words, with its size."""
    plain = plain_number(value)
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
        if (plain := plain_number(value)) is not value:
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
    """Text that is the same for values that are equal in content, up to six digits."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name!r}:{key(part)}" for name, part in value.items()) + "}"
    parts, plain = _parts(value), plain_number(value)
    if parts is not None:
        return "[" + ",".join(map(key, parts)) + "]"
    return f"{float(plain):.6g}" if isinstance(plain, (int, float)) and not isinstance(plain, bool) else repr(plain)
