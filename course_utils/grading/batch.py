"""Grades an inbox with a pool of workers; each learner's results are written as soon as they are ready.

Graded submissions are recognised by a hash of the submission, the exercises, the seed and the limits. When it is started
again, after a SIGKILL or with new submissions, the same command grades only what is missing or has changed.
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
from course_utils.files import remove_drafts
from course_utils.grading import intake, reading, results, tables
from course_utils.grading.canvas import Export
from course_utils.grading.cluster import DaskCluster
from course_utils.grading.marking import Mark, Marker, digest, grading_fingerprint
from course_utils.grading.overruled import read_overruled
from course_utils.grading.protocol import Limits
from course_utils.grading.sandbox import Isolation, require


@dataclass(frozen=True)
class Graded:
    """The summary of a grading.

    Attributes:
        new, unchanged: number of submissions that were graded now, and of those that had been graded before.
        problems: number of lines in needs-a-person.csv about submissions.
        without_row: number of its lines about marks that are not in the class's table.
        seed: seed of the random cases.
        isolation: what separated the answers from this machine.
        files: the files that were written for the whole class.
        seconds: how long the grading took.
    """

    new: int
    unchanged: int
    problems: int
    without_row: int
    seed: int
    isolation: Isolation
    files: tuple[Path, ...]
    seconds: float


def exercises_of(assignment: str) -> tuple[list[str], dict[str, str]]:
    """Return the sections and the exercises of an assignment.

    Args:
        assignment: "02", "02_lora", several of these separated by commas, or "all".

    Returns:
        The full names of the sections; and exercise id → its section, in the course's order.

    Raises:
        CourseError: a lesson is unknown or has no exercises.
    """
    names = [part.strip() for part in assignment.split(",") if part.strip()]
    chosen = set(lessons.NAMES) if names == ["all"] else {lessons.find(name).name for name in names}
    sections = [name for name in lessons.NAMES if name in chosen]
    section_of: dict[str, str] = {}
    for section in sections:
        for id in reading.EXERCISE_MARKER.findall(lessons.source_file(section).read_text(encoding="utf-8")):
            section_of[id] = section
    if not section_of:
        raise CourseError(f"the assignment {assignment!r} has no exercises; name a section such as 02, several, or all")
    return sections, section_of


def grade(
    assignment: str,
    inbox: str | Path,
    out: str | Path,
    jobs: int = 2,
    allow_unsandboxed: bool = False,
    seed: int | None = None,
    roster: str | Path | None = None,
    canvas: str | Path | None = None,
    column: str | None = None,
    overrule: str | Path | None = None,
    limits: Limits | None = None,
    progress: bool = True,
    scheduler: str | None = None,
) -> Graded:
    """Grade every submission of an inbox, and write results and tables.

    Args:
        assignment: "02", "02_lora", several of these separated by commas, or "all".
        inbox: folder in which each file or folder belongs to one learner, or what Canvas or Moodle let one download.
        out: folder for the results.
        jobs: number of submissions that are graded at the same time; with a scheduler its workers decide.
        allow_unsandboxed: if this machine has no sandbox, grade without one instead of refusing.
        seed: seed of the random cases; if None, the seed of earlier results in `out`, or else a new one.
        roster: CSV file with a header that has learners' e-mail addresses and numbers.
        canvas: CSV file exported from Canvas.
        column: title of the column of `canvas` to fill.
        overrule: CSV file with marks to give in place of those that grading finds, see `read_overruled`.
        limits: the resources that each answer may use; None for the defaults.
        progress: whether to show a progress bar on stderr.
        scheduler: address of a Dask cluster whose workers do the marking; the results are the same.

    Returns:
        A summary of the grading.

    Raises:
        CourseError: the assignment is unknown, there is no inbox or no sandbox, `out` has results of another assignment or
            seed or is in use by another grading, one of the tables cannot be used, or the cluster cannot grade.
    """
    from filelock import FileLock, Timeout
    from tqdm import tqdm

    started_at = time.monotonic()
    limits, inbox, out = limits or Limits(), Path(inbox), Path(out)
    sections, section_of = exercises_of(assignment)
    submissions, passed_over = intake.submissions(inbox), intake.hidden_notebooks(inbox)
    if out.resolve() == inbox.resolve() or out.resolve().is_relative_to(inbox.resolve()):
        raise CourseError(
            f"the results cannot go into the inbox {inbox}: they would be mistaken for submissions; name another folder"
        )
    if roster and canvas:  # each says whose row is whose
        raise CourseError("--roster and --canvas: name one, then grade again with the other; what is graded stays")
    if roster:  # report problems with it now, not after the grading
        tables.read_roster(Path(roster))
    export = Export(Path(canvas), sections, column) if canvas else None
    overruled = read_overruled(Path(overrule), {s.learner for s in submissions}, list(section_of)) if overrule else {}
    if jobs < 1:
        raise CourseError(f"--jobs {jobs}: at least one is needed")
    with ExitStack() as closing_down:
        cluster = closing_down.enter_context(closing(DaskCluster(scheduler, allow_unsandboxed))) if scheduler else None
        isolation = cluster.isolation if cluster else require(allow_unsandboxed)
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise CourseError(f"another grading run is using {out}; wait for it, or name another folder") from error
        closing_down.callback(lock.release)
        remove_drafts(out)
        seed = _seed(out, sections, seed)
        base = digest(grading_fingerprint().encode(), json.dumps([sections, seed, isolation, asdict(limits)]).encode())
        marker: Marker | DaskCluster
        if cluster:
            marker, jobs = cluster, cluster.slots
            cluster.prepare(section_of, seed, limits, (inbox, out))
        else:
            marker = closing_down.enter_context(closing(Marker(section_of, seed, isolation, limits, (inbox, out))))
        grader, graded = _Grader(marker.mark, sections, section_of, out, isolation, base, overruled), []
        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = [pool.submit(grader.grade, submission) for submission in submissions]
                for future in tqdm(futures, desc="grading", unit="submission", disable=not progress, file=sys.stderr):
                    graded.append(future.result())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        all_results = [result for result, _ in graded]
        results.remove_others(out / "learners", {submission.learner for submission in submissions})
        files, needing = tables.write_all(
            out, list(section_of), all_results, Path(roster) if roster else None, export, passed_over
        )
    unchanged = sum(was_unchanged for _, was_unchanged in graded)
    seconds = time.monotonic() - started_at
    return Graded(
        len(graded) - unchanged, unchanged, needing["submission"], needing["row"], seed, isolation, tuple(files), seconds
    )


@dataclass(frozen=True)
class _Grader:
    """Reads one submission after the other, lets `mark` mark it, and writes the results."""

    mark: Callable[[dict[str, intake.LearnerAnswer]], dict[str, Mark]]
    sections: list[str]
    section_of: dict[str, str]
    out: Path
    isolation: Isolation
    base: str
    overruled: dict[str, dict[str, Mark]]

    def grade(self, submission: intake.Submission) -> tuple[dict, bool]:
        """Return the results of a submission, and whether they existed already."""
        started_at = time.monotonic()
        folder = self.out / "learners" / submission.learner
        key, marks = "", dict[str, Mark]()
        answers, given = intake.Answers(), self.overruled.get(submission.learner, {})
        try:
            answers = intake.answers(reading.contents(*submission.paths), list(self.section_of))
            names = (submission.learner, submission.name, submission.platform_id, "; ".join(submission.notes))
            name = [os.fsencode(submission.paths[0].name), *map(str.encode, (*names, repr(given)))]
            key = digest(self.base.encode(), *name, *answers.digests)
            earlier_results = results.read(folder)
            if earlier_results is not None and earlier_results["extra_data"]["key"] == key:
                return earlier_results, True
            if answers.cells:
                marks = self.mark(answers.cells)
        except CourseError:
            raise
        except Exception as error:  # one submission must not stop the grading of the others; a person is told
            description = reading.shown(f"{type(error).__name__}: {error}", 300)
            answers, marks, key = intake.Answers(faults=[f"the grader itself failed: {description}"]), {}, ""
        if given:
            marks = (marks or {id: Mark(0.0, "This answer could not be read.", "missing") for id in self.section_of}) | given
        if given.keys() == self.section_of.keys():  # a person has looked at everything
            answers.problems, answers.faults, answers.unread = [], [], False
        if submission.clash:
            answers.problems.append(
                "has the same name as another submission, but for capitals, accents or punctuation; see whose it is"
            )
        if any(mark.outcome == "not graded" for mark in marks.values()):
            key = ""
        seconds = time.monotonic() - started_at
        learner_results = results.compose(submission, answers, marks, self.sections, self.isolation, key, seconds)
        results.save(folder, learner_results)
        return learner_results, False


def _seed(out: Path, sections: list[str], seed: int | None) -> int:
    """The seed to use; stored in `out`, so that a grading that is resumed uses the same one."""
    file = out / "grading.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        stored_sections, stored_seed = stored["assignment"], int(stored["seed"])
    except FileNotFoundError:
        stored_sections, stored_seed = sections, secrets.randbelow(2**62)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{file} cannot be read ({error}); name another folder for the results, or remove it") from error
    if stored_sections != sections:
        raise CourseError(
            f"{out} holds the results of {', '.join(stored_sections)}; name another folder for {', '.join(sections)}"
        )
    seed = stored_seed if seed is None else seed
    if seed != stored_seed and (out / "learners").exists():
        raise CourseError(
            f"{out} was graded with --seed {stored_seed}; with {seed} everybody would be graded again, on other cases: "
            "name another folder"
        )
    results.write(file, json.dumps({"assignment": sections, "seed": seed}, indent=1) + "\n")
    return seed
