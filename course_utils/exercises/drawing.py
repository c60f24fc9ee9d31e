"""Where cases come from: NumPy's generator, or Python's own where there is no NumPy, as in a page's Python."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np

    Generator: TypeAlias = "np.random.Generator | Draws"
else:
    Generator = Any

T = TypeVar("T")


def generator(seed: int | None = None) -> Generator:
    """Return a source of cases.

    Args:
        seed: the same seed gives the same cases, from each of the two kinds of source; None gives new ones.

    Returns:
        `numpy.random.Generator`, or `Draws` if NumPy is not installed.
    """
    if importlib.util.find_spec("numpy") is None:
        return Draws(seed)
    import numpy as np

    return np.random.default_rng(seed)


class Drawn(list):
    """Several numbers or elements. Arithmetic is refused: for a list it would mean something else than for NumPy's array."""

    def _refused(self, other: object) -> NoReturn:
        raise TypeError("calculate with each element of what was drawn, not with all at once: there may be no NumPy")

    __add__ = __radd__ = __mul__ = __rmul__ = __iadd__ = __imul__ = _refused


class Draws:
    """The methods of `numpy.random.Generator` that torch-free exercises call, on Python's `random`.

    The distributions are NumPy's, the numbers drawn are not. Numbers are Python's, and what is an array there is a list here,
    with which nothing can be calculated as a whole. A `size` is a number, not a shape.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)

    @staticmethod
    def _sized(draw: Callable[[], T], size: int | None) -> T | Drawn:
        return draw() if size is None else Drawn(draw() for _ in range(size))

    def integers(self, low: int, high: int | None = None, size: int | None = None) -> Any:
        """Whole numbers from `low` to below `high`, or from 0 to below `low` if there is no `high`."""
        start, stop = (0, low) if high is None else (low, high)
        return self._sized(lambda: self._random.randrange(start, stop), size)

    def random(self, size: int | None = None) -> Any:
        """Numbers from 0 to below 1."""
        return self._sized(self._random.random, size)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: int | None = None) -> Any:
        """Numbers from `low` to `high`."""
        return self._sized(lambda: self._random.uniform(low, high), size)

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: int | None = None) -> Any:
        """Numbers of the normal distribution with this mean and standard deviation."""
        return self._sized(lambda: self._random.normalvariate(loc, scale), size)

    def choice(self, a: Sequence[T], size: int | None = None, replace: bool = True) -> Any:
        """Elements of a sequence, or of `range(a)` for a number; each at most once without `replace`."""
        options: Sequence[Any] = range(a) if isinstance(a, int) else a
        if not replace:
            return Drawn(self._random.sample(options, 1 if size is None else size))
        return self._sized(lambda: self._random.choice(options), size)

    def permutation(self, x: Sequence[T] | int) -> Drawn:
        """The elements of a sequence, or the numbers below `x`, in random order."""
        options: Sequence[Any] = range(x) if isinstance(x, int) else x
        return Drawn(self._random.sample(options, len(options)))
