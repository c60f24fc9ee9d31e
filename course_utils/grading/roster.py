"""Whose row in the class's table is whose: by what names a submission, not by the answers in it."""

from __future__ import annotations

import re
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.grading.csv_files import read_table
from course_utils.grading.intake import folded

EMAIL = ("email", "email address", "e-mail", "mail")
PARTICIPANT = re.compile(r"(?:parti[ct]|partecip|teilnehm|deelnem|delta|uczestn|osallist)\D*(\d+)", re.I)  # "Participant 31"
NUMBER = (
    *("id number", "sis user id", "student id", "id", "sis login id", "login", "username", "integration id"),
    *(
        "id-nummer",
        "numéro d'identification",
        "número de id",
        "número de identificación",
        "codice identificativo",
        "numer id",
    ),
)
WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")  # what may be a first or last name alone, and so many people's
GROUPS = ("section", "group", "points possible")  # columns that do not tell one learner from another
MOST_NAMES = 5  # rivals or rows named in one reason


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
            for column, field in person.items():  # in Moodle's grading worksheet; in German the column is called "ID"
                if number := PARTICIPANT.fullmatch(field):
                    self._ids[f"Moodle {number[1]}"], person[column] = index, ""
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
        own name, with `_` between. A first or last name alone leads to a row only if it is the whole name. What stands
        within a longer field says nothing: "Ada_van_den_Berg_02" leads to nobody but her, though others are van den Berg.
        """
        plain = folded(name)
        if rows := self._whole.get(plain) or self._words.get(plain):
            return rows
        words = plain.split("_")
        runs = [(i, j) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
        found = {run: self._whole.get("_".join(words[slice(*run)]), set()) for run in runs}
        known = [(i, j) for (i, j), rows in found.items() if rows and len("_".join(words[i:j])) > 2]
        longest = [(i, j) for i, j in known if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in known)]
        return set().union(*(found[run] for run in longest))

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
            names = ", ".join(map(self._name, sorted(found)[:MOST_NAMES])) + ", …" * (len(found) > MOST_NAMES)
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
                names = ", ".join(rivals[:MOST_NAMES] + ["…"] * (len(rivals) > MOST_NAMES))
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
    rows, _ = read_table(file)
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
