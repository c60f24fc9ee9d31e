"""Runs the code cells of lessons on a simulated card, with stand-ins for the models, and says what failed.

    python -m tests.gpu_simulation.run --tier t4 --tier a100 --record

A cell that fails does not end the lesson: the cells after it run too, and what they lack for its sake is counted as their
failure. An assertion that answers of random weights cannot meet is no failure; those are listed apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import lessons, plans
from course_utils.publishing import builder
from tests.colab import kernel

from . import build, driver, room

if TYPE_CHECKING:
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
TIERS = ("t4", "a100")


@dataclass
class Failure:
    """A cell that failed: its number among the notebook's cells, its first line, and the error."""

    cell: int
    first_line: str
    error: str


@dataclass
class LessonRun:
    """What one lesson did on a card.

    Attributes:
        lesson: its number.
        gpu: the card, as COURSE_SIMULATED_GPU names it.
        cells: number of code cells that ran.
        errors: cells that failed.
        unmet: cells whose own assertion failed, on the quality of answers: random weights cannot meet these. With models of
            true size, whose losses are zero, also cells that divide by one.
        seconds: wall time.
        memory: with models of true size, what it took (`room.Count.as_dict`).
    """

    lesson: str
    gpu: str
    cells: int = 0
    errors: list[Failure] = field(default_factory=list)
    unmet: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    memory: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"{self.lesson} on {self.gpu}: {self.cells} cells, {len(self.errors)} errors, {len(self.unmet)} unmet, "
        rows = [f"  cell {f.cell}: {f.first_line}\n    {f.error[:400]}" for f in self.errors]
        rows += [f"  cell {f.cell}, of random weights: {f.first_line}\n    {f.error[:400]}" for f in self.unmet]
        if highest := self.memory.get("highest"):
            shares = " + ".join(f"{name} {held / 1e9:.1f}" for name, held in highest["processes"].items())
            peak = f"{highest['peak'] / 1e9:.1f} of {self.memory['card_bytes'] / 1e9:.1f} GB ({shares})"
            rows.insert(0, f"  highest: {peak}, cell {highest['cell']}: {highest['first_line']}")
        return "\n".join([head + f"{self.seconds:.0f} s", *rows])


def run(lesson: str, gpu: str, hub: Path, keep: Path | None = None, count: bool = False, small: bool = True) -> LessonRun:
    """Run a lesson's code cells, solutions of exercises included, and return what happened.

    Args:
        lesson: its number, such as "02".
        gpu: "t4", or "2xt4" for two cards.
        hub: folder of `stand_ins.make`.
        keep: folder for the notebook with its outputs.
        count: whether the models in `hub` have the real ones' size: nothing large is computed, and memory is counted.
        small: whether examples are few and answers short.
    """
    return run_notebook(builder.instructor_edition(lesson), LessonRun(lesson, gpu), hub, keep, count, small)


def run_notebook(
    notebook: NotebookNode, result: LessonRun, hub: Path, keep: Path | None = None, count: bool = False, small: bool = True
) -> LessonRun:
    """Run any notebook as `run` does; fills and returns `result`."""
    import nbformat

    # offline: the stand-ins are all that is there
    environment = build.environment(result.gpu) | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    if small:
        environment[plans.SMALL] = "1"
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        scratch = tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True)
        folder = stack.enter_context(scratch)
        counted = None
        if count:
            files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="course-card-", ignore_cleanup_errors=True)))
            counted, more = stack.enter_context(room.counting(files))
            environment |= more

        def cell_ended(cell: NotebookNode, index: int) -> None:
            if counted:
                counted.cell_ended(index, kernel.first_line(cell.source))
            peak = f"{counted.cells[-1].peak / 1e9:5.1f} GB" if counted else ""
            kernel.say(cell, index, result.lesson, result.gpu, peak)

        kernel.run(notebook, Path(sys.executable), Path(folder), environment, on_cell=cell_ended)
        if counted:
            result.memory = counted.as_dict(result.gpu)
    result.seconds = round(time.monotonic() - started, 1)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.execution_count:
            result.cells += 1
            for output in cell.outputs:
                if output.output_type == "error":
                    bad = result.unmet if _is_its_own(output) or (count and _is_of_zeros(output)) else result.errors
                    bad.append(Failure(number, kernel.first_line(cell.source), f"{output.ename}: {output.evalue}"))
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, keep / f"{result.lesson}-{result.gpu}.ipynb".replace("/", "-"))
    return result


def _is_its_own(error: NotebookNode) -> bool:
    """Whether a cell's own `assert` failed, and not one in a library, which may be a fault like any other.

    Or nothing was left to train on: answers of random weights may all be worth the same.
    """
    if error.ename == "CourseError" and error.evalue.startswith("the train set is empty"):
        return True
    plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))  # IPython colours parts of these words
    frames = re.findall(r"^(File|Cell In)\b", plain, re.MULTILINE)
    return error.ename == "AssertionError" and frames[-1:] == ["Cell In"]


def _is_of_zeros(error: NotebookNode) -> bool:
    """Whether a cell divided by a loss that was not computed, drew what came of that, or asked for a loss of a whole epoch.

    With models of true size a run ends after a few batches.
    """
    return error.ename == "ZeroDivisionError" or "cannot be NaN or Inf" in error.evalue or "full_valid_loss" in error.evalue


@contextlib.contextmanager
def stand_ins(folder: Path | None = None, true_size: str | None = None) -> Iterator[Path]:
    """Make the stand-ins, in a process without a card, unless `folder` has them; in a temporary folder if None.

    Args:
        folder: where.
        true_size: as for `stand_ins.make`.
    """
    with contextlib.ExitStack() as stack:
        hub = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="course-hub-")))
        if not (hub / "hub").exists():
            command = [sys.executable, "-m", "tests.gpu_simulation.stand_ins", str(hub)]
            command += ["--true-size", true_size] if true_size else []
            paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths})
        yield hub


def record(new: LessonRun) -> None:
    """Write a run into today's record; it replaces that of the same lesson on the same card.

    Runs with models of true size have a record of their own.
    """
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import RECORDS, write_results

    name = room.RECORD if new.memory else "gpu-simulation"
    file = RECORDS / f"{name}-{date.today().isoformat()}.json"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else []
    runs = [run for run in runs if (run["gpu"], run["lesson"]) != (new.gpu, new.lesson)]
    runs.append({name: value for name, value in asdict(new).items() if value != {}})
    runs.sort(key=lambda run: (run["gpu"], run["lesson"]))
    totals = {"cells": sum(run["cells"] for run in runs)}
    totals |= {what: sum(len(run[what]) for run in runs) for what in ("errors", "unmet")}
    write_results(name, {**totals, "runs": runs})


def main() -> int:
    """Run lessons as the command line says; 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", action="append", choices=sorted(driver.CARDS), help="the card; t4 and a100 if not given")
    parser.add_argument("--lesson", action="append", choices=sorted(lessons.NOTEBOOKS), help="its number; all if not given")
    parser.add_argument("--devices", type=int, default=1, help="how many cards")
    parser.add_argument("--hub", type=Path, help="folder for the stand-ins, kept for the next run")
    parser.add_argument("--keep", type=Path, help="folder for the notebooks with their outputs")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/gpu-simulation-DATE.json")
    true_size = "models of true size, nothing large computed: memory by cell and process, on all cards if none is given"
    parser.add_argument("--true-size", action="store_true", help=true_size)
    parser.add_argument("--small", action="store_true", help="with --true-size: few examples, as without it")
    options = parser.parse_args()
    if reason := build.why_not():
        print(reason, file=sys.stderr)
        return 2
    runs = []
    for tier in options.tier or (driver.CARDS if options.true_size else TIERS):
        gpu = tier if options.devices == 1 else f"{options.devices}x{tier}"
        number_format = driver.CARDS[tier].number_format if options.true_size else None
        hub_folder = options.hub and options.hub / (number_format or "small")
        with stand_ins(hub_folder, number_format) as hub:
            for lesson in options.lesson or sorted(lessons.NOTEBOOKS):
                small = options.small or not options.true_size
                runs.append(run(lesson, gpu, hub, options.keep, options.true_size, small))
                print(runs[-1], flush=True)
                if options.record:  # at once, so that what is cut off has a record of what it did
                    record(runs[-1])
    return int(any(run.errors for run in runs))


if __name__ == "__main__":
    sys.exit(main())
