"""Marks the answers of one submission, in sandboxes that are kept for the next one."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue
from types import MappingProxyType

from course_utils import exercises
from course_utils.errors import CourseError
from course_utils.exercises.checking import CaseSet
from course_utils.exercises.registry import EXERCISES
from course_utils.grading.marking import Attempt, LearnerAnswer, Mark, Run, imports_of, missing
from course_utils.grading.protocol import Limits, Starved
from course_utils.grading.sandbox import (
    ALL_LIBRARIES,
    NO_LIBRARIES,
    TENSOR_LIBRARIES,
    Isolation,
    LibrariesNotLoaded,
    Sandbox,
    SandboxLost,
)
from course_utils.lessons import NAMES


class Marker:
    """Marks answers; several threads may use it at once."""

    def __init__(
        self, section_of: dict[str, str], seed: int, isolation: Isolation, limits: Limits, hidden: tuple[Path, ...] = ()
    ) -> None:
        """Set what is to be marked, and how.

        Args:
            section_of: exercise id → its section.
            seed: seed of the random cases.
            isolation: what `sandbox.require` returned.
            limits: the resources that each answer may use.
            hidden: folders that no answer may see.
        """
        self.isolation, self.limits, self.hidden = isolation, limits, hidden
        self.section_of, self.seed = section_of, seed
        # Threads that mark would import these at the same time, or look into one that another has imported by half.
        for library in sorted({"numpy", *(name for id in section_of for name in EXERCISES[id].needs)}):
            import_module(library)
        self._idle: dict[tuple[str, ...], Queue] = {NO_LIBRARIES: Queue(), TENSOR_LIBRARIES: Queue(), ALL_LIBRARIES: Queue()}

    def mark(self, answers: dict[str, LearnerAnswer]) -> dict[str, Mark]:
        """Mark the answers of one submission.

        An answer that calls an earlier exercise's function gets the learner's own function if that one is right, as in the
        notebook, where it may have been given another parameter; otherwise it gets the course's, so that an error is
        penalised only once.

        Args:
            answers: exercise id → answer; those of other exercises are ignored.

        Returns:
            Exercise id → mark, for each exercise of the assignment.

        Raises:
            CourseError: no sandbox starts.
        """
        marks: dict[str, Mark] = {}
        for id in self.section_of:
            right = {other: answers[other].cell for other, mark in marks.items() if mark.outcome == "right"}
            marks[id] = self._mark(id, answers.get(id), right)
        return marks

    def close(self) -> None:
        """Close the sandboxes that are idle."""
        for idle in self._idle.values():
            while not idle.empty():
                idle.get_nowait().close()

    def _mark(self, id: str, answer: LearnerAnswer | None, right: Mapping[str, str] = MappingProxyType({})) -> Mark:
        """`right`: id → cell of the learner's other answers that are right."""
        if answer is None:
            return missing(EXERCISES[id])
        own = frozenset(other for other, cell in right.items() if cell in answer.around)
        attempt = Attempt(EXERCISES[id], self.section_of[id], self.seed, answer, own)
        try:
            ran = self._run(attempt, attempt.draw_cases())
            shown = self._run(attempt, attempt.draw_examples(), to_first_wrong=True) if attempt.wants_example(ran) else None
            return attempt.verdict(ran, shown)
        except (SandboxLost, Starved) as error:
            return Mark(0.0, f"could not be graded: {error}", "not graded")
        except CourseError:
            raise
        except Exception as error:
            # A bug in the grader must cost only this question, and it is reported to a person.
            return Mark(0.0, f"could not be graded: {type(error).__name__}: {error}"[:300], "not graded")

    def _run(self, attempt: Attempt, case_set: CaseSet, to_first_wrong: bool = False) -> Run:
        """See `Attempt.run`.

        If a sandbox is killed, for example when memory runs out, or the machine is too busy, the answer is not to blame.
        """
        preload, failures = attempt.libraries_to_preload(), 0
        while True:
            sandbox = self._sandbox(preload)
            try:
                return attempt.run(sandbox, case_set, to_first_wrong)
            except LibrariesNotLoaded:
                preload = attempt.libraries_to_preload(others=True)
            except (SandboxLost, Starved):
                failures += 1
                sandbox.close()
                if failures == 2:
                    raise
            finally:
                self._give_back(sandbox)

    def _sandbox(self, preload: tuple[str, ...]) -> Sandbox:
        try:
            return self._idle[preload].get_nowait()
        except Empty:
            pass
        last_error = None
        for _ in range(3):  # it can be killed while it starts, just as later
            try:
                return Sandbox(self.isolation, preload, self.limits, self.hidden)
            except SandboxLost as error:
                last_error = error
        raise CourseError(f"no sandbox starts on this machine: {last_error}") from last_error

    def _give_back(self, sandbox: Sandbox) -> None:
        if sandbox.usable:
            self._idle[sandbox.preloaded].put(sandbox)
        else:
            sandbox.close()


def grading_fingerprint() -> str:
    """Return a hash of everything that a mark may depend on.

    That is the course's code as it was loaded, and the versions on this machine.
    """
    versions = [platform.python_version(), *(version(name) for name in ("numpy", "torch"))]
    imports = [line for section in NAMES for line in imports_of(section)]
    return digest(_LOADED_CODE, *(text.encode() for text in (*versions, *imports)))


def _source_code() -> bytes:
    folders = Path(__file__).parent, Path(exercises.__file__).parent
    files = sorted(file for folder in folders for file in folder.glob("*.py") if file.name != "quizzes.py")
    return b"".join(file.read_bytes() for file in files)


def digest(*parts: bytes) -> str:
    """Return the SHA-256 of the parts, each preceded by its length."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.hexdigest()


_LOADED_CODE = _source_code()  # read at import: the files may change while this process still runs the old code
