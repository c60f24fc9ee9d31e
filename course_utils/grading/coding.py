"""Everything that goes into the sandbox and comes out of it: values as JSON and back, and the names of the requests.

This file runs on both sides, and the course is not installed in the sandbox: it imports only the standard library, and numpy
and torch only for values that need them. Values that JSON has are written as they are; every other value is an object with
one key that names its type, so that a tuple comes back as a tuple and NaN as NaN.
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
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch

MOST_PARTS, MOST_BITS = 100_000, 65_536
MOST_AXES, LONGEST_AXIS = 32, 2**40  # of an array: multiplying a million lengths would take minutes
MOST_TYPES = 50  # of objects that cannot be sent: a class is created for each
NO_NUMBERS = "Tensor without numbers"  # on PyTorch's meta device; as the check in the notebook calls it
MOST_OF_ONE_HASH = 8  # keys; inserting many keys with the same hash takes quadratic time
READ_OUT = (Iterator, KeysView, ValuesView, ItemsView, range, collections.deque, array.array)
DTYPES = frozenset(
    "float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 complex128".split()
)


class Request(StrEnum):
    """What the grader asks the server in the sandbox to do with the process of the current question.

    START starts it, LOOK asks how much processor time it has used and whether it sleeps, END kills it.
    """

    START = "start"
    LOOK = "look"
    END = "end"


class Unsendable(ValueError):
    """A value that cannot be encoded, or JSON that does not encode a value."""


class Opaque:
    """A placeholder for an object that cannot be sent.

    Subclasses are named after the object's type; it is equal to nothing.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Listed(list):
    """The items of an iterable that is not a list, such as a generator; subclasses are named after its type."""


def encode(value: Any) -> Any:
    """Turn a value into plain JSON.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, numpy arrays and scalars, torch tensors
            of any shape and layout, and any nesting of these. Generators and other iterables are read out, a dataclass is
            sent as a tuple, another library's column as an array, and its numbers as floats; anything else becomes
            `{"object": its type}`. `comparing.settled` does the same in the notebook's check.

    Raises:
        Unsendable: the value has more than 100,000 parts, or an int of more than 65,536 bits.
        RecursionError: the value contains itself.
    """
    return _encode(value, [MOST_PARTS])


def _encode(value: Any, remaining_parts: list[int]) -> Any:
    remaining_parts[0] -= 1
    if remaining_parts[0] < 0:
        raise Unsendable(f"it has more than {MOST_PARTS:,} parts")
    if value is None or value is True or value is False:
        return value
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if issubclass(type(value), str):  # an object can claim another class than its own
        return str.__str__(value)
    if numpy is not None and isinstance(value, numpy.generic):
        array = _narrowed(numpy.asarray(value))
        return {"scalar": _buffer(array)} if array.dtype.name in DTYPES else _encode(value.item(), remaining_parts)
    if isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            raise Unsendable(f"it is an int of more than {MOST_BITS:,} bits")
        return int(value) if value.bit_length() < 64 else {"int": hex(value)}
    if isinstance(value, float):
        value = float(value)
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list):
        return [_encode(part, remaining_parts) for part in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(part, remaining_parts) for part in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, remaining_parts), _encode(part, remaining_parts)] for key, part in value.items()]}
    if isinstance(value, (set, frozenset)):
        return {"set": [_encode(part, remaining_parts) for part in value]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, complex):
        return {"complex": [_encode(value.real, remaining_parts), _encode(value.imag, remaining_parts)]}
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor_as_json(value)
    if numpy is not None and isinstance(value, numpy.ndarray):
        if isinstance(value, numpy.ma.MaskedArray):  # what is masked has no value, whatever stands under the mask
            return _encode(value.tolist(), remaining_parts)
        array = _narrowed(value)
        return {"array": _buffer(array)} if array.dtype.name in DTYPES else _encode(value.tolist(), remaining_parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"tuple": [_encode(getattr(value, field.name), remaining_parts) for field in dataclasses.fields(value)]}
    if isinstance(value, READ_OUT):
        parts = [_encode(part, remaining_parts) for part in islice(value, remaining_parts[0] + 1)]
        return {"listed": [type(value).__name__[:60], parts]}
    if numpy is not None and hasattr(type(value), "__array__"):
        return _encode(numpy.asarray(value), remaining_parts)
    if isinstance(value, numbers.Real) or hasattr(type(value), "__float__"):
        plain = _number(value)  # Fraction, Decimal: in a notebook they compare as numbers too
        if plain is not None:
            return _encode(plain, remaining_parts)
    return {"object": type(value).__name__[:60]}


def _number(value: Any) -> float | int | None:
    """The number that another library's object stands for; an int if no float is as large; None if it stands for none."""
    try:
        return float(value)
    except OverflowError:
        try:
            return int(value)
        except Exception:
            return None
    except Exception:
        # Decimal's signalling NaN is a NaN that float refuses.
        return math.nan if type(value).__name__ == "Decimal" and value.is_nan() else None


def _narrowed(array: numpy.ndarray) -> numpy.ndarray:
    """The array, with long doubles as doubles: their format differs from machine to machine."""
    import numpy

    if array.dtype.kind not in "fc" or array.dtype.name in DTYPES:
        return array
    with numpy.errstate(over="ignore"):
        return array.astype(numpy.float64 if array.dtype.kind == "f" else numpy.complex128)


def _tensor_as_json(value: torch.Tensor) -> dict[str, Any]:
    import torch

    try:
        value = value.detach()
        if value.layout is not torch.strided:
            value = value.to_dense()
        if value.is_quantized:
            value = value.dequantize()
        value = value.cpu().resolve_neg().resolve_conj()
        if value.dtype is torch.bfloat16:  # numpy has no such type
            return {"bfloat16": _buffer(value.float().numpy())}
        if value.dtype is torch.complex32:
            value = value.to(torch.complex64)
        elif value.is_floating_point() and value.dtype.itemsize == 1:
            value = value.float()
        return {"tensor": _buffer(value.numpy())}
    except (RuntimeError, TypeError, NotImplementedError):  # it has no numbers
        return {"object": NO_NUMBERS}


def _buffer(array: numpy.ndarray) -> list[Any]:
    if array.dtype.name not in DTYPES:
        raise Unsendable(f"it is an array of {array.dtype.name}")
    return [array.dtype.name, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def decode(value: Any) -> Any:
    """Return the value that `encode` has turned into JSON, in time and memory proportional to the length of the JSON.

    Raises:
        Unsendable: the JSON is not something that `encode` writes; the sender may be hostile.
    """
    return _Decoder().decode(value)


class _Decoder:
    """Decodes one value."""

    def __init__(self) -> None:
        self._remaining_parts = MOST_PARTS
        self._types: dict[tuple[str, type], type] = {}

    def decode(self, value: Any) -> Any:
        self._remaining_parts -= 1
        if self._remaining_parts < 0:
            raise Unsendable(f"more than {MOST_PARTS:,} parts")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return self._all(value)
        if not isinstance(value, dict) or len(value) != 1:
            raise Unsendable("not a value")
        ((kind, payload),) = value.items()
        try:
            return _READERS[kind](self, payload)
        except Unsendable:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise Unsendable(f"not a {str(kind)[:20]}") from error

    def _all(self, payload: Any) -> list[Any]:
        return [self.decode(part) for part in _checked_list(payload)]

    def _keys(self, payload: list[Any]) -> list[Any]:
        """Decoded elements of a set or keys of a dict."""
        keys, hash_counts = self._all(payload), dict[int, int]()
        for key in keys:
            key_hash = hash(key)
            hash_counts[key_hash] = hash_counts.get(key_hash, 0) + 1
            if hash_counts[key_hash] > MOST_OF_ONE_HASH:
                raise Unsendable("many keys with the same hash")
        return keys

    def _dict(self, payload: Any) -> dict[Any, Any]:
        pairs = [(key, part) for key, part in _checked_list(payload)]
        return dict(zip(self._keys([key for key, _ in pairs]), self._all([part for _, part in pairs])))

    def _named(self, name: Any, base: type) -> type:
        """A subclass of `base` that is named after a type that cannot be sent."""
        plain = "".join(c for c in str(name)[:60] if c.isalnum() or c in "_ <>=") or "object"
        if (plain, base) not in self._types:
            if len(self._types) >= MOST_TYPES:
                return base
            self._types[plain, base] = type(plain, (base,), {})
        return self._types[plain, base]

    def _object(self, type_name: Any) -> Opaque:
        opaque: Opaque = self._named(type_name, Opaque)()
        return opaque

    def _read_out(self, payload: Any) -> Listed:
        name, parts = payload
        listed: Listed = self._named(name, Listed)(self._all(parts))
        return listed


def _int(digits: str) -> int:
    if len(digits) > MOST_BITS // 4 + 8:
        raise Unsendable(f"an int of more than {MOST_BITS:,} bits")
    return int(digits, 16)


def _array(payload: Any) -> numpy.ndarray:
    import numpy

    name, shape, data = payload
    if name not in DTYPES or len(shape) > MOST_AXES or not all(type(s) is int and 0 <= s <= LONGEST_AXIS for s in shape):
        raise Unsendable("not an array")
    data = base64.b64decode(data, validate=True)
    if math.prod(shape) * numpy.dtype(name).itemsize != len(data):
        raise Unsendable("an array whose size does not match its shape")
    return numpy.frombuffer(data, dtype=name).reshape(shape).copy()


def _tensor(payload: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(_array(payload))


def _bfloat16(payload: Any) -> torch.Tensor:
    import torch

    tensor = _tensor(payload)
    if tensor.dtype != torch.float32:
        raise Unsendable("not a bfloat16")
    return tensor.to(torch.bfloat16)


def _complex(decoder: _Decoder, payload: Any) -> complex:
    real, imaginary = (decoder.decode(part) for part in _checked_list(payload))
    if type(real) is not float or type(imaginary) is not float:
        raise Unsendable("not a complex number")
    return complex(real, imaginary)


_READERS: dict[str, Callable[[_Decoder, Any], Any]] = {
    "tuple": lambda decoder, payload: tuple(decoder._all(payload)),
    "set": lambda decoder, payload: set(decoder._keys(_checked_list(payload))),
    "dict": _Decoder._dict,
    "bytes": lambda _, payload: base64.b64decode(payload, validate=True),
    "int": lambda _, payload: _int(payload),
    "float": lambda _, payload: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[payload],
    "array": lambda _, payload: _array(payload),
    "scalar": lambda _, payload: _array(payload)[()],
    "tensor": lambda _, payload: _tensor(payload),
    "bfloat16": lambda _, payload: _bfloat16(payload),
    "complex": _complex,
    "object": _Decoder._object,
    "listed": _Decoder._read_out,
}


def _checked_list(payload: Any) -> list[Any]:
    if not isinstance(payload, list):
        raise Unsendable("not a list of values")
    return payload
