"""What a grading writes about the whole class: tables for Canvas and Moodle, what a person must see, the class view."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from course_utils.errors import CourseError
from course_utils.exercises.registry import EXERCISES
from course_utils.grading.intake import folded, table
from course_utils.grading.results import write
from course_utils.pages import render

EMAIL = ("email", "email address", "e-mail", "mail")
NUMBER = ("id number", "sis user id", "student id", "id", "sis login id", "login", "username")
OUTCOMES = ("right", "partly", "wrong", "unsolved", "missing", "error", "died", "not graded")


@dataclass(frozen=True)
class Person:
    """One row of the roster: name of a column, in lower case → field."""

    fields: dict[str, str]

    def first(self, names: tuple[str, ...]) -> str:
        """The first of these fields that is not empty."""
        return next((self.fields[name] for name in names if self.fields.get(name)), "")


class Roster:
    """Finds a learner's row by the name of their submission."""

    def __init__(self, rows: list[list[str]]) -> None:
        """`rows`: a table with a header. Any column may name the learner."""
        header = [name.strip().lower() for name in rows[0]]
        self.people = [Person({name: field.strip() for name, field in zip(header, row)}) for row in rows[1:]]
        self._whole: dict[str, set[int]] = {}
        for index, person in enumerate(self.people):
            for name, field in person.fields.items():
                if name in ("section", "group", "points possible") or not field:
                    continue
                for form in _forms(field):
                    self._whole.setdefault(form, set()).add(index)

    def index(self, learner: str) -> int | None:
        """Number of the learner's row; None if no row fits, or more than one does."""
        plain = folded(learner)
        whole = self._whole.get(plain, set())
        if whole:
            return next(iter(whole)) if len(whole) == 1 else None
        # Canvas and Moodle put name and number before the file's own name, with `_` between.
        candidates = set().union(*(self._whole.get(part, set()) for part in plain.split("_") if len(part) > 2))
        return next(iter(candidates)) if len(candidates) == 1 else None

    def rows(self, all_results: list[dict], others: Roster | None = None) -> dict[str, int]:
        """Learner → row number, for learners whose row is certain.

        A submission that shares its name with another gets no row, and neither do two whose names lead to the same row.

        Args:
            all_results: of all learners.
            others: another table, whose rows may have more names of a learner.
        """
        row_of: dict[str, int] = {}
        row_in_others = others.rows(all_results) if others else {}
        for results in all_results:
            learner = results["extra_data"]["learner"]
            if results["extra_data"]["clash"]:
                continue
            index = self.index(learner)
            if index is None and others and learner in row_in_others:
                fields = others.people[row_in_others[learner]].fields.values()
                index = next((at for field in fields if field and (at := self.index(field)) is not None), None)
            if index is not None:
                row_of[learner] = index
        count = Counter(row_of.values())
        return {learner: index for learner, index in row_of.items() if count[index] == 1}


def _forms(field: str) -> set[str]:
    plain = folded(field)
    last, _, first = plain.partition(",")
    joined = re.sub(r"\W+", "_", plain).strip("_")
    return {plain, joined, re.sub(r"\W+", "", last + first), re.sub(r"[^\w.@-]+", "_", plain)}


def as_csv(rows: list[list]) -> str:
    """CSV text without formulas, whichever separator a spreadsheet uses, and without control characters."""
    return _csv([[_field(value) for value in row] for row in rows])


def _csv(rows: list[list]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


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
    """A mark as text; "" if there is no mark, never 0."""
    return "" if value is None else f"{value:g}"


def write_all(
    out: Path,
    exercise_ids: list[str],
    all_results: list[dict],
    roster: Path | None = None,
    canvas: Path | None = None,
    column: str | None = None,
) -> list[Path]:
    """Write the class's files.

    Args:
        out: folder.
        exercise_ids: of the assignment.
        all_results: of all learners, in order.
        roster: file, or None.
        canvas: CSV file that Canvas exported, or None.
        column: title of Canvas's column to fill; if None, its only column of an assignment, or the section's.

    Returns:
        The files.

    Raises:
        CourseError: the roster or Canvas's export cannot be used.
    """
    class_list = Roster(table(roster)) if roster else None
    row_of = class_list.rows(all_results) if class_list else {}
    needing = needs_a_person(all_results, row_of if class_list else None)
    texts = {
        "grades.csv": as_csv(_grades(exercise_ids, all_results)),
        "moodle.csv": as_csv(_moodle(all_results, class_list, row_of)),
        "class.html": class_view(exercise_ids, all_results),
    }
    if canvas:
        rows, unmatched = filled_in(table(canvas), all_results, exercise_ids, class_list, column)
        texts["canvas.csv"] = _csv(rows)  # Canvas's own fields stay as they are
        needing += [[learner, "", "has no row of their own in Canvas's export"] for learner in unmatched]
    texts["needs-a-person.csv"] = as_csv([["learner", "files", "reason"], *needing])
    for name, text in texts.items():
        write(out / name, text)
    return [out / name for name in texts]


def needs_a_person(all_results: list[dict], row_of: dict[str, int] | None) -> list[list[str]]:
    """What a person must look at before a mark is given.

    Args:
        all_results: of all learners.
        row_of: learner → row of the roster; None if there is no roster.

    Returns:
        Rows of (learner, files, reason).
    """
    rows = []
    for results in all_results:
        data = results["extra_data"]
        rows += [[data["learner"], " ".join(data["files"]), problem] for problem in data["problems"]]
        if row_of is not None and data["learner"] not in row_of:
            why = "is not in the roster, fits several of its rows, or shares a row with another submission"
            rows.append([data["learner"], " ".join(data["files"]), why])
    return rows


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


def _moodle(all_results: list[dict], class_list: Roster | None, row_of: dict[str, int]) -> list[list]:
    rows = [["Email address", "ID number", "Learner", "Grade", "Feedback comments"]]
    for results in all_results:
        learner = results["extra_data"]["learner"]
        person = class_list.people[row_of[learner]] if class_list and learner in row_of else None
        plain = not class_list and not results["extra_data"]["clash"] and re.fullmatch(r"[\w.-]+@[\w.-]+", learner)
        email = person.first(EMAIL) if person else learner if plain else ""
        comment = results["output"] if results["score"] is None else "; ".join(
            f"{test['number']} {test['score']:g}/{test['max_score']:g}" for test in results["tests"]
        )  # fmt: skip
        rows.append([email, person.first(NUMBER) if person else "", learner, number(results["score"]), comment])
    return rows


def filled_in(
    rows: list[list[str]], all_results: list[dict], exercise_ids: list[str], class_list: Roster | None, column: str | None
) -> tuple[list[list[str]], list[str]]:
    """Canvas's own export with the marks in one column, scaled to its points possible.

    Returns:
        The rows, and the learners who have no row.

    Raises:
        CourseError: no column, or more than one, fits the assignment, or Canvas has not exported this file.
    """
    header = rows[0]
    at = canvas_column(header, all_results[0]["extra_data"]["assignment"] if all_results else [], column)
    most = float(sum(EXERCISES[id].points for id in exercise_ids))
    body = [row for row in rows[1:] if not row[0].strip().startswith("Points Possible") and row[0].strip()]
    possible = next((row[at] for row in rows[1:] if row[0].strip().startswith("Points Possible") and len(row) > at), "")
    try:
        scale = float(possible) / most
    except ValueError:
        scale = 1.0
    key = ("Student", "ID", "SIS User ID", "SIS Login ID", "Integration ID")
    places = [index for index, name in enumerate(header) if name in key]
    canvas = Roster([[header[i] for i in places], *[[row[i] if i < len(row) else "" for i in places] for row in body]])
    unmatched, row_of = [], canvas.rows(all_results, class_list)
    for results in all_results:
        learner = results["extra_data"]["learner"]
        if learner not in row_of:
            unmatched.append(learner)
        elif results["score"] is not None:
            row = body[row_of[learner]]
            row += [""] * (at + 1 - len(row))
            row[at] = number(round(results["score"] * scale, 2))
    return rows, unmatched


def canvas_column(header: list[str], sections: list[str], column: str | None) -> int:
    """Index of the column to fill: the one called `column`, or the only one, or the one named after the first section.

    Raises:
        CourseError: no column, or more than one, fits, or Canvas has not exported this file.
    """
    if "Student" not in header or "ID" not in header:
        raise CourseError(
            "the Canvas file has no columns Student and ID; export the grade book from Canvas and pass that file"
        )
    titles = {index: re.sub(r"\s*\(\d+\)$", "", name) for index, name in enumerate(header) if re.search(r"\(\d+\)$", name)}
    if column:
        fitting = [i for i, name in enumerate(header) if name == column or titles.get(i) == column]
    else:
        words = [part for section in sections[:1] for part in (section, section.partition("_")[2].replace("_", " "))]
        fitting = [i for i, title in titles.items() if any(word.lower() in title.lower() for word in words)]
        if len(titles) == 1:
            fitting = list(titles)
    if len(fitting) != 1:
        raise CourseError(
            f"{'no column' if not fitting else 'more than one column'} of the Canvas file fits the assignment; name one "
            f"with --column: {', '.join(titles.values()) or 'the file has no column of an assignment'}"
        )
    return fitting[0]


def class_view(exercise_ids: list[str], all_results: list[dict]) -> str:
    """HTML: how each question went, and which misconception how often."""
    graded = [results for results in all_results if results["score"] is not None]
    scores = [results["score"] for results in graded]
    return render(
        "grading/templates/class.html.j2",
        title="The class",
        submissions=len(all_results),
        graded=len(graded),
        median=median(scores) if scores else None,
        points=sum(EXERCISES[id].points for id in exercise_ids),
        outcomes=OUTCOMES,
        questions=[_question(id, graded) for id in exercise_ids],
        misconceptions=_misconceptions(exercise_ids, graded),
        needing=[results["extra_data"]["learner"] for results in all_results if results["extra_data"]["problems"]],
    )


def _question(id: str, graded: list[dict]) -> dict:
    """How a question went: its title, mean and maximum of points, and how many answers had each of the `OUTCOMES`."""
    outcomes = Counter(results["extra_data"]["outcomes"].get(id) for results in graded)
    scores = [test["score"] for results in graded for test in results["tests"] if test["number"] == id]
    return {
        "id": id,
        "title": EXERCISES[id].title,
        "mean": sum(scores) / len(scores) if scores else None,
        "points": EXERCISES[id].points,
        "counts": [outcomes[outcome] for outcome in OUTCOMES],
    }


def _misconceptions(exercise_ids: list[str], graded: list[dict]) -> list[tuple[int, str, str]]:
    """(how often, exercise, what those learners were told), the most frequent first."""
    counts = Counter((id, name) for results in graded for id, name in results["extra_data"]["mistakes"].items())
    rows = []
    for (id, name), count in sorted(counts.items(), key=lambda item: (-item[1], exercise_ids.index(item[0][0]), item[0][1])):
        diagnosis = next(m.diagnosis for m in EXERCISES[id].mistakes if m.function.__name__.strip("_") == name)
        rows.append((count, id, diagnosis))
    return rows
