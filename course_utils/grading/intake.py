"""Finds the answers in whatever learners hand in.

An answer cell is found by its marker `# EXERCISE: id`, and if no cell carries it by nbgrader's metadata. File names, cell
ids, other cells and outputs do not matter. What cannot be read gets a status for a person to look at, never a silent zero.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.exercises.definitions import strip_solution
from course_utils.exercises.registry import EXERCISES
from course_utils.grading.reading import AROUND_BYTES, MARKER, Cells, File, is_folder, shown


@dataclass(frozen=True)
class Submission:
    """One learner's place in the inbox.

    Attributes:
        learner: cleaned name, different from all others'.
        place: a file, or a folder of the learner's own.
        notes: on the name.
        clash: whether another submission has this name too, apart from capitals, accents and signs; then nobody but a person
            can say whose it is.
    """

    learner: str
    place: Path
    notes: tuple[str, ...] = ()
    clash: bool = False


@dataclass
class Answers:
    """What was found in a submission.

    Attributes:
        cells: exercise id → source of the answer cell.
        around: exercise id → sources of the notebook's other code cells: those before the answer, those after it.
        notes: on the submission.
        notes_on: exercise id → notes on the answer.
        problems: why a person has to look; if `cells` is empty then nothing was graded.
        files: names of the notebooks read.
        digests: of everything that was looked at.
    """

    cells: dict[str, str] = field(default_factory=dict)
    around: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    notes_on: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


def submissions(inbox: Path) -> list[Submission]:
    """Everything in the inbox that is somebody's, in the order of the names. Hidden files are nobody's.

    Raises:
        CourseError: there is no such folder.
    """
    try:
        with os.scandir(inbox) as listed:
            entries = sorted(
                (entry for entry in listed if not entry.name.startswith((".", "__MACOSX"))), key=lambda entry: entry.name
            )
    except OSError as error:
        raise CourseError(f"cannot read the inbox {inbox}: {error.strerror}; name a folder with the submissions") from error
    names = [clean_name(entry.name if is_folder(entry) else Path(entry.name).stem) for entry in entries]
    count = Counter(map(folded, names))
    taken = {name for name, number in count.items() if number == 1}  # a number must not make one name into another's
    found = []
    for entry, clean in zip(entries, names):
        clash, name, number = count[folded(clean)] > 1, clean, 2
        while clash and folded(name) in taken:
            name, number = f"{clean}-{number}", number + 1
        taken.add(folded(name))
        notes = (f"another submission is called {clean} too; this one is {shown(entry.name)!r}",) if clash else ()
        found.append(Submission(name, Path(entry.path), notes, clash))
    return found


def clean_name(name: str) -> str:
    """A name that is safe for a folder and a table: letters, digits, `.`, `_`, `-`, `@`, at most 80 and 200 bytes."""
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    name = re.sub(r"[^\w.@-]+", "_", name).strip("._-")[:80]
    return name.encode()[:200].decode(errors="ignore").rstrip(".") or "unnamed"


def folded(name: str) -> str:
    """What names have in common that differ in capitals or in how accents are encoded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def answers(files: Iterable[File], wanted: list[str]) -> Answers:
    """The answers in a submission's files.

    Args:
        files: what `contents` gave.
        wanted: ids of the exercises to grade.

    Returns:
        Answers; of an id that stands there several times the last that is filled in.
    """
    found, others = Answers(), set()
    for file in files:
        found.digests.append(file.digest)
        if file.problem:
            found.problems.append(f"{file.name} {file.problem}".strip())
            continue
        name, cells = file.name, file.cells
        found.files.append(name)
        here = _answers_of(cells, found)
        for id, place in here.items():
            if id not in wanted:
                others.add(id)
                continue
            if id in found.cells:
                found.notes_on.setdefault(id, []).append(f"answered in several notebooks; the one in {name} counts")
            found.cells[id] = cells[place][1]
            found.around[id] = _code(cells[:place]), _code(cells[place + 1 :])
    if not found.digests:
        found.problems.append("no notebook (.ipynb) in the folder")
    if not found.cells and not found.problems:
        known = sorted({id.rpartition("-")[0] for id in others})
        found.problems.append(
            f"no answer of this assignment found - the wrong notebook? It has exercises of: {', '.join(known)}"
            if known
            else "no exercise found - the wrong notebook?"
        )
    return found


def _answers_of(cells: Cells, found: Answers) -> dict[str, int]:
    """Exercise id → place of its answer among the cells."""
    marked: dict[str, list[int]] = {}
    by_metadata: dict[str, list[int]] = {}
    for place, (_, source, grade_id) in enumerate(cells):
        ids = [id.replace(".", "-").lower() for id in MARKER.findall(source)]
        for id in dict.fromkeys(ids):
            marked.setdefault(id, []).append(place)
        if not ids and grade_id:
            by_metadata.setdefault(grade_id, []).append(place)
    chosen = {}
    for id in (id for id in EXERCISES if id in marked or id in by_metadata):
        notes = found.notes_on.setdefault(id, [])
        if id not in marked:
            notes.append("found by the cell's metadata, as its first line is gone")
        chosen[id] = _chosen(id, cells, marked.get(id) or by_metadata[id], notes)
    for id in [id for id, notes in found.notes_on.items() if not notes]:
        del found.notes_on[id]
    unknown = sorted(set(marked) - set(EXERCISES))
    if unknown:
        found.notes.append(f"cells with ids that the course does not have: {', '.join(unknown[:5])}"[:300])
    return chosen


def _chosen(id: str, cells: Cells, copies: list[int], notes: list[str]) -> int:
    """Which of the cells with an exercise's id is the answer."""
    code = [place for place in copies if cells[place][0] == "code"]
    if not code:
        notes.append("the answer stands in a cell that is not code")
        return copies[-1]
    if copies[-1] != code[-1]:
        notes.append("the last cell with this id is not code, so the last code cell counts")
    # A copied stub, or a scratch cell that repeats the marker, is no answer where there is one.
    answers = [place for place in code if _answers(id, cells[place][1])]
    if not answers:
        answers = [place for place, (kind, source, _) in enumerate(cells) if kind == "code" and _answers(id, source)]
        if answers:
            notes.append("the answer stands in another cell than the one with this id")
            return answers[-1]
    elif len(code) > 1:
        last = "the last one counts" if answers[-1] == code[-1] else "the last one that is filled in counts"
        notes.append(f"{len(copies)} cells have this id; {last}")
    return (answers or code)[-1]


def _answers(id: str, source: str) -> bool:
    """Whether a cell seems to define the answer, other than by the stub. Only its text is looked at: it may be anything."""
    name = EXERCISES[id].name
    defines = (
        rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b|^[ \t]*{name}[ \t]*(?::[^=\n]+)?=(?!=)|\bas[ \t]+{name}\b"
    )
    return re.search(defines, source, re.MULTILINE) is not None and _bare(source) != _bare(stub(id))


def _bare(source: str) -> str:
    """Source without comments and placeholders."""
    lines = (line.strip() for line in source.splitlines())
    return "\n".join(
        line
        for line in lines
        if line
        and not line.startswith("#")
        and not re.match(r"(\.\.\.|pass|return( None)?|raise NotImplementedError.*)$", line)
    )


@lru_cache
def stub(id: str) -> str:
    """The answer cell as the learner's notebook has it."""
    return strip_solution(EXERCISES[id].source())


def _code(cells: Cells) -> tuple[str, ...]:
    """Sources of the code cells that can define something, up to a size that no lesson reaches."""
    found, size = [], 0
    for kind, source, _ in cells:
        size += len(source)
        if kind == "code" and source.strip() and size <= AROUND_BYTES:
            found.append(source)
    return tuple(found)


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
