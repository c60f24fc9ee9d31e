"""Lesson 01's challenge, the cheapest plan: its solution is the best, its bar is not won at once, its rules are told."""

import numpy as np
import pytest
import torch

from course_utils.exercises import EXERCISES, check, lesson_01

PLANS = [(m, p, s) for m in lesson_01.READS for p in lesson_01.FOUND for s in (True, False)]


def test_the_plan_of_the_solution_is_the_cheapest_at_todays_prices():
    """New prices may make another plan the best: then the solution has to change with them."""
    assert lesson_01._run_plan(lesson_01.my_plan()) == pytest.approx(lesson_01.cheapest())


def test_the_challenge_is_not_won_by_the_first_idea():
    prices = [lesson_01.plan_dollars(*plan) for plan in PLANS if lesson_01.plan_quality(*plan) >= lesson_01.TARGET]
    bar = EXERCISES["frame-4"].challenge.bar
    assert 1 <= sum(price <= bar for price in prices) <= 4 < len(prices)
    cheaper = [plan for plan in PLANS if lesson_01.plan_dollars(*plan) < min(prices)]
    assert len(cheaper) > 5  # and all of them miss the target


def test_everything_that_a_plan_costs_is_in_its_statement():
    """A reader computes the price by hand from the statement and the lesson's prices."""
    statement = EXERCISES["frame-4"].statement
    for number in (*lesson_01.TOKENS.values(), *lesson_01.HOURS.values(), lesson_01.EXAMPLES, lesson_01.REQUESTS):
        assert f"{number:,}" in statement
    assert all(name in statement for name in lesson_01.READS)


@pytest.mark.parametrize("passages", [np.int64(3), np.array(3), torch.tensor(3), 3.0])
def test_a_plan_counts_in_every_form_that_says_the_same(passages):
    plan = lesson_01.my_plan() | {"passages": passages, "schema": np.bool_(True), "model": np.str_("qwen3-8b")}
    assert check("frame-4", lambda: plan).passed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "gpt-4.1-mini"}, "takes no new tuning jobs from 2027-01-06"),
        ({"model": "gpt-2"}, "model must be one of the pilot"),
        ({"model": None}, "model must be one of the pilot"),
        ({"passages": True}, "passages must be"),
        ({"passages": 2}, "passages must be"),
        ({"passages": [1]}, "passages must be"),
        ({"passages": float("nan")}, "passages must be"),
        ({"schema": 1}, "schema must be"),
        ({"more": 1}, "exactly these keys"),
    ],
)
def test_a_plan_outside_the_rules_is_told_what_is_wrong(changed, said):
    plan = lesson_01.my_plan() | changed
    score = check("frame-4", lambda: plan)
    assert float(score) == 0 and said in score.message
