"""Values as JSON and back: what goes into the sandbox and what comes out of it.

This file runs on both sides, and inside the sandbox there is no course: it imports the standard library alone, numpy and
torch only where a value is theirs. What JSON has is written as it is; everything else is an object with one key that says
what it was, so that a tuple comes back as a tuple and not-a-number as not-a-number.
"""

from __future__ import annotations

import base64
import math
import numbers
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch

MOST_PARTS = 300_000
DTYPES = frozenset(
    "float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 complex128".split()
)


class Unsendable(ValueError):
    """A value that cannot be written, or text that is no value."""


class Opaque:
    """Stands for an object that does not travel; its subclasses have the names of the types. Equal to nothing."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def encode(value: Any) -> Any:
    """Plain JSON for a value.

    Args:
        value: None, bool, int, float, str, bytes, list, tuple, dict, set, numpy arrays and scalars, torch tensors of any
            shape, and all of these inside one another; anything else becomes `{"object": its type}`.

    Raises:
        Unsendable: more than 300,000 parts, or an int of more than 65,536 bits.
        RecursionError: a value that contains itself.
    """
    return _encode(value, [MOST_PARTS])


def _encode(value: Any, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise Unsendable(f"it has more than {MOST_PARTS:,} parts")
    if value is None or value is True or value is False:
        return value
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, numpy.generic):
        return {"scalar": _buffer(numpy.asarray(value))}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if value.bit_length() > 65_536:
            raise Unsendable("it is an int of more than 65,536 bits")
        return int(value) if value.bit_length() < 64 else {"int": hex(value)}
    if isinstance(value, float):
        value = float(value)
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list):
        return [_encode(part, left) for part in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(part, left) for part in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, left), _encode(part, left)] for key, part in value.items()]}
    if isinstance(value, (set, frozenset)):
        return {"set": [_encode(part, left) for part in value]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": base64.b64encode(value).decode()}
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no such type
            value = value.float()
        return {"tensor": _buffer(value.resolve_neg().resolve_conj().numpy())}
    if numpy is not None and isinstance(value, numpy.ndarray):
        return {"array": _buffer(value)} if value.dtype.name in DTYPES else _encode(value.tolist(), left)
    if isinstance(value, numbers.Real) or hasattr(type(value), "__float__"):
        return _encode(float(value), left)  # Fraction, Decimal: in a notebook they compare as numbers too
    return {"object": type(value).__name__[:60]}


def _buffer(array: numpy.ndarray) -> list[Any]:
    if array.dtype.name not in DTYPES:
        raise Unsendable(f"it is an array of {array.dtype.name}")
    return [array.dtype.name, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def decode(value: Any) -> Any:
    """The value that `encode` wrote.

    Raises:
        Unsendable: anything that `encode` does not write; the writer may be hostile.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [decode(part) for part in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise Unsendable("not a value")
    ((kind, held),) = value.items()
    try:
        return _READERS[kind](held)
    except Unsendable:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Unsendable(f"not a {str(kind)[:20]}") from error


def _array(held: Any) -> numpy.ndarray:
    import numpy

    name, shape, data = held
    if name not in DTYPES or not all(type(size) is int and size >= 0 for size in shape):
        raise Unsendable("not an array")
    data = base64.b64decode(data, validate=True)
    if math.prod(shape) * numpy.dtype(name).itemsize != len(data):
        raise Unsendable("an array of another size than it says")
    return numpy.frombuffer(data, dtype=name).reshape(shape).copy()


def _tensor(held: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(_array(held))


_READERS = {
    "tuple": lambda held: tuple(decode(part) for part in _listed(held)),
    "set": lambda held: {decode(part) for part in _listed(held)},
    "dict": lambda held: {decode(key): decode(part) for key, part in _listed(held)},
    "bytes": lambda held: base64.b64decode(held, validate=True),
    "int": lambda held: int(held, 16),
    "float": lambda held: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[held],
    "array": _array,
    "scalar": lambda held: _array(held)[()],
    "tensor": _tensor,
    "object": lambda held: type(
        "".join(c for c in str(held)[:60] if c.isalnum() or c in "_ <>=") or "object", (Opaque,), {}
    )(),
}


def _listed(held: Any) -> list[Any]:
    if not isinstance(held, list):
        raise Unsendable("not a list of values")
    return held
