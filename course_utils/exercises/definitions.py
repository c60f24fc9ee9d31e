"""What an exercise is: one definition serves the notebook, the check and the tests.

The solution is an ordinary function whose body stands between markers; the stub in the learner's notebook is made from it,
so the two cannot drift apart. Typical mistakes are functions too: an answer that computes what a mistake computes gets
that mistake's diagnosis.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
class Exercise:
    """One exercise.

    Attributes:
        id: letters, digits and hyphens, e.g. "lora-1".
        title: a few words.
        statement: Markdown above the answer cell.
        solution: the function asked for, its body between the markers.
        cases: makes argument tuples from a `numpy.random.Generator`; small, and different at every call.
        points: full marks.
        objectives: which of the lesson's "By the end you will be able to" it practises, counted from 1.
        tolerance: relative; absolute for values near zero.
        mistakes: typical wrong answers.
        hint: shown from the third wrong try on.
    """

    id: str
    title: str
    statement: str
    solution: Callable
    cases: Callable[..., Sequence[tuple]]
    points: int
    objectives: tuple[int, ...]
    mistakes: tuple[Mistake, ...]
    hint: str
    tolerance: float = 1e-5

    @property
    def name(self) -> str:
        """Name of the function the learner writes."""
        return self.solution.__name__

    @property
    def worth(self) -> str:
        """Its points in words."""
        return f"{self.points} point" + "s" * (self.points != 1)

    def source(self) -> str:
        """The solution as a notebook cell, markers included."""
        return f"# EXERCISE: {self.id}\n" + textwrap.dedent(inspect.getsource(self.solution)).rstrip()

    def check_source(self) -> str:
        """The check cell."""
        return f'# CHECK: {self.id} ({self.worth}) - run me, do not edit\nscore = check("{self.id}", {self.name})\nscore'


def strip_solution(source: str) -> str:
    """Replace what stands between the markers by a stub that runs and returns None."""
    kept, inside = [], False
    for line in source.splitlines():
        mark = line.strip()
        if mark == BEGIN:
            indent = line[: len(line) - len(line.lstrip())]
            kept += [indent + text for text in STUB]
            inside = True
        elif mark == END:
            inside = False
        elif not inside:
            kept.append(line)
    if inside:
        raise ValueError(f"{BEGIN} without {END}")
    return "\n".join(kept)


def solution_lines(source: str) -> list[str]:
    """The lines between the markers, stripped."""
    lines, inside = [], False
    for line in source.splitlines():
        mark = line.strip()
        if mark in (BEGIN, END):
            inside = mark == BEGIN
        elif inside and mark:
            lines.append(mark)
    return lines
