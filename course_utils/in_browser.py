"""What the Python of a page runs: calculators, and the check of exercises that need no library.

Only the standard library and modules that need nothing else are imported; `publishing.calculators` brings them to a page.
"""

from __future__ import annotations

import contextlib
import io
import json
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_utils.exercises.definitions import Exercise

MOST_PRINTED = 4000  # characters; a page that shows more is no help
FILE_NAME = "<your answer>"
MODULE = "your_answer"  # not __main__, which may be a library's program and would be taken for one that answers may not use


def call(request: str) -> str:
    """Answer a page's request.

    Args:
        request: a JSON object: `call` is "calculate" or "check", `arguments` those of the function of that name.

    Returns:
        What the function returns, as JSON.

    Raises:
        KeyError: there is no such call.
        TypeError: the arguments are not the function's.
    """
    body = json.loads(request)
    calls: dict[str, Callable[..., dict[str, Any]]] = {"calculate": calculate, "check": check}
    return json.dumps(calls[body["call"]](**body["arguments"]), allow_nan=False)


def calculate(id: str, choices: dict[str, Any]) -> dict[str, Any]:
    """Return a calculator's answer: `summary` (text), `details` (HTML) and `valid`, whether the choices were.

    Raises:
        KeyError: no such calculator, or a choice is missing.
    """
    from course_utils.show.calculators import CALCULATORS

    return vars(CALCULATORS[id].answer(choices))


def on_page() -> dict[str, Exercise]:
    """Return the exercises that a page can check, by id: those that need no library."""
    from course_utils.exercises import EXERCISES  # at first use: a page that asks a calculator does not wait for them

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
    from course_utils.exercises import EXERCISES
    from course_utils.exercises import check as check_function

    printed, namespace = io.StringIO(), {"__name__": MODULE}
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            exec(compile(source, FILE_NAME, "exec"), namespace)
        except (Exception, SystemExit) as error:
            points, message = 0.0, _trouble(error)
        else:
            score = check_function(id, namespace.get(EXERCISES[id].name), seed)
            points, message = float(score), score.message
    output, worth = printed.getvalue(), EXERCISES[id].points
    return {
        "points": points,
        "worth": worth,
        "passed": points == worth,
        "message": message,
        "printed": output[:MOST_PRINTED] + ("\n(and more)" if len(output) > MOST_PRINTED else ""),
    }


def _trouble(error: BaseException) -> str:
    """What went wrong before there was a function to check, with the line of the answer where it did."""
    if isinstance(error, SyntaxError):
        return f"Python cannot read the answer: {error.msg}, in line {error.lineno}."
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE_NAME]
    place = f" in line {lines[-1]}" if lines else ""
    return f"The answer stopped{place}: {type(error).__name__}: {str(error)[:200]}"
