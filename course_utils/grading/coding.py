"""Values as JSON and back: what goes into the sandbox and what comes out of it.

This file runs on both sides, and inside the sandbox there is no course: it imports the standard library alone, numpy and
torch only where a value is theirs. What JSON has is written as it is; everything else is an object with one key that says
what it was, so that a tuple comes back as a tuple and not-a-number as not-a-number.
"""

from __future__ import annotations

import array
import base64
import collections
import dataclasses
import math
import numbers
import sys
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch

MOST_PARTS, MOST_BITS = 100_000, 65_536
MOST_AXES, LONGEST_AXIS = 32, 2**40  # of an array: the product of a million lengths would take minutes
MOST_TYPES = 50  # of objects that do not travel: each is a class made for it
MOST_OF_ONE_HASH = 8  # keys; looking for one among many of its hash takes their number squared
READ_OUT = (Iterator, KeysView, ValuesView, ItemsView, range, collections.deque, array.array)
DTYPES = frozenset(
    "float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 complex128".split()
)


class Unsendable(ValueError):
    """A value that cannot be written, or text that is no value."""


class Opaque:
    """Stands for an object that does not travel; its subclasses have the names of the types. Equal to nothing."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Listed(list):
    """What was read out of something that is no list, say a generator; its subclasses have the names of the types."""


def encode(value: Any) -> Any:
    """Plain JSON for a value.

    Args:
        value: None, bool, int, float, str, bytes, list, tuple, dict, set, numpy arrays and scalars, torch tensors of any
            shape, and all of these inside one another. Generators and other things to run through are read out, a dataclass
            travels as a tuple, another library's column as an array; anything else becomes `{"object": its type}`.

    Raises:
        Unsendable: more than 100,000 parts, or an int of more than 65,536 bits.
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
    if isinstance(value, str):
        return str.__str__(value)
    if numpy is not None and isinstance(value, numpy.generic):
        return {"scalar": _buffer(numpy.asarray(value))}
    if isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            raise Unsendable(f"it is an int of more than {MOST_BITS:,} bits")
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
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"tuple": [_encode(getattr(value, field.name), left) for field in dataclasses.fields(value)]}
    if isinstance(value, READ_OUT):
        parts = [_encode(part, left) for part in islice(value, left[0] + 1)]
        return {"listed": [type(value).__name__[:60], parts]}
    if numpy is not None and hasattr(type(value), "__array__"):
        return _encode(numpy.asarray(value), left)
    if isinstance(value, numbers.Real) or hasattr(type(value), "__float__"):
        return _encode(float(value), left)  # Fraction, Decimal: in a notebook they compare as numbers too
    return {"object": type(value).__name__[:60]}


def _buffer(array: numpy.ndarray) -> list[Any]:
    if array.dtype.name not in DTYPES:
        raise Unsendable(f"it is an array of {array.dtype.name}")
    return [array.dtype.name, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def decode(value: Any) -> Any:
    """The value that `encode` wrote, in time and memory of the order of its text's length.

    Raises:
        Unsendable: anything that `encode` does not write; the writer may be hostile.
    """
    return _Decoder().decode(value)


class _Decoder:
    """Decodes one value."""

    def __init__(self) -> None:
        self._left = MOST_PARTS
        self._types: dict[tuple[str, type], type] = {}

    def decode(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Unsendable(f"more than {MOST_PARTS:,} parts")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return self._all(value)
        if not isinstance(value, dict) or len(value) != 1:
            raise Unsendable("not a value")
        ((kind, held),) = value.items()
        try:
            return _READERS[kind](self, held)
        except Unsendable:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise Unsendable(f"not a {str(kind)[:20]}") from error

    def _all(self, held: Any) -> list[Any]:
        return [self.decode(part) for part in _listed(held)]

    def _keys(self, held: list[Any]) -> list[Any]:
        """Values that may be a set's or a dict's keys."""
        keys, seen = self._all(held), dict[int, int]()
        for key in keys:
            number = hash(key)
            seen[number] = seen.get(number, 0) + 1
            if seen[number] > MOST_OF_ONE_HASH:
                raise Unsendable("many keys of one hash")
        return keys

    def _dict(self, held: Any) -> dict[Any, Any]:
        pairs = [(key, part) for key, part in _listed(held)]
        return dict(zip(self._keys([key for key, _ in pairs]), self._all([part for _, part in pairs])))

    def _named(self, name: Any, base: type) -> type:
        """A subclass of `base` with the name of a type that does not travel."""
        plain = "".join(c for c in str(name)[:60] if c.isalnum() or c in "_ <>=") or "object"
        if (plain, base) not in self._types:
            if len(self._types) >= MOST_TYPES:
                return base
            self._types[plain, base] = type(plain, (base,), {})
        return self._types[plain, base]

    def _object(self, held: Any) -> Opaque:
        made: Opaque = self._named(held, Opaque)()
        return made

    def _read_out(self, held: Any) -> Listed:
        name, parts = held
        made: Listed = self._named(name, Listed)(self._all(parts))
        return made


def _int(held: str) -> int:
    if len(held) > MOST_BITS // 4 + 8:
        raise Unsendable(f"an int of more than {MOST_BITS:,} bits")
    return int(held, 16)


def _array(held: Any) -> numpy.ndarray:
    import numpy

    name, shape, data = held
    if name not in DTYPES or len(shape) > MOST_AXES or not all(type(s) is int and 0 <= s <= LONGEST_AXIS for s in shape):
        raise Unsendable("not an array")
    data = base64.b64decode(data, validate=True)
    if math.prod(shape) * numpy.dtype(name).itemsize != len(data):
        raise Unsendable("an array of another size than it says")
    return numpy.frombuffer(data, dtype=name).reshape(shape).copy()


def _tensor(held: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(_array(held))


_READERS: dict[str, Callable[[_Decoder, Any], Any]] = {
    "tuple": lambda decoder, held: tuple(decoder._all(held)),
    "set": lambda decoder, held: set(decoder._keys(_listed(held))),
    "dict": _Decoder._dict,
    "bytes": lambda _, held: base64.b64decode(held, validate=True),
    "int": lambda _, held: _int(held),
    "float": lambda _, held: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[held],
    "array": lambda _, held: _array(held),
    "scalar": lambda _, held: _array(held)[()],
    "tensor": lambda _, held: _tensor(held),
    "object": _Decoder._object,
    "listed": _Decoder._read_out,
}


def _listed(held: Any) -> list[Any]:
    if not isinstance(held, list):
        raise Unsendable("not a list of values")
    return held
