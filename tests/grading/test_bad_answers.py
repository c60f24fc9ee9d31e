"""Bad answers cost at most their own question, change nobody's mark, and leave nothing behind."""

import re
import socket
from pathlib import Path

import pytest
from answer_files import read
from grading_fixtures import PAID, full, hand_in, left_behind, points, results, run, said

import course_utils
from course_utils.exercises import checking
from course_utils.grading import intake

HONEST = ("aaa-first", "mmm-middle", "zzz-last")
# section: (the exercise answered badly, name of the learner → answer)
QUESTIONS = {
    section: (id, {answer.name: answer for answer in read(f"bad/{id}")})
    for section, id in (("06", "api-4"), ("02", "lora-2"))
}
# What the files' words stand for, as a text of its length says nothing to a reader.
LONG = {
    "MINUS_SIGNS": "-" * 200_000,
    "MILLION_NINES": "9" * 1_000_000,
    "NESTED_BRACKETS": "[" * 5000 + "]" * 5000,
    "LONG_SUM": "+".join("1" * 100_000),
    "NUL_BYTE": "\0",
    "PAID": PAID,  # the right value
}
CASES = [(section, name) for section, (_, bad) in QUESTIONS.items() for name in bad]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Section → folder with `inbox`, `out` and what the inbox held before one grading of all of them."""
    return {section: grade_all(section, tmp_path_factory.mktemp(f"bad-{section}")) for section in QUESTIONS}


def grade_all(section, folder):
    id, bad = QUESTIONS[section]
    inbox, out = folder / "inbox", folder / "out"
    canaries = [inbox / "aaa-first.ipynb", out / "grading.json", Path(course_utils.__file__), Path.cwd() / "README.md"]
    canaries += [Path.home() / ".bashrc", Path(checking.__file__)]
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0course-grading-test")
        abstract.listen()
        known = LONG | {"PORT": str(server.getsockname()[1]), "CANARIES": repr([str(file) for file in canaries])}
        for learner in HONEST:
            hand_in(inbox, learner, section)
        for name, answer in bad.items():
            source = answer.cells[0].source + "\n"
            for word, value in known.items():
                source = source.replace(word, value)
            hand_in(inbox, name, section, {id: source})
        before = {file.name: file.read_bytes() for file in inbox.iterdir()}
        run(section, inbox, out)
    return inbox, out, before


def is_in_order(answer, outcome, points, text):
    """Whether outcome, points ("0 | 3", or "0 to 3") and message are among those that the file allows."""
    ranges = [allowed.partition(" to ") for allowed in answer.several("points")]
    in_order = outcome in answer.several("outcomes")
    in_order &= any(float(low) <= points <= float(high or low) for low, _, high in ranges)
    return in_order and bool(re.search(answer.about.get("says", ""), text))


@pytest.mark.parametrize(("section", "name"), CASES)
def test_a_bad_answer_costs_at_most_its_question(graded, section, name):
    out = graded[section][1]
    id, bad = QUESTIONS[section]
    learner = intake.clean_name(name)
    found, text = points(out, learner), said(out, learner, id)
    assert is_in_order(bad[name], results(out, learner)["extra_data"]["outcomes"][id], found[id], text), text
    assert {**found, id: 0} == {**full(section), id: 0}, "another question was touched"


@pytest.mark.parametrize("section", QUESTIONS)
def test_honest_learners_beside_them_have_full_marks(graded, section):
    for learner in HONEST:
        assert points(graded[section][1], learner) == full(section)


@pytest.mark.parametrize("section", QUESTIONS)
def test_nothing_is_left_behind_or_changed(graded, section):
    inbox, out, before = graded[section]
    assert left_behind() == []
    assert {file.name: file.read_bytes() for file in inbox.iterdir()} == before
    learners = {intake.clean_name(name) for name in (*QUESTIONS[section][1], *HONEST)}
    assert {file.name for file in (out / "learners").iterdir()} == learners
    for folder in (out / "learners").iterdir():
        assert sorted(file.name for file in folder.iterdir()) == ["feedback.html", "results.json"]
    for folder in (Path.cwd(), inbox, out, Path.home(), Path(course_utils.__file__).parent):
        assert not (folder / "evil").exists()
    assert not Path("/tmp/left").exists()
    assert not Path("/tmp/pickled").exists()
    assert "def check(" in Path(checking.__file__).read_text()


@pytest.mark.parametrize("section", QUESTIONS)
def test_every_question_ran_where_no_process_can_be_started(graded, section):
    for folder in (graded[section][1] / "learners").iterdir():
        assert results(graded[section][1], folder.name)["extra_data"]["no_new_processes"]
