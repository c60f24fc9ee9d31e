"""The exercises of lesson 01's second edition, which are not in the registry yet: marked as they will be."""

import pytest

from course_utils.exercises import check, checking, lesson_01
from course_utils.exercises.definitions import strip_solution

NEXT = {exercise.id: exercise for exercise in lesson_01.NEXT}
MISTAKES = [(e.id, m.function.__name__, m) for e in NEXT.values() for m in e.mistakes]


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(checking, "EXERCISES", checking.EXERCISES | NEXT)
    monkeypatch.setattr(checking, "_tries", checking.Counter())


@pytest.mark.parametrize("id", NEXT)
def test_the_solution_has_full_marks_and_the_stub_none(id):
    exercise = NEXT[id]
    space = {}
    exec(exercise.source(), space)
    assert check(id, space[exercise.name]).passed
    exec(strip_solution(exercise.source()), space)
    assert float(check(id, space[exercise.name])) == 0


@pytest.mark.parametrize(("id", "name", "mistake"), MISTAKES, ids=[f"{i}-{n}" for i, n, _ in MISTAKES])
def test_every_typical_mistake_is_recognised(id, name, mistake):
    for _ in range(5):
        score = check(id, mistake.function)
        assert float(score) < NEXT[id].points and mistake.diagnosis in score.message


@pytest.mark.parametrize(
    "answer", [None, "text", lambda *a: 1 / 0, lambda *a: float("nan"), lambda *a: {}, lambda *a: [[1]]]
)
@pytest.mark.parametrize("id", NEXT)
def test_no_answer_makes_the_check_raise(id, answer):
    assert float(check(id, answer)) == 0


@pytest.mark.parametrize("id", ["frame-8", "frame-6"])
def test_what_is_always_the_same_earns_nothing(id):
    import numpy as np

    for seed in range(10):
        asked = checking.CaseSet.of(NEXT[id], np.random.default_rng(seed))
        for value in asked.expected:
            assert checking.judge(NEXT[id], asked, [value] * len(asked.cases))[0] == 0


def test_the_plan_of_the_solution_is_the_cheapest_at_todays_prices():
    """New prices may make another plan the best: then the solution has to change with them."""
    assert lesson_01._run_plan(lesson_01.my_plan()) == pytest.approx(lesson_01.cheapest())


def test_the_challenge_is_not_won_by_the_first_idea():
    plans = [(m, p, s) for m in lesson_01.READS for p in lesson_01.FOUND for s in (True, False)]
    prices = [lesson_01.plan_dollars(*plan) for plan in plans if lesson_01.plan_quality(*plan) >= lesson_01.TARGET]
    bar = NEXT["frame-7"].challenge.bar
    assert 1 <= sum(price <= bar for price in prices) <= 4 < len(prices)
    cheaper = [plan for plan in plans if lesson_01.plan_dollars(*plan) < min(prices)]
    assert len(cheaper) > 5  # and all of them miss the target


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "gpt-4.1-mini"}, "takes no new tuning jobs from 2027-01-06"),
        ({"model": "gpt-2"}, "model must be one of the pilot"),
        ({"model": None}, "model must be one of the pilot"),
        ({"passages": True}, "passages must be"),
        ({"passages": 2}, "passages must be"),
        ({"passages": [1]}, "passages must be"),
        ({"schema": 1}, "schema must be"),
        ({"more": 1}, "exactly these keys"),
    ],
)
def test_a_plan_outside_the_rules_is_told_what_is_wrong(changed, said):
    plan = lesson_01.my_plan() | changed
    score = check("frame-7", lambda: plan)
    assert float(score) == 0 and said in score.message
