"""The learner's copies: made, brought up to date while nobody has touched them, put back on request."""

import json
from pathlib import Path

import pytest

from course_utils import assets, lessons
from course_utils.cli import main

NAMES = [lesson.name for lesson in lessons.NOTEBOOKS.values()]
NAME = NAMES[1]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of one-line notebooks; returns what changes an original."""
    originals = tmp_path / "course" / "notebooks"
    (originals / "further").mkdir(parents=True)
    for name in NAMES:
        (originals / f"{name}.ipynb").write_text("first edition")
    monkeypatch.setattr(assets, "root", lambda: originals.parent)
    return lambda text: (originals / f"{NAME}.ipynb").write_text(text)


def test_copies_follow_the_course_until_they_hold_work(course, tmp_path):
    folder, said = tmp_path / "mine", []
    lessons.update_copies(folder, said.append)
    assert {file.relative_to(folder) for file in folder.rglob("*.ipynb")} == {Path(f"{name}.ipynb") for name in NAMES}
    copy = folder / f"{NAME}.ipynb"
    course("second edition")
    lessons.update_copies(folder, said.append)
    assert copy.read_text() == "second edition" and said == []
    copy.write_text("second edition, and my answer")
    course("third edition")
    lessons.update_copies(folder, said.append)
    assert copy.read_text() == "second edition, and my answer"
    assert said == [f"{NAME}.ipynb holds your work and is older than the course; `course restore 02` makes a new one"]


def test_a_lost_list_of_copies_costs_no_work(course, tmp_path):
    folder, said = lessons.update_copies(tmp_path / "mine"), []
    (folder / f"{NAME}.ipynb").write_text("my answer")
    (folder / lessons.HANDED_OUT).write_text("{")
    lessons.update_copies(folder, said.append)
    assert (folder / f"{NAME}.ipynb").read_text() == "my answer" and len(said) == 1


def test_restore_puts_the_lesson_back_and_keeps_every_version_of_ones_own(course, tmp_path, capsys):
    folder = lessons.update_copies(tmp_path / "mine")
    copy = folder / f"{NAME}.ipynb"
    for number in (1, 2):
        copy.write_text(f"interrupted, {number}")
        assert main(["restore", "02", "--folder", str(folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["yours"] == str(folder / f"{NAME}-mine-{number}.ipynb")
        assert copy.read_text() == "first edition"
        assert (folder / f"{NAME}-mine-{number}.ipynb").read_text() == f"interrupted, {number}"
    assert main(["restore", "02", "--folder", str(folder)]) == 0  # nothing of one's own in it
    assert capsys.readouterr().out == f"{copy} is as it was handed out\n"
    course("second edition")
    lessons.update_copies(folder)  # what was put back counts as untouched
    assert copy.read_text() == "second edition"


def test_in_the_folder_of_the_copies_the_command_takes_that_folder(course, tmp_path, monkeypatch):
    """JupyterLab's terminal opens there; the course is installed and no checkout."""
    folder = tmp_path / lessons.FOLDER
    folder.mkdir()
    for here in (tmp_path, folder):
        monkeypatch.chdir(here)
        assert lessons.copies_folder() == folder
