"""Finds the answers in whatever learners hand in.

An answer cell is identified by its marker `# EXERCISE: id` or, if no cell has that, by nbgrader's metadata. File names, cell
ids, other cells and outputs do not matter. A file that cannot be read is reported for a person to look at; it never counts
silently as zero.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.exercises.definitions import strip_solution
from course_utils.grading.reading import AROUND_BYTES, EXERCISE_MARKER, Cells, File, in_order, is_folder, shown

MOST_NAMES = 3  # files named in one reason
# How Canvas and Moodle begin the names of what they let an instructor download: a learner's name and number. They write this
# part themselves, so that files with the same one are one learner's. Canvas: NAME_ID_NUMBER_filename, NAME_LATE_ID_... where
# the learner was late; a file may have two numbers of its own behind Moodle's, so that Moodle's form is tried first.
MOODLE = re.compile(r"(?P<name>.+?)_(?P<number>\d+)_assignsubmission_(?:file|onlinetext)(?:_.*)?", re.DOTALL | re.ASCII)
CANVAS = re.compile(r"(?P<name>.+?)(?P<late>_LATE)?_(?P<number>\d+)_(?P<file>\d+)_.+", re.DOTALL | re.ASCII)
ACCENTS = re.compile("[\u0300-\u036f]")  # no other script's marks: there they are vowels, and make other names


@dataclass(frozen=True)
class Submission:
    """One learner's file or folder in the inbox, or all that a download of Canvas or Moodle has of one learner.

    Attributes:
        learner: cleaned name, which differs from all others.
        name: cleaned name as it was handed in, which others may have too.
        paths: everything that the learner handed in: a file or a folder of their own, and more if a download of Canvas or
            Moodle has more of the same learner.
        notes: notes on the name.
        clash: whether another submission has the same name except for capitals, accents and punctuation; only a person can
            then say whose it is.
        platform_id: "Canvas 704" or "Moodle 31", the number that the platform put into the file's name; "" if none did.
    """

    learner: str
    name: str
    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    clash: bool = False
    platform_id: str = ""


@dataclass(frozen=True)
class LearnerAnswer:
    """An answer cell, and the code cells around it, which may define what it uses.

    Attributes:
        cell: source of the answer cell.
        before: sources of the code cells above it, in the notebook's order.
        between: sources of the cells between the answer and its check, which were run before the check.
        after: sources of the cells below.
    """

    cell: str
    before: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass
class Answers:
    """The answers in a submission.

    Attributes:
        cells: exercise id → answer.
        notes: notes on the submission.
        notes_on: exercise id → notes on the answer.
        faults: what failed in the grader itself, which a person is told and the learner is not.
        problems: reasons why a person has to look at the submission; if `cells` is empty, nothing can be graded.
        unread: whether one of the files cannot be read.
        files: names of the notebooks that were read.
        digests: hashes of all files that were examined.
    """

    cells: dict[str, LearnerAnswer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    notes_on: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unread: bool = False
    files: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


def submissions(inbox: Path) -> list[Submission]:
    """Return all submissions in the inbox, in the order of their names; hidden files are none.

    Raises:
        CourseError: there is no such folder.
    """
    try:
        with os.scandir(inbox) as folder_entries:
            entries = sorted(
                (entry for entry in folder_entries if not entry.name.startswith((".", "__MACOSX"))),
                key=lambda entry: in_order(entry.name),
            )
    except OSError as error:
        raise CourseError(f"cannot read the inbox {inbox}: {error.strerror}; name a folder with the submissions") from error
    from_canvas = _is_canvas_download(entries)
    late = {_sender(entry.name, True) for entry in entries if (found := CANVAS.fullmatch(entry.name)) and found["late"]}
    together: dict[tuple[str, str, str], list[os.DirEntry[str]]] = {}
    for entry in entries:  # a learner with a late file is Canvas's, whatever else is here
        sender = _sender(entry.name, True)
        together.setdefault(sender if from_canvas or sender in late else _sender(entry.name, False), []).append(entry)
    for sender, group in together.items():  # as in a learner's folder, a report beside the notebook is not looked at
        readable = [entry for entry in group if is_folder(entry) or entry.name.lower().endswith(".ipynb")]
        together[sender] = readable or group
    names = []
    for (platform, name, number), group in together.items():
        whole_name = group[0].name if is_folder(group[0]) else _without_suffix(group[0].name)
        names.append(clean_name(f"{name}_{number}" if platform and len(group) > 1 else whole_name))
    count = Counter(map(folded, names))
    taken_names = {name for name, times in count.items() if times == 1}  # a numbered name must not equal one
    submitted = []
    for ((platform, _, number), group), cleaned in zip(together.items(), names):
        clash, learner, suffix = count[folded(cleaned)] > 1, cleaned, 2
        while clash and folded(learner) in taken_names:
            learner, suffix = f"{cleaned}-{suffix}", suffix + 1
        taken_names.add(folded(learner))
        notes: tuple[str, ...] = ()
        if clash:
            notes += (f"another submission is called {cleaned} too; this one is {shown(group[0].name)!r}",)
        if len(group) > 1:
            names_shown = [shown(entry.name) for entry in group[:MOST_NAMES]] + ["…"] * (len(group) > MOST_NAMES)
            notes += (f"{len(group)} files of one learner, as their names say: {', '.join(names_shown)}",)
        paths = tuple(Path(entry.path) for entry in group)
        submitted.append(Submission(learner, cleaned, paths, notes, clash, f"{platform} {number}".strip()))
    return submitted


def _without_suffix(name: str) -> str:
    """A file's name without its ending; `ada@example.org` has none."""
    stem, suffix = os.path.splitext(name)
    _, at, host = stem.partition("@")
    return name if at and "." not in host and suffix.lower() != ".ipynb" else stem


def _is_canvas_download(entries: list[os.DirEntry[str]]) -> bool:
    """Whether Canvas named most of what is here: nearly each of its files has a number of its own.

    Otherwise `hw_2026_11_anna.ipynb` and `hw_2026_11_bob.ipynb`, named by an instructor, would be one learner's.
    """
    matches = [CANVAS.fullmatch(entry.name) for entry in entries if not MOODLE.fullmatch(entry.name)]
    numbers = [match["file"] for match in matches if match]
    return 2 * len(numbers) >= max(1, len(matches)) and 10 * len(set(numbers)) >= 9 * len(numbers)


def _sender(name: str, from_canvas: bool) -> tuple[str, str, str]:
    """(platform, learner's name, learner's number) if Canvas or Moodle named the file; else ("", name, "")."""
    for platform, pattern in (("Moodle", MOODLE), ("Canvas", CANVAS)):
        if (found := pattern.fullmatch(name)) and (platform == "Moodle" or from_canvas):
            return platform, clean_name(found["name"]), found["number"]
    return "", name, ""


def hidden_notebooks(inbox: Path) -> list[str]:
    """Return the names of notebooks that are no submission because the names begin with a dot; a person is told of them."""
    with os.scandir(inbox) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".") and not is_folder(entry)]
    return sorted(shown(name) for name in names if name.lower().endswith(".ipynb"))


def clean_name(name: str) -> str:
    """Return a name that is safe for folders and tables.

    It has only letters, digits, `.`, `_`, `-` and `@`, and at most 80 characters and 200 bytes.
    """
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    name = re.sub(r"[^\w.@-]+", "_", name).strip("._-")[:80]
    return name.encode()[:200].decode(errors="ignore").rstrip(".") or "unnamed"


def folded(name: str) -> str:
    """Return a form of the name that is the same for names that differ only in capitals or accents."""
    parts = unicodedata.normalize("NFD", unicodedata.normalize("NFC", name).casefold())
    return unicodedata.normalize("NFC", ACCENTS.sub("", parts)).casefold()


def answers(files: Iterable[File], exercise_ids: list[str]) -> Answers:
    """Find the answers in a submission's files.

    If an id occurs several times, the last cell that is filled in counts. So an untouched copy of a notebook, whatever its
    name, takes nothing from one with answers; if notebooks answer differently, a person is told.

    Args:
        files: the files, from `contents`.
        exercise_ids: the exercises to grade.
    """
    collected, other_ids = Answers(), set()
    attempts: dict[str, list[tuple[str, str]]] = {}  # exercise id → (notebook, answer cell) of those that are filled in
    in_several: set[str] = set()
    unread: dict[str, list[File]] = {}
    for file in files:
        collected.digests.append(file.digest)
        if file.problem:
            unread.setdefault(re.sub(r"\(.*|[\d,]+", "", file.problem), []).append(file)  # without what differs
            continue
        cells = file.cells
        collected.files.append(file.name)
        for id, index in _find_answer_cells(cells, collected).items():
            if id not in exercise_ids:
                other_ids.add(id)
                continue
            kind, source, _ = cells[index]
            if id in collected.cells:
                in_several.add(id)
            if kind == "code" and _is_answer(id, source):
                attempts.setdefault(id, []).append((file.name, source))
            elif id in attempts:
                continue
            below = range(index + 1, len(cells))
            check = next((number for number in below if _checks(id, cells[number])), index + 1)
            around = cells[:index], cells[index + 1 : check], cells[check:]
            collected.cells[id] = LearnerAnswer(source, *map(_definable_code, around))
    _tell_of_copies(collected, in_several, attempts)
    collected.problems += map(_in_one, unread.values())
    collected.unread = bool(unread)
    if not collected.digests:
        collected.problems.append("no notebook (.ipynb) in the folder")
    if not collected.cells and not collected.problems:
        other_lessons = sorted({id.rpartition("-")[0] for id in other_ids})
        collected.problems.append(
            f"no answer of this assignment found - the wrong notebook? It has exercises of: {', '.join(other_lessons)}"
            if other_lessons
            else "no exercise found - the wrong notebook?"
        )
    return collected


def _tell_of_copies(collected: Answers, in_several: set[str], attempts: dict[str, list[tuple[str, str]]]) -> None:
    """Say which notebook counts where several have the exercise, and let a person know where they answer it differently."""
    differing: dict[str, list[str]] = {}
    for id in in_several & attempts.keys():
        *_, (counted, source) = attempts[id]
        collected.notes_on[id].append(f"in several notebooks; the answer in {counted} counts")
        if any(_without_comments(other) != _without_comments(source) for _, other in attempts[id]):
            differing.setdefault(counted, []).append(id)
    for counted, ids in sorted(differing.items()):
        ids.sort(key=list(EXERCISES).index)
        collected.problems.append(
            f"several notebooks answer {', '.join(ids)} differently; graded was {counted}, the last by name"
        )


def _in_one(files: list[File]) -> str:
    """What is wrong with files that cannot be read for the same reason: one sentence, so that no flood hides others."""
    text = f"{files[0].name} {files[0].problem}".strip()
    if len(files) == 1:
        return text
    names = [file.name for file in files[1 : 1 + MOST_NAMES]] + ["…"] * (len(files) > 1 + MOST_NAMES)
    return f"{text}; likewise {len(files) - 1} more: {', '.join(names)}"


def _find_answer_cells(cells: Cells, collected: Answers) -> dict[str, int]:
    """Exercise id → index of its answer among the cells."""
    markers = [{id.replace(".", "-").lower() for id in EXERCISE_MARKER.findall(source)} for _, source, _ in cells]
    found = ((id, _answer_cell(id, cells, markers, collected.notes_on[id])) for id in EXERCISES)
    chosen = {id: index for id, index in found if index is not None}
    unknown = sorted(set().union(*markers) - EXERCISES.keys())
    if unknown:
        collected.notes.append(f"cells with ids that the course does not have: {', '.join(unknown[:5])}"[:300])
    return chosen


def _answer_cell(id: str, cells: Cells, markers: list[set[str]], notes: list[str]) -> int | None:
    """Index of the cell that is the answer to an exercise, or None.

    Args:
        id: the exercise.
        cells: the notebook's cells.
        markers: the exercises that each cell's markers name.
        notes: notes on the answer, to which this adds.
    """
    last_check = max((index for index, cell in enumerate(cells) if _checks(id, cell)), default=-1)
    copies = [index for index, ids in enumerate(markers) if id in ids]
    unmarked = [index for index, (_, _, grade_id) in enumerate(cells) if grade_id == id and not markers[index]]
    if not copies and not unmarked and last_check < 0:
        return None
    filled = [index for index, (kind, source, _) in enumerate(cells) if kind == "code" and _is_answer(id, source)]
    if not copies:
        # A lesson may have a function of the same name, but then there is no check of the exercise below it.
        copies = unmarked or [index for index in filled if index < last_check]
        if not copies:
            return None
        found_by = "cell's metadata" if unmarked else "function's name"
        notes.append(f"found by the {found_by}, as its first line is gone")
    code_cells = [index for index in copies if cells[index][0] == "code"]
    if not code_cells:
        notes.append("the answer is in a cell that is not a code cell")
        return copies[-1]
    if copies[-1] != code_cells[-1]:
        notes.append("the last cell with this id is not a code cell, so the last code cell counts")
    # A copied stub, or a scratch cell that repeats the marker, does not count if there is a real answer.
    answer_cells = sorted(set(code_cells) & set(filled))
    # What the check saw is what was defined last above it, also where the first attempt is still in the cell with this id.
    redefined = [index for index in filled if code_cells[-1] < index <= last_check]
    if answer_cells and redefined:
        notes.append("the answer is defined again below the cell with this id, above the check; the last one counts")
        return redefined[-1]
    if filled and not answer_cells:
        notes.append("the answer is in a different cell from the one with this id")
        return filled[-1]
    if answer_cells and len(code_cells) > 1:
        last = "the last one counts" if answer_cells[-1] == code_cells[-1] else "the last one that is filled in counts"
        notes.append(f"{len(copies)} cells have this id; {last}")
    return (answer_cells or code_cells)[-1]


def _checks(id: str, cell: tuple[str, str, str]) -> bool:
    kind, source, _ = cell
    pattern = rf"^[ \t]*#[ \t]*CHECK:[ \t]*{id}\b|\bcheck\(\s*[\"']{id}[\"']"
    return kind == "code" and re.search(pattern, source, re.MULTILINE) is not None


def _is_answer(id: str, source: str) -> bool:
    """Whether a cell seems to define the answer and is not just the stub. Only its text is read: it may not be Python."""
    name = EXERCISES[id].name
    defines = (
        rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b|^[ \t]*\(?{name}[ \t]*(?::[^=\n]+)?:?=(?!=)|\bas[ \t]+{name}\b"
        rf"|^[ \t]*from[ \t][^\n]*\bimport\b[^\n]*\b{name}\b"
    )
    return re.search(defines, source, re.MULTILINE) is not None and not _is_stub(id, source)


def _is_stub(id: str, source: str) -> bool:
    """Whether the source defines the answer's function without a body: the stub, also with other words or without any."""
    rest = _without_comments(source)
    if rest == _without_comments(stub(id)):
        return True
    head = re.compile(rf"(async[ \t]+)?def[ \t]+{EXERCISES[id].name}[ \t]*\([^()]*\)[ \t]*(->[^:\n]+)?:")
    return re.fullmatch(rf"({head.pattern}\s*)+", rest) is not None


def _without_comments(source: str) -> str:
    """The source without comments, docstrings and placeholders."""
    source = re.sub(r"^[ \t]*[rRuU]?(\"{3}|'{3}).*?\1[ \t]*(#.*)?$", "", source, flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip() for line in source.splitlines())
    return "\n".join(
        line
        for line in lines
        if line
        and not line.startswith("#")
        and not re.match(r"(\.\.\.|pass|return( None)?|raise NotImplementedError.*?)\s*(#.*)?$", line)
    )


@lru_cache
def stub(id: str) -> str:
    """Return the answer cell of an exercise as the learner's notebook has it."""
    return strip_solution(EXERCISES[id].source())


def _definable_code(cells: Cells) -> tuple[str, ...]:
    """Sources of the code cells that are not empty, up to a total size that no lesson reaches."""
    sources, size = [], 0
    for kind, source, _ in cells:
        size += len(source)
        if kind == "code" and source.strip() and size <= AROUND_BYTES:
            sources.append(source)
    return tuple(sources)
