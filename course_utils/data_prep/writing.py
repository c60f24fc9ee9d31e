"""Files written whole or not at all, and never over somebody's file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.files import write_whole

# What `prepare` and its report write into a folder.
PREPARED = ("train.jsonl", "validation.jsonl", "rejects.jsonl", "changes.jsonl")
REPORT = "report.html"


def may_write(folder: str | Path, names: Iterable[str], source: str | Path, overwrite: bool = False) -> None:
    """Ask before anything is written whether these files may be.

    Args:
        folder: where they go; need not be there.
        names: of the files.
        source: what they are made from: never written over, not even on request.
        overwrite: whether other files may be.

    Raises:
        CourseError: the folder is a file, or one of the files is the source, or is there already.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"cannot write to {folder}: it is no folder; name one")
    for name in names:
        target = folder / name
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise CourseError(f"{target} is the file that is to be cleaned; name another folder for what is written")
        if not overwrite and os.path.lexists(target):
            raise CourseError(f"{target} is there already; name another folder, or say --overwrite (overwrite=True)")


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Lines into a file that is there whole or not at all."""
    return write_whole(path, (f"{line}\n".encode() for line in lines))
