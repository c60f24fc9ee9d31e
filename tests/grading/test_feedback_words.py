"""What the feedback says of an answer that has no points is the reason, in words that fit."""

import re

import pytest
from grading_fixtures import SHORT, hand_in, points, run, said

from course_utils.exercises import EXERCISES, check
from course_utils.grading import batch
from course_utils.grading.marking import HINTS, LearnerAnswer, Marker
from course_utils.grading.results import feedback
from course_utils.grading.sandbox import require

SECTIONS = batch.exercises_of("all")[1]


@pytest.fixture(scope="module")
def marker():
    made = Marker(SECTIONS, 11, require(False), SHORT)
    yield made
    made.close()


def graded(marker, id, source):
    return marker._mark(id, LearnerAnswer(f"# EXERCISE: {id}\n{source}"))


LAST = """import os
CALLS = []
def grade(sample, item):
    CALLS.append(0)
    return 0.0 if len(CALLS) < %d else os._exit(1)"""
RIGHT_TWICE = """import os
CALLS = []
def job_cost(t, v, e, p):
    CALLS.append(0)
    return t * e * p / 1e6 if len(CALLS) < 3 else os._exit(1)"""


def test_what_ended_at_its_first_call_is_told_of_no_calls_before_it(marker):
    mark = graded(marker, "api-6", LAST % 1)
    assert mark.points == 0 and re.fullmatch(r"Call 1 of \d+ ended its process \(exit status 1\)\.", mark.message), (
        mark.message
    )


def test_what_was_right_by_chance_before_it_ended_is_told_so(marker):
    number = len(batch_cases("api-6"))
    mark = graded(marker, "api-6", LAST % number)
    assert mark.points == 0
    assert re.search(
        r"status 1\)\. \d+ of the calls before it right \(no more than chance, so no points yet\)\.$", mark.message
    )


def batch_cases(id):
    from course_utils.grading.marking import Attempt

    return Attempt(EXERCISES[id], SECTIONS[id], 11, LearnerAnswer("")).draw_cases().cases


def test_what_was_right_and_ended_has_points_for_the_calls_before(marker):
    mark = graded(marker, "api-7", RIGHT_TWICE)
    assert mark.points > 0 and mark.message.endswith("Points are for the calls before it.")


FOUND = {
    "api-9": (
        "return next(m for m, price in prices.items() if not price['no new jobs from']), 1, ['0'] * 20",
        r"found '0'\.",
    ),
    "data-7": ("return [('0', 'billing')] * 20", r"found '0'\."),
}


@pytest.mark.parametrize("id", FOUND)
def test_a_text_that_looks_like_a_number_is_shown_as_a_text(marker, id):
    import inspect

    body, words = FOUND[id]
    source = f"def {EXERCISES[id].name}{inspect.signature(EXERCISES[id].solution)}:\n    {body}"
    space = {}
    exec(source, space)
    assert re.search(words, graded(marker, id, source).message)
    assert re.search(words, check(id, space[EXERCISES[id].name]).message)


def test_a_challenge_that_returns_too_much_is_told_so_as_everywhere(marker):
    for id in ("api-9", "api-7"):
        message = graded(marker, id, f"def {EXERCISES[id].name}(*a):\n    return [0] * 150_000").message
        assert f"{EXERCISES[id].name} returns a value that cannot be marked: it has more than 100,000 parts." in message
        assert "Unsendable" not in message


LIAR = """class Yes:
    __class__ = str
def job_cost(*a):
    return Yes()"""


def test_an_object_that_claims_to_be_a_text_is_an_object(marker):
    space = {}
    exec(LIAR, space)
    for message in (graded(marker, "api-7", LIAR).message, check("api-7", space["job_cost"]).message):
        assert "Expected a number, got a Yes" in message and "descriptor" not in message


def test_one_point_is_one_point():
    id = next(id for id, exercise in EXERCISES.items() if exercise.points == 1)
    test = {"name": id, "number": id, "score": 0.0, "max_score": 1.0, "status": "failed", "output": ""}
    data = {"learner": "a", "assignment": [], "isolation": "bubblewrap", "points": {id: 0.0}}
    page = feedback({"score": 0.0, "output": "", "tests": [test, test | {"max_score": 2.0}], "extra_data": data})
    assert "0 of 1 point (not yet)" in page and "0 of 2 points (not yet)" in page


def test_only_what_the_sandbox_refuses_gets_the_sandboxs_explanation(marker):
    hint = next(text for kinds, text in HINTS if "BlockingIOError" in kinds)
    own = "def job_cost(*a):\n    raise PermissionError('no')"
    refused = "import os\ndef job_cost(*a):\n    os.fork()"
    assert hint not in graded(marker, "api-7", own).message
    assert hint in graded(marker, "api-7", refused).message


FORGES = """# EXERCISE: api-2
import json, os
def with_weights(messages, thumbs):
    for i, m in enumerate(messages):
        if m["role"] == "assistant":
            m["weight"] = 0 if thumbs.get(i) == "down" else 1
    found = messages if any(m.get("weight") for m in messages) else None
    value = None if found is None else [{"dict": [[k, v] for k, v in m.items()]} for m in found]
    os.write(3, json.dumps({"n": 0, "ok": value}).encode() + b"\\n")
    os._exit(0)
"""


def test_a_reply_that_does_not_say_whether_arguments_changed_is_none(tmp_path):
    hand_in(tmp_path / "in", "forges", "06", {"api-2": FORGES})
    run("06", tmp_path / "in", tmp_path / "out")
    assert points(tmp_path / "out", "forges")["api-2"] == 0
    assert "Call 1 of" in said(tmp_path / "out", "forges", "api-2")
    assert "sent a reply that the grader cannot read" in said(tmp_path / "out", "forges", "api-2")
