"""Runs a notebook from top to bottom in a fresh kernel, outside the checkout."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.errors import CourseError
from course_utils.memory import ProcessesPeak

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TIMEOUT = 1800


@dataclass(frozen=True)
class CellCost:
    """Time and memory of one code cell.

    Attributes:
        index: the cell's index in the notebook.
        seconds: wall time.
        peak_bytes: peak memory of the kernel and all processes it started, together; 0 if the cell was too short to sample.
        first_line: first line of its code that is not a comment.
    """

    index: int
    seconds: float
    peak_bytes: int
    first_line: str


@dataclass(frozen=True)
class RunCost:
    """Time and memory of a whole notebook.

    Attributes:
        seconds: wall time.
        peak_bytes: peak memory of the kernel and all processes it started, together.
        parts: memory of each process at the peak, as (name, bytes), the largest first.
        cells: cost of each code cell, in order.
    """

    seconds: float
    peak_bytes: int
    parts: list[tuple[str, int]]
    cells: list[CellCost]


def execute(notebook: NotebookNode, on_cell: Callable[[CellCost], object] | None = None) -> RunCost:
    """Run all cells in place, in an empty folder, and return time and memory of the run.

    Args:
        notebook: its outputs are replaced.
        on_cell: called with the cost of each finished code cell.

    Raises:
        CourseError: a cell failed; the message has its number and its error.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            # ipykernel 7 warns at every start that its connections on loopback are not encrypted
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )
        cells: list[CellCost] = []
        previous = time.perf_counter()

        def on_executed(cell: NotebookNode, cell_index: int, execute_reply: object) -> None:
            nonlocal previous
            finished_at = time.perf_counter()
            lines = (line for line in cell.source.splitlines() if line.strip() and not line.startswith("#"))
            cells.append(CellCost(cell_index, finished_at - previous, peak.lap(), next(lines, "")))
            previous = finished_at
            if on_cell:
                on_cell(cells[-1])

        client.on_cell_executed = on_executed
        started = time.perf_counter()
        try:
            with ProcessesPeak(own=False) as peak:
                client.execute()
        except CellExecutionError as error:
            outputs = ((number, output) for number, cell in enumerate(notebook.cells) for output in cell.get("outputs", []))
            number = next((number for number, output in outputs if output.output_type == "error"), "?")
            raise CourseError(f"cell {number} failed: {error.ename}: {error.evalue}\n{error.traceback}") from error
        return RunCost(time.perf_counter() - started, peak.bytes, peak.parts, cells)


def run(file: str | Path, report: Callable[[str], object] = print) -> RunCost:
    """Run a notebook file and report time and memory; the file is not changed.

    Raises:
        CourseError: a cell failed, or the stub of an exercise.
    """
    import nbformat

    notebook = nbformat.read(file, as_version=4)

    def on_cell(done: CellCost) -> None:
        if sys.stderr.isatty():
            text = f"\r{Path(file).name}: cell {done.index} of {len(notebook.cells) - 1}"
            print(text, end="", file=sys.stderr, flush=True)

    cost = execute(notebook, on_cell)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    parts = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in cost.parts if size > 20e6)
    run_in = f"{len(cost.cells)} cells ran in {cost.seconds:.0f} s, peak {cost.peak_bytes / 1e6:.0f} MB ({parts})"
    report(f"{Path(file).name}: {run_in}")
    return cost
