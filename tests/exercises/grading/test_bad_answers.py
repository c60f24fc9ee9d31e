"""Bad answers cost at most their own question, change nobody's mark, and leave nothing behind."""

import re
import socket
from pathlib import Path

import pytest
from bad_answers import BAD, TORCH
from grading_fixtures import full, hand_in, left_behind, points, results, run, said

import course_utils
from course_utils.exercises import checking
from course_utils.exercises.grading import intake

HONEST = ("aaa-first", "mmm-middle", "zzz-last")


@pytest.fixture(scope="module", params=[("06", "api-2", BAD), ("02", "lora-1", TORCH)], ids=["06", "02"])
def graded(request, tmp_path_factory):
    """(section, id, folder of the results, inbox) after one grading of all of them, honest learners between."""
    section, id, bad = request.param
    folder = tmp_path_factory.mktemp(f"bad-{section}")
    inbox, out = folder / "inbox", folder / "out"
    server, abstract = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    abstract.bind("\0course-grading-test")
    abstract.listen()
    canaries = [inbox / "aaa-first.ipynb", out / "grading.json", Path(course_utils.__file__), Path.cwd() / "README.md"]
    canaries += [Path.home() / ".bashrc", Path(checking.__file__)]
    for learner in HONEST:
        hand_in(inbox, learner, section)
    for name, (source, *_) in bad.items():
        source = source.replace("PORT", str(server.getsockname()[1])).replace("CANARIES", repr([str(file) for file in canaries]))
        hand_in(inbox, name, section, {id: source})
    before = {file.name: file.read_bytes() for file in inbox.iterdir()}
    run(section, inbox, out)
    assert all(file.exists() for file in canaries if file.name != ".bashrc")
    server.close()
    abstract.close()
    return section, id, bad, out, before


def each(bad):
    return pytest.mark.parametrize("name", bad)


def check(graded, section, name):
    if graded[0] != section:
        pytest.skip("the other section's answers")
    _, id, bad, out, _ = graded
    _, outcomes, marks, message = bad[name]
    learner = intake.clean_name(name)
    found = points(out, learner)
    text = said(out, learner, id)
    assert results(out, learner)["extra_data"]["outcomes"][id] in outcomes, text
    assert found[id] in marks, text
    assert re.search(message, text), text
    assert {**found, id: 0} == {**full(section), id: 0}, "another question was touched"


@each(BAD)
def test_a_bad_answer_costs_at_most_its_question(graded, name):
    check(graded, "06", name)


@each(TORCH)
def test_a_bad_answer_with_torch_costs_at_most_its_question(graded, name):
    check(graded, "02", name)


def test_honest_learners_beside_them_have_full_marks(graded):
    for learner in HONEST:
        assert points(graded[3], learner) == full(graded[0])


def test_nothing_is_left_behind_or_changed(graded):
    _, _, bad, out, before = graded
    inbox = out.parent / "inbox"
    assert left_behind() == []
    assert {file.name: file.read_bytes() for file in inbox.iterdir()} == before
    learners = {intake.clean_name(name) for name in (*bad, *HONEST)}
    assert {file.name for file in (out / "learners").iterdir()} == learners
    for folder in (out / "learners").iterdir():
        assert sorted(file.name for file in folder.iterdir()) == ["feedback.html", "results.json"]
    assert not Path("/tmp/left").exists()
    assert not Path("/tmp/pickled").exists()
    for folder in (Path.cwd(), inbox, out, Path.home(), Path(course_utils.__file__).parent):
        assert not (folder / "evil").exists()
    assert "def check(" in Path(checking.__file__).read_text()


def test_every_question_ran_sealed(graded):
    for folder in (graded[3] / "learners").iterdir():
        assert results(graded[3], folder.name)["extra_data"]["no_new_processes"]


def test_feedback_escapes_what_strangers_wrote(graded):
    pages = [(folder / "feedback.html").read_text() for folder in (graded[3] / "learners").iterdir()]
    assert not any("<script" in page or "<img" in page for page in pages)
    if graded[0] == "06":
        assert any("&lt;script&gt;" in page for page in pages)
