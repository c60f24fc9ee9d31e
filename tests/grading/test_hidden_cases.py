"""What an answer is tried on stays hidden until it is asked; what feedback has shown of it is worth nothing afterwards."""

import ast
import re

import pytest
from grading_fixtures import SHORT, code, full, hand_in, notebook, points, results, run, said

from course_utils.exercises import EXERCISES
from course_utils.exercises.comparing import key
from course_utils.grading import batch
from course_utils.grading.marker import Marker
from course_utils.grading.marking import Attempt, LearnerAnswer
from course_utils.grading.protocol import Channel
from course_utils.grading.sandbox import require

SEED = 918273645
SPY = """# EXERCISE: {id}
import gc, os, random, sys
found = []
def names(held, where):
    for name, value in list(held.items()):
        told = isinstance(name, str) and name in ("seed", "expected", "cases", "asked", "draws", "wrong")
        if told and type(value) in (int, list, tuple, str):
            found.append((where, name, repr(value)[:40]))
def look():
    frame = sys._getframe()
    while frame:
        names(frame.f_locals, frame.f_code.co_name)
        frame = frame.f_back
    for held in gc.get_objects():
        if type(held) is dict:
            names(held, "gc")
        elif type(held) in (int, str) and str(held) == "{seed}":
            found.append(held)
    everything = [*sys.argv, *os.environ.values(), *map(str, random.getstate()[1][:3])]
    fresh = random.Random(0).getstate()[1][:3]
    if list(random.getstate()[1][:3]) != list(fresh):
        found.append("the state of random")
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        if list(numpy.random.get_state()[1][:3]) != list(numpy.random.RandomState(0).get_state()[1][:3]):
            found.append("the state of numpy")
    found.extend(text for text in everything if "seed" in text.lower() and "PYTHONHASHSEED" not in text or "{seed}" in text)
    for place in ("cmdline", "environ", "maps"):
        try:
            found.extend(place for _ in [0] if b"{seed}" in open("/proc/self/" + place, "rb").read())
        except OSError:
            pass
    return found
{solved}
honest = {name}
looked = []
def {name}(*arguments):
    looked or looked.append(look())  # once: there is much to look through
    return str(looked[0])[:300] if looked[0] else honest(*arguments)
"""


@pytest.fixture
def marker():
    made = Marker(batch.exercises_of("all")[1], SEED, require(False), SHORT)
    yield made
    made.close()


@pytest.mark.parametrize("id", ["data-2", "api-2", "lora-1"])
def test_an_answer_finds_neither_seed_nor_cases_in_its_process(marker, id):
    exercise = EXERCISES[id]
    cell = SPY.format(id=id, seed=SEED, solved=exercise.source(), name=exercise.name)
    mark = marker._mark(id, LearnerAnswer(cell))
    assert mark.points == exercise.points, mark.message


def test_only_the_arguments_of_one_call_reach_the_process_at_a_time(marker, monkeypatch):
    sent, ask = [], Channel.ask

    def asking(self, message, seconds):
        sent.append(message)
        return ask(self, message, seconds)

    monkeypatch.setattr(Channel, "ask", asking)
    for id in ("data-2", "lora-1"):
        assert marker._mark(id, LearnerAnswer(EXERCISES[id].source())).points == EXERCISES[id].points
    assert {tuple(message) for message in sent} == {("setup", "cell", "name"), ("n", "args")}
    assert str(SEED) not in str(sent)


def test_what_feedback_shows_is_worth_nothing_at_the_next_grading(marker):
    known, earned = {}, []
    for _ in range(6):
        cell = f"# EXERCISE: api-2\nKNOWN = {known!r}\ndef job_cost(*a):\n    return KNOWN.get(a, 0.5)"
        mark = marker._mark("api-2", LearnerAnswer(cell))
        earned.append(mark.points)
        shown = re.search(r"For (\(.+?\)) expected (\S+), got", mark.message)
        known[ast.literal_eval(shown[1])] = float(shown[2])
    assert len(known) == 6
    assert earned == [0.0] * 6


def test_nor_does_it_help_in_another_cell(marker):
    known, earned = {}, []
    cell = "# EXERCISE: api-2\ndef job_cost(*a):\n    return KNOWN.get(a, 0.5)"
    for _ in range(6):
        mark = marker._mark("api-2", LearnerAnswer(cell, (f"KNOWN = {known!r}",)))
        earned.append(mark.points)
        shown = re.search(r"For (\(.+?\)) expected (\S+), got", mark.message)
        known[ast.literal_eval(shown[1])] = float(shown[2])
    assert earned == [0.0] * 6


def cases(cell, before=(), others=False):
    return list(
        map(key, Attempt(EXERCISES["api-2"], "06_openai_api", SEED, LearnerAnswer(cell, before)).draw_cases(others).expected)
    )


def test_the_same_work_meets_the_same_cases_and_any_other_work_meets_others():
    assert cases("a") == cases("a") == cases("a", ("of another exercise",))
    assert cases("a") != cases("b")
    assert cases("a", ("helper",), others=True) != cases("a", ("helper of another kind",), others=True)


def test_an_unchanged_answer_keeps_its_mark_when_others_change(tmp_path):
    half = "# EXERCISE: api-5\ndef model_parts(name):\n    parts = name.split(':')\n    return parts[1], parts[3], None"
    hand_in(tmp_path / "in", "a", "06", {"api-5": half})
    run("06", tmp_path / "in", tmp_path / "out")
    before, text = points(tmp_path / "out", "a"), said(tmp_path / "out", "a", "api-5")
    assert 0 < before["api-5"] < 1
    other = "# EXERCISE: api-1\ndef polls_until_over(s):\n    return 0"
    hand_in(tmp_path / "in", "a", "06", {"api-5": half, "api-1": other})
    assert run("06", tmp_path / "in", tmp_path / "out").new == 1
    assert points(tmp_path / "out", "a") == before | {"api-1": 0.0}
    assert said(tmp_path / "out", "a", "api-5") == text


def test_the_seed_is_in_the_instructors_results_and_not_on_the_learners_page(tmp_path):
    hand_in(tmp_path / "in", "a", "06")
    run("06", tmp_path / "in", tmp_path / "out", seed=SEED)
    assert results(tmp_path / "out", "a")["extra_data"]["seed"] == SEED
    assert str(SEED) not in (tmp_path / "out" / "learners" / "a" / "feedback.html").read_text()
    assert points(tmp_path / "out", "a") == full("06")


def test_a_new_seed_is_too_long_to_be_found_by_trying(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text(notebook([code("1")]))
    seeds = [run("06", tmp_path / "in", tmp_path / f"out-{n}", seed=None).seed for n in range(3)]
    assert max(seeds) > 2**40
