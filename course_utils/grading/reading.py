"""Reads the notebooks of one submission, whatever their names and contents.

Files are read one by one, with a limit on the size of each and of all together; large ones are read in a process of their
own, one at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from course_utils.exercises import EXERCISES

EXERCISE_MARKER = re.compile(r"^[ \t]*#[ \t]*EXERCISE:[ \t]*([\w.-]+)", re.IGNORECASE | re.MULTILINE)
SMALL_BYTES, LARGEST_BYTES = 5_000_000, 300_000_000  # files between the two are read in a process with limited memory
READER_BYTES, READER_SECONDS, ANSWERS_BYTES, AROUND_BYTES = 2_000_000_000, 120, 5_000_000, 500_000
MOST_FILES, MOST_ENTRIES, MOST_FOLDER_LEVELS = 100, 20_000, 12  # notebooks, entries and folder levels of one submission
TOO_MANY = f"more than {MOST_FILES} notebooks; the others were not read"
HIDDEN = (".", "__MACOSX")  # beginnings of names that are nobody's work
Cells = list[tuple[str, str, str]]  # (type, source, exercise id of the metadata or "")
_large = threading.Lock()  # large files are read one at a time, because each takes a lot of memory


@dataclass(frozen=True)
class File:
    """One file of a submission.

    Attributes:
        name: name for display: printable and not too long.
        digest: hash of its name and content, or of the reason why it cannot be read.
        cells: the cells that may be answers, and all other code cells.
        problem: why it cannot be read, or "".
    """

    name: str
    digest: bytes
    cells: Cells = field(default_factory=list)
    problem: str = ""


class Unreadable(Exception):
    """The file cannot be graded; the text of the error says why."""


def shown(text: str, max_length: int = 120) -> str:
    """Return untrusted text in a form that can be displayed: printable characters only, at most `max_length` of them."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: max_length + 1])
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def contents(*paths: Path) -> Iterator[File]:
    """Yield each file of a submission, read when it is needed. Links are not followed, here or in any function below."""
    remaining_bytes, deadline = LARGEST_BYTES, time.monotonic() + READER_SECONDS
    for name, location in _all_candidate_files(paths):
        try:
            with _open_file(location, remaining_bytes) as handle:
                remaining_bytes -= os.fstat(handle.fileno()).st_size
                key, cells = _cells(handle, deadline)
        except Unreadable as error:
            yield File(shown(name), _digest(name, str(error).encode()), problem=str(error))
        else:
            yield File(shown(name), _digest(name, key), cells)


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(os.fsencode(name)).digest() + content).digest()


def in_order(name: str) -> tuple[str, int, str]:
    """Return what sorts the names of files so that a later download follows: a.ipynb, a-1.ipynb (Canvas), a (2).ipynb."""
    stem = name.rpartition(".")[0] or name
    base, _, one, other = re.fullmatch(r"(.*?)( ?\((\d+)\)|-(\d+))?", stem, re.DOTALL).groups()  # type: ignore[union-attr]
    return base, int(one or other or 0), name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a real folder, not a link to one."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _all_candidate_files(paths: tuple[Path, ...]) -> Iterator[tuple[str, Path | Unreadable]]:
    for path in paths[:MOST_FILES]:
        yield from _candidate_files(path)
    if len(paths) > MOST_FILES:
        yield "", Unreadable(TOO_MANY)


def _candidate_files(path: Path) -> Iterator[tuple[str, Path | Unreadable]]:
    """(name inside the submission, its path or why it is not read) of everything that may be a notebook."""
    if path.is_symlink() or not path.is_dir():
        yield path.name, path
        return
    entries, files, errors = 0, 0, list[OSError]()
    for folder, folders, names in os.walk(path, onerror=errors.append):
        inner = "" if folder == str(path) else f"{os.path.relpath(folder, path)}/"
        entries += len(folders) + len(names)
        if entries > MOST_ENTRIES:
            yield inner, Unreadable(f"has more than {MOST_ENTRIES:,} files; the others were not looked at")
            return
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        notebooks = [name for name in names if name.lower().endswith(".ipynb")]
        folders[:] = sorted(name for name in folders if name not in links and not name.startswith(HIDDEN))
        for name in sorted((name for name in (*notebooks, *links) if not name.startswith(HIDDEN)), key=in_order):
            files += 1
            if files > MOST_FILES:
                yield "", Unreadable(TOO_MANY)
                return
            yield f"{inner}{name}", Path(folder, name)
        if folders and inner.count("/") == MOST_FOLDER_LEVELS - 1:
            yield f"{inner}{folders[0]}/", Unreadable(f"is deeper than {MOST_FOLDER_LEVELS} folders and was not read")
            folders.clear()
    for error in errors:
        yield f"{os.path.relpath(error.filename, path)}/", Unreadable(f"is a folder that cannot be read: {error.strerror}")


def _open_file(location: Path | Unreadable, remaining_bytes: int) -> BinaryIO:
    """The open file.

    Raises:
        Unreadable: it does not exist, is not a regular file, or is larger than `remaining_bytes`.
    """
    if isinstance(location, Unreadable):
        raise location
    try:
        state = os.lstat(location)
        if stat.S_ISLNK(state.st_mode):
            raise Unreadable("is a link, which is not followed")
        if not stat.S_ISREG(state.st_mode):  # opening a device can have side effects
            raise Unreadable("is not a file")
        # The file may have been replaced since: a link could lead to another learner's work, and a pipe would never end.
        handle = os.fdopen(
            os.open(location, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb"
        )
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from error
    state = os.fstat(handle.fileno())
    if stat.S_ISREG(state.st_mode) and state.st_size <= remaining_bytes:
        return handle
    handle.close()
    if not stat.S_ISREG(state.st_mode):
        raise Unreadable("is not a file")
    if state.st_size > LARGEST_BYTES:
        raise Unreadable(f"has {state.st_size:,} bytes; the limit is {LARGEST_BYTES:,}")
    raise Unreadable(f"is one too many: the notebooks of a submission may have at most {LARGEST_BYTES:,} bytes in all")


def _cells(handle: BinaryIO, deadline: float) -> tuple[bytes, Cells]:
    """(digest of what was read, cells); by `deadline` the whole submission must have been read.

    Raises:
        Unreadable: not a notebook, or reading it takes too much time or memory.
    """
    if os.fstat(handle.fileno()).st_size <= SMALL_BYTES:
        try:
            data = handle.read(SMALL_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}") from error
        return hashlib.sha256(data).digest(), cells_of(data)
    # Parsed JSON can take fifty times the memory of its text, so a large file could end the whole grading.
    try:
        with _large:
            reader = subprocess.run(
                [sys.executable, "-c", f"from {__name__} import read_in_own_process; read_in_own_process()"],
                stdin=handle,
                capture_output=True,
                timeout=max(1.0, deadline - time.monotonic()),
                check=False,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        key, cells_or_problem = json.loads(reader.stdout)
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"takes more than {READER_SECONDS} s to read") from error
    except ValueError as error:
        raise Unreadable("takes too much memory to read") from error
    if isinstance(cells_or_problem, str):
        raise Unreadable(cells_or_problem)
    return bytes.fromhex(key), [(kind, source, id) for kind, source, id in cells_or_problem]


def read_in_own_process() -> None:
    """Read a large notebook from standard input; write its digest, and its cells or what is wrong with it, as JSON."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (READER_BYTES, READER_BYTES))
    data = sys.stdin.buffer.read(LARGEST_BYTES + 1)
    cells_or_problem: Cells | str
    try:
        cells_or_problem = cells_of(data)
    except Unreadable as error:
        cells_or_problem = str(error)
    print(json.dumps([hashlib.sha256(data).hexdigest(), cells_or_problem]))


def cells_of(data: bytes) -> Cells:
    """Return the cells that may be answers, and all other code cells, as (type, source, exercise id in the metadata or "").

    Args:
        data: content of a notebook file.

    Raises:
        Unreadable: it is not a notebook of nbformat 4.
    """
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        raise Unreadable("is an archive or an office document, not a notebook; unpack archives into a folder per learner")
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unreadable("is not text in UTF-8") from error
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    except ValueError as error:
        problem = "is empty" if not data.strip() else f"is not JSON ({str(error)[:100]})"
        raise Unreadable(problem) from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        is_format_3 = isinstance(notebook, dict) and "worksheets" in notebook
        raise Unreadable("is a notebook of format 3; open and save it in JupyterLab" if is_format_3 else "is not a notebook")
    cells, size = [], 0
    for cell in notebook["cells"]:
        if not isinstance(cell, dict):
            continue
        source = cell.get("source", "")
        if isinstance(source, list):
            source = "".join(part for part in source if isinstance(part, str))
        if not isinstance(source, str):
            continue
        source = source.replace("\r\n", "\n").replace("\r", "\n")
        source = source.encode("utf-8", "replace").decode()  # a lone surrogate cannot be encoded
        grading = cell.get("metadata", {})
        for key in ("nbgrader", "grade_id"):
            grading = grading.get(key) if isinstance(grading, dict) else None
        id = grading if isinstance(grading, str) and grading in EXERCISES else ""
        code = cell.get("cell_type") == "code"
        if id or EXERCISE_MARKER.search(source):
            size += len(source)
            if size > ANSWERS_BYTES:
                raise Unreadable(f"has answer cells of more than {ANSWERS_BYTES:,} characters")
            cells.append(("code" if code else "text", source, id))
        elif code and len(source) <= AROUND_BYTES:
            cells.append(("code", source, ""))
    return cells
