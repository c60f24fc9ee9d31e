"""The instructor's edition in nbgrader itself: its commands, its formgrader, and its marks beside ours."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
from grading_fixtures import PAID_ANSWER, cells, code, full, hand_in, notebook, points, run
from support import jupyter
from test_honest import WRONG

from course_utils import lessons
from course_utils.cli import main
from course_utils.exercises import EXERCISES
from course_utils.grading import nbgrader_course
from course_utils.publishing import builder

pytest.importorskip("nbgrader", reason="needs the extra 'grading'")
pytestmark = pytest.mark.slow

SECTIONS = "02,06"
# An answer of each section that gets part of the points whatever the random cases are.
PARTLY = {
    "lora-3": "def adapter_parameters(shapes, rank):\n    raise MemoryError",
    "api-2": "def with_weights(messages, thumbs):\n    return [m | ({'weight': int(thumbs.get(n) != 'down')} "
    "if m['role'] == 'assistant' else {}) for n, m in enumerate(messages)]",
}


def nbgrader(folder, *arguments):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic by its name
    command, environment = [sys.executable, "-m", "nbgrader", *arguments], os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def inbox(tmp_path_factory):
    """Honest submissions, and some that nbgrader alone loses (see the names); each costs a kernel per section."""
    inbox = tmp_path_factory.mktemp("inbox")
    wrong = {id: f"# EXERCISE: {id}\n{PARTLY.get(id) or WRONG[id]}" for id in ("lora-2", "lora-3", "api-2")}
    hand_in(inbox, "wrong", SECTIONS, wrong)
    made = cells(SECTIONS)
    bare = [code(cell["source"]) for cell in made if cell["cell_type"] == "code"]
    (inbox / "Copy of lost-metadata (1).ipynb").write_text(notebook(bare, nbformat_minor=0))
    uses = "# EXERCISE: api-4\n" + PAID_ANSWER.replace("(int(training /", "(int(millions(training * 1e6) /")
    helpers = [code("import operator\nMILLION = 1e6"), code("def millions(n):\n    return operator.truediv(n, MILLION)")]
    copied = next(cell for cell in made if cell["source"].startswith("# EXERCISE: lora-3"))
    (inbox / "helpers-and-a-copied-cell.ipynb").write_text(notebook([*helpers, *cells(SECTIONS, {"api-4": uses}), copied]))
    skipping = cells("06", stub=True)
    for cell in skipping:
        cell["metadata"]["tags"] = ["skip-execution"]
    (inbox / "stubs-and-skipped-checks.ipynb").write_text(notebook([*cells("02", stub=True), *skipping]))
    (inbox / "broken.ipynb").write_text("{")
    return inbox


@pytest.fixture(scope="module")
def course(tmp_path_factory, inbox):
    """An nbgrader course, graded."""
    folder = tmp_path_factory.mktemp("hub") / "course"
    assert main(["nbgrader", SECTIONS, str(folder)]) == 0
    for section in ("02_lora", "06_openai_api"):
        nbgrader(folder, "generate_assignment", section)
    assert main(["nbgrader", SECTIONS, str(folder), "--inbox", str(inbox)]) == 1  # broken.ipynb is for a person
    for section in ("02_lora", "06_openai_api"):
        said = nbgrader(folder, "autograde", section)
        assert "not a single value" not in said  # nbgrader would give full marks
        nbgrader(folder, "generate_feedback", section)
    return folder


@pytest.fixture(scope="module")
def theirs(course):
    """learner → exercise id → points in nbgrader's book."""
    from nbgrader.api import Gradebook

    found = {}
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        for assignment in book.assignments:
            for submission in book.assignment_submissions(assignment.name):
                for notebook_ in submission.notebooks:
                    for grade in notebook_.grades:
                        marks = found.setdefault(submission.student.id, {})
                        marks[grade.name.removesuffix("_check")] = grade.score
    return found


def test_what_nbgrader_releases_is_the_learners_notebook(course):
    for section in ("02_lora", "06_openai_api"):
        released = nbformat.read(course / "release" / section / f"{section}.ipynb", 4)
        assert [c.source for c in released.cells] == [c.source for c in builder.learner_edition(section).cells]


def test_marks_agree(course, theirs, inbox, tmp_path):
    run(SECTIONS, inbox, tmp_path / "out")
    assert set(theirs) == {path.name for path in (tmp_path / "out" / "learners").iterdir()} - {"broken"}
    for learner, marks in theirs.items():
        for id, ours in points(tmp_path / "out", learner).items():
            if 0 < ours < EXERCISES[id].points:  # there the check draws its own cases, so the share differs
                assert 0 < marks[id] < EXERCISES[id].points, (learner, id)
            else:
                assert marks[id] == ours, (learner, id)
    assert theirs["helpers-and-a-copied-cell"] == theirs["Copy_of_lost-metadata_1"] == full(SECTIONS)
    assert set(theirs["stubs-and-skipped-checks"].values()) == {0.0}
    assert 0 < theirs["wrong"]["api-2"] < EXERCISES["api-2"].points


def test_the_lesson_is_not_run_in_grading(course):
    graded = nbformat.read(course / "autograded" / "helpers-and-a-copied-cell" / "02_lora" / "02_lora.ipynb", 4)
    ran = [c for c in graded.cells if c.cell_type == "code" and c.execution_count]
    assert len(ran) == 1 + 2 * len(full("02"))  # imports; an answer and a check for each exercise


def test_feedback_says_what_is_wrong(course):
    page = (course / "feedback" / "wrong" / "02_lora" / "02_lora.html").read_text()
    assert "alpha; the convention is alpha / r" in page


def test_a_broken_submission_is_named(course, inbox, capsys):
    assert main(["nbgrader", SECTIONS, str(course), "--inbox", str(inbox)]) == 1
    said = capsys.readouterr().out
    assert "4 learners" in said
    assert "broken: broken.ipynb is not JSON" in said


def test_before_the_release_it_says_what_to_do(tmp_path, inbox, capsys):
    assert main(["nbgrader", "02", str(tmp_path)]) == 0
    assert main(["nbgrader", "02", str(tmp_path), "--inbox", str(inbox)]) == 2
    assert "nbgrader generate_assignment 02_lora" in capsys.readouterr().err


def test_what_was_handed_in_elsewhere_stays(course, tmp_path):
    shutil.copytree(course / "release", tmp_path / "course" / "release")
    learner = tmp_path / "course" / "submitted" / "half"
    (learner / "06_openai_api").mkdir(parents=True)
    (learner / "06_openai_api" / "06_openai_api.ipynb").write_text("from the hub")
    hand_in(tmp_path / "in", "half", "02")
    assert nbgrader_course.hand_in(tmp_path / "course", SECTIONS, tmp_path / "in").learners == ("half",)
    assert (learner / "06_openai_api" / "06_openai_api.ipynb").read_text() == "from the hub"
    assert (learner / "02_lora" / "02_lora.ipynb").exists()


def test_settings_of_ones_own_stay(tmp_path):
    nbgrader_course.write_course(tmp_path, "02")
    (tmp_path / "nbgrader_config.py").write_text("# mine")
    assert nbgrader_course.write_course(tmp_path, "06") == ["06_openai_api"]
    assert (tmp_path / "nbgrader_config.py").read_text() == "# mine"
    assert sorted(path.name for path in (tmp_path / "source").iterdir()) == ["02_lora", "06_openai_api"]


@pytest.mark.parametrize("section", lessons.NAMES)
def test_every_section_is_a_valid_assignment(section, course, tmp_path):
    if not (folder := course / "release" / section).exists():
        nbgrader_course.write_course(tmp_path, section)
        nbgrader(tmp_path, "generate_assignment", section)
        folder = tmp_path / "release" / section
    released = nbformat.read(folder / f"{section}.ipynb", 4)
    checks = [c.metadata.nbgrader for c in released.cells if c.metadata.get("nbgrader", {}).get("grade")]
    assert {m.grade_id.removesuffix("_check"): m.points for m in checks} == full(section)
    assert all(m.locked and m.checksum for m in checks)


def test_formgraders_api(course, theirs, tmp_path):
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--ServerApp.disable_check_xsrf=True"]
    with jupyter(command, tmp_path, folder=course) as address:

        def ask(what):
            with urllib.request.urlopen(f"{address}/formgrader/api/{what}", timeout=60) as answer:
                return json.load(answer)

        assert {a["name"] for a in ask("assignments")} == {"02_lora", "06_openai_api"}
        scores = {s["student"]: s["score"] for s in ask("submissions/02_lora")}
        assert scores == {learner: sum(marks[id] for id in full("02")) for learner, marks in theirs.items()}
        again = urllib.request.Request(f"{address}/formgrader/api/submission/06_openai_api/wrong/autograde", method="POST")
        with urllib.request.urlopen(again, timeout=120) as answer:
            assert json.load(answer)["success"]
        again = next(s for s in ask("submissions/06_openai_api") if s["student"] == "wrong")
        assert again["autograded"] and 0 < again["score"] < sum(full("06").values())  # new cases, another share
