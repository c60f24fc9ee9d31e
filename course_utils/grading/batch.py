"""Grades an inbox: a pool of workers, each learner's results written as soon as they are there.

What has been graded is known by a hash of the submission, the exercises, the seed and the limits. Started again, after a
SIGKILL or with new submissions, the same command grades what is missing or has changed and nothing else.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

from course_utils import lessons
from course_utils.errors import CourseError
from course_utils.grading import intake, reading, results, tables
from course_utils.grading.cluster import Cluster
from course_utils.grading.marker import Marker, definitions, digest
from course_utils.grading.marking import Answer, Mark
from course_utils.grading.protocol import Limits
from course_utils.grading.sandbox import require


@dataclass(frozen=True)
class Graded:
    """What a grading did.

    Attributes:
        new, kept: submissions graded now, and those whose results were there already.
        problems: rows of needs-a-person.csv.
        seed: of the random cases.
        isolation: "bubblewrap", "docker" or "none".
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
        CourseError: unknown lesson, or one without exercises.
    """
    names = [part.strip() for part in assignment.split(",") if part.strip()]
    chosen = set(lessons.NAMES) if names == ["all"] else {lessons.find(name).name for name in names}
    sections = [name for name in lessons.NAMES if name in chosen]
    found: dict[str, str] = {}
    for section in sections:
        for id in reading.MARKER.findall(lessons.source_file(section).read_text(encoding="utf-8")):
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
    scheduler: str | None = None,
) -> Graded:
    """Grade every submission of an inbox.

    Args:
        assignment: "02", "02_lora", several with commas between, or "all".
        inbox: folder; a file or a folder of it is one learner's.
        out: folder for the results.
        jobs: submissions at once; with a scheduler its workers decide.
        trust: grade without a sandbox where there is none.
        seed: of the random cases; the one of `out`'s earlier results if None, else a new one.
        roster: CSV file with a header that tells learners' e-mail addresses and numbers.
        canvas: CSV file that Canvas exported.
        column: title of its column to fill.
        limits: for each answer.
        progress: show a bar on stderr.
        scheduler: address of a Dask cluster whose workers mark; the results are the same.

    Raises:
        CourseError: unknown assignment, no inbox, no sandbox, results of another assignment in `out`, another grading at
            work there, a roster or export that cannot be used, or a cluster that cannot grade.
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
    if jobs < 1:
        raise CourseError(f"--jobs {jobs}: at least one is needed")
    with ExitStack() as closing_down:
        cluster = closing_down.enter_context(closing(Cluster(scheduler, trust))) if scheduler else None
        isolation = cluster.isolation if cluster else require(trust)
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise CourseError(f"another grading is at work in {out}; wait for it, or name another folder") from error
        closing_down.callback(lock.release)
        seed = _seed(out, sections, seed)
        base = digest(definitions().encode(), json.dumps([sections, seed, isolation, asdict(limits)]).encode())
        marker: Marker | Cluster
        if cluster:
            marker, jobs = cluster, cluster.slots
            cluster.prepare(wanted, seed, limits, (inbox, out))
        else:
            marker = closing_down.enter_context(closing(Marker(wanted, seed, isolation, limits, (inbox, out))))
        grader, found = _Grader(marker.mark, sections, wanted, out, seed, isolation, base), []
        with ThreadPoolExecutor(jobs) as pool:
            try:
                running = [pool.submit(grader.grade, submission) for submission in everybody]
                for future in tqdm(running, desc="grading", unit="submission", disable=not progress, file=sys.stderr):
                    found.append(future.result())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        everything = [result for result, _ in found]
        files = tables.write_all(
            out, list(wanted), everything, Path(roster) if roster else None, Path(canvas) if canvas else None, column
        )
    problems = len(intake.table(out / "needs-a-person.csv")) - 1
    kept = sum(old for _, old in found)
    return Graded(len(found) - kept, kept, problems, seed, isolation, tuple(files), time.monotonic() - began)


class _Grader:
    """One submission after the other: read, marked by `mark`, written."""

    def __init__(
        self,
        mark: Callable[[dict[str, Answer]], dict[str, Mark]],
        sections: list[str],
        wanted: dict[str, str],
        out: Path,
        seed: int,
        isolation: str,
        base: str,
    ) -> None:
        self.mark, self.sections, self.wanted, self.out = mark, sections, wanted, out
        self.seed, self.isolation, self.base = seed, isolation, base

    def grade(self, submission: intake.Submission) -> tuple[dict, bool]:
        """(results, whether they were there already)."""
        began = time.monotonic()
        folder = self.out / "learners" / submission.learner
        key, marks = "", dict[str, Mark]()
        found = intake.Answers()
        try:
            key = self._key(submission, reading.fingerprint(submission.place))
            old = results.read(folder)
            if old is not None and old["extra_data"]["key"] == key:
                return old, True
            found = intake.answers(reading.contents(submission.place), list(self.wanted))
            key = self._key(submission, found.digests)  # of what was read now; it may have changed in between
            if found.cells:
                marks = self.mark(
                    {id: Answer(found.cells[id], *found.around[id]) for id in self.wanted if id in found.cells}
                )
        except CourseError:
            raise
        except Exception as error:  # one submission must not end the others' grading; a person hears of it
            what = reading.shown(f"{type(error).__name__}: {error}", 300)
            found, marks, key = intake.Answers(problems=[f"the grader itself failed: {what}"]), {}, ""
        if submission.clash:
            found.problems.append(
                "has the name of another submission; its mark is in no learner's row before a person puts it there"
            )
        if any(mark.outcome == "not graded" for mark in marks.values()):
            key = ""
        depends = results.Key(tuple(self.sections), self.seed, self.isolation, key)
        made = results.made(submission, found, marks, depends, time.monotonic() - began)
        results.save(folder, made)
        return made, False

    def _key(self, submission: intake.Submission, digests: list[bytes]) -> str:
        name = [os.fsencode(submission.place.name), submission.learner.encode(), "; ".join(submission.notes).encode()]
        return digest(self.base.encode(), *name, *digests)


def _seed(out: Path, sections: list[str], seed: int | None) -> int:
    """The seed to use; kept in `out`, so that a grading that goes on uses the same."""
    file = out / "grading.json"
    before: list[str] | None = None
    old: int | None = None
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        before, old = known["assignment"], int(known["seed"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{file} cannot be read ({error}); name another folder for the results, or remove it") from error
    if before is not None and before != sections:
        raise CourseError(f"{out} holds the results of {', '.join(before)}; name another folder for {', '.join(sections)}")
    seed = seed if seed is not None else old if old is not None else secrets.randbelow(2**62)
    results.write(file, json.dumps({"assignment": sections, "seed": seed}, indent=1) + "\n")
    return seed
