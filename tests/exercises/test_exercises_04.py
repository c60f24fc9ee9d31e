"""Lesson 04's challenge, beyond what holds for every exercise."""

import pytest

from course_utils.exercises import checking, lesson_04

EXERCISES = {exercise.id: exercise for exercise in lesson_04.EXERCISES}


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (7, "exactly these keys"),
        ({"beta": 1.0}, "exactly these keys"),
        ({"beta": True, "learning_rate": 1.0, "steps": 5}, "beta must be a number"),
        ({"beta": float("nan"), "learning_rate": 1.0, "steps": 5}, "beta must be a number"),
        ({"beta": 1.0, "learning_rate": 50, "steps": 5}, "learning_rate must be a number"),
        ({"beta": 1.0, "learning_rate": 1.0, "steps": 2.5}, "steps must be a whole number"),
    ],
)
def test_settings_outside_the_rules_are_not_run(returned, said, monkeypatch):
    monkeypatch.setattr(lesson_04, "little_policy", lambda *a: pytest.fail("it was run"))
    points, message = checking._mark(EXERCISES["align-5"], lambda: returned)
    assert points == 0 and said in message


def test_the_bar_is_above_what_a_small_beta_reaches_and_below_what_can_be_reached():
    def best(beta):
        runs = [lesson_04.little_policy(beta, 1.0, steps) for steps in range(4, 80, 4)]
        return max(wins for wins, kl in runs if kl <= lesson_04.BUDGET)

    assert best(0.05) < 1 - lesson_04.LOST < best(0.5)


def test_an_untrained_policy_ties_with_its_reference():
    wins, kl = lesson_04.little_policy(1.0, 1e-9, 1)
    assert wins == pytest.approx(0.5) and kl == pytest.approx(0, abs=1e-6)
