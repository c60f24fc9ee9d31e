"""The only table of lessons and of the notebooks beside them; everything else that lists them reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from course_utils import assets
from course_utils.errors import CourseError


@dataclass(frozen=True)
class Lesson:
    """One lesson, or a further notebook beside it.

    Attributes:
        number: two digits; of a further notebook those of its lesson, such as "further/04".
        slug: the part of its file names after the number.
        title: the title for display.
        promise: what the learner does in it.
        prefix: prefix of its exercises' ids.
    """

    number: str
    slug: str
    title: str
    promise: str
    prefix: str

    @property
    def name(self) -> str:
        """Name of its notebook and of its source, without the extension: "02_lora", "further/04_reinforcement"."""
        return f"{self.number}_{self.slug}"

    def has(self, exercise_id: str) -> bool:
        """Return whether an exercise belongs to this lesson."""
        return exercise_id.rpartition("-")[0] == self.prefix


LESSONS = {
    lesson.number: lesson
    for lesson in (
        Lesson(
            "01", "decision_framework", "Decision framework",
            "prompt, retrieve, fine-tune, or all of it: the rivals measured on one task", "frame",
        ),
        Lesson("02", "lora", "LoRA", "teach a real model a strict format by training a few percent of its size", "lora"),
        Lesson("03", "qlora", "QLoRA", "squeeze the frozen base into 4 bits, and see what that costs", "qlora"),
        Lesson(
            "04", "dpo", "DPO and its relatives",
            "teach which answer is better: DPO by hand and with TRL", "align",
        ),
        Lesson(
            "05", "dataset_prep", "Dataset preparation",
            "from a messy export to a file worth training on", "data",
        ),
        Lesson(
            "06", "openai_api", "The OpenAI API",
            "jobs, checkpoints and chat through the official client, on a server that trains", "api",
        ),
    )
}  # fmt: skip
NAMES = tuple(lesson.name for lesson in LESSONS.values())
# What is worth keeping and doesn't fit into a lesson: built, tested, shown and handed out like one, but not graded.
FURTHER = {
    "further/04": Lesson(
        "further/04", "reinforcement", "Learning from a score",
        "let a program score answers: GRPO, and rewards that are gamed", "reinforce",
    )
}  # fmt: skip
NOTEBOOKS = LESSONS | FURTHER


def find(text: str) -> Lesson:
    """Return the lesson that is called "02", "2" or "02_lora", or the further notebook "further/04".

    Raises:
        CourseError: there is no such lesson.
    """
    lesson = NOTEBOOKS.get(text.split("_")[0].zfill(2))
    if lesson is None or text not in (lesson.name, lesson.number, lesson.number.lstrip("0")):
        raise CourseError(f"unknown lesson {text!r}; there are {', '.join(lesson.name for lesson in NOTEBOOKS.values())}")
    return lesson


def source_file(name: str) -> Path:
    """Return the path of a lesson's source, given its full name."""
    return assets.path(f"notebooks/source/{name}.py")


def learner_file(name: str) -> Path:
    """Return the path of the learner's edition of a lesson, given its full name."""
    return assets.root() / "notebooks" / f"{name}.ipynb"
