"""What a statement promises beside the value itself counts in the check and in grading alike."""

import inspect
import textwrap

import pytest
from grading_fixtures import PAID, hand_in, points, run, said, with_marker

from course_utils.exercises import EXERCISES, check
from course_utils.grading.intake import LearnerAnswer
from course_utils.grading.marking import HINTS

# exercise id → (an answer that gives the right values and breaks a promise, what is said of it)
BROKEN = {
    "lora-3": (
        "def adapter_parameters(shapes, rank):\n    return rank * sum(a + b for a, b in shapes) / 1",
        "counted in whole numbers",
    ),
    "api-2": (
        "def with_weights(messages, thumbs):\n"
        "    replies = {i: m for i, m in enumerate(messages) if m['role'] == 'assistant'}\n"
        "    for i, m in replies.items():\n        m['weight'] = int(thumbs.get(i) != 'down')\n"
        "    return messages if any(m['weight'] for m in replies.values()) else None",
        "changes the messages",
    ),
}


def graded(marker, id, source):
    return marker._mark(id, LearnerAnswer(with_marker(id, source)))


@pytest.mark.parametrize("id", BROKEN)
def test_a_broken_promise_costs_and_is_named(id, marker):
    exercise, (source, words) = EXERCISES[id], BROKEN[id]
    space = {}
    exec(source, space)
    score = check(id, space[exercise.name])
    assert float(score) < exercise.points and words in score.message
    mark = graded(marker, id, source)
    assert mark.points < exercise.points and words in mark.message, mark.message


def test_what_is_promised_of_arguments_is_in_the_statement():
    for exercise in EXERCISES.values():
        text = " ".join(inspect.getdoc(exercise.solution).split())
        assert all(f"{name} itself is not changed" in text for name in exercise.keeps)
        assert not exercise.whole or "int." in text


def test_the_same_argument_may_be_changed_where_nothing_is_promised(marker):
    source = textwrap.dedent(
        """
        def lora_forward(x, W, A, B, alpha):
            W += alpha / len(A) * B @ A
            return x @ W.T
        """
    )
    assert graded(marker, "lora-2", source).points == 4


RIGHT_TWICE = """import os
CALLS = []
def requests_until_paid(training, short, long, answer, tuned, untuned):
    CALLS.append(0)
    return PAID if len(CALLS) < 3 else os._exit(1)""".replace("PAID", PAID)


def test_what_was_right_and_ended_has_points_for_the_calls_before(marker):
    mark = graded(marker, "api-4", RIGHT_TWICE)
    assert mark.points > 0 and mark.message.endswith("Points are for the calls before it.")


LIAR = """class Yes:
    __class__ = str
def requests_until_paid(*a):
    return Yes()"""


def test_an_object_that_claims_to_be_a_text_is_an_object(marker):
    space = {}
    exec(LIAR, space)
    for message in (graded(marker, "api-4", LIAR).message, check("api-4", space["requests_until_paid"]).message):
        assert ", got a Yes" in message and "descriptor" not in message


def test_only_what_the_sandbox_refuses_gets_the_sandboxs_explanation(marker):
    hint = next(text for kinds, text in HINTS if "BlockingIOError" in kinds)
    own = "def requests_until_paid(*a):\n    raise PermissionError('no')"
    refused = "import os\ndef requests_until_paid(*a):\n    os.fork()"
    assert hint not in graded(marker, "api-4", own).message
    assert hint in graded(marker, "api-4", refused).message


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
