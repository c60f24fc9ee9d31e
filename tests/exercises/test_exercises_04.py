"""Lesson 04's exercises: its challenge and bug hunts, its quiz, and its answers as they stand in the notebook."""

import numpy as np
import pytest
from support import solution_lines

from course_utils.exercises import checking, lesson_04
from course_utils.exercises.definitions import strip_solution

EXERCISES = {exercise.id: exercise for exercise in lesson_04.EXERCISES}
MISTAKES = [(e.id, m.function.__name__, m) for e in lesson_04.EXERCISES for m in e.mistakes]


def test_they_are_numbered_in_order_and_one_is_a_challenge():
    assert list(EXERCISES) == [f"align-{number}" for number in range(1, len(lesson_04.EXERCISES) + 1)]
    assert sum(exercise.challenge is not None for exercise in lesson_04.EXERCISES) == 1


@pytest.mark.parametrize("id", EXERCISES)
def test_the_solution_as_it_stands_in_the_notebook_gets_full_marks(id):
    import torch

    exercise, space = EXERCISES[id], {"torch": torch}
    exec(exercise.source(), space)
    for _ in range(3):
        assert checking._mark(exercise, space[exercise.name])[0] == exercise.points


@pytest.mark.parametrize("id", EXERCISES)
def test_the_stub_shows_nothing_of_the_solution(id):
    stub = strip_solution(EXERCISES[id].source())
    assert "# YOUR CODE HERE" in stub
    assert not any(line in stub for line in solution_lines(EXERCISES[id].source()))


@pytest.mark.parametrize(("id", "name", "mistake"), MISTAKES, ids=[f"{i}-{n}" for i, n, _ in MISTAKES])
def test_every_typical_mistake_is_recognised(id, name, mistake):
    for _ in range(3):
        points, message = checking._mark(EXERCISES[id], mistake.function)
        assert points < EXERCISES[id].points
        assert mistake.diagnosis in message


def test_diagnoses_differ():
    for exercise in EXERCISES.values():
        assert len({m.diagnosis for m in exercise.mistakes}) == len(exercise.mistakes) >= 3


@pytest.mark.parametrize("id", EXERCISES)
def test_what_is_always_the_same_earns_nothing(id):
    for seed in range(3):
        asked = checking.CaseSet.of(EXERCISES[id], np.random.default_rng(seed))
        for value in [*asked.expected, True, 0]:
            assert checking.judge(EXERCISES[id], asked, [value] * len(asked.cases))[0] == 0


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
    points, message = checking._mark(EXERCISES["align-8"], lambda: returned)
    assert points == 0 and said in message


def test_the_bar_is_above_what_a_small_beta_reaches_and_below_what_can_be_reached():
    def best(beta):
        runs = [lesson_04.little_policy(beta, 1.0, steps) for steps in range(4, 80, 4)]
        return max(wins for wins, kl in runs if kl <= lesson_04.BUDGET)

    assert best(0.05) < 1 - lesson_04.LOST < best(0.5)


def test_an_untrained_policy_ties_with_its_reference():
    wins, kl = lesson_04.little_policy(1.0, 1e-9, 1)
    assert wins == pytest.approx(0.5) and kl == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("id", ["align-1", "align-3"])
def test_the_given_function_of_a_bug_hunt_is_wrong_on_every_case(id):
    exercise = EXERCISES[id]
    wrong = exercise.mistakes[0].function
    for arguments in exercise.cases(np.random.default_rng(0)):
        assert (wrong(*arguments) - exercise.solution(*arguments)).abs().max() > 1e-6
