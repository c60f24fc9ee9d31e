"""Marks one answer cell: cases and verdict here, the answer's calls in the sandbox.

The cases come from the exercise's own generator. They are drawn from the grading's seed, which only the instructor's results
have, and from all that is run: an answer that is handed in again unchanged meets the same cases and gets the same mark, and
any other answer meets new ones, so that what a feedback has shown of its cases is worth nothing. What is right comes from
the solution, which never enters the sandbox of its own question; nor do the seed and the cases to come.
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


@dataclass(frozen=True)
class Answer:
    """An answer cell, and the code cells around it, which may define what it uses.

    Attributes:
        cell: source of the answer cell.
        before, after: sources of the notebook's other code cells, in its order.
    """

    cell: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Question:
    """An exercise, and one answer to it."""

    def __init__(self, exercise: Exercise, section: str, seed: int, answer: Answer) -> None:
        """`section` is a full name such as "02_lora", `seed` the grading's."""
        self.exercise, self.section, self.seed, self.answer = exercise, section, seed, answer

    def asked(self, others: bool = False) -> checking.Asked:
        """The cases for this answer; `others`: the cells around it were looked into, and may hold what it knows."""
        import numpy as np

        around = [self.answer.before, self.answer.after] if others else []
        text = json.dumps([self.seed, self.exercise.id, self.answer.cell, around])
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        return checking.Asked.of(self.exercise, np.random.default_rng(int.from_bytes(digest, "big")))

    @property
    def heavy(self) -> bool:
        """Whether to run the answer where torch is imported already."""
        return _takes_tensors(self.exercise) or re.search(r"\b(torch|numpy|np)\b", self.answer.cell) is not None

    def mark(self, sandbox: Sandbox) -> Mark:
        """Run the answer in a process of its own and mark what it computes.

        Args:
            sandbox: where.

        Raises:
            SandboxLost: the sandbox failed; this says nothing about the answer.
        """
        cell = self.answer.cell
        limits, error, ready, asked = sandbox.limits, "", False, None
        outputs: list[Any] = []
        notes: list[str] = []
        with sandbox.question() as running:
            try:
                first = {"setup": setup_for(self.section, self.exercise, cell), "cell": cell, "name": self.exercise.name}
                reply = running.channel.ask(first, limits.cell_seconds)
                others = "others" in reply
                if others:  # it uses names that its cell does not define
                    around = {"before": self.answer.before, "after": self.answer.after}
                    reply = running.channel.ask(around, limits.cell_seconds)
                said = reply.get("ready")
                if not isinstance(said, dict):
                    raise Died("sent a reply that the grader cannot read")
                ready, error = bool(said.get("defined")), _plain(said.get("error", ""))
                notes += [_plain(note) for note in said["notes"][:5]] if isinstance(said.get("notes"), list) else []
                asked = self.asked(others)
                for number, case in enumerate(asked.cases if ready else ()):
                    arguments = [encode(value) for value in case]
                    reply = running.channel.ask({"n": number, "args": arguments}, limits.call_seconds)
                    value, raised = value_of(reply, number)
                    outputs.append(value if raised is None else checking.Raised(_plain(raised)))
                died = ""
            except Died as end:
                died = str(end)
        if died == "ended itself":
            died = _end(running.ended)
        return self._verdict(asked, outputs, error, died, ready, notes, running.sealed)

    def _verdict(
        self,
        asked: checking.Asked | None,
        outputs: list[Any],
        error: str,
        died: str,
        ready: bool,
        notes: list[str],
        sealed: bool,
    ) -> Mark:
        exercise = self.exercise
        if asked is None:
            return Mark(0.0, f"The answer cell {died}.", "died", notes=tuple(notes), sealed=sealed)
        if not ready:
            why = f"The cell raised {error}" if error else f"The cell defines no function {exercise.name}."
            return Mark(0.0, why + _hint_for(error), "error", notes=tuple(notes), sealed=sealed)
        if error:
            notes.append(f"After {exercise.name} was defined the cell raised {error}")
        calls, number = len(outputs), len(asked.cases)
        outputs += [checking.Raised(died)] * (number - calls)
        points, message, mistake = checking.judge(exercise, asked, outputs)
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
        return " - no cell of the notebook defines it, or it needs the course's own package, which is not there in grading."
    if error.startswith("ModuleNotFoundError"):
        return " - in grading there is Python's standard library, numpy and torch, and nothing of the course."
    return ""


def _plain(text: object, most: int = 400) -> str:
    """Text of a stranger: cut, on printable characters, without addresses, which would differ at every grading."""
    text = re.sub(r"\bat 0x[0-9a-fA-F]+", "at 0x…", str(text)[:most])
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
