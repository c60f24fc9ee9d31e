"""Builds the learner's and the instructor's edition of a section from its source.

The source is a Python file in jupytext's percent format. The builder expands these placeholders in it:

- `{{badges}}` in a Markdown cell: the buttons, from the repository's address in pyproject.toml;
- `{{timing}}` in a Markdown cell: how long Run All took, on what machine and when, from the last build that executed all;
- `{{term:logits}}` or `{{term:logits|raw scores}}` in a Markdown cell, where a term is explained: the word, with its
  definition from the glossary as a link's tip; and a line `{{words}}`: the table of the terms so marked;
- `{{record:NAME:PATH:FORMAT}}` or `{{fact:TABLE:ROW.KEY:FORMAT}}` in a Markdown cell: a figure of the newest record of that
  name or of `data/TABLE.toml`, such as `{{record:data-prep:sizes.100000.peak_mb:.0f}}`, so that no figure is typed by hand
  (`markers.py`); the build stops at one that leads nowhere, and a new record makes the notebook stale;
- a code cell `# INSTALL: extra, extra`: the cell that installs what is missing and prepares the process (`session`);
- a code cell `# EXERCISE: id`: the exercise's statement, its answer cell and its check cell.

The learner's edition has stubs instead of solutions, is executed, has outputs, and records the hash of its sources; the
instructor's edition has the solutions and no outputs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import assets, glossary
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.exercises.definitions import Exercise, strip_solution
from course_utils.files import write_whole
from course_utils.lessons import find, learner_file, source_file
from course_utils.publishing import markers

if TYPE_CHECKING:
    from nbformat import NotebookNode

SIZE_LIMIT = 1_000_000
TIMING = "*Run All* took {minutes:.1f} minutes and {gigabytes:.1f} GB of memory on {machine} ({date})."
RUN = ("date", "machine", "tier", "seconds", "peak_mb", "versions")  # of a stored notebook's metadata
# A lesson's first cell. Until the course is published under an address of its own it comes from a file and from no package
# index, since anybody could take its name there and run code on learners' machines. pip needs no network where the course is
# installed already. The shell expands the stars; a place that is not there costs a warning, which -qq keeps back.
PLACES = (".", "..", "/content/drive/MyDrive", "/kaggle/input/*/finetuning*.whl", "/kaggle/input/*/*/*/finetuning*.whl")
INSTALL = f"""\
# On Colab or Kaggle: first put the course's file (.whl) beside this notebook, into your Drive, or into Kaggle's input.
%pip install -qq --no-index --no-deps {assets.DISTRIBUTION} {" ".join(f"-f {place}" for place in PLACES)}
from course_utils import session; session.start_lesson("EXTRAS")"""


def install_cell(extras: str = "") -> str:
    """Return the code of a lesson's first cell, which installs what is missing and prepares the process.

    Args:
        extras: the package's extras that the lesson needs, separated by commas.
    """
    cell = INSTALL.replace("EXTRAS", extras)
    if is_published():
        return cell.replace("--no-index ", "").replace("first put", "if the package index does not have the course, put")
    return cell


def is_published() -> bool:
    """Return whether the course has an address of its own, in pyproject.toml."""
    return assets.PLACEHOLDER not in assets.repository_url()


def colab_url(name: str) -> str:
    """Return the address that opens a section's notebook in Colab."""
    return f"https://colab.research.google.com/github/{_repository()}/blob/main/notebooks/{name}.ipynb"


def binder_url(name: str) -> str:
    """Return the address that opens a section's notebook in Binder."""
    return f"https://mybinder.org/v2/gh/{_repository()}/main?urlpath=lab/tree/notebooks/{name}.ipynb"


def badges(name: str) -> str:
    """Markdown of the buttons that open a section in Colab or Binder; nothing before the course has an address."""
    if not is_published():
        return ""
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab_url(name)}) "
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder_url(name)})"
    )


def _repository() -> str:
    """Owner and name of the repository, as addresses of hosts have them."""
    return assets.repository_url().removeprefix("https://github.com/")


def instructor_edition(
    section: str,
    source: str | None = None,
    run: Mapping[str, Any] | None = None,
    translate: Callable[[str], str] | None = None,
) -> NotebookNode:
    """Notebook node with solutions and without outputs.

    Args:
        section: which one.
        source: replaces the text of the section's file (for tests).
        run: what `{{timing}}` tells of; None for the run whose outputs are stored (`recorded_run`).
        translate: is given each Markdown cell with its markers, and returns it in another language (`languages`).
    """
    import jupytext
    import nbformat

    name = find(section).name
    text = source if source is not None else source_file(name).read_text(encoding="utf-8")
    notebook: NotebookNode = nbformat.v4.new_notebook()
    for cell in jupytext.reads(text, fmt="py:percent").cells:
        notebook.cells += _expand(cell, name)
    for cell in _markdown_cells(notebook):  # before the hash is taken: a new record makes a notebook stale
        cell.source = markers.expand(translate(cell.source) if translate else cell.source, name)
    cells = _markdown_cells(notebook)
    try:  # before the hash is taken too: a changed definition makes a notebook stale
        for cell, source in zip(cells, glossary.write_out([cell.source for cell in cells])):
            cell.source = source
    except CourseError as error:
        raise CourseError(f"{name}: {error}") from error
    _set_ids(notebook, name)
    digest = _hash(notebook)  # before filling in what depends on the address or on the last run
    timing = timing_line(recorded_run(name) if run is None else run, translate(TIMING) if translate else TIMING)
    for cell in _markdown_cells(notebook):
        cell.source = cell.source.replace("{{badges}}", badges(name)).replace("{{timing}}", timing).strip()
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "course": {"section": name, "edition": "instructor", "source_sha256": digest},
    }
    return notebook


def learner_edition(
    section: str,
    source: str | None = None,
    run: Mapping[str, Any] | None = None,
    translate: Callable[[str], str] | None = None,
) -> NotebookNode:
    """Notebook node with stubs, not yet executed; arguments are those of `instructor_edition`."""
    notebook = instructor_edition(section, source, run, translate)
    for cell in notebook.cells:
        cell.source = strip_solution(cell.source)
    notebook.metadata["course"]["edition"] = "learner"
    return notebook


def recorded_run(section: str) -> dict[str, Any]:
    """Return what the stored learner's notebook says of the run that made its outputs; empty if there is none.

    Returns:
        `date` (ISO), `machine`, `tier`, `seconds`, `peak_mb` (of the kernel and all processes it started) and `versions`.
    """
    stored = _stored_metadata(find(section).name)
    return {key: stored[key] for key in RUN if key in stored}


def timing_line(run: Mapping[str, Any], sentence: str = TIMING) -> str:
    """Markdown of how long Run All took; empty if `run`, as `recorded_run` returns it, lacks one of its figures."""
    if not run.keys() >= {"date", "machine", "seconds", "peak_mb"}:
        return ""
    return sentence.format(minutes=run["seconds"] / 60, gigabytes=run["peak_mb"] / 1000, **run)


def is_stale(section: str, source: str | None = None) -> bool:
    """Whether the learner's notebook was not built from the current source and exercises."""
    current: str = instructor_edition(section, source).metadata["course"]["source_sha256"]
    return current != _stored_metadata(find(section).name).get("source_sha256")


def _stored_metadata(name: str) -> dict[str, Any]:
    """What the course has written into the stored learner's notebook; empty if there is none that can be read."""
    try:
        metadata: dict[str, Any] = json.loads(learner_file(name).read_text(encoding="utf-8"))["metadata"]["course"]
    except (OSError, ValueError, KeyError):
        return {}
    return metadata


def refresh(section: str, source: str | None = None) -> bool:
    """Update the stored learner's notebook if only its text, its exercises or its install cell have changed.

    Other cells keep their outputs, which are still valid. Exercise cells are independent, so only they are executed again;
    the install cell does nothing on a machine that builds.

    Returns:
        Whether that was enough; False if other code has changed or no notebook is stored: then all cells must be executed.
    """
    import nbformat

    from course_utils.publishing.runner import execute

    name, file = find(section).name, learner_file(find(section).name)
    if not file.exists():
        return False
    stored, refreshed = nbformat.read(file, 4), learner_edition(section, source)
    other_cells = [
        [("" if _installs(c) else c.source, c.metadata.get("tags")) for c in _code_cells(n) if not _is_exercise(c)]
        for n in (stored, refreshed)
    ]
    if other_cells[0] != other_cells[1]:
        return False
    kept_outputs = iter(c.outputs for c in _code_cells(stored) if not _is_exercise(c))
    old_exercises, new_exercises = ([c.source for c in _code_cells(n) if _is_exercise(c)] for n in (stored, refreshed))
    if old_exercises == new_exercises:
        exercise_outputs = iter(c.outputs for c in _code_cells(stored) if _is_exercise(c))
    else:
        exercise_notebook = nbformat.v4.new_notebook(metadata=refreshed.metadata)
        imports = "import numpy as np\nimport torch\n\nfrom course_utils.exercises import check"
        exercise_notebook.cells = [
            nbformat.v4.new_code_cell(imports),
            *(c.copy() for c in _code_cells(refreshed) if _is_exercise(c)),
        ]
        execute(exercise_notebook)
        _clean(exercise_notebook)
        exercise_outputs = iter(c.outputs for c in exercise_notebook.cells[1:])
    for number, cell in enumerate(_code_cells(refreshed), 1):
        cell.outputs, cell.execution_count = next(exercise_outputs if _is_exercise(cell) else kept_outputs), number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    refreshed.metadata["course"] = {**stored.metadata["course"], **refreshed.metadata["course"]}
    # As the kernel wrote it; otherwise every refresh would change it.
    refreshed.metadata["language_info"] = stored.metadata["language_info"]
    write(refreshed, learner_file(name))
    return True


def _markdown_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _is_exercise(cell: NotebookNode) -> bool:
    return "nbgrader" in cell.metadata


def _installs(cell: NotebookNode) -> bool:
    return "install" in cell.metadata.get("tags", [])


def build(section: str, report: Callable[[str], object] = print, run: bool = False) -> Path:
    """Build both editions of a section; execute the learner's, check it, and store it.

    If only text or exercises have changed, a stale notebook is not executed completely (`refresh`).

    Args:
        section: as `lessons.find` takes it.
        report: called with each line that says what was done.
        run: whether to execute all cells in any case: outputs may rest on facts, records or package code that have changed.

    Raises:
        CourseError: a cell failed, wrote to stderr, or the result is too large.
    """
    from course_utils.publishing.runner import execute

    name = find(section).name
    instructor = assets.root() / "build" / "instructor" / f"{name}.ipynb"
    write(instructor_edition(section), instructor)
    report(f"{name}: instructor's edition in {instructor}")
    if not run and is_stale(section) and refresh(section):
        report(f"{name}: only text or exercises have changed; {learner_file(name)} keeps its other outputs")
        return learner_file(name)
    notebook = learner_edition(section)
    cost = execute(notebook)
    from course_utils.hardware import detect

    device, packages = detect(), ("torch", "transformers", "peft", "accelerate")
    this_run = {
        "date": date.today().isoformat(),
        "machine": f"{device.name}, {device.cores} cores",
        "tier": device.tier,
        "seconds": round(cost.seconds),
        "peak_mb": round(cost.peak_bytes / 1e6),
        "versions": {package: version(package).split("+")[0] for package in packages},
    }
    for cell, refilled in zip(notebook.cells, learner_edition(section, run=this_run).cells):
        if cell.cell_type == "markdown":
            cell.source = refilled.source
    _clean(notebook)
    notebook.metadata["course"] |= this_run
    write(notebook, learner_file(name))
    cost_text = f"{cost.seconds:.0f} s, peak {cost.peak_bytes / 1e6:.0f} MB"
    report(f"{name}: learner's edition ran in {cost_text}, in {learner_file(name)}")
    return learner_file(name)


def write(notebook: NotebookNode, file: Path) -> None:
    """Write a notebook to a temporary file and rename it, so that an incomplete notebook is never visible."""
    import nbformat

    nbformat.validate(notebook)
    text = nbformat.writes(notebook, version=4) + "\n"
    if len(text.encode()) > SIZE_LIMIT:
        raise CourseError(f"{file.name} has {len(text.encode()):,} bytes; the limit is {SIZE_LIMIT:,}")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode())


def _expand(cell: NotebookNode, name: str) -> list[NotebookNode]:
    from nbformat.v4 import new_code_cell, new_markdown_cell

    source = cell.source.strip()
    tags = cell.metadata.get("tags", [])
    metadata = {"tags": tags} if tags else {}
    if "folded" in tags:  # JupyterLab reads the one of these, Colab the other
        metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
    if cell.cell_type == "markdown":
        return [new_markdown_cell(source, metadata=metadata)]
    if install_match := re.fullmatch(r"#\s*INSTALL:\s*(.*)", source):
        text = install_cell(install_match[1].replace(" ", ""))
        return [new_code_cell(text, metadata={"tags": ["install"]})]
    if exercise_match := re.fullmatch(r"#\s*EXERCISE:\s*([\w-]+)", source):
        if exercise_match[1] not in EXERCISES:
            raise CourseError(f"{name}: there is no exercise {exercise_match[1]!r}")
        return _exercise_cells(EXERCISES[exercise_match[1]])
    return [new_code_cell(source, metadata=metadata)]


def _exercise_cells(exercise: Exercise) -> list[NotebookNode]:
    from nbformat.v4 import new_code_cell, new_markdown_cell

    def grading(**values: Any) -> dict[str, Any]:  # nbgrader's schema 3, so that a hub can use the instructor's edition
        return {"nbgrader": {"schema_version": 3, "task": False, "locked": False, "points": 0, **values}}

    hint = f"<details><summary>A hint</summary>\n\n{exercise.hint}\n\n</details>"
    statement = f"### {exercise.title} ({exercise.worth})\n\n{exercise.statement}\n\n{hint}"
    answer = grading(grade_id=exercise.id, solution=True, grade=False)
    del answer["nbgrader"]["points"]
    check = grading(grade_id=f"{exercise.id}_check", solution=False, grade=True, locked=True, points=exercise.points)
    return [
        new_markdown_cell(statement),
        new_code_cell(exercise.source(), metadata=answer),
        new_code_cell(exercise.check_source(), metadata=check),
    ]


def _set_ids(notebook: NotebookNode, name: str) -> None:
    """Derive each id from the cell's own text, so that it does not change with other cells and diffs stay small."""
    counts: dict[str, int] = {}
    prefix = name.split("_")[0].replace("/", "-")
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        counts[digest] = counts.get(digest, 0) + 1
        cell["id"] = f"{prefix}-{digest}" + (f"-{counts[digest]}" if counts[digest] > 1 else "")


def _hash(notebook: NotebookNode) -> str:
    cells = [[cell.cell_type, cell.source, cell.metadata] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def _clean(notebook: NotebookNode) -> None:
    """Remove what depends on a particular run (widget state, timestamps); output on stderr is an error."""
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                raise CourseError(f"cell {number} writes to stderr: {output.text.strip()[:300]}")
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
