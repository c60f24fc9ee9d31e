"""What a statement promises beside the value itself counts in the check and in grading alike."""

import inspect
import textwrap

import pytest
from grading_fixtures import SHORT

from course_utils.exercises import EXERCISES, check
from course_utils.grading import batch
from course_utils.grading.marking import LearnerAnswer, Marker
from course_utils.grading.sandbox import require

# exercise id → (an answer that gives the right values and breaks a promise, what is said of it)
BROKEN = {
    "lora-3": (
        "def adapter_parameters(shapes, rank):\n    return rank * sum(a + b for a, b in shapes) / 1",
        "counted in whole numbers",
    ),
    "lora-5": (
        "def swapped_weight(W, old, new):\n    (A, B, alpha), (C, D, beta) = old, new\n"
        "    return W.add_(beta / len(C) * D @ C - alpha / len(A) * B @ A)",
        "W itself is changed",
    ),
    "lora-6": (
        "def conversation_labels(ids, turns, header, ignore=-100):\n    labels = []\n    for role, n in turns:\n"
        "        own = n - header if role == 'assistant' else 0\n"
        "        labels += [-100] * (n - own) + ids[len(labels):][n - own:n]\n    return labels",
        "whatever `ignore` is",
    ),
}


@pytest.fixture(scope="module")
def marker():
    made = Marker(batch.exercises_of("all")[1], 11, require(False), SHORT)
    yield made
    made.close()


@pytest.mark.parametrize("id", BROKEN)
def test_a_broken_promise_costs_and_is_named(id, marker):
    exercise, (source, said) = EXERCISES[id], BROKEN[id]
    space = {}
    exec(source, space)
    score = check(id, space[exercise.name])
    assert float(score) < exercise.points and said in score.message
    mark = marker._mark(id, LearnerAnswer(f"# EXERCISE: {id}\n{source}"))
    assert mark.points < exercise.points and said in mark.message, mark.message


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
    assert marker._mark("lora-2", LearnerAnswer(f"# EXERCISE: lora-2\n{source}")).points == 4
