"""The definition of an exercise, which serves the notebook, the check and the tests.

The solution is an ordinary function whose body stands between markers; the stub in the learner's notebook is made from it,
so the two cannot drift apart. Typical mistakes are functions too: an answer that gives the same values as a mistake gets
that mistake's diagnosis.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import random
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from course_utils import __version__
from course_utils.files import write_whole

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = ("# YOUR CODE HERE", "...")


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people typically give.

    Attributes:
        function: computes the wrong answer; same arguments as the solution.
        diagnosis: states the convention that was missed, without scolding.
    """

    function: Callable
    diagnosis: str


@dataclass(frozen=True)
class Challenge:
    """How a challenge is marked: what the answer returns is run, and its result must reach a bar.

    Attributes:
        run: takes what the answer returned and gives the result, lower being better. It checks first what it was given, and
            raises ValueError with what to tell the learner.
        bar: the result that earns full marks.
        half: the result that earns half of them.
        advise: takes what the answer returned and the result, and says what to try next.
        measure: what the result is, in words.
    """

    run: Callable[[Any], float]
    bar: float
    half: float
    advise: Callable[[Any, float], str]
    measure: str

    def judge(self, value: Any, points: int) -> tuple[float, str]:
        """Points reached, and what to tell the learner."""
        try:
            result = self.run(value)
        except ValueError as error:
            return 0.0, str(error)
        summary = f"Your settings were run: {self.measure} {result:.4g}; the bar is {self.bar:g}."
        if result <= self.bar:
            return float(points), summary
        return (points / 2 if result <= self.half else 0.0), f"{summary} {self.advise(value, result)}"


# One run at a time: grading marks in several threads, and neither transformers' loading (it builds models without weights by a
# setting of the whole process) nor torch's random numbers are a thread's own.
_RUNNING = Lock()


def remembered(name: str, **conditions: object) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Decorator: the same keyword arguments are computed once on this machine.

    Files lie in `challenges/` of the course's cache, which only the user can write: answers run elsewhere (`grading.sandbox`). A
    cache that cannot be read or written costs time and nothing else.

    Args:
        name: of the files, e.g. the exercise's id.
        conditions: what the result depends on beside the arguments and the versions of torch and the course; JSON values.
    """

    def decorate(function: Callable[..., float]) -> Callable[..., float]:
        @lru_cache(maxsize=1024)
        def result(key: str) -> float:
            from course_utils.models.packaged import cache_folder

            arguments = json.loads(key)
            everything = {"arguments": arguments, "conditions": conditions, "versions": _versions()}
            digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]
            file = cache_folder() / "challenges" / f"{name}-{digest}.json"
            with _RUNNING:  # whoever waited finds the result of the same run
                with suppress(OSError, ValueError, KeyError, TypeError):
                    return float(json.loads(file.read_text(encoding="utf-8"))["result"])
                value = float(function(**arguments))
                with suppress(OSError):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(file, json.dumps({"result": value, **everything}).encode())
            return value

        @wraps(function)
        def remembering(**arguments: object) -> float:
            return result(json.dumps(arguments, sort_keys=True))

        return remembering

    return decorate


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"course": __version__, "torch": version("torch")}


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        id: letters, digits and hyphens, e.g. "lora-2".
        title: a few words.
        statement: Markdown above the answer cell.
        solution: the function asked for, its body between the markers.
        cases: makes argument tuples from a `numpy.random.Generator`; few, and different at every call.
        points: full marks.
        tolerance: relative; absolute for values near zero.
        mistakes: typical wrong answers.
        hint: shown from the third wrong try on.
        whole: whether its numbers are whole, so that a float is wrong: the statement asks for int.
        keeps: names of arguments that the answer must not change; the statement says so.
        challenge: for an exercise whose answer is run and not compared; its function is called once, with its first case.
        needs: libraries, without which it cannot be checked; one that needs none can be solved on a page of the book.
        equivalent: small changes of the solution after which it computes the same, and why, by the names that
            `tests/exercises/test_mutants.py` gives them; all other changes must cost points.
    """

    id: str
    title: str
    statement: str
    solution: Callable
    cases: Callable[..., Sequence[tuple]]
    points: int
    mistakes: tuple[Mistake, ...]
    hint: str
    tolerance: float = 1e-5
    whole: bool = False
    keeps: tuple[str, ...] = ()
    challenge: Challenge | None = None
    needs: tuple[str, ...] = ()
    equivalent: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Name of the function the learner writes."""
        return self.solution.__name__

    @property
    def kept(self) -> list[int]:
        """Places of the arguments that the answer must not change."""
        names = list(inspect.signature(self.solution).parameters)
        return [names.index(name) for name in self.keeps]

    @property
    def worth(self) -> str:
        """Its points in words, e.g. "2 points"."""
        return f"{self.points} point" + "s" * (self.points != 1)

    def source(self) -> str:
        """The solution as a notebook cell, markers included."""
        return f"# EXERCISE: {self.id}\n" + textwrap.dedent(inspect.getsource(self.solution)).rstrip()

    def check_source(self) -> str:
        """The check cell."""
        return f'# CHECK: {self.id} ({self.worth}) - run me, do not edit\nscore = check("{self.id}", {self.name})\nscore'


def strip_solution(source: str) -> str:
    """Replace the code between the markers with a stub that runs and returns None."""
    stub_lines, inside = [], False
    for line in source.splitlines():
        stripped = line.strip()
        if stripped == BEGIN:
            indent = line[: len(line) - len(line.lstrip())]
            stub_lines += [indent + text for text in STUB]
            inside = True
        elif stripped == END:
            inside = False
        elif not inside:
            stub_lines.append(line)
    if inside:
        raise ValueError(f"{BEGIN} without {END}")
    return "\n".join(stub_lines)


# -- where cases come from: NumPy's generator, or Python's own where there is no NumPy, as in a page ------------------------


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
