"""An exercise as a piece of a page: an editor, a check, a diagnosis and a hint, for those that need no library.

What the reader wrote is kept in the browser's `localStorage`, under `finetuning-course/exercise/ID`: a JSON object with
`source`, `tries` (wrong ones since the last right one), `passed` and `points`. `publishing.calculators` has the files that
the page needs, and its head.
"""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from course_utils import pages
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES, Exercise
from course_utils.exercises.checking import HINT_FROM
from course_utils.exercises.definitions import strip_solution

LIBRARY_NAMES = {"numpy": "NumPy", "torch": "PyTorch", "sklearn": "scikit-learn"}


def fragment(id: str, statement: bool = False) -> Markup:
    """Return an exercise as HTML: the editor, or where to run it. Its heading is the page's own matter.

    Args:
        id: the exercise; at most once on a page.
        statement: whether to show what is asked, as it is written (Markdown); a lesson's page has it already.

    Raises:
        CourseError: unknown exercise.
    """
    if id not in EXERCISES:
        raise CourseError(f"unknown exercise {id!r}; there are {', '.join(EXERCISES)}")
    exercise = EXERCISES[id]
    return Markup(
        pages.render(
            "publishing/templates/exercise.html.j2",
            exercise=exercise,
            statement=exercise.statement if statement else "",
            stub=strip_solution(exercise.source()).partition("\n")[2],
            libraries=" and ".join(LIBRARY_NAMES[name] for name in exercise.needs),
            hint_from=HINT_FROM,
            hint=" ".join(exercise.hint.split()),
        )
    )


def all_fragments() -> Iterator[tuple[Exercise, Markup]]:
    """Yield every exercise with its fragment, statement included."""
    for id, exercise in EXERCISES.items():
        yield exercise, fragment(id, statement=True)
