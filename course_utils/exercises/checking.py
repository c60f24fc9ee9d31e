"""Marks an answer and says what is wrong with it.

Runs in the learner's kernel, so it is a help, not an examination: it never raises, and it shows inputs and expected values
freely. Grading for marks runs elsewhere.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from html import escape
from typing import TYPE_CHECKING, Any, Self

from course_utils.errors import CourseError
from course_utils.exercises.comparing import described, key, same, settled, short
from course_utils.exercises.definitions import Exercise
from course_utils.exercises.registry import EXERCISES

if TYPE_CHECKING:
    import numpy as np

_tries: Counter[str] = Counter()


class Score(float):
    """Points reached, with the reason; a float, so that a notebook's last line can be one.

    Its `repr` is the bare number: nbgrader reads a check cell's points from there, and takes anything that is no number for
    full marks. The reason is in `str`, and in HTML.
    """

    exercise: Exercise
    message: str
    hint: str

    def __new__(cls, points: float, exercise: Exercise, message: str, hint: str = "") -> Self:
        """Points out of the exercise's, and what to tell the learner."""
        self = super().__new__(cls, points)
        self.exercise, self.message, self.hint = exercise, message, hint
        return self

    @property
    def passed(self) -> bool:
        """Whether all points were reached."""
        return float(self) == self.exercise.points

    def __repr__(self) -> str:
        return float.__repr__(self)

    def __str__(self) -> str:
        state = "passed" if self.passed else "not yet"
        text = f"{self.exercise.id}: {float(self):g} of {self.exercise.worth} ({state}). {self.message}"
        return text + (f"\nHint: {self.hint}" if self.hint else "")

    def _repr_html_(self) -> str:
        state = "passed" if self.passed else "not yet"
        colour = "#009E73" if self.passed else "#D55E00"
        hint = f"<br><b>Hint:</b> {escape(self.hint)}" if self.hint else ""
        return (
            f'<div style="border-left:4px solid {colour};padding:.4em .8em"><b>{self.exercise.id}: {float(self):g} of '
            f"{self.exercise.worth} ({state}).</b> {escape(self.message)}{hint}</div>"
        )


def check(id: str, answer: object) -> Score:
    """Mark a function; works offline, never raises for what the answer does.

    Args:
        id: the exercise, e.g. "lora-1".
        answer: the learner's function.

    Returns:
        Score: points (share of cases right), the diagnosis, and on the third wrong try a hint.

    Raises:
        CourseError: unknown exercise id; that is the notebook's fault, not the answer's.
    """
    if id not in EXERCISES:
        raise CourseError(f"unknown exercise {id!r}; there are {', '.join(EXERCISES)}")
    exercise = EXERCISES[id]
    points, message = _mark(exercise, answer)
    if points == exercise.points:
        _tries[id] = 0
        return Score(points, exercise, message)
    _tries[id] += 1
    return Score(points, exercise, message, exercise.hint if _tries[id] >= 3 else "")


def _mark(exercise: Exercise, answer: object) -> tuple[float, str]:
    import numpy as np

    if not callable(answer):
        return 0.0, f"{exercise.name} is not a function; run the answer cell above first."
    asked = Asked.of(exercise, np.random.default_rng())
    outputs: list[Any] = []
    for arguments in asked.cases:
        try:
            outputs.append(settled(answer(*_copy(arguments))))
        except Exception as error:
            outputs.append(error)
    return judge(exercise, asked, outputs)[:2]


class Raised(Exception):
    """Stands among the outputs for a call that gave no value; its text is the error as `Type: text`."""


@dataclass(frozen=True)
class Asked:
    """Cases of an exercise with what is right, and what each typical mistake makes of them.

    Attributes:
        exercise: which.
        cases: argument tuples; whoever calls with them copies them first.
        expected: the solution's value of each.
    """

    exercise: Exercise
    cases: list[tuple]
    expected: list

    @classmethod
    def of(cls, exercise: Exercise, random: np.random.Generator) -> Asked:
        """New cases from a `numpy.random.Generator`.

        One whole set of them, so that every rule is asked for, and some of another, so that their number and mix vary. They are
        shuffled: what the first call or the fifth is about says nothing.
        """
        cases, others = list(exercise.cases(random)), list(exercise.cases(random))
        more = random.permutation(len(others))[: int(random.integers(0, len(others) + 1))]
        cases += [others[index] for index in more]
        cases = [cases[index] for index in random.permutation(len(cases))]
        return cls(exercise, cases, [exercise.solution(*_copy(arguments)) for arguments in cases])

    @cached_property
    def wrong(self) -> list[list | None]:
        """For each of the exercise's mistakes its values, or None if it crashes on a case."""
        return [_outputs(mistake.function, self.cases) for mistake in self.exercise.mistakes]


def _outputs(function: Callable[..., Any], cases: Sequence[tuple]) -> list | None:
    try:
        return [function(*_copy(arguments)) for arguments in cases]
    except Exception:  # a mistake may well crash on a case; then no answer is this mistake
        return None


def judge(exercise: Exercise, asked: Asked, outputs: list) -> tuple[float, str, int | None]:
    """Mark what an answer gave.

    Args:
        exercise: which.
        asked: the cases.
        outputs: what the answer gave for each of them: its value, or the exception that it raised.

    Returns:
        Points (full ones times the share of cases right, on two decimals; none for what an answer can reach that does not look
        at its arguments), what to tell the learner, and which of the exercise's mistakes it is: the one that computes what the
        answer computes, on every case; None if there is none.
    """
    tolerance = exercise.tolerance
    right = [same(found, expected, tolerance) for found, expected in zip(outputs, asked.expected)]
    hits, number = sum(right), len(asked.cases)
    if hits == number:
        return float(exercise.points), f"All {hits} cases right.", None
    if all(found is None for found in outputs):
        return 0.0, f"{exercise.name} returns None: write the body, and return the result.", None
    met = [value for value, hit in zip(asked.expected, right) if hit]
    constant = any(all(same(found, value, tolerance) for found in outputs) for value in met)
    blind = constant or (hits > 0 and _by_chance(asked, right))
    points = 0.0 if blind else round(exercise.points * hits / number, 2)
    for index, wrong in enumerate(asked.wrong):
        if wrong is not None and all(same(found, value, tolerance) for found, value in zip(outputs, wrong)):
            return points, f"{hits} of {number} cases right. {exercise.mistakes[index].diagnosis}", index
    if constant:
        return points, f"{exercise.name} gives {short(outputs[0])} whatever the arguments are; that earns no points.", None
    first = right.index(False)
    found = outputs[first]
    if isinstance(found, Raised):
        said = f"It raised {found}"
    elif isinstance(found, Exception):
        said = f"It raised {type(found).__name__}: {str(found)[:200]}"
    else:
        said = described(asked.cases[first], found, asked.expected[first], tolerance)
    chance = " (no more than chance, so no points yet)" if blind else ""
    return points, f"{hits} of {number} cases right{chance}. {said}", None


def _by_chance(asked: Asked, right: list[bool]) -> bool:
    """Whether an answer that does not look at its arguments can be right so often.

    Cases are shuffled, so such an answer meets in the mean no more cases than the commonest value has, and hardly ever four
    standard deviations more. It cannot meet a value that other draws do not have.
    """
    values, number = asked.expected, len(asked.expected)
    picked = [_among(value, arguments) for value, arguments in zip(values, asked.cases)]
    common = _common(asked.exercise)
    if any(hit and not pick and key(value) not in common for hit, pick, value in zip(right, picked, values)):
        return False
    share = max(Counter(map(key, values)).values()) / number
    if any(picked):  # where a part of the argument is asked for, the third of three is a guess too
        share = max(share, 1 / 3)
    return sum(right) <= number * share + 4 * math.sqrt(number * share * (1 - share))


@lru_cache
def _common(exercise: Exercise) -> frozenset[str]:
    """What is right in other draws, as keys."""
    import numpy as np

    draws = (Asked.of(exercise, np.random.default_rng(seed)) for seed in range(40))
    return frozenset(key(value) for asked in draws for value in asked.expected)


def _among(value: Any, arguments: Any) -> bool:
    """Whether a text stands among the arguments as it is."""
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(value, str) and isinstance(arguments, (list, tuple)):
        return any(part == value if isinstance(part, str) else _among(value, part) for part in arguments)
    return False


def _copy(arguments: tuple) -> tuple:
    import torch

    return tuple(a.clone() if isinstance(a, torch.Tensor) else copy.deepcopy(a) for a in arguments)
