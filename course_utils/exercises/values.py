"""The values that answers return: read out, so that they can be compared, and as JSON on their way out of the sandbox.

The check in the notebook compares `settled(value)`, grading compares `decode(encode(value))`; both are the same. Values that
JSON has are written as they are; every other value is an object with one key that names its type, so that a tuple comes back
as a tuple and NaN as NaN.

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
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
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


def settled(value: Any) -> Any:
    """Return a value in the form in which it is compared.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, NumPy arrays and scalars, PyTorch tensors
            of any shape and layout, and any nesting of these. Generators and other iterables are read out; a dataclass
            becomes a tuple, another library's column an array, its numbers floats; anything else an `Opaque`.

    Raises:
        Unsendable: the value has more than 100,000 parts, or an int of more than 65,536 bits. Reading out the learner's own
            iterable can also raise any other error.
        RecursionError: the value contains itself.
    """
    return _Settler().settle(value)


def encode(value: Any) -> Any:
    """Return a value, settled, as plain JSON; raises what `settled` raises."""
    return _as_json(settled(value))


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


class _Walk:
    """What one value may cost: so many parts, and so many classes that stand for other types."""

    def __init__(self) -> None:
        self.remaining_parts = MOST_PARTS
        self._types: dict[tuple[str, type], type] = {}

    def count(self) -> None:
        """Count a part.

        Raises:
            Unsendable: there have been too many.
        """
        self.remaining_parts -= 1
        if self.remaining_parts < 0:
            raise Unsendable(f"it has more than {MOST_PARTS:,} parts")

    def named(self, name: Any, base: type) -> type:
        """A subclass of `base` that is named after another type."""
        plain = "".join(c for c in str(name)[:60] if c.isalnum() or c in "_ <>=") or "object"
        if (plain, base) not in self._types:
            if len(self._types) >= MOST_TYPES:
                return base
            self._types[plain, base] = type(plain, (base,), {})
        return self._types[plain, base]


class _Settler(_Walk):
    """Settles one value."""

    def settle(self, value: Any) -> Any:
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
            return whole
        if isinstance(value, float):
            return float(value)
        if isinstance(value, list):
            return [self.settle(part) for part in value]
        if isinstance(value, tuple):
            return tuple(self.settle(part) for part in value)
        if isinstance(value, dict):
            return {self.settle(name): self.settle(part) for name, part in value.items()}
        if isinstance(value, (set, frozenset)):
            return {self.settle(part) for part in value}
        if isinstance(value, (bytes, bytearray)):
            return bytes(value)
        if isinstance(value, complex):
            return complex(value)
        if is_tensor(value):
            return self._tensor(value)
        if isinstance(value, class_of("numpy", "ndarray")):
            return self._array(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return tuple(self.settle(getattr(value, field.name)) for field in dataclasses.fields(value))
        if isinstance(value, READ_OUT):
            parts = [self.settle(part) for part in islice(value, self.remaining_parts + 1)]
            return self.named(type(value).__name__, Listed)(parts)
        if hasattr(type(value), "__array__"):  # columns of pandas and other libraries
            import numpy

            return self.settle(numpy.asarray(value))
        if isinstance(value, numbers.Real) or hasattr(type(value), "__float__"):
            plain = _number(value)  # Fraction, Decimal
            if plain is not None:
                return self.settle(plain)
        return self.named(type(value).__name__, Opaque)()

    def _array(self, value: Any) -> Any:
        """An array or a scalar whose format is the same on every machine."""
        import numpy

        if isinstance(value, numpy.ma.MaskedArray):  # what is masked has no value, whatever stands under the mask
            return self.settle(value.tolist())
        if value.dtype.name in DTYPES:
            return value
        if value.dtype.kind in "fc":  # long doubles
            with numpy.errstate(over="ignore"):  # what no float64 holds becomes infinite
                return value.astype(numpy.float64 if value.dtype.kind == "f" else numpy.complex128)
        return self.settle(value.item() if isinstance(value, numpy.generic) else value.tolist())

    def _tensor(self, value: torch.Tensor) -> Any:
        """A tensor that NumPy can hold, with bfloat16 as it is; an `Opaque` if it has no numbers."""
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
            _numpy_of(value)
        except (RuntimeError, TypeError, NotImplementedError):
            return self.named("Tensor without numbers", Opaque)()  # on PyTorch's meta device
        return value


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


def _numpy_of(tensor: torch.Tensor) -> numpy.ndarray:
    import torch

    return tensor.float().numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()  # NumPy has no bfloat16


def _as_json(value: Any) -> Any:
    """A settled value as JSON."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if value.bit_length() < 64 else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [_as_json(part) for part in value]
    if kind in (tuple, set):
        return {kind.__name__: [_as_json(part) for part in value]}
    if kind is dict:
        return {"dict": [[_as_json(name), _as_json(part)] for name, part in value.items()]}
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if kind is complex:
        return {"complex": [_as_json(value.real), _as_json(value.imag)]}
    if isinstance(value, Listed):
        return {"listed": [kind.__name__, [_as_json(part) for part in value]]}
    if isinstance(value, Opaque):
        return {"object": kind.__name__}
    if is_tensor(value):
        return {"bfloat16" if str(value.dtype) == "torch.bfloat16" else "tensor": _buffer(_numpy_of(value))}
    return {"scalar" if isinstance(value, class_of("numpy", "generic")) else "array": _buffer(value)}


def _buffer(array_like: Any) -> list[Any]:
    """The type, the shape and the bytes of an array, in this machine's byte order."""
    import numpy

    native = numpy.asarray(array_like, dtype=array_like.dtype.name)
    return [native.dtype.name, list(native.shape), base64.b64encode(native.tobytes()).decode()]


class _Decoder(_Walk):
    """Decodes one value."""

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
