"""Marks the answers of one submission, in sandboxes that are kept for the next one."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue

from course_utils import exercises
from course_utils.errors import CourseError
from course_utils.exercises.registry import EXERCISES
from course_utils.grading.marking import Attempt, LearnerAnswer, Mark, imports_of, missing
from course_utils.grading.protocol import Limits
from course_utils.grading.sandbox import Sandbox, SandboxLost
from course_utils.lessons import NAMES


class Marker:
    """Marks answers; several threads may use it at once."""

    def __init__(
        self, section_of: dict[str, str], seed: int, isolation: str, limits: Limits, hidden: tuple[Path, ...] = ()
    ) -> None:
        """Set what is to be marked, and how.

        Args:
            section_of: exercise id → its section.
            seed: determines the random cases, together with the answer itself.
            isolation: what `sandbox.require` returned.
            limits: for each answer.
            hidden: folders that no answer may see.
        """
        self.isolation, self.limits, self.hidden = isolation, limits, hidden
        self.section_of, self.seed = section_of, seed
        self._idle: dict[bool, Queue] = {False: Queue(), True: Queue()}

    def mark(self, answers: dict[str, LearnerAnswer]) -> dict[str, Mark]:
        """A mark for each question.

        Args:
            answers: exercise id → answer; those of other exercises are ignored.

        Raises:
            CourseError: no sandbox starts.
        """
        return {id: self._mark(id, answers.get(id)) for id in self.section_of}

    def close(self) -> None:
        """Close the sandboxes that are idle."""
        for idle in self._idle.values():
            while not idle.empty():
                idle.get_nowait().close()

    def _mark(self, id: str, answer: LearnerAnswer | None) -> Mark:
        if answer is None:
            return missing(EXERCISES[id])
        question, reason = Attempt(EXERCISES[id], self.section_of[id], self.seed, answer), ""
        heavy = question.heavy
        for _ in range(2):  # if a sandbox is killed, for example when memory runs out, the answer is not to blame
            sandbox = self._sandbox(heavy)
            try:
                return question.mark(sandbox)
            except SandboxLost as error:
                reason = str(error)
                sandbox.close()
            except Exception as error:
                # A bug in the grader must cost only this question, and it is reported to a person.
                return Mark(0.0, f"could not be graded: {type(error).__name__}: {error}"[:300], "not graded")
            finally:
                self._give_back(sandbox, heavy)
        return Mark(0.0, f"could not be graded: {reason}", "not graded")

    def _sandbox(self, heavy: bool) -> Sandbox:
        try:
            return self._idle[heavy].get_nowait()
        except Empty:
            pass
        last_error = None
        for _ in range(3):  # it can be killed while it starts, just as later
            try:
                return Sandbox(self.isolation, heavy, self.limits, self.hidden)
            except SandboxLost as error:
                last_error = error
        raise CourseError(f"no sandbox starts on this machine: {last_error}") from last_error

    def _give_back(self, sandbox: Sandbox, heavy: bool) -> None:
        if sandbox.usable:
            self._idle[heavy].put(sandbox)
        else:
            sandbox.close()


def grading_fingerprint() -> str:
    """Hash of everything that a mark may depend on: the course's code as it was loaded, and the versions on this machine."""
    versions = [platform.python_version(), *(version(name) for name in ("numpy", "torch"))]
    imports = [line for section in NAMES for line in imports_of(section)]
    return digest(_LOADED_CODE, *(text.encode() for text in (*versions, *imports)))


def _source_code() -> bytes:
    folders = Path(__file__).parent, Path(exercises.__file__).parent
    files = sorted(file for folder in folders for file in folder.glob("*.py") if file.name != "quizzes.py")
    return b"".join(file.read_bytes() for file in files)


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each preceded by its length."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.hexdigest()


_LOADED_CODE = _source_code()  # read at import: the files may change while this process still runs the old code
