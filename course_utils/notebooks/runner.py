"""Runs a notebook from top to bottom in a fresh kernel, somewhere that is no checkout."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.errors import CourseError
from course_utils.memory import ProcessesPeak

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TIMEOUT = 1800


def execute(notebook: NotebookNode, on_cell: Callable[[int], object] | None = None) -> tuple[float, int]:
    """Run all cells in place, in an empty folder.

    Args:
        notebook: a notebook node; its outputs are replaced.
        on_cell: called with the index of each code cell that has finished.

    Returns:
        (seconds, peak memory in bytes of the kernel and all that it started, together).

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
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )
        if on_cell:
            client.on_cell_executed = lambda cell, cell_index, execute_reply: on_cell(cell_index)
        started = time.perf_counter()
        try:
            with ProcessesPeak(own=False) as peak:
                client.execute()
        except CellExecutionError as error:
            number = next((i for i, cell in enumerate(notebook.cells) if _failed(cell)), "?")
            raise CourseError(f"cell {number} failed: {error.ename}: {error.evalue}\n{error.traceback}") from error
        return time.perf_counter() - started, peak.bytes


def run(file: str | Path, report: Callable[[str], object] = print) -> None:
    """Run a notebook file and report the time; the file is not changed.

    Raises:
        CourseError: a cell failed, or an exercise's stub did.
    """
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    done = 0

    def on_cell(_index: int) -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            print(f"\r{Path(file).name}: {done} of {total} cells", end="", file=sys.stderr, flush=True)

    seconds, peak = execute(notebook, on_cell)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    report(f"{Path(file).name}: {total} cells ran in {seconds:.0f} s, peak {peak / 1e6:.0f} MB")


def _failed(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))
