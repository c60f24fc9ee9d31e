"""Files that are written completely or not at all, and never replace a user's file without being told to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.files import write_whole

# The files that `prepare` and its report write into a folder.
PREPARED = ("train.jsonl", "validation.jsonl", "rejects.jsonl", "changes.jsonl")
REPORT = "report.html"


def may_write(folder: str | Path, names: Iterable[str], source: str | Path, overwrite: bool = False) -> None:
    """Check, before anything is written, whether these files may be written.

    Args:
        folder: where they are written; it need not exist.
        names: names of the files.
        source: the file that they are made from; it is never replaced, not even on request.
        overwrite: whether other existing files may be replaced.

    Raises:
        CourseError: the folder is a file, or one of the files is the source or exists already.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"cannot write to {folder}: it is not a folder; name a folder")
    for name in names:
        target = folder / name
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise CourseError(f"{target} is the file that is being cleaned; name another folder for the output")
        if not overwrite and os.path.lexists(target):
            raise CourseError(f"{target} exists already; name another folder, or use --overwrite (overwrite=True)")


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write lines to a file, completely or not at all, and return its path."""
    return write_whole(path, (f"{line}\n".encode() for line in lines))
