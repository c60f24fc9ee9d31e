"""What an answer is tried on stays hidden until it is asked; what feedback has shown of it is worth nothing afterwards."""

import ast
import re

import pytest
from grading_fixtures import SHORT, code, full, hand_in, notebook, points, run, said

from course_utils.exercises import EXERCISES, checking
from course_utils.exercises.comparing import key
from course_utils.grading import batch
from course_utils.grading.intake import LearnerAnswer
from course_utils.grading.marking import Marker, draw_cases
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


@pytest.mark.parametrize("id", ["data-1", "api-4", "lora-2"])
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
    for id in ("data-1", "lora-2"):
        assert marker._mark(id, LearnerAnswer(EXERCISES[id].source())).points == EXERCISES[id].points
    assert {tuple(message) for message in sent} == {("setup", "cell", "name", "between", "kept"), ("n", "args")}
    assert str(SEED) not in str(sent)


KNOWS = "# EXERCISE: qlora-4\n{}def bits_per_weight(*a):\n    return KNOWN.get(a, 0.5)"


@pytest.mark.parametrize("in_another_cell", [False, True])
def test_what_feedback_shows_is_worth_nothing_at_the_next_grading(marker, in_another_cell):
    known = {}

    def mark():
        """The mark of an answer that knows all that feedback has shown."""
        table = f"KNOWN = {known!r}\n"
        answer = LearnerAnswer(KNOWS.format(""), (table,)) if in_another_cell else LearnerAnswer(KNOWS.format(table))
        return marker._mark("qlora-4", answer)

    for _ in range(9):
        found = mark()
        assert found.points == 0.0
        if shown := re.search(r"For (\(.+?\)) expected (\S+), got", found.message):
            known[ast.literal_eval(shown[1])] = ast.literal_eval(shown[2])
    assert set(known) == set(draw_cases(EXERCISES["qlora-4"], SEED, "shown").cases)  # all that there is to be shown
    assert "No hidden case is shown" in mark().message


@pytest.mark.parametrize("id", ["frame-1", "data-2", "lora-5", "api-1"])
def test_all_examples_together_earn_nothing(id):
    """Whoever has collected every example, of exercises whose cases are alike from draw to draw."""
    exercise = EXERCISES[id]
    for seed in range(5):
        examples, cases = draw_cases(exercise, seed, "shown"), draw_cases(exercise, seed)
        known = dict(zip(map(key, examples.cases), examples.expected))
        assert checking.judge(exercise, cases, [known.get(key(case)) for case in cases.cases])[0] == 0.0


TELLING = (
    *("return str(a)", "raise ValueError(str(a))"),
    *("seen.append(a)\n    return str(seen)", "return str(seen.append(a) or seen[0])"),
)


@pytest.mark.parametrize("body", TELLING)
def test_no_case_that_counts_is_ever_shown(marker, body):
    """Not even by an answer that tells what it is asked, or what it was asked before."""
    examples, cases = (draw_cases(EXERCISES["api-4"], SEED, purpose).cases for purpose in ("shown", "marked"))
    cell = f"# EXERCISE: api-4\nseen = []\ndef requests_until_paid(*a):\n    {body}"
    message = marker._mark("api-4", LearnerAnswer(cell)).message
    assert str(examples[0])[1:-1] in message, message
    assert not any(str(case[0]) in message for case in cases), message


HALF = """def with_weights(messages, thumbs):
    def row(n, m):
        return m | {"weight": int(thumbs.get(n) != "down")} if m["role"] == "assistant" else m

    return [row(n, m) for n, m in enumerate(messages)]"""  # right but where nothing is left to learn
WAYS = {  # the same code, written in other ways
    "as it is": HALF,
    "with a comment": f"# again\n{HALF}",
    "other names": HALF.replace("thumbs", "t").replace("messages", "m").replace("row(", "one("),
    "with what does nothing": HALF.replace('"down")', '"down") * (x < 9)').replace(
        "    return [", "    x = 7\n    return ["
    ),
    "with a helper": HALF.replace('int(thumbs.get(n) != "down")', "weight_of(thumbs, n)"),
}


def test_the_same_code_has_the_same_mark_however_it_is_written(marker):
    helper = "def weight_of(thumbs, n):\n    return int(thumbs.get(n) != 'down')"
    marks = {
        way: marker._mark("api-2", LearnerAnswer(f"# EXERCISE: api-2\n{cell}", (helper,))) for way, cell in WAYS.items()
    }
    assert len({mark.points for mark in marks.values()}) == 1, marks
    assert 0 < marks["as it is"].points < EXERCISES["api-2"].points


def test_another_seed_has_other_cases_and_no_example_counts():
    drawn = [draw_cases(EXERCISES["api-4"], SEED + more, purpose) for more in (0, 1) for purpose in ("marked", "shown")]
    sets = [tuple(map(key, one.cases)) for one in drawn]
    assert not any(set(one) & set(other) for at, one in enumerate(sets) for other in sets[:at])


def test_an_unchanged_answer_keeps_its_mark_when_others_change(tmp_path):
    half = f"# EXERCISE: api-2\n{HALF}"
    hand_in(tmp_path / "in", "a", "06", {"api-2": half})
    run("06", tmp_path / "in", tmp_path / "out")
    before, text = points(tmp_path / "out", "a"), said(tmp_path / "out", "a", "api-2")
    assert 0 < before["api-2"] < EXERCISES["api-2"].points
    other = "# EXERCISE: api-1\ndef new_messages(polls):\n    return 0"
    hand_in(tmp_path / "in", "a", "06", {"api-2": half, "api-1": other})
    assert run("06", tmp_path / "in", tmp_path / "out").new == 1
    assert points(tmp_path / "out", "a") == before | {"api-1": 0.0}
    assert said(tmp_path / "out", "a", "api-2") == text


def test_the_seed_is_in_no_file_of_a_learners_folder(tmp_path):
    hand_in(tmp_path / "in", "a", "06")
    run("06", tmp_path / "in", tmp_path / "out", seed=SEED)
    files = sorted((tmp_path / "out" / "learners" / "a").iterdir())
    assert [file.name for file in files] == ["feedback.html", "results.json"]
    assert not any(str(SEED) in file.read_text() for file in files)
    assert str(SEED) in (tmp_path / "out" / "grading.json").read_text()
    assert points(tmp_path / "out", "a") == full("06")


def test_a_new_seed_is_too_long_to_be_found_by_trying(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text(notebook([code("1")]))
    seeds = [run("06", tmp_path / "in", tmp_path / f"out-{n}", seed=None).seed for n in range(3)]
    assert max(seeds) > 2**40
