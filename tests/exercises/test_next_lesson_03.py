"""Exercises of lesson 03's second edition, which the registry does not have yet: solutions, mistakes and the challenge."""

import numpy as np
import pytest

from course_utils.exercises import checking, lesson_03

NEXT = {exercise.id: exercise for exercise in lesson_03.NEXT}
MISTAKES = [(e.id, m.function.__name__, m) for e in lesson_03.NEXT for m in e.mistakes]


def test_ids_are_different_and_the_challenge_is_among_them():
    assert len(NEXT) == len(lesson_03.NEXT)
    assert sum(exercise.challenge is not None for exercise in lesson_03.NEXT) == 1


@pytest.mark.parametrize("id", NEXT)
def test_every_solution_has_full_marks(id):
    for _ in range(5):
        assert checking._mark(NEXT[id], NEXT[id].solution)[0] == NEXT[id].points


@pytest.mark.parametrize(("id", "name", "mistake"), MISTAKES, ids=[f"{i}-{n}" for i, n, _ in MISTAKES])
def test_every_typical_mistake_is_recognised(id, name, mistake):
    for _ in range(5):
        points, message = checking._mark(NEXT[id], mistake.function)
        assert points < NEXT[id].points
        assert mistake.diagnosis in message


def test_a_plan_that_fits_a_t4_has_half_the_points():
    points, message = checking._mark(NEXT["qlora-7"], lesson_03._plan_with_float32_embeddings)
    assert points == NEXT["qlora-7"].points / 2 and "bar is 12" in message


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
    from course_utils.evidence import lesson_03 as evidence

    monkeypatch.setattr(evidence, "step_gb", lambda *a, **b: pytest.fail("it was estimated"))
    plan = lesson_03._plan(**changed)
    points, message = checking._mark(NEXT["qlora-7"], lambda: plan)
    assert points == 0 and said in message


@pytest.mark.parametrize("returned", [7, "plan", [], {}])
def test_what_is_no_plan_is_told_what_it_is(returned):
    assert "dict with exactly these keys" in checking._mark(NEXT["qlora-7"], lambda: returned)[1]


def test_the_given_function_of_the_bug_hunt_is_wrong_on_every_case():
    exercise = NEXT["qlora-6"]
    for arguments in exercise.cases(np.random.default_rng(0)):
        assert abs(float(lesson_03._error_as_written(*arguments)) - float(exercise.solution(*arguments))) > 1e-6


def test_the_quiz_explains_every_choice_and_its_right_answers_are_spread():
    from course_utils.exercises.quizzes import QUIZZES_NEXT

    places, longest = [], 0
    for question in QUIZZES_NEXT["03"]:
        right = [i for i, (_, is_right, _) in enumerate(question.choices) if is_right]
        assert len(right) == 1
        assert all(len(explanation) > 25 for _, _, explanation in question.choices)
        places += right
        longest += len(question.choices[right[0]][0]) == max(len(text) for text, _, _ in question.choices)
    assert {places.count(i) for i in range(3)} == {2}
    assert longest <= 2
