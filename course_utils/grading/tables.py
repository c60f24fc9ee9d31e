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
MOST_FILES = 5  # named in a row of needs-a-person.csv
OUTCOMES = ("right", "partly", "wrong", "unsolved", "missing", "error", "died", "not graded")


@dataclass(frozen=True)
class Person:
    """One row of the roster.

    Attributes:
        fields: name of the column, in lower case → field.
    """

    fields: dict[str, str]

    @property
    def name(self) -> str:
        """The name by which a person finds the row."""
        return self.first((*EMAIL, "student", "name", *NUMBER)) or next(filter(None, self.fields.values()), "nobody")

    def first(self, names: tuple[str, ...]) -> str:
        """Return the first of these fields that is not empty."""
        return next((self.fields[name] for name in names if self.fields.get(name)), "")


SURE, LIKELY = 2, 1  # how well a submission's name fits a row


@dataclass(frozen=True)
class Rows:
    """Which learner has which row of a table.

    Attributes:
        of: learner → row number, where it is certain.
        doubts: learner → why they have no row, or who else wants theirs.
    """

    of: dict[str, int]
    doubts: dict[str, str]


class Roster:
    """Finds a learner's row in a table by the name of their submission."""

    def __init__(self, rows: list[list[str]]) -> None:
        """Take in a table.

        Args:
            rows: the rows, with the header first. Any column may name the learner.
        """
        header = [name.strip().lower() for name in rows[0]]
        self.people = [Person({name: field.strip() for name, field in zip(header, row)}) for row in rows[1:]]
        self._whole: dict[str, set[int]] = {}
        self._spelled: set[tuple[str, int]] = set()
        for index, person in enumerate(self.people):
            for name, field in person.fields.items():
                if name in ("section", "group", "points possible") or not field:
                    continue
                for form in _forms(field):
                    self._whole.setdefault(folded(form), set()).add(index)
                    self._spelled.add((unicodedata.normalize("NFC", form), index))

    def index(self, name: str) -> int | None:
        """Return the number of the row that a name leads to; None if it leads to no row, or to more than one."""
        claim = self._claim(name)
        return claim and claim[0]

    def _claim(self, name: str) -> tuple[int, int] | None:
        """(row, how well the name fits it), or None.

        A name fits surely if it is spelled as in the row, or if two of its parts are fields of it: Canvas and Moodle put
        name and number before the file's own name, with `_` between. One part, or other capitals, may be somebody else's.
        """
        plain = folded(name)
        whole = self._whole.get(plain, set())
        if whole:
            index = next(iter(whole))
            return (index, SURE if (name, index) in self._spelled else LIKELY) if len(whole) == 1 else None
        words = plain.split("_")
        runs = {"_".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
        parts = [self._whole.get(run, set()) for run in runs if len(run) > 2]
        candidates = set().union(*parts)
        if len(candidates) != 1:
            return None
        return next(iter(candidates)), SURE if sum(map(bool, parts)) > 1 else LIKELY

    def rows(self, all_results: list[dict], others: Roster | None = None) -> Rows:
        """Decide which learner has which row.

        If several submissions lead to the same row, the one whose name fits best keeps it: nobody can take a neighbour's row
        away by a name that is like theirs. If several fit equally well, nobody has the row.

        Args:
            all_results: the results of all learners.
            others: another table, whose rows may have more names of a learner.
        """
        doubts: dict[str, str] = {}
        claims: dict[int, dict[str, int]] = {}  # row → learner → how well the name fits
        others_of = others.rows(all_results).of if others else {}
        for results in all_results:
            learner = results["extra_data"]["learner"]
            claim = self._claim(results["extra_data"]["name"])
            if claim is None and others and learner in others_of:
                fields = others.people[others_of[learner]].fields.values()
                claim = next(((at, SURE) for field in fields if field and (at := self.index(field)) is not None), None)
            if claim is None:
                doubts[learner] = "leads to no row, or to several"
            else:
                claims.setdefault(claim[0], {})[learner] = claim[1]
        row_of: dict[str, int] = {}
        for index, fits in claims.items():
            best = [learner for learner, fit in fits.items() if fit == max(fits.values())]
            if len(best) == 1:
                row_of[best[0]] = index
            if len(fits) == 1:
                continue
            whose = f"the row of {self.people[index].name}"
            for learner in fits:
                rivals = ", ".join(other for other in fits if other != learner)
                if learner in row_of:
                    doubts[learner] = f"keeps {whose}, which {rivals} wants too"
                elif len(best) == 1:
                    doubts[learner] = f"has no row: {whose} is that of {best[0]}"
                else:
                    doubts[learner] = f"has no row: {whose} is as likely that of {rivals}, and nobody has it"
        return Rows(row_of, doubts)


def _forms(field: str) -> set[str]:
    """A field in the forms in which it may be a submission's name."""
    last, _, first = field.partition(",")
    joined = re.sub(r"\W+", "_", field).strip("_")
    return {field, joined, re.sub(r"\W+", "", last + first), re.sub(r"[^\w.@-]+", "_", field)}


def as_csv(rows: list[list]) -> str:
    """Return rows as CSV text, without formulas (whichever separator a spreadsheet uses) and without control characters."""
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
    """Return a mark as text; "" if there is no mark, never 0."""
    return "" if value is None else f"{value:g}"


def write_all(
    out: Path,
    exercise_ids: list[str],
    all_results: list[dict],
    roster: Path | None = None,
    canvas: Path | None = None,
    column: str | None = None,
) -> list[Path]:
    """Write the files for the whole class.

    Args:
        out: folder to write to.
        exercise_ids: the exercises of the assignment.
        all_results: the results of all learners, in order.
        roster: CSV file with learners' e-mail addresses and numbers, or None.
        canvas: CSV file that Canvas exported, or None.
        column: title of Canvas's column to fill; if None, its only column of an assignment, or the section's.

    Returns:
        The paths of the files.

    Raises:
        CourseError: the roster or Canvas's export cannot be used.
    """
    class_list = Roster(table(roster)) if roster else None
    rows = class_list.rows(all_results) if class_list else None
    needing = needs_a_person(all_results, rows)
    texts = {
        "grades.csv": as_csv(_grades(exercise_ids, all_results)),
        "moodle.csv": as_csv(_moodle(all_results, class_list, rows.of if rows else {})),
        "class.html": class_view(exercise_ids, all_results),
    }
    if canvas:
        filled, doubts = filled_in(table(canvas), all_results, exercise_ids, class_list, column)
        texts["canvas.csv"] = _csv(filled)  # Canvas's own fields stay as they are
        needing += [[learner, "", f"in Canvas's export: {doubt}"] for learner, doubt in doubts.items()]
    texts["needs-a-person.csv"] = as_csv([["learner", "files", "reason"], *needing])
    for name, text in texts.items():
        write(out / name, text)
    return [out / name for name in texts]


def needs_a_person(all_results: list[dict], roster_rows: Rows | None) -> list[list[str]]:
    """Return what a person must look at before a mark is given.

    Args:
        all_results: the results of all learners.
        roster_rows: which learner has which row of the roster; None if there is no roster.

    Returns:
        Rows of (learner, files, reason).
    """
    rows = []
    for results in all_results:
        data = results["extra_data"]
        files = data["files"][:MOST_FILES] + [f"and {len(data['files']) - MOST_FILES} more"] * (
            len(data["files"]) > MOST_FILES
        )
        rows += [[data["learner"], " ".join(files), problem] for problem in data["problems"]]
        if roster_rows and data["learner"] in roster_rows.doubts:
            rows.append([data["learner"], " ".join(files), f"in the roster: {roster_rows.doubts[data['learner']]}"])
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
) -> tuple[list[list[str]], dict[str, str]]:
    """Fill the marks into one column of Canvas's own export, scaled to the points possible there.

    Args:
        rows: the export, with its header first.
        all_results: the results of all learners.
        exercise_ids: the exercises of the assignment.
        class_list: the roster, whose rows may have more names of a learner; or None.
        column: title of the column to fill; None to find it.

    Returns:
        The rows; and learner → what a person must know about theirs.

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
    canvas_rows = canvas.rows(all_results, class_list)
    for results in all_results:
        index = canvas_rows.of.get(results["extra_data"]["learner"])
        if index is not None and results["score"] is not None:
            row = body[index]
            row += [""] * (at + 1 - len(row))
            row[at] = number(round(results["score"] * scale, 2))
    return rows, canvas_rows.doubts


def canvas_column(header: list[str], sections: list[str], column: str | None) -> int:
    """Return the index of the column to fill.

    It is the one called `column`, or the only one, or the one named after the first section.

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
    """Return a page as HTML that shows how each question went, and how often each misconception occurred."""
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
    counts = Counter((id, told) for results in graded for id, told in results["extra_data"]["mistakes"].items())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], exercise_ids.index(item[0][0]), item[0][1]))
    return [(count, id, told) for (id, told), count in ordered]
