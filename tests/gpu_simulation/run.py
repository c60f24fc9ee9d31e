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
from typing import TYPE_CHECKING

from course_utils import lessons, plans
from course_utils.publishing import builder

from . import build, driver

if TYPE_CHECKING:
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
TIERS = ("t4", "a100")
CELL_TIMEOUT = 3600


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
        unmet: cells whose own assertion failed, on the quality of answers: random weights cannot meet these.
        seconds: wall time.
    """

    lesson: str
    gpu: str
    cells: int = 0
    errors: list[Failure] = field(default_factory=list)
    unmet: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        head = f"{self.lesson} on {self.gpu}: {self.cells} cells, {len(self.errors)} errors, {len(self.unmet)} unmet, "
        rows = [f"  cell {f.cell}: {f.first_line}\n    {f.error[:400]}" for f in self.errors]
        rows += [f"  cell {f.cell}, of random weights: {f.first_line}\n    {f.error[:400]}" for f in self.unmet]
        return "\n".join([head + f"{self.seconds:.0f} s", *rows])


def run(lesson: str, gpu: str, hub: Path, keep: Path | None = None) -> LessonRun:
    """Run a lesson's code cells, solutions of exercises included, and return what happened.

    Args:
        lesson: its number, such as "02".
        gpu: "t4", or "2xt4" for two cards.
        hub: folder of `stand_ins.make`.
        keep: folder for the notebook with its outputs.
    """
    return run_notebook(builder.instructor_edition(lesson), LessonRun(lesson, gpu), hub, keep)


def run_notebook(notebook: NotebookNode, result: LessonRun, hub: Path, keep: Path | None = None) -> LessonRun:
    """Run any notebook as `run` does; fills and returns `result`."""
    import nbformat
    from nbclient import NotebookClient

    # offline: the stand-ins are all that is there; few examples and short answers
    environment = build.environment(result.gpu) | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", plans.SMALL: "1"}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            allow_errors=True,
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )

        client.on_cell_executed = lambda cell, cell_index, execute_reply: _say(result, cell, cell_index, started)
        client.execute(env=environment)
    result.seconds = round(time.monotonic() - started, 1)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.execution_count:
            result.cells += 1
            for output in cell.outputs:
                if output.output_type == "error":
                    bad = result.unmet if _is_its_own(output) else result.errors
                    bad.append(Failure(number, first_line(cell.source), f"{output.ename}: {output.evalue}"))
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


def _say(result: LessonRun, cell: NotebookNode, index: int, started: float) -> None:
    failed = next((f"{o.ename}: {o.evalue[:150]}" for o in cell.outputs if o.output_type == "error"), "ok")
    seconds = time.monotonic() - started
    print(f"{result.lesson} {result.gpu} {seconds:7.1f} s  cell {index:3}  {failed}", file=sys.stderr, flush=True)


def first_line(source: str) -> str:
    """Return the first line of a cell that is neither empty nor a comment."""
    return next((line for line in source.splitlines() if line.strip() and not line.startswith("#")), "")[:100]


@contextlib.contextmanager
def stand_ins(folder: Path | None = None) -> Iterator[Path]:
    """Make the stand-ins, in a process without a card, unless `folder` has them; in a temporary folder if None."""
    with contextlib.ExitStack() as stack:
        hub = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="course-hub-")))
        if not (hub / "hub").exists():
            command = [sys.executable, "-m", "tests.gpu_simulation.stand_ins", str(hub)]
            paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths})
        yield hub


def record(new: LessonRun) -> None:
    """Write a run into today's record; it replaces that of the same lesson on the same card."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import RECORDS, write_results

    name = "gpu-simulation"
    file = RECORDS / f"{name}-{date.today().isoformat()}.json"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else []
    runs = [run for run in runs if (run["gpu"], run["lesson"]) != (new.gpu, new.lesson)]
    runs.append(asdict(new))
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
    options = parser.parse_args()
    if reason := build.why_not():
        print(reason, file=sys.stderr)
        return 2
    runs = []
    with stand_ins(options.hub) as hub:
        for tier in options.tier or TIERS:
            gpu = tier if options.devices == 1 else f"{options.devices}x{tier}"
            for lesson in options.lesson or sorted(lessons.NOTEBOOKS):
                runs.append(run(lesson, gpu, hub, options.keep))
                print(runs[-1], flush=True)
                if options.record:  # at once, so that what is cut off has a record of what it did
                    record(runs[-1])
    return int(any(run.errors for run in runs))


if __name__ == "__main__":
    sys.exit(main())
