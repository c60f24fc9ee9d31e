"""The learner's own copies of the lessons: made once, never overwritten while they hold work, put back on request.

Whoever opens the course works on copies, so that running a lesson, or stopping it half-way, costs no recorded output: the
original is kept with the course.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from course_utils import assets, lessons
from course_utils.files import sha256, write_whole

FOLDER = "my-lessons"
HANDED_OUT = ".handed-out.json"  # lesson → SHA-256 of the copy as it was made, which says whether it has been changed since


def default_folder() -> Path:
    """Return the folder of the copies: in a checkout beside the originals' folder, else in the folder one is in."""
    if (assets.root() / "pyproject.toml").exists():
        return assets.root() / FOLDER
    here = Path.cwd()  # in JupyterLab's terminal the folder itself
    return here if here.name == FOLDER else here / FOLDER


def update(folder: Path, report: Callable[[str], object] = print) -> Path:
    """Copy the lessons that are missing, and replace those that are older than the course and were never changed.

    Args:
        folder: where the copies are; created if it is missing.
        report: called with a line for each copy that holds work and is older than the course.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handed_out = _handed_out(folder)
    for number, lesson in lessons.NOTEBOOKS.items():
        name = lesson.name
        original, copy = lessons.learner_file(name), folder / f"{name}.ipynb"
        digest = sha256(original)
        if copy.exists() and handed_out.get(name) == digest:
            continue
        if copy.exists() and sha256(copy) not in (digest, handed_out.get(name)):
            report(f"{copy.name} holds your work and is older than the course; `course restore {number}` makes a new one")
            continue
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(original, copy)
        handed_out[name] = digest
    write_whole(folder / HANDED_OUT, json.dumps(handed_out, indent=1).encode())
    return folder


def restore(name: str, folder: Path) -> tuple[Path, Path | None]:
    """Put a lesson back as it was handed out, with its recorded outputs.

    Args:
        name: the lesson's full name.
        folder: where the copies are.

    Returns:
        The restored copy, and where the one with the learner's work is now; None if there was none.
    """
    original, copy, kept = lessons.learner_file(name), folder / f"{name}.ipynb", None
    copy.parent.mkdir(parents=True, exist_ok=True)
    if copy.exists() and sha256(copy) != sha256(original):
        names = (folder / f"{name}-mine-{number}.ipynb" for number in itertools.count(1))
        kept = next(file for file in names if not file.exists())
        copy.rename(kept)
    shutil.copyfile(original, copy)
    write_whole(folder / HANDED_OUT, json.dumps(_handed_out(folder) | {name: sha256(original)}, indent=1).encode())
    return copy, kept


def _handed_out(folder: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((folder / HANDED_OUT).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):  # none yet, or not whole: every copy counts as changed
        return {}
