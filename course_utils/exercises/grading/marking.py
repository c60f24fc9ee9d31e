"""Marks one answer cell: cases and verdict here, the answer's calls in the sandbox.

The cases come from the exercise's own generator with a seed that is written into the results, so they are new for every
grading and the same for every learner. What is right comes from the solution, which never enters the sandbox of its own
question.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from course_utils.exercises import checking
from course_utils.exercises.definitions import Exercise
from course_utils.exercises.grading.coding import encode
from course_utils.exercises.grading.protocol import Died, value_of
from course_utils.exercises.grading.sandbox import Sandbox
from course_utils.exercises.registry import EXERCISES


@dataclass(frozen=True)
class Mark:
    """What an answer got.

    Attributes:
        points: reached.
        message: for the learner.
        outcome: "right", "partly", "wrong", "missing", "unsolved", "error" (the cell or every call raised) or "died" (it
            took too long, ended itself, or sent what is no value).
        mistake: the name of the typical mistake that it is, or "".
        notes: what else was noticed.
        sealed: whether it ran where no process could be started; None if it did not run.
    """

    points: float
    message: str
    outcome: str
    mistake: str = ""
    notes: tuple[str, ...] = ()
    sealed: bool | None = None


class Question:
    """An exercise with this grading's cases."""

    def __init__(self, exercise: Exercise, section: str, seed: int) -> None:
        """Draw the cases; `section` is a full name such as "02_lora"."""
        import numpy as np

        digest = hashlib.sha256(f"{seed} {exercise.id}".encode()).digest()
        self.exercise, self.section = exercise, section
        self.seed = int.from_bytes(digest[:4], "big")
        self.asked = checking.Asked.of(exercise, np.random.default_rng(self.seed))
        self.arguments = [[encode(value) for value in case] for case in self.asked.cases]
        self._needs_torch = any(_holds_tensor(part) for case in self.asked.cases for part in case)

    def heavy(self, cell: str) -> bool:
        """Whether to run a cell where torch is imported already."""
        return self._needs_torch or re.search(r"\b(torch|numpy|np)\b", cell) is not None

    def mark(self, cell: str, sandbox: Sandbox) -> Mark:
        """Run the cell in a process of its own and mark what it computes.

        Args:
            cell: source of the answer cell.
            sandbox: where.

        Raises:
            SandboxLost: the sandbox failed; this says nothing about the answer.
        """
        limits, error, ready = sandbox.limits, "", False
        outputs: list[Any] = []
        notes: list[str] = []
        with sandbox.question() as running:
            try:
                asked = {"setup": setup_for(self.section, self.exercise, cell), "cell": cell, "name": self.exercise.name}
                said = running.channel.ask(asked | {"seed": self.seed}, limits.cell_seconds).get("ready")
                if not isinstance(said, dict):
                    raise Died("sent a reply that the grader cannot read")
                ready, error = bool(said.get("defined")), _plain(said.get("error", ""))
                notes += [_plain(note) for note in said["notes"][:5]] if isinstance(said.get("notes"), list) else []
                for number, arguments in enumerate(self.arguments if ready else ()):
                    reply = running.channel.ask({"n": number, "args": arguments}, limits.call_seconds)
                    value, raised = value_of(reply, number)
                    outputs.append(value if raised is None else checking.Raised(_plain(raised)))
                died = ""
            except Died as end:
                died = str(end)
        if died == "ended itself":
            died = _end(running.ended)
        return self._verdict(outputs, error, died, ready, notes, running.sealed)

    def _verdict(self, outputs: list[Any], error: str, died: str, ready: bool, notes: list[str], sealed: bool) -> Mark:
        exercise, number = self.exercise, len(self.arguments)
        if died and not ready:
            return Mark(0.0, f"The answer cell {died}.", "died", notes=tuple(notes), sealed=sealed)
        if not ready:
            why = f"The cell raised {error}" if error else f"The cell defines no function {exercise.name}."
            return Mark(0.0, why + _hint_for(error), "error", notes=tuple(notes), sealed=sealed)
        if error:
            notes.append(f"After {exercise.name} was defined the cell raised {error}")
        calls = len(outputs)
        outputs += [checking.Raised(died)] * (number - calls)
        points, message, mistake = checking.judge(exercise, self.asked, outputs)
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
    """The mark of a question without an answer cell."""
    return Mark(0.0, f"There is no answer cell `# EXERCISE: {exercise.id}` in the notebook.", "missing")


def setup_for(section: str, exercise: Exercise, cell: str) -> str:
    """What stands in the process before the answer cell: the notebook's imports that the cell mentions, and solutions of
    earlier exercises that it calls, so that an error in one answer costs once."""
    words = set(re.findall(r"\w+", cell))
    lines = [line for name, line in _imports(section) if name in words]
    for other in EXERCISES.values():
        if other.id == exercise.id:
            break
        if other.id.rpartition("-")[0] == exercise.id.rpartition("-")[0] and other.name in words:
            lines.append(textwrap.dedent(inspect.getsource(other.solution)))
    return "\n".join(lines)


def imports_of(section: str) -> list[str]:
    """Import statements of a lesson's standard library, numpy and torch."""
    return list(dict.fromkeys(line for _, line in _imports(section)))


@lru_cache
def _imports(section: str) -> tuple[tuple[str, str], ...]:
    """(name bound, statement) of the imports in a section's source that a sandbox can do."""
    from course_utils.notebooks.builder import source_file

    known = sys.stdlib_module_names | {"torch", "numpy"}
    found = {"torch": "import torch", "np": "import numpy as np", "math": "import math"}
    code = compile(
        source_file(section).read_text(encoding="utf-8"),
        section,
        "exec",
        ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
    )
    for node in code.body:
        if isinstance(node, ast.Import):
            module, bound = "import ", node.names
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module, bound = f"from {node.module} import ", node.names
        else:
            continue
        for alias in bound:
            root = (alias.name if isinstance(node, ast.Import) else node.module).split(".")[0]
            if root in known and root != "__future__":
                name = alias.asname or alias.name.split(".")[0]
                found[name] = module + alias.name + (f" as {alias.asname}" if alias.asname else "")
    return tuple(found.items())


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
        return " - each answer cell runs by itself: it must define or import what it uses."
    if error.startswith("ModuleNotFoundError"):
        return " - in grading there is Python's standard library, numpy and torch."
    return ""


def _plain(text: object, most: int = 400) -> str:
    """Text of a stranger: cut, on printable characters, without addresses, which would differ at every grading."""
    text = re.sub(r"\bat 0x[0-9a-fA-F]+", "at 0x…", str(text)[:most])
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
