"""What a grading writes about the whole class: tables for Canvas and Moodle, what a person must see, the class view."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.grading.intake import folded, table
from course_utils.grading.results import write
from course_utils.pages import render

EMAIL = ("email", "email address", "e-mail", "mail")
NUMBER = ("id number", "sis user id", "student id", "id", "sis login id", "login", "username", "integration id")
WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")  # what may be a first or last name alone, and so many people's
GROUPS = ("section", "group", "points possible")  # columns that do not tell one learner from another
MOST_FILES = 5  # named in a row of needs-a-person.csv
OUTCOMES = ("right", "partly", "wrong", "unsolved", "missing", "error", "died", "not graded")


class Roster:
    """Finds a learner's row in a table by the name of their submission.

    Attributes:
        people: the rows, each as column (in lower case) → field.
    """

    def __init__(self, rows: list[list[str]], canvas: bool = False) -> None:
        """Take in a table.

        Args:
            rows: the rows, with the header first. Any column may name the learner, and so may two columns side by side, such
                as first and last name.
            canvas: whether this is Canvas's own export, whose column ID has the numbers in the names of its files.
        """
        header = [name.strip().lower() for name in rows[0]]
        self.people = [dict(zip(header, map(str.strip, row))) for row in rows[1:]]
        self.email = (*EMAIL, *filter(self._has_addresses, header))
        self._ids: dict[str, int] = {}
        self._whole: dict[str, set[int]] = {}
        self._words: dict[str, set[int]] = {}
        for index, person in enumerate(self.people):
            if canvas and person.get("id"):
                self._ids[f"Canvas {person['id']}"] = index
            if number := re.search(r"\d+$", person.get("identifier", "")):  # "Participant 31", in Moodle's grading worksheet
                self._ids[f"Moodle {number[0]}"] = index
            fields = [(column, field) for column, field in person.items() if field and column not in GROUPS]
            for (column, field), (_, following) in zip(fields, [*fields[1:], ("", "")]):
                alone = WORD.fullmatch(field) and column not in (*self.email, *NUMBER)
                self._add(self._words if alone else self._whole, field, index)
                if not re.search(r"[\d@]", field + following):
                    self._add(self._whole, f"{field} {following}", index)
                    self._add(self._whole, f"{following} {field}", index)

    def _has_addresses(self, column: str) -> bool:
        fields = [person[column] for person in self.people if person.get(column)]
        return bool(fields) and all("@" in field for field in fields)

    @staticmethod
    def _add(table: dict[str, set[int]], field: str, index: int) -> None:
        for form in _forms(field):
            table.setdefault(folded(form), set()).add(index)

    def candidates(self, name: str) -> set[int]:
        """Return the numbers of the rows that a name leads to.

        The name is a field of the row, or contains one: Canvas and Moodle put a learner's name and number before the file's
        own name, with `_` between. A first or last name alone leads to a row only if it is the whole name.
        """
        plain = folded(name)
        if rows := self._whole.get(plain) or self._words.get(plain):
            return rows
        words = plain.split("_")
        runs = {"_".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
        return set().union(*(self._whole.get(run, set()) for run in runs if len(run) > 2))

    def first(self, index: int, columns: tuple[str, ...]) -> str:
        """Return the first of these fields of a row that is not empty, or ""."""
        return next((field for field in map(self.people[index].get, columns) if field), "")

    def rows(self, all_results: list[dict]) -> tuple[dict[str, int], dict[str, str]]:
        """Decide which learner has which row.

        A row that several submissions want is nobody's, however well each name fits: everybody chooses their own file's
        name, so that the better one proves nothing, and a person has to say whose row it is.

        Where Canvas or Moodle named the file and the table has its numbers, the number decides alone: the names of two
        learners may be nearly the same. A number that the table does not have gives no row, whatever row the name would lead
        to.

        Args:
            all_results: the results of all learners.

        Returns:
            Learner → number of their row, where it is certain; and learner → why they have none.
        """
        wanted: dict[str, int] = {}
        doubts: dict[str, str] = {}
        platforms = {id.split()[0] for id in self._ids}
        for data in (results["extra_data"] for results in all_results):
            learner, (platform, _, number) = data["learner"], data["platform_id"].partition(" ")
            found = {self._ids[data["platform_id"]]} if data["platform_id"] in self._ids else self.candidates(data["name"])
            names = ", ".join(map(self._name, sorted(found)[:MOST_FILES])) + ", …" * (len(found) > MOST_FILES)
            if not found:
                doubts[learner] = "leads to no row"
            elif len(found) > 1:
                doubts[learner] = f"may be any of {names}"
            else:
                (wanted[learner],) = found
                if platform in platforms and data["platform_id"] not in self._ids:
                    doubts[learner] = f"has no row: nobody has its number {number}; its name leads to {names}"
        row_of: dict[str, int] = {}
        for learner, index in wanted.items():
            rivals = [other for other, its in wanted.items() if its == index and other != learner]
            if rivals:
                names = ", ".join(rivals[:MOST_FILES] + ["…"] * (len(rivals) > MOST_FILES))
                doubts[learner] = (
                    f"has no row: the row of {self._name(index)} is as likely that of {names}, and nobody has it"
                )
            elif learner not in doubts:
                row_of[learner] = index
        return row_of, doubts

    def _name(self, index: int) -> str:
        """The name by which a person finds the row."""
        any_field = next(filter(None, self.people[index].values()), "nobody")
        return self.first(index, (*self.email, "student", "name", *NUMBER)) or any_field


def read_roster(file: Path) -> Roster:
    """Read the class's table.

    Raises:
        CourseError: it cannot be read, or has nothing by which Moodle could find a learner.
    """
    rows = table(file)
    people = Roster(rows)
    known = {column for person in people.people for column in person}
    if not known & {*people.email, *NUMBER}:
        raise CourseError(
            f"{file} has no column with e-mail addresses or ID numbers, by which a gradebook finds its learners; call one "
            f"of its columns 'Email address' or 'ID number': {', '.join(rows[0])}"
        )
    return people


def _forms(field: str) -> set[str]:
    """A field in the forms in which it may be a submission's name; a person's name also with its last word first or last."""
    orders = [field]
    last, comma, first = field.partition(",")
    if comma:
        orders.append(f"{first} {last}")
    elif len(words := field.split()) > 1:
        orders.append(" ".join([words[-1], *words[:-1]]))
    forms = {field, re.sub(r"[^\w.@-]+", "_", field)}
    for order in orders:
        forms |= {re.sub(r"\W+", "_", order).strip("_"), re.sub(r"\W+", "", order)}
    return forms


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
    passed_over: Sequence[str] = (),
) -> list[Path]:
    """Write the files for the whole class.

    Args:
        out: folder to write to.
        exercise_ids: the exercises of the assignment.
        all_results: the results of all learners, in order.
        roster: CSV file with learners' e-mail addresses and numbers, or None.
        canvas: CSV file that Canvas exported, or None; not both.
        column: title of Canvas's column to fill; if None, its only column of an assignment, or the section's.
        passed_over: names of notebooks that belong to no submission.

    Returns:
        The paths of the files.

    Raises:
        CourseError: the roster or Canvas's export cannot be used.
    """
    export = table(canvas) if canvas else None
    people = _in_canvas(export) if export else read_roster(roster) if roster else None
    row_of, doubts = people.rows(all_results) if people else ({}, {})
    place = "Canvas's export" if export else "the roster"
    needing = needs_a_person(all_results, {who: f"in {place}: {why}" for who, why in doubts.items()})
    needing += [["", name, "begins with a dot, as hidden files do, and was not graded: rename it"] for name in passed_over]
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"  # without it Excel takes UTF-8 for another encoding
    texts = {
        "grades.csv": mark + as_csv(_grades(exercise_ids, all_results)),
        "class.html": class_view(exercise_ids, all_results),
        "needs-a-person.csv": mark + as_csv([["learner", "files", "reason"], *needing]),
    }
    if export:  # whose own fields stay as they are
        texts["canvas.csv"] = _csv(filled_in(export, all_results, exercise_ids, row_of, column))
    elif len(moodle := _moodle(all_results, people, row_of)) > 1:
        texts["moodle.csv"] = as_csv(moodle)
    for name in {"canvas.csv", "moodle.csv"} - texts.keys():  # with the marks of an earlier call
        (out / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write(out / name, text)
    return [out / name for name in texts]


def needs_a_person(all_results: list[dict], doubts: dict[str, str]) -> list[list[str]]:
    """Return what a person must look at before a mark is given, as rows of (learner, files, reason).

    Args:
        all_results: the results of all learners.
        doubts: learner → why they have no row in the class's table.
    """
    problems, without_row = [], []
    for data in (results["extra_data"] for results in all_results):
        more = len(data["files"]) - MOST_FILES
        files = " ".join(data["files"][:MOST_FILES] + [f"and {more} more"] * (more > 0))
        problems += [[data["learner"], files, reason] for reason in data["problems"]]
        without_row += [[data["learner"], files, reason] for reason in filter(None, [doubts.get(data["learner"])])]
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


def filled_in(
    rows: list[list[str]], all_results: list[dict], exercise_ids: list[str], row_of: dict[str, int], column: str | None
) -> list[list[str]]:
    """Fill the marks into one column of Canvas's own export, scaled to the points possible there.

    Args:
        rows: the export, with its header first.
        all_results: the results of all learners.
        exercise_ids: the exercises of the assignment.
        row_of: learner → number of their row among those of learners.
        column: title of the column to fill; None to find it.

    Raises:
        CourseError: no column, or more than one, fits the assignment, or Canvas has not exported this file.
    """
    at = canvas_column(rows[0], all_results[0]["extra_data"]["assignment"] if all_results else [], column)
    body = _learners_of(rows)
    possible = next((row[at] for row in rows[1:] if row[0].strip().startswith("Points Possible") and len(row) > at), "")
    try:
        scale = float(possible) / sum(EXERCISES[id].points for id in exercise_ids)
    except ValueError:
        scale = 1.0
    for results in all_results:
        index = row_of.get(results["extra_data"]["learner"])
        if index is not None and results["score"] is not None:
            row = body[index]
            row += [""] * (at + 1 - len(row))
            row[at] = number(round(results["score"] * scale, 2))
    return rows


def _learners_of(export: list[list[str]]) -> list[list[str]]:
    """The rows of Canvas's export that are learners'."""
    return [row for row in export[1:] if not row[0].strip().startswith("Points Possible") and row[0].strip()]


def _in_canvas(export: list[list[str]]) -> Roster:
    """Whom Canvas's export has, by the columns that name them."""
    key = ("Student", "ID", "SIS User ID", "SIS Login ID", "Integration ID")
    places = [index for index, name in enumerate(export[0]) if name in key]
    rows = [[row[i] if i < len(row) else "" for i in places] for row in [export[0], *_learners_of(export)]]
    return Roster(rows, canvas=True)


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
