"""A challenge is marked by running its settings: really, here."""

import pytest

from course_utils.exercises import EXERCISES, check, lesson_02

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def _next_edition(monkeypatch):
    """The exercises of the next edition count here already."""
    for exercise in lesson_02.NEXT:
        monkeypatch.setitem(EXERCISES, exercise.id, exercise)


def test_solutions_and_typical_mistakes_of_the_other_new_exercises():
    for exercise in lesson_02.NEXT:
        if not exercise.challenge:
            assert check(exercise.id, exercise.solution).passed
            for mistake in exercise.mistakes:
                assert mistake.diagnosis in check(exercise.id, mistake.function).message


@pytest.fixture
def _formula_for_training():
    """Overrides the formula of conftest.py: these tests train."""


@pytest.mark.slow
def test_the_solution_reaches_the_bar_and_the_rate_of_full_fine_tuning_does_not():
    exercise = EXERCISES["lora-7"]
    good = check("lora-7", exercise.solution)
    assert good.passed, str(good)
    poor = check("lora-7", lesson_02._rate_of_full_fine_tuning)
    assert float(poor) == 0
    assert lesson_02.TOO_SMALL in poor.message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rank": 0}, "rank must be a number from 1 to 64"),
        ({"rank": True}, "rank must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number"),
        ({"learning_rate": "2e-3"}, "learning_rate must be a number"),
        ({"schedule": ["linear"]}, "schedule must be"),
        ({"target_modules": []}, "target_modules must be"),
        ({"target_modules": [["q_proj"]]}, "target_modules must be"),
        ({"target_modules": ["embed_tokens"]}, "target_modules must be"),
        ({"max_steps": 400}, "exactly these keys"),
    ],
)
def test_settings_outside_the_rules_are_not_run(changed, said, monkeypatch):
    monkeypatch.setattr(lesson_02, "_challenge_loss", lambda **_: pytest.fail("it was run"))
    score = check("lora-7", lambda: lesson_02._settings(**changed))
    assert float(score) == 0 and said in score.message


@pytest.mark.parametrize("returned", [7, "settings", [], {}])
def test_what_is_no_settings_is_told_what_they_are(returned):
    assert "dict with exactly these keys" in check("lora-7", lambda: returned).message


def test_the_same_settings_are_run_once(monkeypatch):
    runs = []
    monkeypatch.setattr(lesson_02, "_challenge_loss", lesson_02.lru_cache(lambda **settings: runs.append(settings) or 0.01))
    first = check("lora-7", lambda: lesson_02._settings(rank=8))
    again = check("lora-7", lambda: lesson_02._settings(rank=8.0))
    assert first.passed and again.passed
    assert len(runs) == 1
