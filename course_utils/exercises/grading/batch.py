"""Grades an inbox: a pool of workers, each learner's results written as soon as they are there.

What has been graded is known by a hash of the submission, the exercises, the seed and the limits. Started again, after a
SIGKILL or with new submissions, the same command grades what is missing or has changed and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue

from course_utils.errors import CourseError
from course_utils.exercises.grading import intake, results, tables
from course_utils.exercises.grading.marking import Mark, Question, missing
from course_utils.exercises.grading.protocol import Limits
from course_utils.exercises.grading.sandbox import Sandbox, SandboxLost, require
from course_utils.exercises.registry import EXERCISES


@dataclass(frozen=True)
class Graded:
    """What a grading did.

    Attributes:
        new, kept: submissions graded now, and those whose results were there already.
        problems: rows of needs-a-person.csv.
        seed: of the random cases.
        isolation: "bubblewrap" or "none".
        files: the class's files.
        seconds: it took.
    """

    new: int
    kept: int
    problems: int
    seed: int
    isolation: str
    files: tuple[Path, ...]
    seconds: float


def exercises_of(assignment: str) -> tuple[list[str], dict[str, str]]:
    """Sections and exercises of an assignment.

    Args:
        assignment: "02", "02_lora", several with commas between, or "all".

    Returns:
        Full names of the sections, and exercise id → its section, in the course's order.

    Raises:
        CourseError: unknown section, or one without exercises.
    """
    from course_utils.notebooks.builder import SECTIONS, section_name, source_file

    names = [part.strip() for part in assignment.split(",") if part.strip()]
    chosen = set(SECTIONS.values()) if names == ["all"] else {section_name(name) for name in names}
    sections, found = [name for name in SECTIONS.values() if name in chosen], {}
    for section in sections:
        for id in intake.MARKER.findall(source_file(section).read_text(encoding="utf-8")):
            found[id] = section
    if not found:
        raise CourseError(f"the assignment {assignment!r} has no exercises; name a section such as 02, several, or all")
    return sections, found


def grade(
    assignment: str,
    inbox: str | Path,
    out: str | Path,
    jobs: int = 2,
    trust: bool = False,
    seed: int | None = None,
    roster: str | Path | None = None,
    canvas: str | Path | None = None,
    column: str | None = None,
    limits: Limits | None = None,
    progress: bool = True,
) -> Graded:
    """Grade every submission of an inbox.

    Args:
        assignment: "02", "02_lora", several with commas between, or "all".
        inbox: folder; a file or a folder of it is one learner's.
        out: folder for the results.
        jobs: submissions at once.
        trust: grade without a sandbox where there is none.
        seed: of the random cases; the one of `out`'s earlier results if None, else a new one.
        roster: CSV file with a header that tells learners' e-mail addresses and numbers.
        canvas: CSV file that Canvas exported.
        column: title of its column to fill.
        limits: for each answer.
        progress: show a bar on stderr.

    Raises:
        CourseError: unknown assignment, no inbox, no sandbox, results of another assignment in `out`, another grading at work
            there, or a roster or export that cannot be used.
    """
    from filelock import FileLock, Timeout
    from tqdm import tqdm

    began = time.monotonic()
    limits, inbox, out = limits or Limits(), Path(inbox), Path(out)
    sections, wanted = exercises_of(assignment)
    everybody = intake.submissions(inbox)
    if out.resolve() == inbox.resolve() or out.resolve().is_relative_to(inbox.resolve()):
        raise CourseError(
            f"the results cannot go into the inbox {inbox}: they would be taken for submissions; name another folder"
        )
    if roster:  # what is wrong with it is said now, not after the grading
        intake.table(Path(roster))
    if canvas:
        tables.canvas_column(intake.table(Path(canvas))[0], sections, column)
    isolation = require(trust)
    if jobs < 1:
        raise CourseError(f"--jobs {jobs}: at least one is needed")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CourseError(f"another grading is at work in {out}; wait for it, or name another folder") from error
    try:
        seed = _seed(out, sections, seed)
        base = _digest(_definitions(), json.dumps([sections, seed, isolation, asdict(limits)]).encode())
        grader = _Grader(sections, wanted, out, seed, isolation, limits, base, (inbox, out))
        found = []
        with ThreadPoolExecutor(jobs) as pool:
            try:
                running = [pool.submit(grader.grade, submission) for submission in everybody]
                for future in tqdm(running, desc="grading", unit="submission", disable=not progress, file=sys.stderr):
                    found.append(future.result())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                grader.close()
        everything = [result for result, _ in found]
        files = tables.write_all(
            out, list(wanted), everything, Path(roster) if roster else None, Path(canvas) if canvas else None, column
        )
    finally:
        lock.release()
    problems = len(intake.table(out / "needs-a-person.csv")) - 1
    kept = sum(old for _, old in found)
    return Graded(len(found) - kept, kept, problems, seed, isolation, tuple(files), time.monotonic() - began)


class _Grader:
    def __init__(self, sections, wanted, out, seed, isolation, limits, base, hidden):
        self.sections, self.out, self.seed, self.isolation, self.limits = sections, out, seed, isolation, limits
        self.base, self.hidden = base, hidden
        self.questions = {id: Question(EXERCISES[id], section, seed) for id, section in wanted.items()}
        self._idle: dict[bool, Queue] = {False: Queue(), True: Queue()}

    def grade(self, submission: intake.Submission) -> tuple[dict, bool]:
        """(results, whether they were there already)."""
        began = time.monotonic()
        folder = self.out / "learners" / submission.learner
        files = list(intake.contents(submission))
        digest = _digest(self.base.encode(), submission.place.name.encode(), *_flat(files))
        old = results.read(folder)
        if old is not None and old["extra_data"]["key"] == digest:
            return old, True
        marks: dict[str, Mark] = {}
        try:
            found = intake.answers(files, list(self.questions))
            if found.cells:
                marks = {id: self._mark(id, found.cells.get(id)) for id in self.questions}
        except CourseError:
            raise
        except Exception as error:  # one submission must not end the others' grading; a person hears of it
            found, marks = intake.Answers(problems=[f"the grader itself failed: {type(error).__name__}: {error}"[:300]]), {}
            digest = ""
        if any(mark.outcome == "not graded" for mark in marks.values()):
            digest = ""
        key = results.Key(tuple(self.sections), self.seed, self.isolation, digest)
        made = results.made(submission.learner, found, marks, key, submission.notes, time.monotonic() - began)
        results.save(folder, made)
        return made, False

    def _mark(self, id: str, cell: str | None) -> Mark:
        question = self.questions[id]
        if cell is None:
            return missing(question.exercise)
        why = ""
        for _ in range(2):  # a sandbox that was killed, say by the kernel for want of memory, is no fault of the answer
            sandbox = self._sandbox(question.heavy(cell))
            try:
                return question.mark(cell, sandbox)
            except SandboxLost as error:
                why = str(error)
                sandbox.close()
            except Exception as error:
                # A fault of the grader must cost no more than this question, and a person hears of it.
                return Mark(0.0, f"could not be graded: {type(error).__name__}: {error}"[:300], "not graded")
            finally:
                self._give_back(sandbox, question.heavy(cell))
        return Mark(0.0, f"could not be graded: {why}", "not graded")

    def _sandbox(self, heavy: bool) -> Sandbox:
        try:
            return self._idle[heavy].get_nowait()
        except Empty:
            pass
        why = None
        for _ in range(3):  # it may be killed while it starts, as it may later
            try:
                return Sandbox(self.isolation, heavy, self.limits, tuple(self.hidden))
            except SandboxLost as error:
                why = error
        raise CourseError(f"no sandbox starts on this machine: {why}") from why

    def _give_back(self, sandbox: Sandbox, heavy: bool) -> None:
        if sandbox.usable:
            self._idle[heavy].put(sandbox)
        else:
            sandbox.close()

    def close(self) -> None:
        for idle in self._idle.values():
            while not idle.empty():
                idle.get_nowait().close()


def _seed(out: Path, sections: list[str], seed: int | None) -> int:
    """The seed to use; kept in `out`, so that a grading that goes on uses the same."""
    file = out / "grading.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        before, old = known["assignment"], int(known["seed"])
    except FileNotFoundError:
        before, old = None, None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{file} cannot be read ({error}); name another folder for the results, or remove it") from error
    if before is not None and before != sections:
        raise CourseError(f"{out} holds the results of {', '.join(before)}; name another folder for {', '.join(sections)}")
    seed = seed if seed is not None else old if old is not None else secrets.randbelow(2**31)
    results.write(file, json.dumps({"assignment": sections, "seed": seed}, indent=1) + "\n")
    return seed


def _definitions() -> bytes:
    """Everything of the course and the machine that a mark may depend on."""
    here = Path(__file__).parent
    files = sorted([*here.glob("*.py"), *(file for file in here.parent.glob("*.py") if file.name != "quizzes.py")])
    versions = [platform.python_version(), *(version(name) for name in ("numpy", "torch"))]
    return _digest(*(file.read_bytes() for file in files), *(text.encode() for text in versions)).encode()


def _flat(files) -> list[bytes]:
    return [
        part
        for name, data in files
        for part in (name.encode("utf-8", "replace"), data if isinstance(data, bytes) else str(data).encode())
    ]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
