"""Does each lesson have room on its card? Models of true size, nothing large computed, memory counted over all processes.

    python -m tests.gpu_simulation.run --true-size --tier t4 --record      count, lesson by lesson
    python -m tests.gpu_simulation.run --table                             the newest record as two tables

The count is that of PyTorch's allocator without fragmentation: what it holds for each process, freed memory included that it
keeps, and a context for each. The libraries' workspaces on a real card are not in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import driver, true_size

if TYPE_CHECKING:
    from course_utils.memory import MemoryEstimate

RECORD = "gpu-simulation-memory"
SKIP_FROM = 1 << 20
# As in card.cpp: the highest total, and of each process what it holds, what it held at the highest total, and its command.
PEAK, HOLDER = struct.Struct("q"), struct.Struct("qq112s")
HOLDERS = 31
PROCESSES = {"ipykernel": "notebook", "openai_server.worker": "trainer", "openai_server": "server"}


class Ledger:
    """The file through which processes share a card, as `card.cpp` writes it."""

    def __init__(self, file: Path) -> None:
        """Make the file, for no process so far."""
        size = PEAK.size + HOLDERS * HOLDER.size
        file.write_bytes(bytes(size))
        self._file = file.open("r+b")
        self._page = mmap.mmap(self._file.fileno(), size)

    def lap(self) -> tuple[int, dict[str, int]]:
        """Return the most that all processes held together since the last call, and what each of them held then."""
        peak = PEAK.unpack_from(self._page)[0]
        shares: dict[str, int] = {}
        total = 0
        for number in range(HOLDERS):
            held, at_peak, command = HOLDER.unpack_from(self._page, PEAK.size + number * HOLDER.size)
            if at_peak:
                name = process_name(command.rstrip(b"\0").decode(errors="replace"))
                shares[name] = shares.get(name, 0) + at_peak
            held = 0 if held and self._is_gone(number) else held
            total += held
            struct.pack_into("qq", self._page, PEAK.size + number * HOLDER.size, held, held)
        PEAK.pack_into(self._page, 0, total)
        return peak, shares

    def _is_gone(self, number: int) -> bool:
        """Whether nobody has the lock of that process any more."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
        return True

    def close(self) -> None:
        """Close the file."""
        self._page.close()
        self._file.close()


def process_name(command: str) -> str:
    """Return what a process does in a lesson, by its command."""
    return next((name for part, name in PROCESSES.items() if part in command), command[-40:])


@dataclass
class CellMemory:
    """One cell: its number among the notebook's cells, its first line, the most bytes on the card, and whose they were."""

    cell: int
    first_line: str
    peak: int
    processes: dict[str, int]


@dataclass
class Count:
    """What a lesson took on a card.

    Attributes:
        ledger: the card that its processes share.
        steps: a file for what training runs took.
        cells: cell by cell, in the order in which they ran.
    """

    ledger: Ledger
    steps: Path
    cells: list[CellMemory] = field(default_factory=list)

    def environment(self, ledger_file: Path) -> dict[str, str]:
        """Return variables for the lesson's processes."""
        return {driver.SKIP: str(SKIP_FROM), driver.LEDGER: str(ledger_file), true_size.STEPS: str(self.steps)}

    def cell_ended(self, cell: int, first_line: str) -> None:
        """Note what the cell took."""
        self.cells.append(CellMemory(cell, first_line, *self.ledger.lap()))

    def as_dict(self, gpu: str) -> dict[str, Any]:
        """Return plain values that can be written as JSON: the highest cell, all cells, and the training runs."""
        noted = self.steps.read_text(encoding="utf-8").splitlines() if self.steps.exists() else []
        highest = max(self.cells, key=lambda cell: cell.peak, default=CellMemory(0, "", 0, {}))
        return {
            "card_bytes": driver.CARDS[gpu].memory_bytes,
            "highest": asdict(highest),
            "cells": [asdict(cell) for cell in self.cells],
            "steps": [json.loads(line) for line in noted],
        }


@contextlib.contextmanager
def counting(folder: Path) -> Iterator[tuple[Count, dict[str, str]]]:
    """Yield a new count and the environment that a lesson's processes need for it; files lie in `folder`."""
    file = folder / "ledger"
    count = Count(Ledger(file), folder / "steps.jsonl")
    try:
        yield count, count.environment(file)
    finally:
        count.ledger.close()


def estimate_of(step: dict[str, Any], model: str, number_format: str) -> tuple[MemoryEstimate, int] | None:
    """Return `memory.estimate` of a training run's largest step, and what by it the run adds to the model, in bytes.

    For the course's loop the latter is what `fit` predicted, which knows how many tokens carry loss. None where the closed
    form does not cover the run.
    """
    from course_utils import memory

    course = step["loop"] == "course"
    if (course and not step["predicted"]) or not step.get("method"):
        return None
    estimate = memory.estimate(
        model,
        step["method"],
        target_modules="all-linear",
        batch_size=step["rows"],
        length=step["length"],
        padded=True,
        precision={"float16": "fp16", "bfloat16": "bf16"}[number_format],
        checkpointing=step.get("checkpointing", False),
        accumulation=step.get("accumulation", 1),
        loop="course" if course else "transformers",
    )
    added = step["predicted"] if course else estimate.tensors - estimate.weights - estimate.adapter
    return estimate, added


def tables(record: dict[str, Any] | None = None) -> str:
    """Return two tables: the highest moment of each lesson on each card, and its training runs, estimated and counted."""
    runs = (record or newest())["runs"]
    cards = [card for card in driver.CARDS if any(run["gpu"] == card for run in runs)]
    memory_of = {card: f"{card} ({driver.CARDS[card].memory_bytes / 1e9:.1f})" for card in cards}
    lines = ["GB of the card".ljust(16) + "".join(memory_of[card].rjust(20) for card in cards)]
    for lesson in sorted({run["lesson"] for run in runs}):
        row = f"lesson {lesson}".ljust(16)
        for card in cards:
            run = next((run for run in runs if (run["lesson"], run["gpu"]) == (lesson, card)), None)
            row += (_highest(run) if run else "").rjust(20)
        lines.append(row)
    lines += ["", "training runs: what the largest step adds to the model, GB (each size once)"]
    lines.append("lesson  card       loop         method   rows x tokens   estimate    count   difference")
    furthest = (0.0, "")
    for run in runs:
        for step in _different(run["memory"]["steps"]):
            text, difference = _step_row(run, step)
            lines.append(text)
            furthest = max(furthest, (abs(difference), text))
    return "\n".join([*lines, "", "the largest difference: " + furthest[1].strip()])


def _highest(run: dict[str, Any]) -> str:
    highest = run["memory"]["highest"]
    failed = f" {len(run['errors'])} errors" if run["errors"] else ""
    return f"{highest['peak'] / 1e9:.1f} (cell {highest['cell']}){failed}"


def _different(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of runs of the same kind and size the one that took most."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for step in steps:
        key = (step["loop"], step.get("method"), step["rows"], step["length"])
        if key not in kept or step["counted"] > kept[key]["counted"]:
            kept[key] = step
    return sorted(kept.values(), key=lambda step: step["time"])


def _step_row(run: dict[str, Any], step: dict[str, Any]) -> tuple[str, float]:
    """A row of the second table, and the relative difference."""
    from course_utils import hardware, models

    card = driver.CARDS[run["gpu"]]
    tier = hardware.gpu_tier(card.capability, card.memory_bytes)
    found = estimate_of(step, models.TIERS[tier].name, card.number_format) if step["rows"] else None
    row = f"{run['lesson']:<8}{run['gpu']:<11}{step['loop']:<13}{step.get('method') or '':<9}"
    row += f"{step['rows']:>4} x {step['length']:<8}"
    if not found:
        return f"{row}{'-':>8}{step['counted'] / 1e9:>9.3f}   {step.get('reason', '')}", 0.0
    difference = found[1] / step["counted"] - 1
    return f"{row}{found[1] / 1e9:>8.3f}{step['counted'] / 1e9:>9.3f}{100 * difference:>10.1f} %", difference


def newest() -> dict[str, Any]:
    """Return the newest record."""
    files = sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "records").glob(f"{RECORD}-*.json"))
    if not files:
        raise FileNotFoundError("no record yet: python -m tests.gpu_simulation.run --true-size --record")
    found: dict[str, Any] = json.loads(files[-1].read_text(encoding="utf-8"))
    return found
