"""A lesson's plan: one a tier, and small ones for who only wants to see all code run."""

import pytest

from course_utils import facts, memory, models, plans
from course_utils.errors import CourseError


def test_small_plans_keep_what_is_taught_and_shrink_what_takes_time(monkeypatch):
    whole = plans.plan("02", "t4")
    monkeypatch.setenv("COURSE_SMALL", "1")
    small = plans.plan("02", "t4")
    assert (small.fields, small.learning_rate, small.batch_size) == (whole.fields, whole.learning_rate, whole.batch_size)
    assert small.examples + small.more_examples < (whole.examples + whole.more_examples) / 10
    assert small.answer_tokens < whole.answer_tokens / 4 and small.asked < whole.asked / 10
    monkeypatch.setenv("COURSE_SMALL", "")
    assert plans.plan("02", "t4") == whole


def test_no_small_plan_is_larger_than_its_whole_one(monkeypatch):
    monkeypatch.setenv("COURSE_SMALL", "1")
    for lesson, tiers in plans.PLANS.items():
        for tier, whole in tiers.items():
            small = plans.plan(lesson, tier)
            assert small.examples + small.more_examples > 0
            for name in ("examples", "more_examples", "asked", "looked_at", "answer_tokens"):
                assert getattr(small, name) <= getattr(whole, name), (lesson, tier, name)


def test_every_tier_has_all_settings():
    """A missing one would be an error on that machine only."""
    for tier, row in facts.table("tiers").items():
        missing = [lesson for lesson, tiers in plans.PLANS.items() if tier not in tiers]
        assert not missing, f"{tier}: no plan for lessons {', '.join(missing)}"
        assert row.get("rates", {}).keys() == {"supervised", "dpo"}, f"{tier}: rates of supervised and dpo"
        assert models.TIERS[tier].name.rpartition("/")[2].removesuffix("-Instruct") in memory.ARCHITECTURES


def test_a_lesson_without_a_plan_says_which_have_one():
    with pytest.raises(CourseError, match="lesson '07' has no plan; there are plans for 01, 02, 03, 04"):
        plans.plan("07")
