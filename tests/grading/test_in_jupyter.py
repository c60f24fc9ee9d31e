"""A learner's hour: exercise cells in a kernel, and typed into JupyterLab in a real browser; what comes out is graded."""

import re
import shutil
import sys

import nbformat
import pytest
from grading_fixtures import full, points, run, said
from support import jupyter, wait_until
from test_honest import WRONG
from visiting import needs_chromium, needs_jupyterlab

from course_utils.exercises import EXERCISES
from course_utils.publishing import builder
from course_utils.publishing.runner import execute

IMPORTS = "from course_utils.exercises import check\nimport numpy as np\nimport torch"


def exercise_cells(section, edition):
    """Notebook with nothing of a lesson but its exercises."""
    notebook = edition(section)
    notebook.cells = [nbformat.v4.new_code_cell(IMPORTS)] + [
        cell for cell in notebook.cells if "nbgrader" in cell.metadata or cell.source.startswith("### ")
    ]
    return notebook


@pytest.mark.parametrize("section", ["02", "06"])  # with torch and without; in test_honest.py all lessons are graded
def test_cells_in_a_kernel_show_what_grading_gives(section, tmp_path):
    (tmp_path / "inbox").mkdir()
    for name, edition in (("solved", builder.instructor_edition), ("unsolved", builder.learner_edition)):
        notebook = exercise_cells(section, edition)
        execute(notebook)  # fails if a cell raises
        shown = {}
        for cell in notebook.cells:
            assert not [o for o in cell.get("outputs", []) if o.output_type == "stream"], cell.source
            if cell.source.startswith("# CHECK: "):
                id = cell.metadata.nbgrader.grade_id.removesuffix("_check")
                shown[id] = float(cell.outputs[0].data["text/plain"])
                assert f"{id}: " in cell.outputs[0].data["text/html"]
        assert shown == (full(section) if name == "solved" else dict.fromkeys(full(section), 0.0))
        nbformat.write(notebook, tmp_path / "inbox" / f"{name}.ipynb")
    run(section, tmp_path / "inbox", tmp_path / "out")
    assert points(tmp_path / "out", "solved") == full(section)
    assert points(tmp_path / "out", "unsolved") == dict.fromkeys(full(section), 0.0)


@pytest.mark.slow
@needs_chromium
@needs_jupyterlab
def test_a_round_in_a_browser(tmp_path, browser):
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    folder.mkdir(), home.mkdir()
    nbformat.write(exercise_cells("06", builder.learner_edition), folder / "lesson.ipynb")
    exercise = EXERCISES["api-1"]
    wrong = f"# EXERCISE: api-1\n{WRONG['api-1']}"  # what the exercise's first typical mistake computes
    diagnosis = exercise.mistakes[0].diagnosis
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", f"--ServerApp.root_dir={folder}"]
    with jupyter(command, home) as address:
        page = browser.new_page(viewport={"width": 1300, "height": 1600})
        page.goto(f"{address}/lab/tree/lesson.ipynb", timeout=90_000)
        page.get_by_text("| Idle").wait_for(timeout=90_000)

        def cell(text):
            return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=text)).first

        def prompt(found):
            return found.locator(".jp-InputArea-prompt").first.inner_text()

        def press(found, key="Control+Enter"):
            found.locator(".cm-content").click()
            page.keyboard.press(key)

        def type_in(found, source):
            found.locator(".cm-content").click()
            page.keyboard.press("Control+a")
            page.keyboard.insert_text(source)
            page.keyboard.press("Control+Enter")

        answer, check = cell("# EXERCISE: api-1"), cell("# CHECK: api-1")
        press(cell("from course_utils.exercises import check"))
        press(answer)
        press(check)
        check.get_by_text("Your answer goes into the cell above").wait_for(timeout=60_000)
        type_in(answer, wrong)
        for attempt in (1, 2, 3):  # the unsolved cell was no try
            before = prompt(check)
            press(check)
            wait_until(lambda before=before: prompt(check).strip("[]: ").isdigit() and prompt(check) != before)  # it has run
            check.get_by_text(diagnosis).wait_for(timeout=60_000)
            assert (exercise.hint in check.inner_text()) == (attempt == 3)
        nearly = check.inner_text()
        type_in(cell("# EXERCISE: api-4"), EXERCISES["api-4"].source())
        right = cell("# CHECK: api-4")
        press(right)
        right.get_by_text("(passed)").wait_for(timeout=60_000)
        page.keyboard.press("Control+s")
        page.get_by_text("Saving completed").wait_for(timeout=60_000)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    shutil.copy(folder / "lesson.ipynb", inbox / "somebody.ipynb")
    run("06", inbox, tmp_path / "out")
    marks = points(tmp_path / "out", "somebody")
    left = dict.fromkeys(full("06").keys() - {"api-1", "api-4"}, 0.0)
    assert marks == full("06") | {"api-1": marks["api-1"]} | left
    shown = float(re.search(r"api-1: ([\d.]+) of 3 points", nearly)[1])
    assert 0 <= shown < 3 and 0 <= marks["api-1"] < 3  # each draws its own cases, so the shares differ
    assert diagnosis in said(tmp_path / "out", "somebody", "api-1")
