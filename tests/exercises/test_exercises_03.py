"""Lesson 03's challenge and bug hunt, beyond what holds for every exercise."""

import numpy as np
import pytest

from course_utils.exercises import EXERCISES, checking, lesson_03


def test_a_plan_that_fits_a_t4_has_half_the_points():
    points, message = checking._mark(EXERCISES["qlora-1"], lesson_03._plan_with_float32_embeddings)
    assert points == EXERCISES["qlora-1"].points / 2 and "bar is 12" in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"method": "full"}, "method must be one of"),
        ({"checkpointing": 1}, "checkpointing must be one of"),
        ({"embeddings": ["bfloat16"]}, "embeddings must be one of"),
        ({"batch_size": 3}, "must be 16; yours is 48"),
        ({"batch_size": True}, "whole numbers above 0"),
        ({"batch_size": -1, "accumulation": -16}, "whole numbers above 0"),
        ({"length": 64}, "exactly these keys"),
    ],
)
def test_plans_outside_the_rules_are_not_estimated(changed, said, monkeypatch):
    from course_utils import memory

    monkeypatch.setattr(memory, "estimate", lambda *a, **b: pytest.fail("it was estimated"))
    plan = lesson_03._plan(**changed)
    points, message = checking._mark(EXERCISES["qlora-1"], lambda: plan)
    assert points == 0 and said in message


@pytest.mark.parametrize("returned", [7, "plan", [], {}])
def test_what_is_no_plan_is_told_what_it_is(returned):
    assert "dict with exactly these keys" in checking._mark(EXERCISES["qlora-1"], lambda: returned)[1]


def test_the_given_function_of_the_bug_hunt_is_wrong_on_every_case():
    exercise = EXERCISES["qlora-5"]
    for arguments in exercise.cases(np.random.default_rng(0)):
        assert abs(float(lesson_03._error_as_written(*arguments)) - float(exercise.solution(*arguments))) > 1e-6
