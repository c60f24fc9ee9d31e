"""The six lessons at a glance, for the course's first page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from course_utils.exercises import EXERCISES
from course_utils.languages import BOOK, say
from course_utils.lessons import LESSONS, Lesson
from course_utils.publishing.times import load_times


@dataclass(frozen=True)
class LessonRow:
    """A lesson, its number of exercises, and the minutes of a recorded run on a tier (None if not recorded)."""

    lesson: Lesson
    minutes: float | None
    exercises: int

    @property
    def file(self) -> str:
        """The notebook's name."""
        return f"{self.lesson.name}.ipynb"


class Overview(list[LessonRow]):
    """Lessons as a table: HTML in a notebook, lines of text elsewhere."""

    def _repr_html_(self) -> str:
        heads = (say("No."), say("Lesson"), say("What you do"), say("Run all"), say("Exercises"), say("File"))
        head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in heads)
        rows = ""
        for row in self:
            title, promise = (say(text, BOOK) for text in (row.lesson.title, row.lesson.promise))
            texts = (title, promise, _minutes(row), str(row.exercises), row.file)
            cells = "".join(f'<td style="text-align:left">{escape(text)}</td>' for text in texts)  # Jupyter aligns right
            rows += f'<tr><th scope="row">{row.lesson.number}</th>{cells}</tr>'
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        return "\n".join(
            f"{row.lesson.number}  {row.lesson.title:<22} {_minutes(row):<14} {row.exercises} exercises  {row.file}"
            for row in self
        )


def overview(tier: str = "cpu") -> Overview:
    """All lessons, with the time of a recorded run on a tier ("cpu", "t4" or "a100")."""
    records = load_times()
    rows = []
    for lesson in LESSONS.values():
        record = records.get(lesson.name, {}).get(tier)
        count = sum(map(lesson.has, EXERCISES))
        rows.append(LessonRow(lesson, record and record["seconds"] / 60, count))
    return Overview(rows)


def _minutes(row: LessonRow) -> str:
    return say("not recorded") if row.minutes is None else say("{minutes} minutes", minutes=f"{row.minutes:.1f}")
