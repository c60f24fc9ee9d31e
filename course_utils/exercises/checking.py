"""Marks an answer and says what is wrong with it.

Runs in the learner's kernel, so it is a help, not an examination: it never raises an error for an answer, and it shows
inputs and expected values freely. Grading for marks runs elsewhere.
"""

from __future__ import annotations

import copy
import math
import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from html import escape
from typing import Any, Self

from course_utils import assets
from course_utils.errors import CourseError
from course_utils.exercises import lesson_01, lesson_02, lesson_03, lesson_04, lesson_04_further, lesson_05, lesson_06
from course_utils.exercises.comparing import described, key, same, short
from course_utils.exercises.definitions import Exercise, Generator, generator
from course_utils.exercises.libraries import foreign, refusal
from course_utils.exercises.values import Unsendable, decode, encode, is_tensor

MODULES = (lesson_01, lesson_02, lesson_03, lesson_04, lesson_04_further, lesson_05, lesson_06)
EXERCISES = {exercise.id: exercise for module in MODULES for exercise in module.EXERCISES}
HINT_FROM = 3  # wrong tries
TO_WRITE = "Your answer goes into the cell above. Run that cell, then run this one."
_tries: Counter[str] = Counter()


class ExerciseScore(float):
    """Points reached, with the reason; a float, so that it can be the last line of a check cell.

    Its `repr` is the bare number: nbgrader reads a check cell's points from it, and gives full marks for anything that is
    not a number. `str` and the HTML contain the reason.
    """

    exercise: Exercise
    message: str
    hint: str

    def __new__(cls, points: float, exercise: Exercise, message: str, hint: str = "") -> Self:
        """Store the points out of the exercise's total, and what to tell the learner."""
        self = super().__new__(cls, points)
        self.exercise, self.message, self.hint = exercise, message, hint
        return self

    @property
    def passed(self) -> bool:
        """Whether all points were reached."""
        return float(self) == self.exercise.points

    @property
    def _state(self) -> str:
        if self.message == TO_WRITE:
            return f"{self.exercise.id}: {self.exercise.worth}."
        state = "passed" if self.passed else "not yet"
        return f"{self.exercise.id}: {float(self):g} of {self.exercise.worth} ({state})."

    def __repr__(self) -> str:
        return float.__repr__(self)

    def __str__(self) -> str:
        return f"{self._state} {self.message}" + (f"\nHint: {self.hint}" if self.hint else "")

    def _repr_html_(self) -> str:
        colour = "#009E73" if self.passed else "#767676" if self.message == TO_WRITE else "#D55E00"
        hint = f"<br><b>Hint:</b> {escape(self.hint)}" if self.hint else ""
        return (
            f'<div style="border-left:4px solid {colour};padding:.4em .8em"><b>{escape(self._state)}</b> '
            f"{escape(self.message)}{hint}</div>"
        )


def check(id: str, answer: object, seed: int | None = None) -> ExerciseScore:
    """Mark a function; works offline, and never raises an error because of the answer.

    Args:
        id: the exercise, e.g. "lora-2".
        answer: the learner's function.
        seed: of the cases; new cases at each call if None.

    Returns:
        ExerciseScore: points (by the share of cases right), the diagnosis, and from the third wrong try on a hint.

    Raises:
        CourseError: unknown exercise id, which is the notebook's fault, not the answer's.
    """
    if id not in EXERCISES:
        raise CourseError(f"unknown exercise {id!r}; there are {', '.join(EXERCISES)}")
    exercise = EXERCISES[id]
    if _is_untouched(answer):
        return ExerciseScore(0.0, exercise, TO_WRITE)  # no fault yet, and no try
    points, message = _mark(exercise, answer, seed)
    if points == exercise.points:
        _tries[id] = 0
        return ExerciseScore(points, exercise, message)
    _tries[id] += 1
    return ExerciseScore(points, exercise, message, " ".join(exercise.hint.split()) if _tries[id] >= HINT_FROM else "")


def _is_untouched(answer: object) -> bool:
    """True for a function that has a docstring and no body yet."""

    def untouched() -> None:
        """Do nothing."""

    code = getattr(answer, "__code__", None)
    return code is not None and (code.co_code, code.co_consts) == (untouched.__code__.co_code, (answer.__doc__, None))


def _mark(exercise: Exercise, answer: object, seed: int | None = None) -> tuple[float, str]:
    if not callable(answer):
        return 0.0, f"{exercise.name} is not a function; run the answer cell above first."
    if library := foreign(answer):
        return 0.0, refusal(library)
    case_set = CaseSet.of(exercise, generator(seed), one_set=True)
    return judge(exercise, case_set, _outputs(exercise, answer, case_set.cases))[:2]


class Changed(dict):
    """An output that stands for a value whose call changed an argument that was to stay as it is; equal to no value."""

    def __init__(self, value: Any) -> None:
        super().__init__({"returned, with an argument changed": value})


def _called(exercise: Exercise, function: Callable[..., Any], arguments: tuple) -> Any:
    """What a function gives for a case."""
    copies = _copy(arguments)
    value = decode(encode(function(*copies)))
    changed = any(not same(copies[place], arguments[place], 0.0) for place in exercise.kept)
    return Changed(value) if changed else value


class Raised(Exception):
    """An output that stands for a call that returned no value; its text is the error as `Type: text`."""


@dataclass(frozen=True)
class CaseSet:
    """Cases of an exercise with the expected values, and the values that each typical mistake gives.

    Attributes:
        exercise: the exercise.
        cases: argument tuples; copy them before calling anything with them.
        expected: the solution's value for each case.
    """

    exercise: Exercise
    cases: list[tuple]
    expected: list

    @classmethod
    def of(cls, exercise: Exercise, random: Generator, one_set: bool = False) -> CaseSet:
        """Draw new cases.

        Args:
            exercise: the exercise.
            random: a `drawing.generator`.
            one_set: draw one complete set, as for the check in a notebook, where each try is to be counted like the last.
                Grading adds part of a second one, so that an answer can't know the number and mix of its cases. Both are
                shuffled, so that the position of a call says nothing about its case.
        """
        if exercise.challenge:  # what it returns is run, whatever it is
            return cls(exercise, list(exercise.cases(random))[:1], [None])
        cases, second_set = list(exercise.cases(random)), [] if one_set else list(exercise.cases(random))
        extra = random.permutation(len(second_set))[: int(random.integers(0, len(second_set) + 1))]
        cases += [second_set[index] for index in extra]
        cases = [cases[index] for index in random.permutation(len(cases))]
        return cls(exercise, cases, [exercise.solution(*_copy(arguments)) for arguments in cases])

    def hits(self, outputs: Sequence) -> int:
        """How many of the values that an answer gave for the first cases are as expected."""
        if self.exercise.challenge:  # there is no expected value: what was returned is run
            return 0
        return sum(_is_right(self.exercise, output, value) for output, value in zip(outputs, self.expected))

    @cached_property
    def mistake_outputs(self) -> list[list]:
        """What each of the exercise's mistakes gives for each case: a value, or the error that it raises."""
        return [_outputs(self.exercise, mistake.function, self.cases) for mistake in self.exercise.mistakes]


def _is_right(exercise: Exercise, output: Any, expected: Any) -> bool:
    if exercise.whole and "float" in str(getattr(output, "dtype", type(output).__name__)):
        return False
    return same(output, expected, exercise.tolerance)


def _outputs(exercise: Exercise, function: Callable[..., Any], cases: Sequence[tuple]) -> list:
    """What an answer or a mistake gives for each case, or the error that it raises."""
    outputs: list[Any] = []
    for arguments in cases:
        try:
            outputs.append(_called(exercise, function, arguments))
        except Exception as error:
            outputs.append(error)
    return outputs


def _matches(outputs: Sequence, mistaken: Sequence, tolerance: float) -> bool:
    """Return True if an answer gives what a mistake gives for every case.

    Errors match whatever they say, unless the mistake gives nothing else: then they have to be the same, shapes included.
    """
    only_errors = all(isinstance(value, Exception) for value in mistaken)
    for output, value in zip(outputs, mistaken):
        if isinstance(value, Exception):
            if not isinstance(output, Exception) or (only_errors and _error_text(output) != _error_text(value)):
                return False
        elif not same(output, value, tolerance):
            return False
    return True


def judge(
    exercise: Exercise, case_set: CaseSet, outputs: list, examples: tuple[CaseSet, list] | None = None
) -> tuple[float, str, int | None]:
    """Mark the outputs of an answer.

    Args:
        exercise: the exercise.
        case_set: its cases.
        outputs: for each case, the value that the answer returned or the exception that it raised.
        examples: other cases, and the outputs for the first of them: what the learner is shown is taken from these. By
            default it is taken from the cases that are marked.

    Returns:
        Points (full points times the share of cases right, rounded to two decimals; none for a result that an answer could
        reach without looking at its arguments), what to tell the learner, and the index of the exercise's mistake that gives
        the same value as the answer on every case, or None if no mistake does.
    """
    if exercise.challenge:
        if isinstance(outputs[0], Exception):
            return 0.0, _what_was_raised(exercise, outputs[0]), None
        if outputs[0] is None:
            return 0.0, _returns_nothing(exercise), None
        points, message = exercise.challenge.judge(outputs[0], exercise.points)
        return points, message, next((i for i, m in enumerate(exercise.mistakes) if m.diagnosis in message), None)
    tolerance = exercise.tolerance
    right = [_is_right(exercise, output, expected) for output, expected in zip(outputs, case_set.expected)]
    hits, number = sum(right), len(case_set.cases)
    if hits == number:
        return float(exercise.points), f"All {hits} cases right.", None
    if all(output is None for output in outputs):
        return 0.0, _returns_nothing(exercise), None
    reached_values = [value for value, hit in zip(case_set.expected, right) if hit]
    constant = any(all(same(output, value, tolerance) for output in outputs) for value in reached_values)
    by_chance = constant or (hits > 0 and _by_chance(case_set, right))
    points = 0.0 if by_chance else round(exercise.points * hits / number, 2)
    for index, mistaken in enumerate(case_set.mistake_outputs):
        if _matches(outputs, mistaken, tolerance):
            return points, f"{hits} of {number} cases right. {exercise.mistakes[index].diagnosis}", index
    shown, shown_outputs = examples or (case_set, outputs)
    if constant and shown_outputs:
        value = short(shown_outputs[0])
        return points, f"{exercise.name} gives {value} whatever the arguments are; that earns no points.", None
    problem = next(
        (
            _problem(exercise, case, output, value)
            for case, output, value in zip(shown.cases, shown_outputs, shown.expected)
            if not _is_right(exercise, output, value)
        ),
        "No hidden case is shown; the check in the notebook draws new cases each time you run it, and shows those.",
    )
    chance = " (no more than chance, so no points yet)" if by_chance else ""
    return points, f"{hits} of {number} cases right{chance}. {problem}", None


def _problem(exercise: Exercise, case: tuple, output: Any, expected: Any) -> str:
    if isinstance(output, Exception):
        return _what_was_raised(exercise, output)
    if isinstance(output, Changed):
        names = " or ".join(exercise.keeps)
        return f"{exercise.name} changes {names}, which must stay as it is."
    if same(output, expected, exercise.tolerance):
        return f"Expected a whole number, got the float {short(output)}."
    return described(case, output, expected, exercise.tolerance)


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, Raised) else f"{type(error).__name__}: {str(error)[:200]}"


def _what_was_raised(exercise: Exercise, error: Exception) -> str:
    raised = _error_text(error)
    kind, _, text = raised.partition(": ")
    if kind == Unsendable.__name__:  # the call returned, and its value could not be read
        return f"{exercise.name} returns a value that cannot be marked: {text}."
    return f"It raised {raised}{_line_of(error)}"


def _line_of(error: Exception) -> str:
    """Where in the learner's own code an error was raised: " in the line `…`"; "" where that code can't be read any more."""
    if isinstance(error, Raised):  # in grading the call ran in another process
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    others = (str(assets.PACKAGE), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
    own = [frame for frame in frames if not frame.filename.startswith(others)]
    return f" in line {own[-1].lineno}: `{own[-1].line}`" if own and own[-1].line else ""


def _returns_nothing(exercise: Exercise) -> str:
    return f"{exercise.name} returns None. Write the body, and return the result; printing it is not enough."


def _by_chance(case_set: CaseSet, right: list[bool]) -> bool:
    """Whether an answer that does not look at its arguments could be right this often.

    Cases are shuffled, so on average such an answer gets no more cases right than the most common value has, and hardly ever
    four standard deviations more. It cannot guess a value that does not occur in other draws.
    """
    values, number = case_set.expected, len(case_set.expected)
    from_arguments = [_stands_among(value, arguments) for value, arguments in zip(values, case_set.cases)]
    common_keys = _common_keys(case_set.exercise)
    if any(
        hit and not is_from_arguments and key(value) not in common_keys
        for hit, is_from_arguments, value in zip(right, from_arguments, values)
    ):
        return False
    share = max(Counter(map(key, values)).values()) / number
    if any(from_arguments):  # if the answer is a part of the argument, picking one of three is a guess too
        share = max(share, 1 / 3)
    return sum(right) <= number * share + 4 * math.sqrt(number * share * (1 - share))


@lru_cache
def _common_keys(exercise: Exercise) -> frozenset[str]:
    """Expected values in other draws, as keys."""
    draws = (CaseSet.of(exercise, generator(seed)) for seed in range(40))
    return frozenset(key(value) for case_set in draws for value in case_set.expected)


def _stands_among(value: Any, arguments: Any) -> bool:
    """Whether the value is a text that occurs unchanged among the arguments."""
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(value, str) and isinstance(arguments, (list, tuple)):
        return any(part == value if isinstance(part, str) else _stands_among(value, part) for part in arguments)
    return False


def _copy(arguments: tuple) -> tuple:
    return tuple(a.clone() if is_tensor(a) else copy.deepcopy(a) for a in arguments)
