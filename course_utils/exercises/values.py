"""The values that answers return, as JSON on their way out of the sandbox.

Both the check in the notebook and grading compare `decode(encode(value))`. Values that JSON has are written as they are; every
other value is an object with one key that names its type, so that a tuple comes back as a tuple and NaN as NaN.

This file is shown to the sandbox too, where the course is not installed, and runs in a page's Python: it imports only the
standard library, and NumPy and PyTorch only for values that need them. A value can be theirs only if somebody has loaded them.
"""

from __future__ import annotations

import array
import base64
import collections
import dataclasses
import math
import numbers
import sys
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch

MOST_PARTS, MOST_BITS = 100_000, 65_536
MOST_AXES, LONGEST_AXIS = 32, 2**40  # of an array: multiplying a million lengths would take minutes
MOST_TYPES = 50  # a class is created for each type of object that is no value
MOST_OF_ONE_HASH = 8  # keys; inserting many keys with the same hash takes quadratic time
READ_OUT = (Iterator, KeysView, ValuesView, ItemsView, range, collections.deque, array.array)
DTYPES = frozenset(
    "float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 complex128".split()
)


class Unsendable(ValueError):
    """A value that cannot be sent out of the sandbox, or JSON that does not encode a value."""


class Opaque:
    """A placeholder for an object that is no value.

    Subclasses are named after the object's type; it is equal to nothing.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Listed(list):
    """The items of an iterable that is not a list, such as a generator; subclasses are named after its type."""


def encode(value: Any) -> Any:
    """Return a value as plain JSON.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, NumPy arrays and scalars, PyTorch tensors
            of any shape and layout, and any nesting of these. Generators and other iterables are read out; a dataclass
            becomes a tuple, another library's column an array, its numbers floats; anything else comes back as an `Opaque`.

    Raises:
        Unsendable: the value has more than 100,000 parts, an int of more than 65,536 bits, or keys that cannot be keys in the
            form in which they are sent. Reading out the learner's own iterable can also raise any other error.
        RecursionError: the value contains itself.
    """
    encoded = _Encoder().encode(value)
    decode(encoded)
    return encoded


def decode(value: Any) -> Any:
    """Return the value that `encode` has turned into JSON, in time and memory proportional to the length of the JSON.

    Raises:
        Unsendable: the JSON is not something that `encode` writes; the sender may be hostile.
    """
    return _Decoder().decode(value)


def class_of(library: str, name: str) -> Any:
    """Return a class of a library, for `isinstance`; () if the library is not loaded, since no value can be of it then."""
    return getattr(sys.modules.get(library), name, ())


def is_tensor(value: Any) -> bool:
    """Whether a value is a PyTorch tensor."""
    return isinstance(value, class_of("torch", "Tensor"))


class _Counter:
    """Counts the parts of one value."""

    def __init__(self) -> None:
        self.remaining_parts = MOST_PARTS

    def count(self) -> None:
        """Count a part.

        Raises:
            Unsendable: there have been too many.
        """
        self.remaining_parts -= 1
        if self.remaining_parts < 0:
            raise Unsendable(f"it has more than {MOST_PARTS:,} parts")


class _Encoder(_Counter):
    """Encodes one value."""

    def encode(self, value: Any) -> Any:
        self.count()
        if value is None or value is True or value is False:
            return value
        if issubclass(type(value), str):  # an object can claim another class than its own
            return str.__str__(value)  # for a member of a string enumeration, its text
        if isinstance(value, class_of("numpy", "generic")):
            return self._array(value)
        if issubclass(type(value), int):
            whole = int.__index__(value)  # not what a subclass says of itself
            if whole.bit_length() > MOST_BITS:
                raise Unsendable(f"it is an int of more than {MOST_BITS:,} bits")
            return whole if whole.bit_length() < 64 else {"int": hex(whole)}
        if isinstance(value, float):
            number = float(value)
            return number if math.isfinite(number) else {"float": repr(number)}
        if isinstance(value, list):
            return self._all(value)
        if isinstance(value, tuple):
            return {"tuple": self._all(value)}
        if isinstance(value, dict):
            return {"dict": [self._all(pair) for pair in value.items()]}
        if isinstance(value, (set, frozenset)):
            return {"set": self._all(value)}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, complex):
            return {"complex": [self.encode(value.real), self.encode(value.imag)]}
        if is_tensor(value):
            return self._tensor(value)
        if isinstance(value, class_of("numpy", "ndarray")):
            return self._array(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"tuple": self._all(getattr(value, field.name) for field in dataclasses.fields(value))}
        if isinstance(value, READ_OUT):
            return {"listed": [type(value).__name__, self._all(islice(value, self.remaining_parts + 1))]}
        if hasattr(type(value), "__array__"):  # columns of pandas and other libraries
            import numpy

            return self.encode(numpy.asarray(value))
        if isinstance(value, numbers.Real) or hasattr(type(value), "__float__"):
            plain = _number(value)  # Fraction, Decimal
            if plain is not None:
                return self.encode(plain)
        return {"object": type(value).__name__}

    def _all(self, values: Iterable[Any]) -> list[Any]:
        return [self.encode(part) for part in values]

    def _array(self, value: Any) -> Any:
        """An array or a scalar in a format that is the same on every machine."""
        import numpy

        if isinstance(value, numpy.ma.MaskedArray):  # what is masked has no value, whatever stands under the mask
            return self.encode(value.tolist())
        is_scalar = isinstance(value, numpy.generic)
        if value.dtype.name not in DTYPES:
            if value.dtype.kind not in "fc":
                return self.encode(value.item() if is_scalar else value.tolist())
            with numpy.errstate(over="ignore"):  # of long doubles, what no float64 holds becomes infinite
                value = value.astype(numpy.float64 if value.dtype.kind == "f" else numpy.complex128)
        return {"scalar" if is_scalar else "array": _buffer(value)}

    def _tensor(self, value: torch.Tensor) -> Any:
        """A tensor as NumPy can hold it, and bfloat16 as float32; an object if it has no numbers."""
        import torch

        try:
            value = value.detach()
            if value.layout is not torch.strided:
                value = value.to_dense()
            if value.is_quantized:
                value = value.dequantize()
            value = value.cpu().resolve_neg().resolve_conj()
            if value.dtype is torch.complex32:
                value = value.to(torch.complex64)
            elif value.is_floating_point() and value.dtype.itemsize == 1:
                value = value.float()
            if value.dtype is torch.bfloat16:  # NumPy has none
                return {"bfloat16": _buffer(value.float().numpy())}
            return {"tensor": _buffer(value.numpy())}
        except (RuntimeError, TypeError, NotImplementedError):
            return {"object": "Tensor without numbers"}  # on PyTorch's meta device


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
        return math.nan if isinstance(value, class_of("decimal", "Decimal")) and value.is_nan() else None


def _buffer(array_like: Any) -> list[Any]:
    """The type, the shape and the bytes of an array, in this machine's byte order."""
    import numpy

    native = numpy.asarray(array_like, dtype=array_like.dtype.name)
    return [native.dtype.name, list(native.shape), base64.b64encode(native.tobytes()).decode()]


class _Decoder(_Counter):
    """Decodes one value."""

    def __init__(self) -> None:
        super().__init__()
        self._types: dict[tuple[str, type], type] = {}

    def named(self, name: Any, base: type) -> type:
        """A subclass of `base` that is named after another type; of many types, the last have no name."""
        plain = "".join(c for c in str(name)[:60] if c.isalnum() or c in "_ <>=") or "object"
        if (plain, base) not in self._types:
            if len(self._types) >= MOST_TYPES:
                return base
            self._types[plain, base] = type(plain, (base,), {})
        return self._types[plain, base]

    def decode(self, value: Any) -> Any:
        self.count()
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

    def _read_out(self, payload: Any) -> Listed:
        name, parts = payload
        listed: Listed = self.named(name, Listed)(self._all(parts))
        return listed

    def _complex(self, payload: Any) -> complex:
        real, imaginary = self._all(payload)
        if type(real) is not float or type(imaginary) is not float:
            raise Unsendable("not a complex number")
        return complex(real, imaginary)


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


def _checked_list(payload: Any) -> list[Any]:
    if not isinstance(payload, list):
        raise Unsendable("not a list of values")
    return payload


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
    "complex": _Decoder._complex,
    "object": lambda decoder, payload: decoder.named(payload, Opaque)(),
    "listed": _Decoder._read_out,
}
