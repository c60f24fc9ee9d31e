"""Marks an answer and says what is wrong with it.

Runs in the learner's kernel, so it is a help, not an examination: it never raises, and it shows inputs and expected values
freely. Grading for marks runs elsewhere.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Self

from course_utils.errors import CourseError
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
            outputs.append(answer(*_copy(arguments)))
        except Exception as error:
            outputs.append(error)
    return judge(exercise, asked, outputs)[:2]


class Raised(Exception):
    """Stands among the outputs for a call that gave no value; its text is the error as `Type: text`."""


@dataclass(frozen=True)
class Asked:
    """Cases of an exercise with what is right, and what each typical mistake makes of them.

    Attributes:
        cases: argument tuples; whoever calls with them copies them first.
        expected: the solution's value of each.
        wrong: for each of the exercise's mistakes its values, or None if it crashes on a case.
    """

    cases: list[tuple]
    expected: list
    wrong: list[list | None]

    @classmethod
    def of(cls, exercise: Exercise, random: np.random.Generator) -> Asked:
        """New cases from a `numpy.random.Generator`."""
        cases = list(exercise.cases(random))
        expected = [exercise.solution(*_copy(arguments)) for arguments in cases]
        return cls(cases, expected, [_outputs(mistake.function, cases) for mistake in exercise.mistakes])


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
        Points (full ones times the share of cases right, on two decimals; none for an answer that is always the same), what
        to tell the learner, and which of the exercise's mistakes it is: the one that computes what the answer computes, on
        every case; None if there is none.
    """
    same = [_same(found, expected, exercise.tolerance) for found, expected in zip(outputs, asked.expected)]
    right, number = sum(same), len(asked.cases)
    if right == number:
        return float(exercise.points), f"All {right} cases right.", None
    if all(found is None for found in outputs):
        return 0.0, f"{exercise.name} returns None: write the body, and return the result.", None
    met = [value for value, hit in zip(asked.expected, same) if hit]
    constant = any(all(_same(found, value, exercise.tolerance) for found in outputs) for value in met)
    points = 0.0 if constant else round(exercise.points * right / number, 2)  # cases met by chance earn nothing
    for index, wrong in enumerate(asked.wrong):
        if wrong is not None and all(_same(found, value, exercise.tolerance) for found, value in zip(outputs, wrong)):
            return points, f"{right} of {number} cases right. {exercise.mistakes[index].diagnosis}", index
    if constant:
        return points, f"{exercise.name} gives {_short(outputs[0])} whatever the arguments are; that earns no points.", None
    first = same.index(False)
    said = _describe(asked.cases[first], outputs[first], asked.expected[first])
    return points, f"{right} of {number} cases right. {said}", None


def _describe(arguments: tuple, found: object, expected: object) -> str:
    if isinstance(found, Raised):
        return f"It raised {found}"
    if isinstance(found, Exception):
        return f"It raised {type(found).__name__}: {str(found)[:200]}"
    if _shape(found) != _shape(expected):
        value = f" {_short(found)}" if isinstance(found, str) else ""
        return f"Expected {_shape(expected)}, got {_shape(found)}{value}."
    return f"For {_short(arguments)} expected {_short(expected)}, got {_short(found)}."


def _same(found: Any, expected: Any, tolerance: float) -> bool:
    import numpy as np
    import torch

    if isinstance(found, Exception):
        return False
    if found is None or expected is None:
        return found is expected
    if isinstance(expected, (tuple, list)):
        return (
            isinstance(found, (tuple, list))
            and len(found) == len(expected)
            and all(_same(a, b, tolerance) for a, b in zip(found, expected))
        )
    if isinstance(expected, (bool, str)) or isinstance(found, str):
        return type(found) is type(expected) and found == expected
    try:
        if isinstance(found, torch.Tensor):
            found = found.detach().cpu().numpy()
        if isinstance(expected, torch.Tensor):
            expected = expected.detach().numpy()
        if np.iscomplexobj(found):  # as real numbers they would lose a part without a word
            return False
        found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return found.shape == expected.shape and np.allclose(found, expected, rtol=tolerance, atol=tolerance)


def _shape(value: object) -> str:
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, (int, float)):
        return "a number"
    if value is None:
        return "None"
    return f"a {type(value).__name__}"


def _short(value: object) -> str:
    import torch

    try:
        if isinstance(value, torch.Tensor) and value.numel() > 6:
            first = value.flatten()[:3].tolist()
            rounded = [round(v, 4) if isinstance(v, float) else v for v in first]
            return f"tensor{tuple(value.shape)} starting {rounded}"
        if isinstance(value, tuple):
            return "(" + ", ".join(map(_short, value)) + ")"
        return f"{value!r}"[:160]
    except Exception:  # an int of thousands of digits, or an object of the learner's
        return f"a {type(value).__name__} that cannot be shown"


def _copy(arguments: tuple) -> tuple:
    import torch

    return tuple(a.clone() if isinstance(a, torch.Tensor) else copy.deepcopy(a) for a in arguments)
