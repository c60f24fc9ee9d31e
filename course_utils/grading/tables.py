"""What a grading leaves for the class: tables for the hosts that keep marks, who needs a person, and the class view."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.exercises.registry import EXERCISES
from course_utils.grading.intake import folded, table
from course_utils.grading.results import page, write

EMAIL = ("email", "email address", "e-mail", "mail")
NUMBER = ("id number", "sis user id", "student id", "id", "sis login id", "login", "username")
OUTCOMES = ("right", "partly", "wrong", "unsolved", "missing", "error", "died", "not graded")


@dataclass(frozen=True)
class Person:
    """One row of the roster: header → field, header in lower case."""

    fields: dict[str, str]

    def first(self, names: tuple[str, ...]) -> str:
        """The first of these fields that is not empty."""
        return next((self.fields[name] for name in names if self.fields.get(name)), "")


class Roster:
    """Finds a learner's row by what their submission is called."""

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
        """Row number of the learner; None if there is none, or more than one that fits."""
        plain = folded(learner)
        whole = self._whole.get(plain, set())
        if whole:
            return next(iter(whole)) if len(whole) == 1 else None
        # Canvas and Moodle put name and number before the file's own name, with `_` between.
        found = set().union(*(self._whole.get(part, set()) for part in plain.split("_") if len(part) > 2))
        return next(iter(found)) if len(found) == 1 else None

    def rows(self, all_results: list[dict], others: Roster | None = None) -> dict[str, int]:
        """Learner → row number, for those whose row it is beyond doubt.

        A submission that shares its name with another has none, nor have two whose names lead to one row.

        Args:
            all_results: of all learners.
            others: a table whose rows may tell more names of a learner.
        """
        found: dict[str, int] = {}
        known = others.rows(all_results) if others else {}
        for results in all_results:
            learner = results["extra_data"]["learner"]
            if results["extra_data"]["clash"]:
                continue
            index = self.index(learner)
            if index is None and others and learner in known:
                fields = others.people[known[learner]].fields.values()
                index = next((at for field in fields if field and (at := self.index(field)) is not None), None)
            if index is not None:
                found[learner] = index
        count = Counter(found.values())
        return {learner: index for learner, index in found.items() if count[index] == 1}


def _forms(field: str) -> set[str]:
    plain = folded(field)
    last, _, first = plain.partition(",")
    joined = re.sub(r"\W+", "_", plain).strip("_")
    return {plain, joined, re.sub(r"\W+", "", last + first), re.sub(r"[^\w.@-]+", "_", plain)}


def as_csv(rows: list[list]) -> str:
    """CSV text in which nothing is a formula, whatever separator a spreadsheet takes, and nothing steers a terminal."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows([[_field(value) for value in row] for row in rows])
    return made.getvalue()


def _field(value: object) -> object:
    """Text with an apostrophe before what would begin a formula, at its start or behind a separator; other values unchanged.

    In other scripts too: some spreadsheets take the wide ＝ for =.
    """
    if not isinstance(value, str) or re.fullmatch(r"[-+]?[\d.]+", value):
        return value
    text = "".join(c if c.isprintable() else " " if c in "\t\r\n" else "\N{REPLACEMENT CHARACTER}" for c in value)
    made, start = [], True
    for c in text:
        plain = unicodedata.normalize("NFKC", c)[:1]
        if start and plain in ("=", "+", "-", "@"):
            made.append("'")
        made.append(c)
        start = plain in (";", ",", "|") or (start and plain in (" ", "'", '"'))
    return "".join(made)


def number(value: float | None) -> str:
    """A mark as text; "" for none, never 0."""
    return "" if value is None else f"{value:g}"


def write_all(
    out: Path,
    wanted: list[str],
    all_results: list[dict],
    roster: Path | None = None,
    canvas: Path | None = None,
    column: str | None = None,
) -> list[Path]:
    """Write the class's files.

    Args:
        out: folder.
        wanted: ids of the exercises.
        all_results: of all learners, in order.
        roster: file, or None.
        canvas: CSV that Canvas exported, or None.
        column: title of the column of Canvas to fill; what the export has only one of, or what names the section, if None.

    Returns:
        The files.

    Raises:
        CourseError: roster or Canvas's export cannot be used.
    """
    names = Roster(table(roster)) if roster else None
    known = names.rows(all_results) if names else {}
    needing = needs_a_person(all_results, known if names else None)
    texts = {
        "grades.csv": as_csv(_grades(wanted, all_results)),
        "moodle.csv": as_csv(_moodle(all_results, names, known)),
        "class.html": class_view(wanted, all_results),
    }
    if canvas:
        rows, unmatched = filled_in(table(canvas), all_results, wanted, names, column)
        made = io.StringIO()
        csv.writer(made, lineterminator="\n").writerows(rows)  # Canvas's own fields stay as they are
        texts["canvas.csv"] = made.getvalue()
        needing += [[learner, "", "has no row in Canvas's export, or not alone"] for learner in unmatched]
    texts["needs-a-person.csv"] = as_csv([["learner", "files", "reason"], *needing])
    for name, text in texts.items():
        write(out / name, text)
    return [out / name for name in texts]


def needs_a_person(all_results: list[dict], known: dict[str, int] | None) -> list[list[str]]:
    """(learner, files, reason) of all that a person must see before a mark is given; `known`: rows of the roster, if any."""
    rows = []
    for results in all_results:
        data = results["extra_data"]
        rows += [[data["learner"], " ".join(data["files"]), problem] for problem in data["problems"]]
        if known is not None and data["learner"] not in known:
            why = "is not in the roster, or fits several of its rows, or one with another submission"
            rows.append([data["learner"], " ".join(data["files"]), why])
    return rows


def _grades(wanted: list[str], all_results: list[dict]) -> list[list]:
    rows: list[list] = [["learner", "status", "score", "max_score", *wanted, "notes"]]
    most = sum(EXERCISES[id].points for id in wanted)
    for results in all_results:
        points = {test["number"]: number(test["score"]) for test in results["tests"]}
        state = "not graded" if results["score"] is None else "graded"
        marks = [points.get(id, "") for id in wanted]
        notes = [*results["extra_data"]["notes"], *results["extra_data"]["problems"]]
        rows.append([results["extra_data"]["learner"], state, number(results["score"]), most, *marks, "; ".join(notes)])
    return rows


def _moodle(all_results: list[dict], names: Roster | None, known: dict[str, int]) -> list[list]:
    rows = [["Email address", "ID number", "Learner", "Grade", "Feedback comments"]]
    for results in all_results:
        learner = results["extra_data"]["learner"]
        person = names.people[known[learner]] if names and learner in known else None
        plain = not names and not results["extra_data"]["clash"] and re.fullmatch(r"[\w.-]+@[\w.-]+", learner)
        email = person.first(EMAIL) if person else learner if plain else ""
        said = results["output"] if results["score"] is None else "; ".join(
            f"{test['number']} {test['score']:g}/{test['max_score']:g}" for test in results["tests"]
        )  # fmt: skip
        rows.append([email, person.first(NUMBER) if person else "", learner, number(results["score"]), said])
    return rows


def filled_in(
    rows: list[list[str]], all_results: list[dict], wanted: list[str], names: Roster | None, column: str | None
) -> tuple[list[list[str]], list[str]]:
    """(rows, learners without one): Canvas's own export with the marks in one column, scaled to its points possible.

    Raises:
        CourseError: no column, or more than one, is the assignment's; or it is no export of Canvas.
    """
    header = rows[0]
    at = canvas_column(header, all_results[0]["extra_data"]["assignment"] if all_results else [], column)
    most = float(sum(EXERCISES[id].points for id in wanted))
    body = [row for row in rows[1:] if not row[0].strip().startswith("Points Possible") and row[0].strip()]
    possible = next((row[at] for row in rows[1:] if row[0].strip().startswith("Points Possible") and len(row) > at), "")
    try:
        scale = float(possible) / most
    except ValueError:
        scale = 1.0
    key = ("Student", "ID", "SIS User ID", "SIS Login ID", "Integration ID")
    places = [index for index, name in enumerate(header) if name in key]
    canvas = Roster([[header[i] for i in places], *[[row[i] if i < len(row) else "" for i in places] for row in body]])
    unmatched, found = [], canvas.rows(all_results, names)
    for results in all_results:
        learner = results["extra_data"]["learner"]
        if learner not in found:
            unmatched.append(learner)
        elif results["score"] is not None:
            row = body[found[learner]]
            row += [""] * (at + 1 - len(row))
            row[at] = number(round(results["score"] * scale, 2))
    return rows, unmatched


def canvas_column(header: list[str], sections: list[str], column: str | None) -> int:
    """Place of the column to fill: the one called `column`, or the only one, or the one that names the first section.

    Raises:
        CourseError: no column, or more than one, fits; or it is no export of Canvas.
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
            f"with --column: {', '.join(titles.values()) or 'there is none of an assignment'}"
        )
    return fitting[0]


def class_view(wanted: list[str], all_results: list[dict]) -> str:
    """HTML: how each question went, and which misconception how often."""
    graded = [results for results in all_results if results["score"] is not None]
    most = sum(EXERCISES[id].points for id in wanted)
    scores = sorted(results["score"] for results in graded)
    middle = f"; median {_median(scores):g} of {most} points" if scores else ""
    body = [f"<p>{len(graded)} of {len(all_results)} submissions graded{middle}.</p>"]
    body.append(
        "<h2>Questions</h2><table><tr><th>question</th><th>mean</th>" + "".join(f"<th>{o}</th>" for o in OUTCOMES) + "</tr>"
    )
    for id in wanted:
        counts = Counter(results["extra_data"]["outcomes"].get(id) for results in graded)
        points = [test["score"] for results in graded for test in results["tests"] if test["number"] == id]
        mean = f"{sum(points) / len(points):.2f}" if points else "-"
        cells = "".join(f"<td>{counts[outcome] or ''}</td>" for outcome in OUTCOMES)
        title = escape(f"{id}: {EXERCISES[id].title}")
        body.append(f"<tr><td>{title}</td><td>{mean} of {EXERCISES[id].points}</td>{cells}</tr>")
    body.append("</table><h2>Misconceptions</h2>")
    seen = Counter((id, name) for results in graded for id, name in results["extra_data"]["mistakes"].items())
    if seen:
        body.append("<table><tr><th>how often</th><th>question</th><th>what those learners were told</th></tr>")
        for (id, name), count in sorted(seen.items(), key=lambda item: (-item[1], wanted.index(item[0][0]), item[0][1])):
            said = next(m.diagnosis for m in EXERCISES[id].mistakes if m.function.__name__.strip("_") == name)
            body.append(f"<tr><td>{count}</td><td>{id}</td><td>{escape(said)}</td></tr>")
        body.append("</table>")
    else:
        body.append("<p>No wrong answer was one of the known mistakes.</p>")
    needing = [results["extra_data"]["learner"] for results in all_results if results["extra_data"]["problems"]]
    if needing:
        body.append(f"<h2>For a person</h2><p>See needs-a-person.csv: {escape(', '.join(needing))}.</p>")
    return page("The class", "".join(body))


def _median(values: list[float]) -> float:
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
