"""Marks that an instructor gives in place of those that grading found."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.grading.csv_files import read_number, read_table
from course_utils.grading.marking import Mark

COLUMNS = ("learner", "exercise", "points")


def read_overruled(file: Path, learners: Collection[str], exercise_ids: Collection[str]) -> dict[str, dict[str, Mark]]:
    """Read a CSV file with the columns learner, exercise and points, and reason if the learner should see one.

    Args:
        file: the file.
        learners: the learners of the inbox, by the names that `grades.csv` has.
        exercise_ids: the exercises of the assignment.

    Returns:
        Learner → exercise id → mark.

    Raises:
        CourseError: the file cannot be read, or a line names nobody, no exercise, or points that it does not have.
    """
    rows, separator = read_table(file)
    header = [name.strip().lower() for name in rows[0]]
    if not set(COLUMNS) <= set(header):
        raise CourseError(f"{file} needs the columns {', '.join(COLUMNS)}, and has {', '.join(header)}")
    marks: dict[str, dict[str, Mark]] = {}
    for number, row in enumerate(rows[1:], start=2):
        line = dict(zip(header, map(str.strip, row)))
        learner, id = line.get("learner", ""), line.get("exercise", "")
        points = read_number(line.get("points", ""), "," if separator == ";" else ".")
        if learner not in learners:
            problem = f"nobody in the inbox is called {learner!r}"
        elif id not in exercise_ids:
            problem = f"the assignment has no exercise {id!r}: {', '.join(exercise_ids)}"
        elif points is None or points > EXERCISES[id].points:
            problem = f"points have to be from 0 to {EXERCISES[id].points}"
        elif id in marks.setdefault(learner, {}):
            problem = f"{learner} has two lines for {id}"
        else:
            outcome = "right" if points == EXERCISES[id].points else "partly" if points else "wrong"
            reason = line.get("reason", "")
            marks[learner][id] = Mark(points, f"Marked by your instructor{f': {reason}' if reason else '.'}", outcome)
            continue
        raise CourseError(f"{file}, row {number}: {problem}")
    return marks
