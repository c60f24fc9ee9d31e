"""An answer that was written on a page: run, and checked as in a notebook."""

from __future__ import annotations

import contextlib
import io
import traceback
from typing import Any

from course_utils.exercises import EXERCISES
from course_utils.exercises import check as check_function
from course_utils.exercises.definitions import Exercise

MOST_PRINTED = 4000  # characters; a page that shows more is no help
FILE_NAME = "<your answer>"
MODULE = "your_answer"  # not __main__, which may be a library's program and would be taken for one that answers may not use


def on_page() -> dict[str, Exercise]:
    """Return the exercises that a page can check, by id: those that need no library."""
    return {id: exercise for id, exercise in EXERCISES.items() if not exercise.needs}


def check(id: str, source: str, seed: int | None = None) -> dict[str, Any]:
    """Run an answer's cell and check the function that it defines.

    Args:
        id: the exercise.
        source: the cell, Python.
        seed: of the cases; new ones at each call if None.

    Returns:
        `points`, `worth` (the full points), `passed`, `message` (what to tell the learner) and `printed`.

    Raises:
        CourseError: unknown exercise.
    """
    printed, namespace = io.StringIO(), {"__name__": MODULE}
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            exec(compile(source, FILE_NAME, "exec"), namespace)
        except (Exception, SystemExit) as error:
            return _result(EXERCISES[id], 0.0, _told(error), printed)
        score = check_function(id, namespace.get(EXERCISES[id].name), seed)
    return _result(EXERCISES[id], float(score), score.message, printed)


def _result(exercise: Exercise, points: float, message: str, printed: io.StringIO) -> dict[str, Any]:
    output = printed.getvalue()
    return {
        "points": points,
        "worth": exercise.points,
        "passed": points == exercise.points,
        "message": message,
        "printed": output[:MOST_PRINTED] + ("\n(and more)" if len(output) > MOST_PRINTED else ""),
    }


def _told(error: BaseException) -> str:
    """What went wrong before there was a function to check, with the line of the answer where it did."""
    if isinstance(error, SyntaxError):
        return f"Python cannot read the answer: {error.msg}, in line {error.lineno}."
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE_NAME]
    reason = f"{type(error).__name__}: {str(error)[:200]}"
    if lines:
        return f"The answer stopped in line {lines[-1]}: {reason}"
    return f"The answer stopped: {reason}"
