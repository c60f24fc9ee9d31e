"""Runs a notebook from top to bottom in a fresh kernel, somewhere that is no checkout."""

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
    """What one code cell took.

    Attributes:
        index: its place among the notebook's cells.
        seconds: wall time.
        peak_bytes: highest memory of the kernel and all that it started, together; 0 if it was too short to be sampled.
        first_line: of its code that is no comment.
    """

    index: int
    seconds: float
    peak_bytes: int
    first_line: str


@dataclass(frozen=True)
class RunCost:
    """What a whole notebook took.

    Attributes:
        seconds: wall time.
        peak_bytes: highest memory of the kernel and all that it started, together.
        parts: what each process held at that moment, as (name, bytes), the largest first.
        cells: each code cell's share, in order.
    """

    seconds: float
    peak_bytes: int
    parts: list[tuple[str, int]]
    cells: list[CellCost]


def execute(notebook: NotebookNode, on_cell: Callable[[CellCost], object] | None = None) -> RunCost:
    """Run all cells in place, in an empty folder.

    Args:
        notebook: a notebook node; its outputs are replaced.
        on_cell: called with the cost of each code cell that has finished.

    Returns:
        What it took.

    Raises:
        CourseError: a cell failed: which, and its error.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            # ipykernel 7 warns that its lines on loopback are not encrypted, at every start
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )
        cells: list[CellCost] = []
        last = time.perf_counter()

        def finished(cell: NotebookNode, cell_index: int, execute_reply: object) -> None:
            nonlocal last
            now = time.perf_counter()
            lines = (line for line in cell.source.splitlines() if line.strip() and not line.startswith("#"))
            cells.append(CellCost(cell_index, now - last, peak.lap(), next(lines, "")))
            last = now
            if on_cell:
                on_cell(cells[-1])

        client.on_cell_executed = finished
        started = time.perf_counter()
        try:
            with ProcessesPeak(own=False) as peak:
                client.execute()
        except CellExecutionError as error:
            number = next((i for i, cell in enumerate(notebook.cells) if _failed(cell)), "?")
            raise CourseError(f"cell {number} failed: {error.ename}: {error.evalue}\n{error.traceback}") from error
        return RunCost(time.perf_counter() - started, peak.bytes, peak.parts, cells)


def run(file: str | Path, report: Callable[[str], object] = print, costliest: int = 0) -> RunCost:
    """Run a notebook file and report time and memory; the file is not changed.

    Args:
        file: the notebook.
        report: called with each line.
        costliest: how many of the cells that took longest to list.

    Raises:
        CourseError: a cell failed, or an exercise's stub did.
    """
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    done = 0

    def on_cell(_cost: CellCost) -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            print(f"\r{Path(file).name}: {done} of {total} cells", end="", file=sys.stderr, flush=True)

    cost = execute(notebook, on_cell)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    parts = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in cost.parts if size > 20e6)
    report(f"{Path(file).name}: {total} cells ran in {cost.seconds:.0f} s, peak {cost.peak_bytes / 1e6:.0f} MB ({parts})")
    for cell in sorted(cost.cells, key=lambda cell: -cell.seconds)[:costliest]:
        report(f"  {cell.seconds:7.1f} s  {cell.peak_bytes / 1e6:6.0f} MB  cell {cell.index:3}  {cell.first_line[:90]}")
    return cost


def _failed(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))
