"""The only table of lessons and of the notebooks beside them, and the learner's own copies of them.

Whoever opens the course works on copies: made once, never overwritten while they hold work, put back on request. So running
a lesson, or stopping it half-way, costs no recorded output: the original is kept with the course.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_utils import assets
from course_utils.errors import CourseError
from course_utils.files import sha256, write_whole


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


# -- the learner's copies ---------------------------------------------------------------------------------------------------

FOLDER = "my-lessons"
HANDED_OUT = ".handed-out.json"  # lesson → SHA-256 of the copy as it was made, which says whether it has been changed since


def copies_folder() -> Path:
    """Return the folder of the copies: in a checkout beside the originals' folder, else in the folder one is in."""
    if (assets.root() / "pyproject.toml").exists():
        return assets.root() / FOLDER
    here = Path.cwd()  # in JupyterLab's terminal the folder itself
    return here if here.name == FOLDER else here / FOLDER


def update_copies(
    folder: Path, report: Callable[[str], object] = print, original: Callable[[str], Path] = learner_file
) -> Path:
    """Copy the lessons that are missing, and replace those that are older than the course and were never changed.

    Args:
        folder: where the copies are; created if it is missing, and returned.
        report: called with a line for each copy that holds work and is older than the course.
        original: finds the notebook of a lesson, given its full name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handed_out = _handed_out(folder)
    for number, lesson in NOTEBOOKS.items():
        name = lesson.name
        copy, digest = folder / f"{name}.ipynb", sha256(original(name))
        if copy.exists() and handed_out.get(name) == digest:
            continue
        if copy.exists() and sha256(copy) not in (digest, handed_out.get(name)):
            report(f"{copy.name} holds your work and is older than the course; `course restore {number}` makes a new one")
            continue
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(original(name), copy)
        handed_out[name] = digest
    write_whole(folder / HANDED_OUT, json.dumps(handed_out, indent=1).encode())
    return folder


def restore_copy(name: str, folder: Path, original: Callable[[str], Path] = learner_file) -> tuple[Path, Path | None]:
    """Put a lesson, given its full name, back as it was handed out, with its recorded outputs; see `update_copies`.

    Returns:
        The restored copy, and where the one with the learner's work is now; None if there was none.
    """
    source, copy, kept = original(name), folder / f"{name}.ipynb", None
    copy.parent.mkdir(parents=True, exist_ok=True)
    if copy.exists() and sha256(copy) != sha256(source):
        names = (folder / f"{name}-mine-{number}.ipynb" for number in itertools.count(1))
        kept = next(file for file in names if not file.exists())
        copy.rename(kept)
    shutil.copyfile(source, copy)
    write_whole(folder / HANDED_OUT, json.dumps(_handed_out(folder) | {name: sha256(source)}, indent=1).encode())
    return copy, kept


def _handed_out(folder: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((folder / HANDED_OUT).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):  # none yet, or not whole: every copy counts as changed
        return {}
