"""Marks the answers of one submission, in sandboxes that it keeps for the next one."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue

from course_utils import exercises
from course_utils.errors import CourseError
from course_utils.exercises.registry import EXERCISES
from course_utils.grading.marking import Answer, Mark, Question, imports_of, missing
from course_utils.grading.protocol import Limits
from course_utils.grading.sandbox import Sandbox, SandboxLost
from course_utils.lessons import NAMES


class Marker:
    """Marks answers; several threads may use it at once."""

    def __init__(
        self, wanted: dict[str, str], seed: int, isolation: str, limits: Limits, hidden: tuple[Path, ...] = ()
    ) -> None:
        """Say what is to be marked.

        Args:
            wanted: exercise id → its section.
            seed: of the random cases, with the answer itself.
            isolation: what `sandbox.require` returned.
            limits: for each answer.
            hidden: folders that no answer may see.
        """
        self.isolation, self.limits, self.hidden = isolation, limits, hidden
        self.wanted, self.seed = wanted, seed
        self._idle: dict[bool, Queue] = {False: Queue(), True: Queue()}

    def mark(self, answers: dict[str, Answer]) -> dict[str, Mark]:
        """A mark for each question.

        Args:
            answers: exercise id → answer; those of other exercises are ignored.

        Raises:
            CourseError: no sandbox starts.
        """
        return {id: self._mark(id, answers.get(id)) for id in self.wanted}

    def close(self) -> None:
        """End the sandboxes that are not at work."""
        for idle in self._idle.values():
            while not idle.empty():
                idle.get_nowait().close()

    def _mark(self, id: str, answer: Answer | None) -> Mark:
        if answer is None:
            return missing(EXERCISES[id])
        question, why = Question(EXERCISES[id], self.wanted[id], self.seed, answer), ""
        heavy = question.heavy
        for _ in range(2):  # a sandbox that was killed, say by the kernel for want of memory, is no fault of the answer
            sandbox = self._sandbox(heavy)
            try:
                return question.mark(sandbox)
            except SandboxLost as error:
                why = str(error)
                sandbox.close()
            except Exception as error:
                # A fault of the grader must cost no more than this question, and a person hears of it.
                return Mark(0.0, f"could not be graded: {type(error).__name__}: {error}"[:300], "not graded")
            finally:
                self._give_back(sandbox, heavy)
        return Mark(0.0, f"could not be graded: {why}", "not graded")

    def _sandbox(self, heavy: bool) -> Sandbox:
        try:
            return self._idle[heavy].get_nowait()
        except Empty:
            pass
        why = None
        for _ in range(3):  # it may be killed while it starts, as it may later
            try:
                return Sandbox(self.isolation, heavy, self.limits, self.hidden)
            except SandboxLost as error:
                why = error
        raise CourseError(f"no sandbox starts on this machine: {why}") from why

    def _give_back(self, sandbox: Sandbox, heavy: bool) -> None:
        if sandbox.usable:
            self._idle[heavy].put(sandbox)
        else:
            sandbox.close()


def definitions() -> str:
    """Hash of everything of the course, as it was when it was loaded, and of the machine that a mark may depend on."""
    versions = [platform.python_version(), *(version(name) for name in ("numpy", "torch"))]
    imports = [line for section in NAMES for line in imports_of(section)]
    return digest(_LOADED, *(text.encode() for text in (*versions, *imports)))


def _code() -> bytes:
    folders = Path(__file__).parent, Path(exercises.__file__).parent
    files = sorted(file for folder in folders for file in folder.glob("*.py") if file.name != "quizzes.py")
    return b"".join(file.read_bytes() for file in files)


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each with its length before it."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.hexdigest()


_LOADED = _code()  # now, not later: the files may change under a process that runs the old code
