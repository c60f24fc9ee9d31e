"""Lesson 06's rows as a host takes them, and the challenge, beyond what holds for every exercise."""

import json
from fractions import Fraction

import numpy as np
import pytest

from course_utils.exercises import EXERCISES, checking, lesson_06

CHALLENGE = EXERCISES["api-5"]


def test_weights_are_what_a_host_takes(tmp_path):
    from course_utils.data_prep.validation import validate

    cases = [case for seed in range(3) for case in EXERCISES["api-2"].cases(np.random.default_rng(seed))]
    rows = [{"messages": found} for found in (lesson_06.with_weights(*case) for case in cases) if found]
    rows = [row for row in rows if row["messages"][-1]["role"] == "assistant"]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert len(rows) >= 10
    assert [str(f) for f in validate(file, "chat", "openai").findings if f.severity == "error"] == []


@pytest.mark.parametrize("seed", range(20))
def test_in_one_case_the_training_is_paid_for_exactly(seed):
    """There the smallest number of requests after which the tuned model has cost less is one more."""
    training, short, long, answer, tuned, untuned = lesson_06._exactly_paid(np.random.default_rng(seed))
    saved = (Fraction(long - 2 * short) / 2 - 2 * answer) / 10**6  # untuned tokens cost half as much
    assert (tuned, untuned) == ((1.0, 4.0), (0.5, 2.0)) and (Fraction(str(training)) / saved).denominator == 1
    assert (
        lesson_06.requests_until_paid(training, short, long, answer, tuned, untuned) == Fraction(str(training)) / saved + 1
    )


def test_the_challenge_has_room_to_spare_and_the_obvious_plans_miss():
    rows, prices = [list(row) for row in lesson_06._dollar_rows()], lesson_06._dollar_prices()
    assert lesson_06._run_dollar(lesson_06.twelve_jobs(rows, prices)) < lesson_06.CHALLENGE_BAR - 0.01
    model = lesson_06._last_model(prices)
    most = 5  # passes over everything that a dollar buys
    assert lesson_06._run_dollar((model, most, list(range(len(rows))))) > 0.5
    with pytest.raises(ValueError, match="you have"):
        lesson_06._run_dollar((model, most + 1, list(range(len(rows)))))
    assert len(rows) == 700 and {price["no new jobs from"] for price in prices.values()} == {"2027-01-06", None}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "Return three things"),
        (("gpt-9", 1, []), "The model must be one of"),
        (("gpt-4o-mini", 1, [0]), "takes no new jobs from 2027-01-06"),
        (("qwen3-8b", 0, [0]), "Epochs are a whole number"),
        (("qwen3-8b", True, [0]), "Epochs are a whole number"),
        (("qwen3-8b", 1, "rows"), "The rows are a list"),
        (("qwen3-8b", 1, [10**6]), "Row numbers go from 0"),
        (("qwen3-8b", 1, [0] * 20), "occurs twice"),
        (("qwen3-8b", 1, [0]), "at least 10 rows; you chose 1."),
        (("qwen3-8b", 50, list(range(700))), "Twelve such jobs cost"),
    ],
)
def test_plans_outside_the_rules_are_told_what_is_wrong(value, said):
    points, message = checking._mark(CHALLENGE, lambda rows, prices: value)
    assert points == 0 and said in message


def test_what_is_marked_is_not_among_the_rows():
    from course_utils.data_prep import load_task

    task = load_task("support_tickets", ["category", "escalation"])
    asked = [c[1]["content"] for c in (*task.validation, *task.test, *task.train[400:])]
    assert len(asked) == 608 and not {message for message, _, _ in lesson_06._dollar_rows()} & set(asked)
