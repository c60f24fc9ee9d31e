"""Finds the answers in whatever learners hand in.

An answer cell is found by its marker `# EXERCISE: id`, and if no cell carries it by nbgrader's metadata. File names, cell
ids, other cells and outputs do not matter. What cannot be read gets a status for a person to look at, never a silent zero.
"""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.exercises.registry import EXERCISES

MARKER = re.compile(r"^[ \t]*#[ \t]*EXERCISE:[ \t]*([\w.-]+)", re.IGNORECASE | re.MULTILINE)
SMALL, LARGEST = 5_000_000, 300_000_000  # bytes; between the two a process of its own reads, with a limit on its memory
READER_BYTES, READER_SECONDS, ANSWERS_BYTES = 2_000_000_000, 120, 5_000_000
MOST_FILES = 100


@dataclass(frozen=True)
class Submission:
    """One learner's place in the inbox.

    Attributes:
        learner: cleaned name, different from all others'.
        place: a file, or a folder of the learner's own.
        notes: on the name.
    """

    learner: str
    place: Path
    notes: tuple[str, ...] = ()


@dataclass
class Answers:
    """What was found in a submission.

    Attributes:
        cells: exercise id → source of the answer cell.
        notes: on the submission.
        notes_on: exercise id → notes on the answer.
        problems: why a person has to look; if `cells` is empty then nothing was graded.
        files: names of the notebooks read.
    """

    cells: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    notes_on: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class Unreadable(Exception):
    """A file that is no notebook that can be graded; the text says why."""


def submissions(inbox: Path) -> list[Submission]:
    """Everything in the inbox that is somebody's, in the order of the names. Hidden files are nobody's.

    Raises:
        CourseError: there is no such folder.
    """
    try:
        places = sorted(place for place in inbox.iterdir() if not place.name.startswith((".", "__MACOSX")))
    except OSError as error:
        raise CourseError(f"cannot read the inbox {inbox}: {error.strerror}; name a folder with the submissions") from error
    found, taken = [], set()
    for place in places:
        clean = clean_name(place.name if place.is_dir() and not place.is_symlink() else place.stem)
        name, number = clean, 2
        while name.casefold() in taken:
            name, number = f"{clean}-{number}", number + 1
        taken.add(name.casefold())
        notes = () if name == clean else (f"another submission is called {clean} too; this one is {place.name!r}",)
        found.append(Submission(name, place, notes))
    return found


def clean_name(name: str) -> str:
    """A name that is safe as a folder's and in a table: letters, digits, `.`, `_`, `-`, `@`, at most 80 of them."""
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    name = re.sub(r"[^\w.@-]+", "_", name).strip("._-")[:80].rstrip(".")
    return name or "unnamed"


def contents(submission: Submission) -> Iterator[tuple[str, bytes | Unreadable]]:
    """(name, bytes) of each file of a submission, or why it cannot be read. Links are not followed, here or below."""
    place = submission.place
    if place.is_symlink() or not place.is_dir():
        yield place.name, _bytes(place)
        return
    files, links = [], []
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        links += [Path(folder, name) for name in folders if Path(folder, name).is_symlink()]
        files += [Path(folder, name) for name in sorted(names) if name.endswith(".ipynb") and not name.startswith(".")]
        if len(files) > MOST_FILES:
            break
    for link in links:
        yield str(link.relative_to(place)), Unreadable("is a link, which is not followed")
    for file in files[:MOST_FILES]:
        yield str(file.relative_to(place)), _bytes(file)
    if len(files) > MOST_FILES:
        yield "", Unreadable(f"more than {MOST_FILES} notebooks; the others were not read")


def _bytes(file: Path) -> bytes | Unreadable:
    try:
        # A link could lead to another's work, and a pipe would never end.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if file.is_symlink():
            return Unreadable("is a link, which is not followed")
        return Unreadable(f"cannot be opened: {error.strerror}")
    with os.fdopen(descriptor, "rb") as handle:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            return Unreadable("is not a file")
        if state.st_size > LARGEST:
            return Unreadable(f"has {state.st_size:,} bytes; the limit is {LARGEST:,}")
        try:
            return handle.read(LARGEST + 1)
        except OSError as error:
            return Unreadable(f"cannot be read: {error.strerror}")


def answers(files: list[tuple[str, bytes | Unreadable]], wanted: list[str]) -> Answers:
    """The answers in a submission's files.

    Args:
        files: what `contents` gave.
        wanted: ids of the exercises to grade.

    Returns:
        Answers; of an id that stands there several times the last.
    """
    found, others = Answers(), set()
    if not files:
        found.problems.append("no notebook (.ipynb) in the folder")
    for name, data in files:
        try:
            if isinstance(data, Unreadable):
                raise data
            cells = _cells(data)
        except Unreadable as error:
            found.problems.append(f"{name} {error}".strip())
            continue
        found.files.append(name)
        here = _answers_of(cells, found)
        for id, source in here.items():
            if id not in wanted:
                others.add(id)
                continue
            if id in found.cells:
                found.notes_on.setdefault(id, []).append(f"answered in several notebooks; the one in {name} counts")
            found.cells[id] = source
    if not found.cells and not found.problems:
        known = sorted({id.rpartition("-")[0] for id in others})
        found.problems.append(
            f"no answer of this assignment found - the wrong notebook? It has exercises of: {', '.join(known)}"
            if known
            else "no exercise found - the wrong notebook?"
        )
    return found


def _answers_of(cells: list[tuple[str, str, str]], found: Answers) -> dict[str, str]:
    marked: dict[str, list[tuple[str, str]]] = {}
    by_metadata: dict[str, list[tuple[str, str]]] = {}
    for kind, source, grade_id in cells:
        ids = [id.replace(".", "-").lower() for id in MARKER.findall(source)]
        for id in dict.fromkeys(ids):
            marked.setdefault(id, []).append((kind, source))
        if not ids and grade_id:
            by_metadata.setdefault(grade_id, []).append((kind, source))
    chosen = {}
    for id in (id for id in EXERCISES if id in marked or id in by_metadata):
        copies, notes = marked.get(id) or by_metadata[id], found.notes_on.setdefault(id, [])
        if id not in marked:
            notes.append("found by the cell's metadata, as its first line is gone")
        if len(copies) > 1:
            notes.append(f"{len(copies)} cells have this id; the last one counts")
        code = [source for kind, source in copies if kind == "code"]
        if not code:
            notes.append("the answer stands in a cell that is not code")
        elif copies[-1][0] != "code":
            notes.append("the last cell with this id is not code, so the last code cell counts")
        chosen[id] = (code or [copies[-1][1]])[-1]
    for id in [id for id, notes in found.notes_on.items() if not notes]:
        del found.notes_on[id]
    unknown = sorted(set(marked) - set(EXERCISES))
    if unknown:
        found.notes.append(f"cells with ids that the course does not have: {', '.join(unknown[:5])}"[:300])
    return chosen


def _cells(data: bytes) -> list[tuple[str, str, str]]:
    if len(data) <= SMALL:
        return cells_of(data)
    # Parsed JSON may take fifty times the space of its text, so that a large file could end the whole grading.
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import read_apart; read_apart()"],
            input=data,
            capture_output=True,
            timeout=READER_SECONDS,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        said = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"takes more than {READER_SECONDS} s to read") from error
    except ValueError as error:
        raise Unreadable(f"has {len(data):,} bytes and takes too much memory to read") from error
    if isinstance(said, str):
        raise Unreadable(said)
    return [(kind, source, id) for kind, source, id in said]


def read_apart() -> None:
    """Read a large notebook from standard input and write its answer cells, or what is wrong, as JSON."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (READER_BYTES, READER_BYTES))
    said: list[tuple[str, str, str]] | str
    try:
        said = cells_of(sys.stdin.buffer.read())
    except Unreadable as error:
        said = str(error)
    print(json.dumps(said))


def cells_of(data: bytes) -> list[tuple[str, str, str]]:
    """(type, source, exercise id of the metadata or "") of the cells that may be answers.

    Raises:
        Unreadable: no notebook of nbformat 4.
    """
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
        grading = cell.get("metadata", {})
        for key in ("nbgrader", "grade_id"):
            grading = grading.get(key) if isinstance(grading, dict) else None
        id = grading if isinstance(grading, str) and grading in EXERCISES else ""
        if id or MARKER.search(source):
            size += len(source)
            if size > ANSWERS_BYTES:
                raise Unreadable(f"has answer cells of more than {ANSWERS_BYTES:,} characters")
            found.append(("code" if cell.get("cell_type") == "code" else "text", source, id))
    return found


def table(file: Path) -> list[list[str]]:
    """Rows of a CSV file, its header first.

    Raises:
        CourseError: it cannot be read or has no rows.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(text.splitlines(keepends=True)) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CourseError(f"cannot read {file}: {error}; a CSV file in UTF-8 with a header is wanted") from error
    if not rows:
        raise CourseError(f"{file} is empty; a CSV file with a header is wanted")
    return rows
