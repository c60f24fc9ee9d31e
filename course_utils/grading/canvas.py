"""Canvas's own export of its grade book: one column gets marks, everything else stays as it was."""

from __future__ import annotations

import re
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.grading.csv_files import csv_text, read_number, read_table
from course_utils.grading.roster import Roster

POINTS_ROW = "Points Possible"  # not translated, unlike the numbers in that row
NAMES = ("Student", "ID", "SIS User ID", "SIS Login ID", "Integration ID")


class Export:
    """A grade book.

    Attributes:
        people: whom it has, by the columns that name them.
    """

    def __init__(self, file: Path, sections: list[str], column: str | None = None) -> None:
        """Read the file.

        Args:
            file: CSV file that Canvas exported.
            sections: full names of the assignment's lessons.
            column: title of the column to fill; None for the only one of an assignment, or the first lesson's.

        Raises:
            CourseError: the file cannot be read, Canvas has not exported it, no column or more than one fits, or the column
                has no points above 0, to which marks are scaled.
        """
        self._rows, self._separator = read_table(file)
        header = self._rows[0]
        self._at = _column(header, sections, column)
        self._point = "," if self._separator == ";" else "."
        self._possible: float | None = None
        for row in self._rows[1:]:
            if row[0].strip().startswith(POINTS_ROW):
                text = row[self._at] if len(row) > self._at else ""
                self._possible = read_number(text, self._point)
                if not self._possible:
                    raise CourseError(
                        f"the Canvas file's {POINTS_ROW} for {header[self._at]!r} is {text!r}, and marks are scaled to it: "
                        "give the assignment points above 0 in Canvas, and export again"
                    )
        self._learners = [row for row in self._rows[1:] if row[0].strip() and not row[0].strip().startswith(POINTS_ROW)]
        places = [index for index, name in enumerate(header) if name in NAMES]
        rows = [[row[i] if i < len(row) else "" for i in places] for row in [header, *self._learners]]
        self.people = Roster(rows, canvas=True)

    def fill(self, all_results: list[dict], exercise_ids: list[str], row_of: dict[str, int]) -> dict[str, str]:
        """Enter the marks, scaled to the points possible.

        A field that holds something else than a mark, such as "EX" where a learner is excused, is kept.

        Args:
            all_results: the results of all learners.
            exercise_ids: the exercises of the assignment.
            row_of: learner → number of their row among those of learners.

        Returns:
            Learner → why their mark was not entered.
        """
        most = sum(EXERCISES[id].points for id in exercise_ids)
        scale = self._possible / most if self._possible else 1.0
        kept = {}
        for results in all_results:
            learner = results["extra_data"]["learner"]
            if learner not in row_of or results["score"] is None:
                continue
            row = self._learners[row_of[learner]]
            row += [""] * (self._at + 1 - len(row))
            mark, field = f"{round(results['score'] * scale, 2):g}".replace(".", self._point), row[self._at].strip()
            if field and read_number(field, self._point) is None:
                kept[learner] = f"the field has {field!r}, which was kept; the mark would be {mark}"
            else:
                row[self._at] = mark
        return kept

    def text(self) -> str:
        """Return the file as text, as it was but for the marks."""
        return csv_text(self._rows, self._separator)


def _column(header: list[str], sections: list[str], column: str | None) -> int:
    """Index of the column called `column`, or of the only one, or of the one named after the first lesson."""
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
