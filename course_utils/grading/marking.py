"""Marks answer cells: cases and verdicts here, the answers' calls in sandboxes.

Cases come from the exercise's own generator, seeded with the grading's seed, which is stored only in the instructor's
results. There are two sets. Those that count are the same for every answer to the exercise, so that the same code has the
same mark however it is written, for whomever, and as often as it is handed in. None of them is ever shown: what the
feedback shows of a wrong answer are examples from the other set, which earn nothing. Expected values come from the solution,
which never enters the sandbox of its own question; nor do the seed and the cases still to come.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import platform
import re
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue
from types import MappingProxyType
from typing import Any

from course_utils import exercises
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES, checking, libraries
from course_utils.exercises.checking import CaseSet
from course_utils.exercises.definitions import Exercise
from course_utils.exercises.values import encode
from course_utils.grading.intake import LearnerAnswer
from course_utils.grading.protocol import Died, Limits, Starved, value_of
from course_utils.grading.sandbox import (
    ALL_LIBRARIES,
    NO_LIBRARIES,
    TENSOR_LIBRARIES,
    Isolation,
    LibrariesNotLoaded,
    Sandbox,
    SandboxLost,
)
from course_utils.lessons import NAMES, source_file

# (beginnings of an error's text, what to do about it)
HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("NameError",),
        " - no cell of the notebook defines it, or it needs the course's own package, which is not available in grading.",
    ),
    (
        ("ModuleNotFoundError", "ImportError"),
        f" - answers may use Python's standard library and {', '.join(libraries.GENERAL)}, and no other library, nor the "
        "course's own package.",
    ),
    (
        ("PermissionError: [Errno", "BlockingIOError", "OperationalError", "error: [Errno 1]", "gdbm.error", "_gdbm.error"),
        " - grading refuses answers processes, programs, pipes, sockets and locks on files: compute in this process, with "
        "threads if you like, and keep what you store in memory or in plain files of a temporary folder.",
    ),
    (
        ("gaierror", "URLError", "ConnectionError", "ConnectionRefusedError", "TimeoutError", "ConnectTimeout"),
        " - there is no network in grading: put what you would fetch into a cell.",
    ),
    (
        ("FileNotFoundError", "NotADirectoryError", "OSError: [Errno 30]"),
        " - grading has the notebook alone and none of the files beside it: put what you would read into a cell, and write "
        "to a temporary folder (tempfile) only.",
    ),
)


@dataclass(frozen=True)
class Mark:
    """The mark of one answer.

    Attributes:
        points: number of points reached.
        message: what the learner is told.
        outcome: "right", "partly", "wrong", "missing", "unsolved", "error" (the cell or every call raised), "died" (it took
            too long, ended its process, or sent something that is not a value) or "not graded" (the grader failed).
        mistake: diagnosis of the typical mistake that the answer makes, as the message tells it, or "". (It is not the name
            of the mistake's function: several mistakes of an exercise may be made by one function and then share a name.)
        notes: anything else that was noticed.
        sealed: whether the answer ran where no process can be started; None if it did not run.
    """

    points: float
    message: str
    outcome: str
    mistake: str = ""
    notes: tuple[str, ...] = ()
    sealed: bool | None = None


@dataclass
class Run:
    """What became of an answer in the sandbox.

    Attributes:
        outputs: for each call, the value or `checking.Raised`; fewer than there are cases if the process died or was
            stopped.
        ready: whether the cell was run.
        is_defined: whether the cell then defined the answer's function.
        error: the error that ended the cell, or "".
        library: a library that the answer uses although it may not, or "".
        died: why the process no longer replied, or "".
        notes: notes for the learner.
        sealed: whether the answer ran where no process can be started.
    """

    outputs: list[Any] = field(default_factory=list)
    ready: bool = False
    is_defined: bool = False
    error: str = ""
    library: str = ""
    died: str = ""
    notes: list[str] = field(default_factory=list)
    sealed: bool | None = None


@lru_cache(maxsize=256)
def draw_cases(exercise: Exercise, seed: int, purpose: str = "marked") -> CaseSet:
    """Return cases of an exercise: "marked" are those that count, which nobody sees; "shown" are others, for feedback."""
    import numpy as np

    digest = hashlib.sha256(json.dumps([seed, exercise.id, purpose]).encode()).digest()
    return CaseSet.of(exercise, np.random.default_rng(int.from_bytes(digest, "big")))


@dataclass(frozen=True)
class Attempt:
    """One answer to an exercise, and everything that is needed to mark it.

    Attributes:
        exercise: the exercise.
        section: full name of its lesson, such as "02_lora".
        seed: the grading's seed.
        answer: the learner's answer.
        own: ids of earlier exercises whose functions the answer may call as the learner wrote them.
    """

    exercise: Exercise
    section: str
    seed: int
    answer: LearnerAnswer
    own: frozenset[str] = frozenset()

    def libraries_to_preload(self, others: bool = False) -> tuple[str, ...]:
        """Return the modules that a sandbox should have imported before the answer runs.

        Args:
            others: whether the answer uses what other cells define, and so perhaps what these import.
        """
        around = [*self.answer.before, *self.answer.after] if others else []
        texts = "\n".join([self.answer.cell, *self.answer.between, *around])
        if re.search(rf"^\s*(import|from)\s.*\b({'|'.join(libraries.GENERAL[2:])})\b", texts, re.MULTILINE):
            return ALL_LIBRARIES
        return TENSOR_LIBRARIES if self.exercise.needs or re.search(r"\b(torch|numpy|np)\b", texts) else NO_LIBRARIES

    def run(self, sandbox: Sandbox, case_set: CaseSet, to_first_wrong: bool = False) -> Run:
        """Run the answer on cases of the exercise, in a process of its own.

        Args:
            sandbox: where to run it.
            case_set: the cases.
            to_first_wrong: whether to stop as soon as a value is wrong.

        Raises:
            SandboxLost: the sandbox failed, through no fault of the answer.
            LibrariesNotLoaded: the answer should run in a sandbox that has imported more.
            Starved: the machine is too busy to grade.
        """
        limits, ran = sandbox.limits, Run()
        run_always = "\n".join([self.answer.cell, *self.answer.between])
        first = {
            "setup": setup_for(self.section, self.exercise, run_always, self.own),
            "cell": self.answer.cell,
            "name": self.exercise.name,
            "between": self.answer.between,
            "kept": self.exercise.kept,
        }
        with sandbox.question() as process:
            ran.sealed = process.sealed
            try:
                reply = process.channel.ask(first, limits.cell_seconds)
                if "others" in reply:  # the answer uses names that its cell does not define
                    if len(self.libraries_to_preload(others=True)) > len(sandbox.preloaded):
                        raise LibrariesNotLoaded
                    around = {"before": self.answer.before, "after": self.answer.after}
                    reply = process.channel.ask(around, limits.cell_seconds)
                ready_reply = reply.get("ready")
                if not isinstance(ready_reply, dict):
                    raise Died("sent a reply that the grader cannot read")
                ran.ready, ran.library = True, _plain(ready_reply.get("library") or "", 60)
                ran.is_defined, ran.error = bool(ready_reply.get("defined")), _plain(ready_reply.get("error", ""))
                if isinstance(ready_reply.get("notes"), list):
                    ran.notes += [_plain(note) for note in ready_reply["notes"][:5]]
                for number, case in enumerate(case_set.cases if ran.is_defined and not ran.library else ()):
                    arguments = [encode(value) for value in case]
                    reply = process.channel.ask({"n": number, "args": arguments}, limits.call_seconds)
                    value, raised = value_of(reply, number)
                    if raised is not None:
                        value = checking.Raised(_plain(raised))
                    elif not isinstance(reply.get("changed"), bool):  # not the reply that this course's own code writes
                        raise Died("sent a reply that the grader cannot read")
                    ran.outputs.append(checking.Changed(value) if reply.get("changed") else value)
                    if to_first_wrong and case_set.hits(ran.outputs) < len(ran.outputs):
                        break
            except Died as end:
                ran.died = str(end)
        if ran.died == "ended itself":
            ran.died = _end(process.ended)
        return ran

    def wants_example(self, ran: Run) -> bool:
        """Return whether the answer should be run on the examples too, because some of its values are wrong.

        The examples are for another process: this one has seen cases that count, and could show them as its values.
        """
        if ran.died or self.exercise.challenge:
            return False
        return draw_cases(self.exercise, self.seed).hits(ran.outputs) < len(ran.outputs)

    def verdict(self, ran: Run, shown: Run | None = None) -> Mark:
        """Return the mark of the answer.

        Args:
            ran: what became of it on the cases that count.
            shown: what became of it on the examples, or None if it was not run on them.
        """
        exercise, case_set, notes = self.exercise, draw_cases(self.exercise, self.seed), list(ran.notes)
        if not ran.ready:
            return Mark(0.0, f"The answer cell {ran.died}.", "died", notes=tuple(notes), sealed=ran.sealed)
        if ran.library:
            return Mark(0.0, libraries.refusal(ran.library), "error", notes=tuple(notes), sealed=ran.sealed)
        if not ran.is_defined:
            reason = f"The cell raised {ran.error}" if ran.error else f"The cell defines no function {exercise.name}."
            return Mark(0.0, reason + self._hint_for(ran.error), "error", notes=tuple(notes), sealed=ran.sealed)
        if ran.error:
            notes.append(f"After {exercise.name} was defined the cell raised {ran.error}")
        calls, number = len(ran.outputs), len(case_set.cases)
        outputs = [*ran.outputs, *[checking.Raised(ran.died)] * (number - calls)]
        example_outputs = shown.outputs if shown else []
        points, message, mistake = checking.judge(
            exercise, case_set, outputs, (draw_cases(self.exercise, self.seed, "shown"), example_outputs)
        )
        if ran.died:
            message = f"Call {calls + 1} of {number} {ran.died}."
            if hits := case_set.hits(ran.outputs):
                chance = f"{hits} of the calls before it right (no more than chance, so no points yet)."
                message += f" {'Points are for the calls before it.' if points else chance}"
            outcome = "died"
        elif points == exercise.points:
            outcome = "right"
        elif all(output is None for output in outputs):
            outcome = "unsolved"
        elif all(isinstance(output, checking.Raised) for output in outputs):
            outcome = "error"
        else:
            outcome = "partly" if points else "wrong"
        if not ran.died:
            errors = [str(output) for output in (*example_outputs, *outputs) if isinstance(output, checking.Raised)]
            message += next((self._hint_for(error) for error in errors if error in message), "")
        diagnosis = "" if mistake is None or ran.died else exercise.mistakes[mistake].diagnosis
        return Mark(points, _plain(message, 1000), outcome, diagnosis, tuple(notes), ran.sealed)

    def _hint_for(self, error: str) -> str:
        """What to do about an error that the answer raises in grading and need not raise in a notebook, or ""."""
        name = re.match(r"NameError: name '(\w+)'", error)
        library = self._library_of(name[1]) if name else ""
        if name and library == "course_utils":
            return (
                f" - {name[1]} comes from the course's own package, which is not available in grading: write what you need "
                "of it into a cell of your own."
            )
        if library:
            return f" - {libraries.refusal(library)}"
        return next((hint for kinds, hint in HINTS if error.startswith(kinds)), "")

    def _library_of(self, name: str) -> str:
        """The library that the notebook imports or makes a name with, if answers may not use it; "" otherwise.

        Read from the text alone, as the answer is not to be run or parsed here.
        """
        lines = "\n".join([*self.answer.before, self.answer.cell, *self.answer.between, *self.answer.after]).splitlines()
        library_of: dict[str, str] = {}
        for line in lines:
            if imported := re.match(r"\s*(?:from\s+(\w+)[\w.]*\s+import|import\s+(\w+))\b", line):
                library = imported[1] or imported[2]
                library_of |= dict.fromkeys(re.findall(r"\w+", line), "" if libraries.allowed(library) else library)
        for line in lines:
            if assigned := re.match(r"\s*(\w[\w, ]*?)\s*=(?!=)(.*)", line):
                made_with = (library_of.get(word, "") for word in re.findall(r"\w+", assigned[2]))
                library = next(filter(None, made_with), "")
                for target in re.findall(r"\w+", assigned[1]):
                    library_of.setdefault(target, library)
        return library_of.get(name, "")


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
            return Mark(0.0, f"There is no answer cell `# EXERCISE: {id}` in the notebook.", "missing")
        around = {*answer.before, *answer.between, *answer.after}
        own = frozenset(other for other, cell in right.items() if cell in around)
        attempt = Attempt(EXERCISES[id], self.section_of[id], self.seed, answer, own)
        try:
            ran, shown = self._run(attempt, draw_cases(EXERCISES[id], self.seed)), None
            if attempt.wants_example(ran):
                shown = self._run(attempt, draw_cases(EXERCISES[id], self.seed, "shown"), to_first_wrong=True)
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


def setup_for(section: str, exercise: Exercise, cell: str, own: frozenset[str] = frozenset()) -> str:
    """Return the code that runs before the answer cell.

    It consists of the notebook's imports that the cell mentions, and of the solutions of earlier exercises that it calls, so
    that an error in one answer is penalised only once.

    Args:
        section: full name of the lesson, such as "02_lora".
        exercise: the exercise.
        cell: source of the answer cell.
        own: ids of earlier exercises whose solutions are left out, because the learner's own are used.
    """
    words = set(re.findall(r"\w+", cell))
    lines = [line for name, line in _imports(section) if name in words]
    for other in EXERCISES.values():
        if other.id == exercise.id:
            break
        same_lesson = other.id.rpartition("-")[0] == exercise.id.rpartition("-")[0]
        if same_lesson and other.name in words and other.id not in own:
            lines.append(textwrap.dedent(inspect.getsource(other.solution)))
    return "\n".join(lines)


def imports_of(section: str) -> list[str]:
    """Return a lesson's import statements for the standard library, numpy and torch."""
    return list(dict.fromkeys(line for _, line in _imports(section)))


@lru_cache
def _imports(section: str) -> tuple[tuple[str, str], ...]:
    """(name bound, statement) of the imports in a section's source that work in a sandbox."""
    available = sys.stdlib_module_names - {"__future__"} | {"torch", "numpy"}
    imports = {"torch": "import torch", "np": "import numpy as np", "math": "import math"}
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source_file(section).read_text(encoding="utf-8"), section, "exec", flags)
    for node in tree.body:
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            module = (isinstance(node, ast.ImportFrom) and node.module) or alias.name
            if module.split(".")[0] in available:
                node.names = [alias]
                imports[alias.asname or alias.name.split(".")[0]] = ast.unparse(node)
    return tuple(imports.items())


def _end(ended: tuple[int, int] | None) -> str:
    number, status = ended or (0, 0)
    if number == 9:
        return "was killed (SIGKILL), as happens when memory runs out"
    if number:
        return f"crashed (signal {number})"
    return f"ended its process (exit status {status})"


def _plain(text: object, max_length: int = 400) -> str:
    """Untrusted text, cut and with printable characters only; memory addresses are masked, as they change every time."""
    text = re.sub(r"\bat 0x[0-9a-fA-F]+", "at 0x…", str(text)[:max_length])
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def grading_fingerprint() -> str:
    """Return a hash of everything that a mark may depend on.

    That is the course's code as it was loaded, and the versions on this machine.
    """
    versions = [platform.python_version(), *(version(name) for name in ("numpy", "torch"))]
    imports = [line for section in NAMES for line in imports_of(section)]
    return digest(_LOADED_CODE, *(text.encode() for text in (*versions, *imports)))


def digest(*parts: bytes) -> str:
    """Return the SHA-256 of the parts, each preceded by its length."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.hexdigest()


# Read at import: the files may change while this process still runs the old code.
_FILES = (*Path(__file__).parent.glob("*.py"), *Path(exercises.__file__).parent.glob("*.py"))
_LOADED_CODE = b"".join(file.read_bytes() for file in sorted(_FILES) if file.name != "quizzes.py")
