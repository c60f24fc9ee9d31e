"""What a grading writes about the whole class: tables for Canvas and Moodle, what a person must see, the class view."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from course_utils.assets import render
from course_utils.exercises import EXERCISES
from course_utils.grading.canvas import Export
from course_utils.grading.csv_files import csv_text
from course_utils.grading.results import write
from course_utils.grading.roster import NUMBER, Roster, read_roster

MOST_FILES = 5  # named in a row of needs-a-person.csv
OUTCOMES = ("right", "partly", "wrong", "unsolved", "missing", "error", "died", "not graded")


def as_csv(rows: list[list]) -> str:
    """Return rows as CSV text, without formulas (whichever separator a spreadsheet uses) and without control characters."""
    return csv_text([[_field(value) for value in row] for row in rows])


def _field(value: object) -> object:
    """Text with an apostrophe before every character that would start a formula; other values are unchanged.

    A formula can start at the beginning of the text or after a separator. Some spreadsheets read the wide ＝ as =.
    """
    if not isinstance(value, str) or re.fullmatch(r"[-+]?[\d.]+", value):
        return value
    text = "".join(c if c.isprintable() else " " if c in "\t\r\n" else "\N{REPLACEMENT CHARACTER}" for c in value)
    safe, start = [], True
    for c in text:
        plain = unicodedata.normalize("NFKC", c)[:1]
        if start and plain in ("=", "+", "-", "@"):
            safe.append("'")
        safe.append(c)
        start = plain in (";", ",", "|") or (start and plain in (" ", "'", '"'))
    return "".join(safe)


def number(value: float | None) -> str:
    """Return a mark as text; "" if there is no mark, never 0."""
    return "" if value is None else f"{value:g}"


def write_all(
    out: Path,
    exercise_ids: list[str],
    all_results: list[dict],
    roster: Path | None = None,
    canvas: Export | None = None,
    passed_over: Sequence[str] = (),
) -> tuple[list[Path], Counter[str]]:
    """Write the files for the whole class.

    Args:
        out: folder to write to.
        exercise_ids: the exercises of the assignment.
        all_results: the results of all learners, in order.
        roster: CSV file with learners' e-mail addresses and numbers, or None.
        canvas: the grade book that Canvas exported, or None; not both.
        passed_over: names of notebooks that belong to no submission.

    Returns:
        The paths of the files; and how many lines of needs-a-person.csv are about what.

    Raises:
        CourseError: the roster cannot be used.
    """
    people = canvas.people if canvas else read_roster(roster) if roster else None
    row_of, doubts = people.rows(all_results) if people else ({}, {})
    if canvas:
        doubts |= canvas.fill(all_results, exercise_ids, row_of)
    place = "Canvas's export" if canvas else "the roster"
    needing = needs_a_person(all_results, {who: f"in {place}: {why}" for who, why in doubts.items()})
    hidden = "begins with a dot, as hidden files do, and was not graded: rename it"
    needing += [["", name, hidden, "submission"] for name in passed_over]
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"  # without it Excel takes UTF-8 for another encoding
    texts = {
        "grades.csv": mark + as_csv(_grades(exercise_ids, all_results)),
        "class.html": class_view(exercise_ids, all_results),
        "needs-a-person.csv": mark + as_csv([["learner", "files", "reason", "about"], *needing]),
    }
    if canvas:
        texts["canvas.csv"] = canvas.text()
    elif len(moodle := _moodle(all_results, people, row_of)) > 1:
        texts["moodle.csv"] = as_csv(moodle)
    for name in {"canvas.csv", "moodle.csv"} - texts.keys():  # with the marks of an earlier call
        (out / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write(out / name, text)
    return [out / name for name in texts], Counter(about for *_, about in needing)


def needs_a_person(all_results: list[dict], doubts: dict[str, str]) -> list[list[str]]:
    """Return what a person must look at before a mark is given, as rows of (learner, files, reason, about).

    Args:
        all_results: the results of all learners.
        doubts: learner → why their mark is not in the class's table.
    """
    problems, without_row = [], []
    for data in (results["extra_data"] for results in all_results):
        more = len(data["files"]) - MOST_FILES
        files = " ".join(data["files"][:MOST_FILES] + [f"and {more} more"] * (more > 0))
        problems += [[data["learner"], files, reason, "submission"] for reason in data["problems"]]
        without_row += [[data["learner"], files, reason, "row"] for reason in filter(None, [doubts.get(data["learner"])])]
    return problems + without_row  # which may be many, for one reason


def _grades(exercise_ids: list[str], all_results: list[dict]) -> list[list]:
    rows: list[list] = [["learner", "status", "score", "max_score", *exercise_ids, "notes"]]
    most = sum(EXERCISES[id].points for id in exercise_ids)
    for results in all_results:
        points = {test["number"]: number(test["score"]) for test in results["tests"]}
        state = "not graded" if results["score"] is None else "graded"
        marks = [points.get(id, "") for id in exercise_ids]
        notes = [*results["extra_data"]["notes"], *results["extra_data"]["problems"]]
        rows.append([results["extra_data"]["learner"], state, number(results["score"]), most, *marks, "; ".join(notes)])
    return rows


def _moodle(all_results: list[dict], roster: Roster | None, row_of: dict[str, int]) -> list[list]:
    """The rows for Moodle's import: only learners that it can find, and who have a mark.

    Moodle would give the mark of a row without a user to the user of the row before, and empty a mark that is there.
    """
    rows = [["Email address", "ID number", "Learner", "Grade", "Feedback comments"]]
    for results in all_results:
        learner = results["extra_data"]["learner"]
        plain = not roster and not results["extra_data"]["clash"] and re.fullmatch(r"[\w.-]+@[\w.-]+", learner)
        email, id_number = learner if plain else "", ""
        if roster and learner in row_of:
            email, id_number = (roster.first(row_of[learner], columns) for columns in (roster.email, NUMBER))
        if results["score"] is not None and (email or id_number):
            marks = "; ".join(f"{test['number']} {test['score']:g}/{test['max_score']:g}" for test in results["tests"])
            rows.append([email, id_number, learner, number(results["score"]), marks])
    return rows


def class_view(exercise_ids: list[str], all_results: list[dict]) -> str:
    """Return a page as HTML that shows how each question went, and how often each misconception occurred."""
    graded = [results for results in all_results if results["score"] is not None]
    scores = [results["score"] for results in graded]
    marked = [results for results in all_results if results["tests"]]  # some of them not as a whole
    return render(
        "grading/templates/class.html.j2",
        title="The class",
        submissions=len(all_results),
        graded=len(graded),
        median=median(scores) if scores else None,
        points=sum(EXERCISES[id].points for id in exercise_ids),
        outcomes=OUTCOMES,
        questions=[_question(id, marked) for id in exercise_ids],
        misconceptions=_misconceptions(exercise_ids, marked),
        needing=[results["extra_data"]["learner"] for results in all_results if results["extra_data"]["problems"]],
    )


def _question(id: str, marked: list[dict]) -> dict:
    """How a question went: its title, mean and maximum of points, and how many answers had each of the `OUTCOMES`."""
    outcomes = Counter(results["extra_data"]["outcomes"].get(id) for results in marked)
    all_points = (results["extra_data"]["points"].get(id) for results in marked)
    scores = [points for points in all_points if points is not None]
    return {
        "id": id,
        "title": EXERCISES[id].title,
        "mean": sum(scores) / len(scores) if scores else None,
        "points": EXERCISES[id].points,
        "counts": [outcomes[outcome] for outcome in OUTCOMES],
    }


def _misconceptions(exercise_ids: list[str], marked: list[dict]) -> list[tuple[int, str, str]]:
    """(how often, exercise, what those learners were told), the most frequent first."""
    counts = Counter((id, diagnosis) for results in marked for id, diagnosis in results["extra_data"]["mistakes"].items())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], exercise_ids.index(item[0][0]), item[0][1]))
    return [(count, id, diagnosis) for (id, diagnosis), count in ordered]
