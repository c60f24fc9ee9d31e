"""Marks one answer cell: cases and verdict here, the answer's calls in the sandbox.

The cases come from the exercise's own generator. They are seeded with the grading's seed, which is stored only in the
instructor's results, and with all the code that is run: an answer that is handed in again unchanged gets the same cases and
the same mark, and any other answer gets new ones, so that cases shown in the feedback are of no use. Expected values come
from the solution, which never enters the sandbox of its own question; nor do the seed and the cases still to come.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import sys
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from course_utils.exercises import checking
from course_utils.exercises.definitions import Exercise
from course_utils.exercises.registry import EXERCISES
from course_utils.grading.coding import encode
from course_utils.grading.protocol import Died, value_of
from course_utils.grading.sandbox import Sandbox
from course_utils.lessons import source_file


@dataclass(frozen=True)
class Mark:
    """The mark of one answer.

    Attributes:
        points: points reached.
        message: for the learner.
        outcome: "right", "partly", "wrong", "missing", "unsolved", "error" (the cell or every call raised), "died" (it took
            too long, ended its process, or sent something that is not a value) or "not graded" (the grader failed).
        mistake: name of the typical mistake that the answer makes, or "".
        notes: anything else that was noticed.
        sealed: whether it ran where no process can be started; None if it did not run.
    """

    points: float
    message: str
    outcome: str
    mistake: str = ""
    notes: tuple[str, ...] = ()
    sealed: bool | None = None


@dataclass(frozen=True)
class LearnerAnswer:
    """An answer cell, and the code cells around it, which may define what it uses.

    Attributes:
        cell: source of the answer cell.
        before, after: sources of the notebook's other code cells, in its order.
    """

    cell: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Attempt:
    """An exercise, and one answer to it."""

    def __init__(self, exercise: Exercise, section: str, seed: int, answer: LearnerAnswer) -> None:
        """`section`: full name such as "02_lora"; `seed`: the grading's seed."""
        self.exercise, self.section, self.seed, self.answer = exercise, section, seed, answer

    def draw_cases(self, others: bool = False) -> checking.CaseSet:
        """The cases for this answer.

        Args:
            others: whether the cells around the answer were searched for definitions; they then count as part of it.
        """
        import numpy as np

        around = [self.answer.before, self.answer.after] if others else []
        text = json.dumps([self.seed, self.exercise.id, self.answer.cell, around])
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        return checking.CaseSet.of(self.exercise, np.random.default_rng(int.from_bytes(digest, "big")))

    @property
    def heavy(self) -> bool:
        """Whether to run the answer where torch is imported already."""
        return _takes_tensors(self.exercise) or re.search(r"\b(torch|numpy|np)\b", self.answer.cell) is not None

    def mark(self, sandbox: Sandbox) -> Mark:
        """Run the answer in a process of its own and mark its values.

        Args:
            sandbox: where to run it.

        Raises:
            SandboxLost: the sandbox failed, through no fault of the answer.
        """
        cell = self.answer.cell
        limits, error, is_defined, case_set = sandbox.limits, "", False, None
        outputs: list[Any] = []
        notes: list[str] = []
        with sandbox.question() as process:
            try:
                first = {"setup": setup_for(self.section, self.exercise, cell), "cell": cell, "name": self.exercise.name}
                reply = process.channel.ask(first, limits.cell_seconds)
                others = "others" in reply
                if others:  # the answer uses names that its cell does not define
                    around = {"before": self.answer.before, "after": self.answer.after}
                    reply = process.channel.ask(around, limits.cell_seconds)
                ready_reply = reply.get("ready")
                if not isinstance(ready_reply, dict):
                    raise Died("sent a reply that the grader cannot read")
                is_defined, error = bool(ready_reply.get("defined")), _plain(ready_reply.get("error", ""))
                notes += (
                    [_plain(note) for note in ready_reply["notes"][:5]] if isinstance(ready_reply.get("notes"), list) else []
                )
                case_set = self.draw_cases(others)
                for number, case in enumerate(case_set.cases if is_defined else ()):
                    arguments = [encode(value) for value in case]
                    reply = process.channel.ask({"n": number, "args": arguments}, limits.call_seconds)
                    value, raised = value_of(reply, number)
                    outputs.append(value if raised is None else checking.Raised(_plain(raised)))
                died = ""
            except Died as end:
                died = str(end)
        if died == "ended itself":
            died = _end(process.ended)
        return self._verdict(case_set, outputs, error, died, is_defined, notes, process.sealed)

    def _verdict(
        self,
        case_set: checking.CaseSet | None,
        outputs: list[Any],
        error: str,
        died: str,
        is_defined: bool,
        notes: list[str],
        sealed: bool,
    ) -> Mark:
        exercise = self.exercise
        if case_set is None:
            return Mark(0.0, f"The answer cell {died}.", "died", notes=tuple(notes), sealed=sealed)
        if not is_defined:
            reason = f"The cell raised {error}" if error else f"The cell defines no function {exercise.name}."
            return Mark(0.0, reason + _hint_for(error), "error", notes=tuple(notes), sealed=sealed)
        if error:
            notes.append(f"After {exercise.name} was defined the cell raised {error}")
        calls, number = len(outputs), len(case_set.cases)
        outputs += [checking.Raised(died)] * (number - calls)
        points, message, mistake = checking.judge(exercise, case_set, outputs)
        if died:
            message = f"Call {calls + 1} of {number} {died}. Points are for the calls before it."
        raised = [output for output in outputs if isinstance(output, checking.Raised)]
        if died:
            outcome = "died"
        elif points == exercise.points:
            outcome = "right"
        elif all(output is None for output in outputs):
            outcome = "unsolved"
        elif len(raised) == number:
            outcome, message = "error", message + _hint_for(str(raised[0]))
        else:
            outcome = "partly" if points else "wrong"
        name = "" if mistake is None or died else exercise.mistakes[mistake].function.__name__.strip("_")
        return Mark(points, _plain(message, 1000), outcome, name, tuple(notes), sealed)


def missing(exercise: Exercise) -> Mark:
    """The mark for an exercise without an answer cell."""
    return Mark(0.0, f"There is no answer cell `# EXERCISE: {exercise.id}` in the notebook.", "missing")


def setup_for(section: str, exercise: Exercise, cell: str) -> str:
    """Code that runs before the answer cell: the notebook's imports that the cell mentions, and the solutions of earlier
    exercises that it calls, so that an error in one answer is penalised only once."""
    words = set(re.findall(r"\w+", cell))
    lines = [line for name, line in _imports(section) if name in words]
    for other in EXERCISES.values():
        if other.id == exercise.id:
            break
        if other.id.rpartition("-")[0] == exercise.id.rpartition("-")[0] and other.name in words:
            lines.append(textwrap.dedent(inspect.getsource(other.solution)))
    return "\n".join(lines)


def imports_of(section: str) -> list[str]:
    """A lesson's import statements for the standard library, numpy and torch."""
    return list(dict.fromkeys(line for _, line in _imports(section)))


@lru_cache
def _imports(section: str) -> tuple[tuple[str, str], ...]:
    """(name bound, statement) of the imports in a section's source that work in a sandbox."""
    available = sys.stdlib_module_names | {"torch", "numpy"}
    imports = {"torch": "import torch", "np": "import numpy as np", "math": "import math"}
    code = compile(
        source_file(section).read_text(encoding="utf-8"),
        section,
        "exec",
        ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
    )
    for node in code.body:
        if isinstance(node, ast.Import):
            module, aliases = "import ", node.names
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module, aliases = f"from {node.module} import ", node.names
        else:
            continue
        for alias in aliases:
            root = (alias.name if isinstance(node, ast.Import) else node.module).split(".")[0]
            if root in available and root != "__future__":
                name = alias.asname or alias.name.split(".")[0]
                imports[name] = module + alias.name + (f" as {alias.asname}" if alias.asname else "")
    return tuple(imports.items())


@lru_cache
def _takes_tensors(exercise: Exercise) -> bool:
    import numpy as np

    return any(_holds_tensor(part) for case in exercise.cases(np.random.default_rng(0)) for part in case)


def _holds_tensor(value: object) -> bool:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensor, value))
    return hasattr(value, "dtype")


def _end(ended: tuple[int, int] | None) -> str:
    number, status = ended or (0, 0)
    if number == 9:
        return "was killed (SIGKILL), as happens when memory runs out"
    if number:
        return f"crashed (signal {number})"
    return f"ended its process (exit status {status})"


def _hint_for(error: str) -> str:
    if error.startswith("NameError"):
        return (
            " - no cell of the notebook defines it, or it needs the course's own package, which is not available in grading."
        )
    if error.startswith("ModuleNotFoundError"):
        return " - grading has only Python's standard library, numpy and torch, not the course's own package."
    return ""


def _plain(text: object, max_length: int = 400) -> str:
    """Untrusted text, cut and with printable characters only; memory addresses are masked, as they change every time."""
    text = re.sub(r"\bat 0x[0-9a-fA-F]+", "at 0x…", str(text)[:max_length])
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
