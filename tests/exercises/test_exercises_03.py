"""Lesson 03's challenge, beyond what holds for every exercise."""

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
        *((returned, "dict with exactly these keys") for returned in (7, "plan", [], {})),
    ],
)
def test_plans_outside_the_rules_are_not_estimated(changed, said, monkeypatch):
    from course_utils import memory

    monkeypatch.setattr(memory, "estimate", lambda *a, **b: pytest.fail("it was estimated"))
    plan = lesson_03._plan(**changed) if changed and isinstance(changed, dict) else changed
    points, message = checking._mark(EXERCISES["qlora-1"], lambda: plan)
    assert points == 0 and said in message
