"""Runs lessons as on Colab, and writes what happened into a dated record.

    python -m tests.colab.run --venv .venv-colab                 the environment, the Drive, all lessons
    python -m tests.colab.run --venv .venv-colab --lesson 05     the environment and one lesson

For each lesson the environment is put back to what Colab ships; the install cell of the learner's notebook, as it is written
there, puts the course on top from the wheel beside it; then the whole notebook runs in a new kernel without a network.
Each result is written at once, so that a run that was cut off goes on: what today's record has of the same course stays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import lessons, plans
from course_utils.publishing.wheel import write_wheel

from . import disconnect, kernel, machine

if TYPE_CHECKING:
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
IMAGE = max(machine.HERE.glob("image-*-cpu.txt"))
NAME = "colab"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "datasets", "bitsandbytes", "numpy", "ipykernel")
STAND_INS = (
    "google.colab is a stand-in with the functions that the course calls; COLAB_RELEASE_TAG is set as Colab sets it.",
    "torch is the package index's build, whose CUDA libraries are idle, and not Colab's own build for CPUs.",
    "Of packages of the image that nothing of the course leads to or looks for, pip sees name and version only.",
    "The Drive is a folder; a lost runtime is a kernel that was killed.",
)
ON_COLAB = {"COLAB_RELEASE_TAG": "release-colab-stand-in"}
# In the kernel that has just installed the course, as the notebook's next cells would be.
AFTER_INSTALLING = """
import json, socket
from course_utils import hardware, models
device = hardware.detect()
models.packaged.prepare(models.PACKAGED)
print("PROBE", json.dumps({
    "environment": device.environment, "tier": device.tier, "dtype": device.dtype,
}))
"""
ELSEWHERE = ("course_utils/_assets/benchmarks/", "course_utils/_assets/notebooks/")  # in a wheel, and no code of a lesson's
NETWORK = "import socket\nprint('NETWORK', [name for _, name in socket.if_nameindex()])"


@dataclass
class LessonRun:
    """What a lesson did as on Colab.

    Attributes:
        lesson: its number.
        course: hash of what is installed, without records, and of the notebook.
        extras: what its install cell asks for.
        replaced: packages of Colab's that installing replaced: name → versions before and after.
        added: packages that it added: name → version.
        install_seconds: what the install cell took.
        tier: as the course detected it.
        network: whether it was cut off while the notebook ran.
        cells: number of code cells that ran.
        errors: cells that failed: number, first line, error.
        stderr: cells that wrote to stderr, which Colab shows on red: number, first line, text.
        seconds: what the notebook took, without installing.
    """

    lesson: str
    course: str
    extras: str
    replaced: dict[str, Any] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    install_seconds: float = 0.0
    tier: str = ""
    network: str = ""
    cells: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    stderr: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        head = f"{self.lesson}: {len(self.replaced)} packages replaced, {len(self.added)} added, {self.cells} cells, "
        rows = [f"  cell {bad['cell']}: {bad['first_line']}\n    {bad['text']}" for bad in (*self.errors, *self.stderr)]
        return "\n".join([f"{head}{len(self.errors)} errors, {len(self.stderr)} on stderr, {self.seconds:.0f} s", *rows])


def extras_of(number: str) -> str:
    """Return what the install cell of a lesson's learner notebook asks for beside the course itself."""
    import nbformat

    cell = install_cell_of(nbformat.read(lessons.learner_file(lessons.find(number).name), as_version=4))
    return re.search(r'start_lesson\("(.*?)"\)', cell)[1]


def all_extras() -> str:
    """Return the extras of all lessons' install cells together."""
    found = {extra for number in lessons.NOTEBOOKS for extra in extras_of(number).split(",") if extra}
    return ",".join(sorted(found))


def hash_of(wheel: Path, notebook: Path) -> str:
    """Hash of the code and data in a wheel, and of a notebook; a record that is added to the wheel changes nothing."""
    digest = hashlib.sha256(notebook.read_bytes())
    with zipfile.ZipFile(wheel) as packed:
        for name in sorted(packed.namelist()):
            if ".dist-info/" not in name and not name.startswith(ELSEWHERE):
                digest.update(name.encode() + b"\0" + packed.read(name))
    return digest.hexdigest()[:16]


def install_cell_of(notebook: NotebookNode) -> str:
    """Return the text of a notebook's install cell."""
    (cell,) = (cell for cell in notebook.cells if "install" in cell.metadata.get("tags", []))
    return cell.source


def install(
    notebook: Path,
    wheel: Path,
    python: Path,
    before: Mapping[str, str],
    environment: Mapping[str, str],
) -> tuple[machine.Difference, float, dict[str, Any]]:
    """Put the course on top of Colab's packages by a notebook's install cell; its new packages stay.

    Args:
        notebook: the learner's notebook.
        wheel: the course's.
        python: of the environment.
        before: packages that the environment is put back to, canonical name → version.
        environment: of the kernel.

    Returns:
        What that changed, how many seconds the cell took, and what the course then said of the machine in the same kernel.
    """
    import nbformat

    machine.reset(python, before)
    cell = install_cell_of(nbformat.read(notebook, as_version=4))
    with tempfile.TemporaryDirectory(prefix="course-") as folder:
        shutil.copy(wheel, folder)
        times = [time.monotonic()]
        cells = [nbformat.v4.new_code_cell(text) for text in (cell, AFTER_INSTALLING)]
        ran = kernel.run(
            nbformat.v4.new_notebook(cells=cells),
            python,
            Path(folder),
            environment,
            on_cell=lambda cell, index: times.append(time.monotonic()),
        )
    failed = [output for cell in ran.cells for output in cell.outputs if output.output_type == "error"]
    printed = "".join(o.text for cell in ran.cells for o in cell.outputs if o.get("name") == "stdout")
    if failed:
        raise RuntimeError(f"the install cell of {notebook.name}: {failed[0].ename}: {failed[0].evalue}\n{printed}")
    probe = json.loads(printed.rpartition("PROBE ")[2])
    return machine.difference(before, machine.listed(python)), round(times[1] - times[0], 1), probe


def run_lesson(
    number: str,
    wheel: Path,
    python: Path,
    before: Mapping[str, str],
    environment: Mapping[str, str],
) -> tuple[LessonRun, dict[str, Any]]:
    """Install the course as a lesson's notebook does, and run the notebook from top to bottom without a network.

    Returns:
        What happened, and what the course said of the machine.
    """
    import nbformat
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    file = lessons.learner_file(lessons.find(number).name)
    notebook = nbformat.read(file, as_version=4)
    result = LessonRun(number, hash_of(wheel, file), extras_of(number))
    found, result.install_seconds, probe = install(file, wheel, python, before, environment)
    result.replaced, result.added, result.tier = found.replaced, found.added, probe["tier"]
    print(f"{number}: installed in {result.install_seconds:.0f} s, {len(found.added)} packages added", flush=True)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.append(nbformat.v4.new_code_cell(NETWORK))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        shutil.copy(wheel, folder)
        try:
            kernel.run(notebook, python, Path(folder), environment, cut=True, on_cell=kernel.say)
        except (DeadKernelError, CellTimeoutError) as error:  # ends the lesson and not the run of all lessons
            last = max((i for i, cell in enumerate(notebook.cells) if cell.get("execution_count")), default=-1)
            result.errors.append({"cell": last + 1, "first_line": "", "text": f"{type(error).__name__}: {error}"[:600]})
    result.seconds = round(time.monotonic() - started, 1)
    asked = notebook.cells.pop()
    result.network = "cut" if "NETWORK ['lo']" in "".join(output.get("text", "") for output in asked.outputs) else "not cut"
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.execution_count:
            result.cells += 1
            for output in cell.outputs:
                row = {"cell": index, "first_line": kernel.first_line(cell.source)}
                if output.output_type == "error":
                    result.errors.append(row | {"text": f"{output.ename}: {output.evalue}"[:600]})
                elif output.get("name") == "stderr":
                    result.stderr.append(row | {"text": output.text.strip()[:300]})
    return result, probe


def todays() -> dict[str, Any]:
    """Return today's record as far as it is written."""
    from common import RECORDS

    file = RECORDS / f"{NAME}-{date.today().isoformat()}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Put new parts into a record; a lesson's row takes the place of its older one, and the totals are of all rows."""
    rows = {row["lesson"]: row for row in (*old.get("lessons", ()), *new.get("lessons", ()))}
    both = {**old, **new, "lessons": [rows[number] for number in sorted(rows)]}
    both["replaced"] = sum(len(row["replaced"]) for row in both["lessons"])
    both["cells"] = sum(row["cells"] for row in both["lessons"])
    both["errors"] = sum(len(row["errors"]) for row in both["lessons"])
    return both


def _record(made: Mapping[str, Any], probe: Mapping[str, Any], **new: Any) -> None:
    from common import write_results

    versions = {name: machine.public(made["packages"][name]) for name in PACKAGES if name in made["packages"]}
    about = {name: value for name, value in made.items() if name != "packages"}
    old = todays() or {"replaced": 0, "cells": 0, "errors": 0}
    here = {
        "few examples": os.environ.get(plans.SMALL) == "1",
        "dtype": probe["dtype"],
        "tier": probe["tier"],
        "versions": versions,
        "stand_ins": STAND_INS,
        "image": about,
    }
    write_results(NAME, merged(old, here | new))


def main() -> int:
    """Do what the command line says; 1 if a package was replaced or something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-colab", help="the environment; made if it is not there")
    parser.add_argument("--python", default="python3.13", help="interpreter for it: Colab's version of Python")
    parser.add_argument("--lesson", action="append", choices=sorted(lessons.NOTEBOOKS), help="its number; all if not given")
    options = parser.parse_args()
    if not shutil.which(options.python):
        parser.error(f"{options.python} is not here: install Colab's version of Python, or name it with --python")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    with tempfile.TemporaryDirectory(prefix="course-wheel-") as dist:
        wheel = write_wheel(Path(dist))
        folder = options.venv.resolve()
        asked = f"finetuning-course[{all_extras()}] @ {wheel.resolve().as_uri()}"
        made = machine.build(folder, options.python, IMAGE, asked)
        print(
            f"{folder}: {made['installed']} packages of {made['image']}, {made['by_name_only']} more by name only",
            flush=True,
        )
        python, before = folder / "bin" / "python", made["packages"]
        environment = machine.environment(COURSE_CACHE=str(folder / "course-cache"), **ON_COLAB)
        bad = 0
        if todays().get("host", {}).get("course") != hash_of(wheel, lessons.learner_file("02_lora")):
            bad += _host(wheel, python, made, environment)
        for number in options.lesson or sorted(lessons.NOTEBOOKS):
            course = hash_of(wheel, lessons.learner_file(lessons.find(number).name))
            if (number, course) in {(r["lesson"], r["course"]) for r in todays().get("lessons", ())}:
                print(f"{number}: is in today's record")
                continue
            result, probe = run_lesson(number, wheel, python, before, environment)
            _record(made, probe, lessons=[asdict(result)])
            print(result, flush=True)
            bad += len(result.errors) + len(result.replaced)
        machine.reset(python, before)
    return int(bad > 0)


def _host(wheel: Path, python: Path, made: dict[str, Any], environment: dict[str, str]) -> int:
    """Lost runtimes, which the course has from its host. Returns how many packages were replaced and runs went wrong."""
    file = lessons.learner_file(lessons.find("04").name)  # its cell asks for TRL, which lesson 02's code uses
    found, _, probe = install(file, wheel, python, made["packages"], environment)
    host: dict[str, Any] = {"course": hash_of(wheel, lessons.learner_file("02_lora"))}
    for way in ("course", "trl"):
        with tempfile.TemporaryDirectory(prefix="course-drive-", ignore_cleanup_errors=True) as folder:
            host[way] = asdict(disconnect.lose_and_resume(way, python, Path(folder), environment))
        print(f"a lost runtime, {way}: {host[way]}", flush=True)
    _record(made, probe, host=host)
    resumed = [host[way] for way in ("course", "trl")]
    return len(found.replaced) + sum(not way["same_weights"] or way["resumed_after"] != way["newest"] for way in resumed)


if __name__ == "__main__":
    sys.exit(main())
