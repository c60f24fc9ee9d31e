"""Builds the learner's and the instructor's edition of a section from its source.

The source is a Python file in jupytext's percent format. The builder expands these placeholders in it:

- `{{badges}}` in a Markdown cell: the buttons, from the repository's address in pyproject.toml;
- `{{timing}}` in a Markdown cell: how long the section took, from the dated records of earlier builds;
- `{{term:logits}}` or `{{term:logits|raw scores}}` in a Markdown cell, where a term is explained: the word, with its
  definition from the glossary as a link's tip; and a line `{{words}}`: the table of the terms so marked;
- a code cell `# INSTALL: extra, extra`: the cell that installs the course where it is missing;
- a code cell `# EXERCISE: id`: the exercise's statement, its answer cell and its check cell.

The learner's edition has stubs instead of solutions, is executed, has outputs, and records the hash of its sources; the
instructor's edition has the solutions and no outputs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import assets, glossary
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.exercises.definitions import Exercise, strip_solution
from course_utils.files import write_whole
from course_utils.languages import SOURCE, lesson_domain, say, speaking
from course_utils.lessons import LESSONS, find, learner_file, source_file
from course_utils.publishing.markdown_messages import translated
from course_utils.publishing.overview import overview
from course_utils.publishing.times import save_run_cost, timing

if TYPE_CHECKING:
    from nbformat import NotebookNode

SIZE_LIMIT = 1_000_000
INSTALL = """\
# Installs the course where it is missing (Colab, Kaggle); elsewhere this cell does nothing.
import importlib.util

if importlib.util.find_spec("course_utils") is None:
    import os, re, subprocess, sys
    from importlib.metadata import distributions
    from pathlib import Path

    # The course is one file of the learners' pack. Taken from beside this notebook, else from the
    # mounted Drive, else from Kaggle's input; where it is nowhere, from the course's repository.
    wheel = "finetuning_course-*-py3-none-any.whl"
    drive, kaggle = Path("/content/drive/MyDrive"), Path("/kaggle/input")
    places = [
        [*Path().glob(wheel), *Path("..").glob(wheel)],
        [f for way in ("", "*/", "*/*/", "Colab Notebooks/*/*/") for f in drive.glob(way + wheel)],
        [f for way in ("*/", "*/*/", "*/*/*/") for f in kaggle.glob(way + wheel)],
    ]
    address = "COURSE_ADDRESS"
    if files := next(filter(None, places), []):
        newest = max(files, key=lambda f: [int(n) for n in re.findall("[0-9]+", f.name)])
        address = newest.resolve().as_uri()

    # What the machine ships stays as it is: its versions are constraints, so pip may add packages
    # but replace none. Where a package is there twice (Colab: Ubuntu's and pip's), the first is
    # the one that is imported.
    shipped = {}
    for d in distributions():
        if name := d.metadata["Name"]:
            shipped.setdefault(re.sub(r"[-_.]+", "-", name).lower(), f"{name}=={d.version}")
    Path("shipped.txt").write_text("\\n".join(shipped.values()))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", "shipped.txt"]
    course = f"COURSE_NAME @ {address}"
    quiet = os.environ | {"GIT_TERMINAL_PROMPT": "0"}  # a repository that is not there asks nobody
    done = subprocess.run([*pip, course], capture_output=True, text=True, env=quiet)
    importlib.invalidate_caches()
    if done.returncode:
        print(done.stderr[-2000:])
        lacks = (
            f"{newest.name} is here, but what it needs could not be installed; see what pip says above."
            if files else
            f"The course is not installed: its file is not beside this notebook, and {address}\\n"
            f"gave none. Take {wheel} out of your learners' pack and put it beside\\n"
            "this notebook. In Colab: open Files, the folder at the left edge, and drag the file into\\n"
            "it, or mount the Drive in which you keep it. Then run this cell again."
        )
        raise SystemExit(lacks)
"""


def install_cell(extras: str = "") -> str:
    """Return the code of the cell that installs the course where it is missing.

    Args:
        extras: the package's extras that the lesson needs, separated by commas.
    """
    name_with_extras, _, address = requirement(extras).partition(" @ ")
    return INSTALL.replace("COURSE_ADDRESS", address).replace("COURSE_NAME", name_with_extras).strip()


def requirement(extras: str = "") -> str:
    """The requirement that pip installs if there is no checkout."""
    extras_suffix = f"[{extras}]" if extras else ""
    return f"{assets.DISTRIBUTION}{extras_suffix} @ git+{assets.repository_url()}"


def colab_url(name: str) -> str:
    """Return the address that opens a section's notebook in Colab."""
    return f"https://colab.research.google.com/github/{_repository()}/blob/main/notebooks/{name}.ipynb"


def binder_url(name: str) -> str:
    """Return the address that opens a section's notebook in Binder."""
    return f"https://mybinder.org/v2/gh/{_repository()}/main?urlpath=lab/tree/notebooks/{name}.ipynb"


def badges(name: str) -> str:
    """Markdown of the buttons that open a section in Colab or Binder; nothing before the course has an address."""
    if assets.PLACEHOLDER in assets.repository_url():
        return ""
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab_url(name)}) "
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder_url(name)})"
    )


def _repository() -> str:
    """Owner and name of the repository, as addresses of hosts have them."""
    return assets.repository_url().removeprefix("https://github.com/")


def instructor_edition(section: str, source: str | None = None, language: str = SOURCE) -> NotebookNode:
    """Notebook node with solutions and without outputs.

    Args:
        section: which one.
        source: replaces the text of the section's file (for tests).
        language: of its Markdown, as far as it is translated; code stays as it is.
    """
    import nbformat

    name = find(section).name
    notebook: NotebookNode = nbformat.v4.new_notebook()
    with speaking(language):  # whatever the environment says: what is stored is English
        notebook.cells = expanded_cells(name, source)
        for cell in _markdown_cells(notebook):
            cell.source = translated(cell.source, lambda text: say(text, lesson_domain(name)))
        _write_out_terms(notebook, name)
        _set_ids(notebook, name)
        digest = _hash(notebook)  # before filling in what depends on the address or on recorded times
        for cell in _markdown_cells(notebook):
            cell.source = cell.source.replace("{{badges}}", badges(name)).replace("{{timing}}", timing(name))
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "course": {"section": name, "edition": "instructor", "source_sha256": digest},
    }
    return notebook


def expanded_cells(name: str, source: str | None = None) -> list[NotebookNode]:
    """Return a section's cells with exercises in their places and terms still marked: what is translated.

    Args:
        name: full name of the section.
        source: replaces the text of the section's file (for tests).
    """
    import jupytext

    text = source if source is not None else source_file(name).read_text(encoding="utf-8")
    cells: list[NotebookNode] = []
    for cell in jupytext.reads(text, fmt="py:percent").cells:
        cells += _expand(cell, name)
    return cells


def learner_edition(section: str, source: str | None = None, language: str = SOURCE) -> NotebookNode:
    """Notebook node with stubs, not yet executed; arguments are those of `instructor_edition`."""
    notebook = instructor_edition(section, source, language)
    for cell in notebook.cells:
        cell.source = strip_solution(cell.source)
    notebook.metadata["course"]["edition"] = "learner"
    return notebook


def is_stale(section: str, source: str | None = None) -> bool:
    """Whether the learner's notebook was not built from the current source and exercises."""
    name = find(section).name
    try:
        recorded = json.loads(learner_file(name).read_text(encoding="utf-8"))["metadata"]["course"]["source_sha256"]
    except (OSError, ValueError, KeyError):
        return True
    current = str(instructor_edition(section, source).metadata["course"]["source_sha256"])
    return current != str(recorded)


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
    _refresh_overview()
    return True


def _markdown_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _is_exercise(cell: NotebookNode) -> bool:
    return "nbgrader" in cell.metadata


def _installs(cell: NotebookNode) -> bool:
    return "install" in cell.metadata.get("tags", [])


def build(section: str, report: Callable[[str], object] = print) -> Path:
    """Build both editions of a section; execute the learner's, check it, and store it.

    If only text or exercises have changed, a stale notebook is not executed completely (`refresh`).

    Raises:
        CourseError: a cell failed, wrote to stderr, or the result is too large.
    """
    from course_utils.publishing.runner import execute

    name = find(section).name
    instructor = assets.root() / "build" / "instructor" / f"{name}.ipynb"
    write(instructor_edition(section), instructor)
    report(f"{name}: instructor's edition in {instructor}")
    if is_stale(section) and refresh(section):
        report(f"{name}: only text or exercises have changed; {learner_file(name)} keeps its other outputs")
        return learner_file(name)
    notebook = learner_edition(section)
    cost = execute(notebook)
    save_run_cost(name, notebook, cost)
    for cell, refilled in zip(notebook.cells, learner_edition(section).cells):
        if cell.cell_type == "markdown":
            cell.source = refilled.source  # the table of times now holds this run
    _clean(notebook)
    from course_utils.hardware import detect

    packages = ("torch", "transformers", "peft", "accelerate")
    notebook.metadata["course"] |= {
        "tier": detect().tier,
        "seconds": round(cost.seconds),
        "versions": {package: version(package).split("+")[0] for package in packages},
    }
    write(notebook, learner_file(name))
    _refresh_overview()
    cost_text = f"{cost.seconds:.0f} s, peak {cost.peak_bytes / 1e6:.0f} MB"
    report(f"{name}: learner's edition ran in {cost_text}, in {learner_file(name)}")
    return learner_file(name)


def _refresh_overview() -> None:
    """Update the stored output of lesson 01's overview, which shows every lesson's exercises and recorded time."""
    import nbformat

    file = learner_file(LESSONS["01"].name)
    if not file.exists():
        return
    notebook = nbformat.read(file, 4)
    for cell in _code_cells(notebook):
        for output in cell.outputs:
            if "overview(" in cell.source and output.output_type == "execute_result":
                table = overview(notebook.metadata["course"].get("tier", "cpu"))
                output.data = {"text/html": table._repr_html_(), "text/plain": repr(table)}
    write(notebook, file)


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
    # Folded away: the install cell, as people come for the lesson, and what is tagged so. JupyterLab reads the one of these,
    # Colab the other.
    folded = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    if "folded" in tags:
        metadata |= folded
    if cell.cell_type == "markdown":
        return [new_markdown_cell(source, metadata=metadata)]
    if install_match := re.fullmatch(r"#\s*INSTALL:\s*(.*)", source):
        text = install_cell(install_match[1].replace(" ", ""))
        return [new_code_cell(text, metadata={"tags": ["install"], **folded})]
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


def _write_out_terms(notebook: NotebookNode, name: str) -> None:
    """Markers of terms → links with definitions. Before the hash is taken: a changed definition makes a notebook stale."""
    cells = _markdown_cells(notebook)
    try:
        written = glossary.write_out(cell.source for cell in cells)
    except CourseError as error:
        raise CourseError(f"{name}: {error}") from error
    for cell, source in zip(cells, written):
        cell.source = source


def _set_ids(notebook: NotebookNode, name: str) -> None:
    """Derive each id from the cell's own text, so that it does not change with other cells and diffs stay small."""
    counts: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        counts[digest] = counts.get(digest, 0) + 1
        cell["id"] = f"{name.split('_')[0]}-{digest}" + (f"-{counts[digest]}" if counts[digest] > 1 else "")


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
