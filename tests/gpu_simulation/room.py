"""Does each lesson have room on its card? Models of true size, nothing large computed, memory counted over all processes.

    python -m tests.gpu_simulation.run --true-size --tier t4 --record      count, lesson by lesson

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
from typing import Any

from . import driver, true_size

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
