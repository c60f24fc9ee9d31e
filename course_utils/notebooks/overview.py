"""The six lessons at a glance, for the course's front door."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape

from course_utils.exercises.registry import EXERCISES
from course_utils.notebooks.builder import SECTIONS, times_file

ABOUT = {
    "01": ("Decision framework", "prompt, retrieve, fine-tune, or all of it: four systems measured on one task", "frame"),
    "02": ("LoRA", "teach a real model a strict format by training a few percent of its size", "lora"),
    "03": ("QLoRA", "squeeze the frozen base into 4 bits, and see what that costs", "qlora"),
    "04": ("DPO and its relatives", "learn from preferences: DPO, ORPO, reward model and PPO, all run", "align"),
    "05": ("Dataset preparation", "clean a messy export step by step, and see that it pays", "data"),
    "06": ("The OpenAI API", "jobs, checkpoints and chat through the official client, on a server that trains", "api"),
}


@dataclass(frozen=True)
class Lesson:
    """One lesson: section, title, what it does, minutes on a tier (None: not recorded) and its exercises."""

    section: str
    title: str
    about: str
    minutes: float | None
    exercises: int

    @property
    def file(self) -> str:
        """The notebook's name."""
        return f"{SECTIONS[self.section]}.ipynb"


class Overview(list):
    """Lessons as a table: HTML in a notebook, lines of text elsewhere."""

    def _repr_html_(self) -> str:
        heads = ("", "Lesson", "What you do", "Run all", "Exercises", "File")
        head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in heads)
        rows = ""
        for lesson in self:
            texts = (lesson.title, lesson.about, _minutes(lesson), str(lesson.exercises), lesson.file)
            cells = "".join(f'<td style="text-align:left">{escape(text)}</td>' for text in texts)  # Jupyter aligns right
            rows += f'<tr><th scope="row">{lesson.section}</th>{cells}</tr>'
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        return "\n".join(
            f"{lesson.section}  {lesson.title:<22} {_minutes(lesson):<14} {lesson.exercises} exercises  {lesson.file}"
            for lesson in self
        )


def overview(tier: str = "cpu") -> Overview:
    """All lessons, with the time that a recorded run took on a tier ("cpu", "t4" or "a100")."""
    records = json.loads(times_file().read_text(encoding="utf-8")) if times_file().exists() else {}
    lessons = []
    for section, (title, about, prefix) in ABOUT.items():
        record = records.get(SECTIONS[section], {}).get(tier)
        count = sum(id.startswith(f"{prefix}-") for id in EXERCISES)
        lessons.append(Lesson(section, title, about, record and record["seconds"] / 60, count))
    return Overview(lessons)


def _minutes(lesson: Lesson) -> str:
    return "not recorded" if lesson.minutes is None else f"{lesson.minutes:.1f} minutes"
