"""Editions, ids, hashes; leaks and staleness are noticed. Each guard is shown to fail on a planted fault."""

import ast
import json
import re
from dataclasses import replace

import nbformat
import pytest
from support import solution_lines

from course_utils import assets, hardware, lessons
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.publishing import builder, runner

SECTIONS = list(lessons.NOTEBOOKS)
SOURCE = """\
# %% [markdown]
# # A lesson
# {{badges}}

# %%
# INSTALL: trl

# %% tags=["nbval-check-output"]
print(1 + 1)

# %%
# EXERCISE: lora-3

# %%
def helper(x):
    ### BEGIN SOLUTION
    doubled_and_more = 2 * x + 1
    return doubled_and_more
    ### END SOLUTION
"""


def texts(notebook):
    return [cell.source for cell in notebook.cells]


def leaks(learner, instructor):
    """Lines of solutions, 12 characters or more, that stand in the learner's edition; and markers."""
    shown = "\n".join(texts(learner)) + json.dumps([c.get("outputs", []) for c in learner.cells])
    secret = {line for text in texts(instructor) for line in solution_lines(text) if len(line) >= 12}
    assert secret  # else there was nothing to look for
    return sorted(line for line in secret if line in shown) + [m for m in ("BEGIN SOLUTION", "END SOLUTION") if m in shown]


def learner_notebook(section):
    return nbformat.read(lessons.learner_file(lessons.find(section).name), as_version=4)


def names_taken_twice(source, names):
    """Which names of answers the lesson defines or imports itself: an answer would take the place of its helper."""
    cells = [cell.partition("\n")[2] for cell in source.split("# %%") if not cell.startswith(" [markdown]")]
    code = "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("!", "%")))
    defined = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                defined |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
    return sorted(defined & names)


@pytest.mark.parametrize("section", SECTIONS)
def test_no_answer_takes_the_place_of_a_helper_of_the_lesson(section):
    source = lessons.source_file(lessons.find(section).name).read_text(encoding="utf-8")
    mine = {e.name for id, e in EXERCISES.items() if f"# EXERCISE: {id}\n" in source}
    assert mine
    assert names_taken_twice(source, mine) == []
    helper = re.search(r"^def (\w+)|^(\w+) = ", source, re.MULTILINE)
    assert names_taken_twice(source, mine | {helper[1] or helper[2]})  # it can fail


@pytest.mark.parametrize("section", SECTIONS)
def test_the_learners_notebook_holds_no_solution(section):
    assert leaks(learner_notebook(section), builder.instructor_edition(section)) == []


def test_the_leak_test_fails_on_a_planted_solution():
    learner, instructor = builder.learner_edition("02", SOURCE), builder.instructor_edition("02", SOURCE)
    assert leaks(learner, instructor) == []
    learner.cells[-1].source += "\n    doubled_and_more = 2 * x + 1"
    assert leaks(learner, instructor) == ["doubled_and_more = 2 * x + 1"]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_learners_notebook_is_up_to_date(section):
    assert not builder.is_stale(section), f"run `course build {section}`"


def test_an_edited_source_or_exercise_makes_it_stale(monkeypatch):
    source = lessons.source_file("02_lora").read_text(encoding="utf-8")
    assert builder.is_stale("02", source + "\n# %%\nprint('one more cell')\n")
    assert builder.is_stale("02", source.replace("from course_utils", "from  course_utils", 1))
    changed = {id: replace(exercise, points=exercise.points + 1) for id, exercise in EXERCISES.items()}
    monkeypatch.setattr(builder, "EXERCISES", changed)
    assert builder.is_stale("02")


@pytest.mark.parametrize("section", SECTIONS)
def test_stored_notebooks_are_clean(section):
    notebook = learner_notebook(section)
    file = lessons.learner_file(lessons.find(section).name)
    assert file.stat().st_size < 1_000_000
    assert "widgets" not in notebook.metadata
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output
            assert "widget" not in json.dumps(list(output.get("data", {})))
    assert set(notebook.metadata.course) >= {"section", "source_sha256", "tier", "versions"}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_picture_has_an_alt_text(section):
    pictures = 0
    for cell in learner_notebook(section).cells:
        for output in cell.get("outputs", []):
            assert "image/png" not in output.get("data", {}), "show pictures through course_utils.charts"
            html = "".join(output.get("data", {}).get("text/html", ""))
            pictures += html.count("<img ")
            assert html.count("<img ") == html.count('alt="')
    assert pictures >= 2


def test_editions_and_their_metadata(monkeypatch):
    monkeypatch.setattr(assets, "repository_url", lambda: "https://github.com/someone/finetuning-course")
    learner, instructor = builder.learner_edition("02", SOURCE), builder.instructor_edition("02", SOURCE)
    assert learner.metadata.course["source_sha256"] == instructor.metadata.course["source_sha256"]
    assert [cell.id for cell in learner.cells] == [cell.id for cell in instructor.cells]
    joined, address = "\n".join(texts(learner)), assets.repository_url()
    path = address.removeprefix("https://github.com/")
    assert f"colab.research.google.com/github/{path}/blob/main/notebooks/02_lora.ipynb" in joined
    install = next(cell for cell in learner.cells if "install" in cell.metadata.get("tags", []))
    assert install.source.endswith('session.start_lesson("trl")') and address not in install.source
    assert "jupyter" not in install.metadata  # two lines need no folding
    answer, check = (next(c for c in learner.cells if c.source.startswith(s)) for s in ("# EXERCISE", "# CHECK"))
    assert answer.source.count("# YOUR CODE HERE") == 1
    assert answer.metadata.nbgrader == {
        "schema_version": 3, "task": False, "locked": False, "grade_id": "lora-3", "solution": True, "grade": False,
    }  # fmt: skip
    assert check.metadata.nbgrader.points == EXERCISES["lora-3"].points
    nbformat.validate(instructor)


def test_ids_stay_when_another_cell_is_added():
    before = [cell.id for cell in builder.learner_edition("02", SOURCE).cells]
    after = [cell.id for cell in builder.learner_edition("02", "# %%\nprint('new')\n\n" + SOURCE).cells]
    assert after[1:] == before
    assert len(set(after)) == len(after)


def test_an_exercise_that_does_not_exist_is_named():
    with pytest.raises(CourseError, match="02_lora: there is no exercise 'lora-0'"):
        builder.instructor_edition("02", "# %%\n# EXERCISE: lora-0\n")


def test_the_install_cell_runs_and_shows_nothing_where_the_course_is():
    """In a kernel, where pip's line adds a note on restarting that would mislead."""
    notebook = builder.learner_edition("02", "# %%\n# INSTALL: trl\n")
    runner.execute(notebook)
    assert notebook.cells[0].execution_count == 1 and notebook.cells[0].outputs == []


def test_the_header_tells_of_the_run_that_made_the_outputs(tmp_path, monkeypatch):
    source, stored = tmp_path / "02.py", tmp_path / "02_lora.ipynb"
    source.write_text("# %% [markdown]\n# Read this.\n#\n# {{timing}}\n\n# %%\n1 + 1\n")
    monkeypatch.setattr(builder, "source_file", lambda name: source)
    monkeypatch.setattr(builder, "learner_file", lambda name: stored)
    monkeypatch.setattr(assets, "root", lambda: tmp_path)
    monkeypatch.setattr(runner, "execute", lambda notebook: runner.RunCost(66.0, 3 * 10**9, [], []))
    assert texts(builder.learner_edition("02"))[0] == "Read this."  # nobody has run it yet
    builder.build("02", report=str)
    run, device = builder.recorded_run("02"), hardware.detect()
    assert set(run) == set(builder.RUN) and run["machine"] == f"{device.name}, {device.cores} cores"
    line = f"*Run All* took 1.1 minutes and 3.0 GB of memory on {run['machine']} ({run['date']})."
    assert texts(nbformat.read(stored, 4))[0] == f"Read this.\n\n{line}"
    source.write_text(source.read_text().replace("Read this.", "Read that."))
    monkeypatch.setattr(runner, "execute", None)  # a changed text needs no run, and keeps what is known of the last
    builder.build("02", report=str)
    assert texts(nbformat.read(stored, 4))[0] == f"Read that.\n\n{line}" and builder.recorded_run("02") == run


def test_a_notebook_that_cannot_be_read_is_stale_and_can_be_built(tmp_path, monkeypatch):
    (tmp_path / "02_lora.ipynb").write_text("{")
    monkeypatch.setattr(builder, "learner_file", lambda name: tmp_path / f"{name}.ipynb")
    assert builder.is_stale("02", SOURCE) and builder.recorded_run("02") == {}


def test_no_buttons_before_the_course_has_an_address(monkeypatch):
    monkeypatch.setattr(assets, "repository_url", lambda: "https://github.com/OWNER/finetuning-course")
    assert builder.badges("02_lora") == ""
    monkeypatch.setattr(assets, "repository_url", lambda: "https://github.com/someone/finetuning-course")
    assert builder.badges("02_lora").count("someone/finetuning-course/") == 2


def test_a_changed_text_keeps_the_outputs_and_a_changed_cell_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "learner_file", lambda name: tmp_path / f"{name}.ipynb")
    assert not builder.refresh("02", SOURCE)  # nothing is stored
    stored = builder.learner_edition("02", SOURCE)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"output {number}")]
    stored.metadata["course"]["seconds"] = 99
    stored.metadata["language_info"] = {"name": "python", "version": "3.99"}
    builder.write(stored, tmp_path / "02_lora.ipynb")
    changed = SOURCE.replace("# %% [markdown]\n# ", "# %% [markdown]\n# Newly said: ", 1)
    assert changed != SOURCE and builder.is_stale("02", changed)
    assert builder.refresh("02", changed)
    found = nbformat.read(tmp_path / "02_lora.ipynb", 4)
    assert "Newly said" in "\n".join(texts(found)) and not builder.is_stale("02", changed)
    assert [c.outputs[0].text for c in found.cells if c.cell_type == "code"] == [
        f"output {n}" for n in range(1, len(code) + 1)
    ]
    assert found.metadata.course.seconds == 99 and found.metadata.language_info.version == "3.99"
    assert not builder.refresh("02", SOURCE + "\n# %%\nprint('one more cell')\n")
    monkeypatch.setattr(builder, "INSTALL", builder.INSTALL + "\n# another way to install")
    assert builder.is_stale("02", changed) and builder.refresh("02", changed) and not builder.is_stale("02", changed)
    assert "another way" in (tmp_path / "02_lora.ipynb").read_text()
    assert "output 5" in (tmp_path / "02_lora.ipynb").read_text()


def test_a_changed_exercise_is_executed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "learner_file", lambda name: tmp_path / f"{name}.ipynb")
    stored = builder.learner_edition("02", SOURCE)
    for number, cell in enumerate((c for c in stored.cells if c.cell_type == "code"), 1):
        cell.execution_count, cell.outputs = number, [nbformat.v4.new_output("stream", name="stdout", text="kept")]
    builder.write(stored, tmp_path / "02_lora.ipynb")
    worth = EXERCISES["lora-3"].points + 1
    monkeypatch.setattr(builder, "EXERCISES", EXERCISES | {"lora-3": replace(EXERCISES["lora-3"], points=worth)})
    assert builder.is_stale("02", SOURCE) and builder.refresh("02", SOURCE)
    code = [c for c in nbformat.read(tmp_path / "02_lora.ipynb", 4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    results = [(o.execution_count, c.execution_count) for c in code for o in c.outputs if o.output_type == "execute_result"]
    assert results and all(own == cells for own, cells in results)
    answer, check = (next(i for i, c in enumerate(code) if c.source.startswith(s)) for s in ("# EXERCISE", "# CHECK"))
    assert code[answer].outputs == []
    assert f"({worth} points)" in code[check].source and "cell above" in str(code[check].outputs)
    assert all(c.outputs[0].text == "kept" for i, c in enumerate(code) if i not in (answer, check))


def test_a_cell_tagged_so_is_folded_and_others_are_not():
    built = builder.instructor_edition("02", '# %% tags=["folded"]\na = 1\n\n# %%\nb = 2\n')
    folded = {cell.source: cell.metadata for cell in built.cells if cell.cell_type == "code"}
    assert folded["a = 1"]["jupyter"] == {"source_hidden": True} and folded["a = 1"]["cellView"] == "form"
    assert "jupyter" not in folded["b = 2"]


def test_an_exercise_has_its_hint_in_a_fold():
    built = builder.instructor_edition("02", "# %%\n# EXERCISE: lora-3\n")
    statement = next(text for text in texts(built) if text.startswith("### "))
    assert statement.endswith(f"<details><summary>A hint</summary>\n\n{EXERCISES['lora-3'].hint}\n\n</details>")
