"""Reads the notebooks of one submission, whatever they hold and are called.

File by file, each up to a size and all together too, large ones by a process of their own and one at a time.
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

from course_utils.exercises.registry import EXERCISES

MARKER = re.compile(r"^[ \t]*#[ \t]*EXERCISE:[ \t]*([\w.-]+)", re.IGNORECASE | re.MULTILINE)
SMALL, LARGEST = 5_000_000, 300_000_000  # bytes; between the two a process of its own reads, with a limit on its memory
READER_BYTES, READER_SECONDS, ANSWERS_BYTES, AROUND_BYTES = 2_000_000_000, 120, 5_000_000, 500_000
MOST_FILES, MOST_ENTRIES, MOST_DEPTH = 100, 20_000, 12  # notebooks, names and levels of folders of one submission
Cells = list[tuple[str, str, str]]  # (type, source, exercise id of the metadata or "")
_large = threading.Lock()  # for the memory that reading one takes


@dataclass(frozen=True)
class File:
    """One file of a submission.

    Attributes:
        name: to show: printable, not long.
        digest: of its own name and content, or of why it cannot be read.
        cells: what may be answers.
        problem: why it cannot be read, or "".
    """

    name: str
    digest: bytes
    cells: Cells = field(default_factory=list)
    problem: str = ""


class Unreadable(Exception):
    """A file that is no notebook that can be graded; the text says why."""


def shown(text: str, most: int = 120) -> str:
    """A stranger's name for something, fit to be shown to people: on printable characters, and cut."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def fingerprint(place: Path) -> list[bytes]:
    """The `digest` of each file of a submission, without a look at what is in them."""
    left, found = LARGEST, []
    for name, where in _places(place):
        try:
            with _opened(where, left) as handle:
                left -= os.fstat(handle.fileno()).st_size
                found.append(_digest(name, _content_digest(handle)))
        except Unreadable as error:
            found.append(_digest(name, str(error).encode()))
    return found


def contents(place: Path) -> Iterator[File]:
    """Each file of a submission, read when it is asked for. Links are not followed, here or below."""
    left, over = LARGEST, time.monotonic() + READER_SECONDS
    for name, where in _places(place):
        label, key = shown(name), b""
        try:
            with _opened(where, left) as handle:
                left -= os.fstat(handle.fileno()).st_size
                key = _content_digest(handle)
                handle.seek(0)
                key, cells = _cells(handle, over)
        except Unreadable as error:
            yield File(label, _digest(name, key or str(error).encode()), problem=str(error))
        else:
            yield File(label, _digest(name, key), cells)


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(os.fsencode(name)).digest() + content).digest()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder of its own, no link to one."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _places(place: Path) -> Iterator[tuple[str, Path | Unreadable]]:
    """(name inside the submission, where it is or why it is not looked at) of everything that may be a notebook."""
    if place.is_symlink() or not place.is_dir():
        yield place.name, place
        return
    entries, files, left = 0, 0, [("", place, 1)]
    while left:
        name, folder, depth = left.pop()
        try:
            with os.scandir(folder) as listed:
                inside = []
                for entry in listed:
                    entries += 1
                    if entries > MOST_ENTRIES:
                        yield name, Unreadable(f"has more than {MOST_ENTRIES:,} files; the others were not looked at")
                        return
                    if not entry.name.startswith((".", "__MACOSX")):
                        inside.append(entry)
        except OSError as error:
            yield name, Unreadable(f"is a folder that cannot be read: {error.strerror}")
            continue
        inside.sort(key=lambda entry: entry.name)
        folders = []
        for entry in inside:
            path, here = f"{name}{entry.name}", Path(entry.path)
            if is_folder(entry):
                folders.append((f"{path}/", here, depth + 1))
            elif entry.name.lower().endswith(".ipynb") or _links_to_folder(entry):
                files += 1
                if files > MOST_FILES:
                    yield "", Unreadable(f"more than {MOST_FILES} notebooks; the others were not read")
                    return
                yield path, here
        if depth == MOST_DEPTH and folders:
            yield folders[0][0], Unreadable(f"is deeper than {MOST_DEPTH} folders, which is not looked at")
        else:
            left += folders[::-1]


def _links_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:
        return False


def _opened(where: Path | Unreadable, left: int) -> BinaryIO:
    """The open file.

    Raises:
        Unreadable: it is not there, no file of its own, or larger than what is `left`.
    """
    if isinstance(where, Unreadable):
        raise where
    try:
        state = os.lstat(where)
        if stat.S_ISLNK(state.st_mode):
            raise Unreadable("is a link, which is not followed")
        if not stat.S_ISREG(state.st_mode):  # to open a device may do something
            raise Unreadable("is not a file")
        # A link could lead to another's work, and a pipe would never end: it may have become one since.
        handle = os.fdopen(os.open(where, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb")
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from error
    state = os.fstat(handle.fileno())
    if stat.S_ISREG(state.st_mode) and state.st_size <= left:
        return handle
    handle.close()
    if not stat.S_ISREG(state.st_mode):
        raise Unreadable("is not a file")
    if state.st_size > LARGEST:
        raise Unreadable(f"has {state.st_size:,} bytes; the limit is {LARGEST:,}")
    raise Unreadable(f"is one too many: the notebooks of a submission may have {LARGEST:,} bytes together")


def _content_digest(handle: BinaryIO) -> bytes:
    found, left = hashlib.sha256(), LARGEST + 1
    try:
        while left and (part := handle.read(min(left, 1 << 20))):
            found.update(part)
            left -= len(part)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    return found.digest()


def _cells(handle: BinaryIO, over: float) -> tuple[bytes, Cells]:
    """(digest of what was read, cells); `over` is when all of the submission must be read.

    Raises:
        Unreadable: no notebook, or it takes too much time or memory.
    """
    if os.fstat(handle.fileno()).st_size <= SMALL:
        data = handle.read(SMALL + 1)
        return hashlib.sha256(data).digest(), cells_of(data)
    # Parsed JSON may take fifty times the space of its text, so that a large file could end the whole grading.
    try:
        with _large:
            done = subprocess.run(
                [sys.executable, "-c", f"from {__name__} import read_apart; read_apart()"],
                stdin=handle,
                capture_output=True,
                timeout=max(1.0, over - time.monotonic()),
                check=False,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        key, said = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"takes more than {READER_SECONDS} s to read") from error
    except ValueError as error:
        raise Unreadable("takes too much memory to read") from error
    if isinstance(said, str):
        raise Unreadable(said)
    return bytes.fromhex(key), [(kind, source, id) for kind, source, id in said]


def read_apart() -> None:
    """Read a large notebook from standard input; write its digest, and its answer cells or what is wrong, as JSON."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (READER_BYTES, READER_BYTES))
    data = sys.stdin.buffer.read(LARGEST + 1)
    said: Cells | str
    try:
        said = cells_of(data)
    except Unreadable as error:
        said = str(error)
    print(json.dumps([hashlib.sha256(data).hexdigest(), said]))


def cells_of(data: bytes) -> Cells:
    """(type, source, exercise id of the metadata or "") of the cells: those that may be answers, and all other code.

    Raises:
        Unreadable: no notebook of nbformat 4.
    """
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        raise Unreadable("is an archive or an office document, no notebook; unpack archives into a folder for each learner")
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unreadable("is not text in UTF-8") from error
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    except ValueError as error:
        what = "is empty" if not data.strip() else f"is not JSON ({str(error)[:100]})"
        raise Unreadable(what) from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        old = isinstance(notebook, dict) and "worksheets" in notebook
        raise Unreadable("is a notebook of format 3; open and save it in JupyterLab" if old else "is not a notebook")
    found, size = [], 0
    for cell in notebook["cells"]:
        if not isinstance(cell, dict):
            continue
        source = cell.get("source", "")
        if isinstance(source, list):
            source = "".join(part for part in source if isinstance(part, str))
        if not isinstance(source, str):
            continue
        source = source.replace("\r\n", "\n").replace("\r", "\n")
        source = source.encode("utf-8", "replace").decode()  # half of a surrogate pair is in no text
        grading = cell.get("metadata", {})
        for key in ("nbgrader", "grade_id"):
            grading = grading.get(key) if isinstance(grading, dict) else None
        id = grading if isinstance(grading, str) and grading in EXERCISES else ""
        code = cell.get("cell_type") == "code"
        if id or MARKER.search(source):
            size += len(source)
            if size > ANSWERS_BYTES:
                raise Unreadable(f"has answer cells of more than {ANSWERS_BYTES:,} characters")
            found.append(("code" if code else "text", source, id))
        elif code and len(source) <= AROUND_BYTES:
            found.append(("code", source, ""))
    return found
