"""Marks an answer and says what is wrong with it.

Runs in the learner's kernel, so it is a help, not an examination: it never raises, and it shows inputs and expected values
freely. Grading for marks runs elsewhere.
"""

from __future__ import annotations

import copy
from collections import Counter
from html import escape

from course_utils.errors import CourseError
from course_utils.exercises.definitions import Exercise
from course_utils.exercises.registry import EXERCISES

_tries: Counter = Counter()


class Score(float):
    """Points reached, with the reason; a float, so that a notebook's last line can be one."""

    def __new__(cls, points: float, exercise: Exercise, message: str, hint: str = ""):
        """Points out of the exercise's, and what to tell the learner."""
        self = super().__new__(cls, points)
        self.exercise, self.message, self.hint = exercise, message, hint
        return self

    @property
    def passed(self) -> bool:
        """Whether all points were reached."""
        return float(self) == self.exercise.points

    def __repr__(self) -> str:
        state = "passed" if self.passed else "not yet"
        text = f"{self.exercise.id}: {float(self):g} of {self.exercise.points} points ({state}). {self.message}"
        return text + (f"\nHint: {self.hint}" if self.hint else "")

    def _repr_html_(self) -> str:
        state = "passed" if self.passed else "not yet"
        colour = "#009E73" if self.passed else "#D55E00"
        hint = f"<br><b>Hint:</b> {escape(self.hint)}" if self.hint else ""
        return (
            f'<div style="border-left:4px solid {colour};padding:.4em .8em"><b>{self.exercise.id}: {float(self):g} of '
            f"{self.exercise.points} points ({state}).</b> {escape(self.message)}{hint}</div>"
        )


def check(id: str, answer) -> Score:
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


def _mark(exercise: Exercise, answer) -> tuple[float, str]:
    import numpy as np

    if not callable(answer):
        return 0.0, f"{exercise.name} is not a function; run the answer cell above first."
    cases = list(exercise.cases(np.random.default_rng()))
    right, first_wrong = 0, ""
    outputs = []
    for arguments in cases:
        expected = exercise.solution(*_copy(arguments))
        given = _copy(arguments)
        try:
            found = answer(*given)
        except Exception as error:
            found = error
        outputs.append(found)
        if _same(found, expected, exercise.tolerance):
            right += 1
        elif not first_wrong:
            first_wrong = _describe(arguments, found, expected)
    if right == len(cases):
        return float(exercise.points), f"All {right} cases right."
    if all(found is None for found in outputs):
        return 0.0, f"{exercise.name} returns None: write the body, and return the result."
    points = round(exercise.points * right / len(cases), 2)
    diagnosis = _diagnose(exercise, cases, outputs)
    return points, f"{right} of {len(cases)} cases right. {diagnosis or first_wrong}"


def _diagnose(exercise: Exercise, cases, outputs) -> str:
    """The diagnosis of the mistake that computes what the answer computes, on every case."""
    for mistake in exercise.mistakes:
        try:
            wrong = [mistake.function(*_copy(arguments)) for arguments in cases]
        except Exception:  # a mistake may well crash on a case; then the answer is not this mistake
            continue
        if all(_same(found, value, exercise.tolerance) for found, value in zip(outputs, wrong)):
            return mistake.diagnosis
    return ""


def _describe(arguments, found, expected) -> str:
    if isinstance(found, Exception):
        return f"It raised {type(found).__name__}: {str(found)[:200]}"
    if _shape(found) != _shape(expected):
        return f"Expected {_shape(expected)}, got {_shape(found)}."
    return f"For {_short(arguments)} expected {_short(expected)}, got {_short(found)}."


def _same(found, expected, tolerance: float) -> bool:
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
        found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    except (TypeError, ValueError, RuntimeError):
        return False
    return found.shape == expected.shape and np.allclose(found, expected, rtol=tolerance, atol=tolerance)


def _shape(value) -> str:
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, (int, float)):
        return "a number"
    if value is None:
        return "None"
    return f"a {type(value).__name__}"


def _short(value) -> str:
    import torch

    if isinstance(value, torch.Tensor) and value.numel() > 6:
        return f"tensor{tuple(value.shape)} starting {[round(v, 4) for v in value.flatten()[:3].tolist()]}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_short, value)) + ")"
    return f"{value!r}"[:160]


def _copy(arguments):
    import torch

    return tuple(a.clone() if isinstance(a, torch.Tensor) else copy.deepcopy(a) for a in arguments)
