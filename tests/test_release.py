"""The packs: what is in them, and what must not be."""

import csv
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from course_utils import facts
from course_utils.cli import main
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.exercises.quizzes import questions
from course_utils.grading import batch, release
from course_utils.grading.marking import draw_cases
from course_utils.lessons import LESSONS, NAMES, NOTEBOOKS, learner_file
from course_utils.publishing.wheel import write_wheel

GRADED = [EXERCISES[id] for id in batch.exercises_of("all")[1]]
HANDED_OUT = [f"{lesson.name}.ipynb" for lesson in NOTEBOOKS.values()]  # lessons link to what stands beside them


@pytest.fixture(scope="module", autouse=True)
def wheel(tmp_path_factory):
    """The course's wheel, built once for all packs; a build takes seconds."""
    built = write_wheel(tmp_path_factory.mktemp("wheel"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "write_wheel", lambda folder: Path(shutil.copy(built, folder)))
        yield built


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs")
    assert main(["release", "all", "--out", str(folder)]) == 0
    return folder


def rows(file):
    with open(file, newline="") as handle:
        return list(csv.DictReader(handle))


def test_learners_get_the_notebooks_and_the_course(packs, wheel):
    """No answer: tests/notebooks/test_builder.py looks for solutions in these very notebooks."""
    files = {file.relative_to(packs / "learner").as_posix() for file in (packs / "learner").rglob("*") if file.is_file()}
    assert files == {"README.md", "pack.json", *(f"notebooks/{name}" for name in (wheel.name, *HANDED_OUT))}
    assert (packs / "learner" / "README.md").read_text().count(wheel.name) == 3  # on a machine, in Colab, in Kaggle
    for name in HANDED_OUT:
        pack = packs / "learner" / "notebooks" / name
        assert pack.read_bytes() == learner_file(name.removesuffix(".ipynb")).read_bytes()


def test_instructors_get_every_answer(packs):
    page = (packs / "instructor" / "answers.html").read_text()
    for exercise in GRADED:
        assert f"<h2>{exercise.id}: " in page
        in_statement = exercise.statement.count(f"def {exercise.name}(")  # that of a bug hunt
        assert page.count(f"def {exercise.name}(") == 1 + in_statement
    assert "### BEGIN" not in page
    assert page.count("<li>") >= sum(len(e.mistakes) for e in GRADED) + sum(len(questions(number)) for number in LESSONS)


def test_a_statement_is_rendered_and_starting_code_keeps_its_lines():
    id = "lora-1"
    page = release._answers(["02_lora"], [EXERCISES[id]])
    assert "It has <strong>three</strong> bugs" in page
    code = EXERCISES[id].statement.split("```python\n")[1].split("```")[0]
    assert code in unescape(page.split('<code class="language-python">')[1].split("</code>")[0])
    whole = release._answers(list(NAMES), list(EXERCISES.values()))
    prose = re.sub(r"<(pre|code)\b.*?</\1>", "", whole, flags=re.DOTALL)
    assert "`" not in prose and "**" not in prose


def test_the_rubric_is_what_grading_does(packs):
    rubric = rows(packs / "instructor" / "rubric.csv")
    assert sorted(row["exercise"] for row in rubric) == sorted(
        exercise.id for exercise in GRADED
    )  # a lesson has an order of its own
    for row in rubric:
        exercise = EXERCISES[row["exercise"]]
        assert int(row["points"]) == exercise.points
        asked = draw_cases(exercise, 5)
        assert int(row["cases at least"]) <= len(asked.cases) <= 2 * int(row["cases at least"])
        assert all(mistake.diagnosis in row["typical mistakes"] for mistake in exercise.mistakes)


def test_times_are_the_recorded_ones(packs):
    recorded = {row["section"]: float(row["seconds"]) for row in rows(packs / "instructor" / "timings.csv")}
    assert set(recorded) == set(NAMES)
    for section, seconds in recorded.items():
        assert json.loads(learner_file(section).read_text())["metadata"]["course"]["seconds"] == seconds
        assert f"{seconds / 60:.1f} minutes" in (packs / "learner" / "README.md").read_text()


def test_the_hidden_cases_seed_is_private_stays_and_can_be_changed(packs, tmp_path):
    seed = json.loads((packs / "instructor" / "seed.json").read_text())["seed"]
    assert f"--seed {seed}" in (packs / "instructor" / "README.md").read_text()
    for file in (packs / "learner").rglob("*"):
        assert file.is_dir() or str(seed).encode() not in file.read_bytes()
    first = release.release("02", tmp_path).seed
    assert first != seed
    assert release.release("06", tmp_path).seed == first
    assert release.release("06", tmp_path, seed=5).seed == 5
    assert [file.name for file in (tmp_path / "learner" / "notebooks").glob("*.ipynb")] == ["06_openai_api.ipynb"]


def test_what_is_not_ours_is_not_replaced(tmp_path, capsys):
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "thesis.tex").write_text("years of work")
    assert main(["release", "02", "--out", str(tmp_path)]) == 2
    assert "has files that no release of this course wrote (thesis.tex)" in capsys.readouterr().err
    assert (tmp_path / "learner" / "thesis.tex").exists()


def test_a_book_of_marks_in_the_pack_is_not_lost(tmp_path):
    release.release("02", tmp_path)
    book = tmp_path / "instructor" / "nbgrader" / "gradebook.db"
    book.write_text("a class's marks")
    with pytest.raises(CourseError, match=r"nbgrader/gradebook\.db"):
        release.release("02", tmp_path)
    assert book.exists()


def test_killed_between_two_renames_the_seed_is_still_there(tmp_path):
    seed = release.release("02", tmp_path).seed
    (tmp_path / "instructor").rename(tmp_path / ".instructor.old")
    assert release.release("02", tmp_path).seed == seed
    assert sorted(file.name for file in tmp_path.iterdir()) == ["instructor", "learner"]


@pytest.mark.parametrize(
    ("address", "noted"), [("https://github.com/OWNER/course", True), ("https://github.com/us/course", False)]
)
def test_an_address_that_is_none_yet_and_old_facts_are_noted(tmp_path, monkeypatch, capsys, address, noted):
    from course_utils import assets

    made = release.Packs(tmp_path, tmp_path, (), 1)
    monkeypatch.setattr(release, "release", lambda *_: made)
    monkeypatch.setattr(assets, "repository_url", lambda: address)
    monkeypatch.setattr(facts, "stale", lambda today: ["data/prices.toml, [gpt-4.1] is dated 2025-01-01"])
    assert main(["release", "02", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert (f"buttons lead to {address}, which does not exist" in said) == noted
    assert "data/prices.toml, [gpt-4.1] is dated 2025-01-01" in said


@pytest.mark.parametrize("command", [["release", "02", "--out"], ["nbgrader", "02"]])
def test_a_place_that_cannot_be_written(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*command, str(tmp_path / "file" / "below")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_old_notebook_is_not_released(tmp_path, monkeypatch):
    monkeypatch.setattr(release.builder, "is_stale", lambda section: section == "03_qlora")
    with pytest.raises(CourseError, match="course build 03"):
        release.release("all", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_broken_seed_file_is_named(tmp_path):
    release.release("02", tmp_path)
    (tmp_path / "instructor" / "seed.json").write_text("{")
    with pytest.raises(CourseError, match=r"seed\.json cannot be read"):
        release.release("02", tmp_path)
