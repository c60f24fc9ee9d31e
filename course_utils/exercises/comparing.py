"""Whether a value is the expected one, and how it differs.

A value is judged by its content, not by how it is stored: an array, a tuple or a generator counts as the list that was asked
for, a NumPy or PyTorch scalar as a number, and float32 is accepted where the solution computes in float64. Both the check in
the notebook and the grading use this.

Neither NumPy nor PyTorch is imported here: a value can be theirs only if somebody has loaded them. So exercises on plain
values can be checked where there is neither, and without waiting for an import.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

from course_utils.exercises.values import class_of, is_tensor

FLOAT32_TOLERANCE = 1e-6  # relative; more than a few float32 operations lose, and far less than any mistake changes
LONG_INT_BITS = 200  # of an int whose digits nobody reads
SHORTER = ("float32", "float16", "bfloat16")
PLAIN_NUMBERS = (bool, int, float)


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
        # Converting these to real numbers would silently lose a part.
        if np.iscomplexobj(actual_array) and actual_array.ndim and actual_array.shape == expected_array.shape:
            start = (0,) * actual_array.ndim
            return Difference((*indexes, *start), expected_array[start].item(), actual_array[start].item(), differs.storage)
        if np.iscomplexobj(actual_array) or actual_array.dtype.kind in "USMmV":
            return differs
        relative, absolute = tolerance, tolerance
        if expected_array.dtype.kind == "f" and expected_array.size:
            largest = float(np.abs(expected_array[np.isfinite(expected_array)]).max(initial=0.0))
            relative, absolute = max(tolerance, FLOAT32_TOLERANCE), max(tolerance, FLOAT32_TOLERANCE * largest)
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
        actual_number, expected_number = float(actual), float(expected)
    except (TypeError, ValueError, OverflowError):
        return False
    if not (math.isfinite(actual_number) and math.isfinite(expected_number)):
        return actual_number == expected_number
    if isinstance(expected, float):
        relative, absolute = max(tolerance, FLOAT32_TOLERANCE), max(tolerance, FLOAT32_TOLERANCE * abs(expected_number))
    return abs(actual_number - expected_number) <= absolute + relative * abs(expected_number)


def _on_cpu(value: Any) -> Any:
    if not is_tensor(value):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype.itemsize == 2 else value).numpy()  # NumPy has no bfloat16


def _parts(value: Any) -> list | tuple | None:
    if isinstance(value, (list, tuple)):
        return value
    try:
        if (isinstance(value, class_of("numpy", "ndarray")) or is_tensor(value)) and value.ndim:
            return value.tolist()
    except (RuntimeError, TypeError, NotImplementedError):  # a tensor without numbers
        pass
    return None


def plain_number(value: Any) -> Any:
    """The plain value in a NumPy or PyTorch scalar or a value without dimensions."""
    try:
        if isinstance(value, class_of("numpy", "generic")):
            return value.item()
        if (isinstance(value, class_of("numpy", "ndarray")) or is_tensor(value)) and value.ndim == 0:
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
            return f"{_kinds(expected, actual)} {_values(arguments, expected, actual)}"
        value = f" {short(actual)}" if kinds[1] in ("a number", "a bool", "a str", "a complex") else ""
        return _kinds(expected, actual, value)
    summary = _values(arguments, expected, actual)
    if not differs.indexes:
        return summary
    place = "".join(f"[{index!r}]" for index in differs.indexes)
    inner = kind(differs.expected), kind(differs.actual)
    if inner[0] != inner[1]:
        expected_text, actual_text = (f"{kind(value)} {short(value)}" for value in (differs.expected, differs.actual))
    else:
        precision = f" ({differs.storage})" if differs.storage in SHORTER else ""
        expected_text, actual_text = short(differs.expected), short(differs.actual) + precision
    return f"{summary} At {place}: expected {expected_text}, got {actual_text}."


def _kinds(expected: Any, actual: Any, value: str = "") -> str:
    return f"Expected {kind(expected)}, got {kind(actual)}{value}."


def _values(arguments: tuple, expected: Any, actual: Any) -> str:
    return f"For {short(arguments)} expected {short(expected)}, got {short(actual)}."


def kind(value: Any) -> str:
    """Return a value's type in words, with its size: "a number", "a list of 3", "a Tensor of shape (2, 3)"."""
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
        if type(value) is int and value.bit_length() > LONG_INT_BITS:
            return f"an int of {_digits(value):,} digits"
        if hasattr(value, "numel") and value.numel() > 6:
            first = value.flatten()[:3].tolist()
            rounded = [round(v, 4) if isinstance(v, float) else v for v in first]
            return f"tensor{tuple(value.shape)} starting {rounded}"
        if isinstance(value, tuple):
            return "(" + ", ".join(map(short, value)) + ")"
        return f"{value!r}"[:160]
    except Exception:  # an int of thousands of digits, or an object of the learner's
        return f"a {type(value).__name__} that cannot be shown"


def _digits(value: int) -> int:
    """The number of an int's decimal digits; Python refuses to write an int of thousands of them."""
    digits = int(value.bit_length() * math.log10(2))
    return digits + (abs(value) >= 10**digits)


def key(value: Any) -> str:
    """Text that is the same for values that are equal in content, up to six digits."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name!r}:{key(part)}" for name, part in value.items()) + "}"
    parts, plain = _parts(value), plain_number(value)
    if parts is not None:
        return "[" + ",".join(map(key, parts)) + "]"
    return f"{float(plain):.6g}" if isinstance(plain, (int, float)) and not isinstance(plain, bool) else repr(plain)
