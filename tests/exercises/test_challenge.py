"""A challenge is marked by running its settings: really, here."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from course_utils.exercises import EXERCISES, check, lesson_02
from course_utils.exercises.definitions import remembered

pytestmark = pytest.mark.model


@pytest.fixture
def _formula_for_training():
    """Overrides the formula of conftest.py: these tests train."""


@pytest.mark.slow
def test_the_solution_reaches_the_bar_with_room_to_spare():
    """Processors round differently: what just reaches the bar on one misses it on another."""
    assert check("lora-4", EXERCISES["lora-4"].solution).passed
    assert lesson_02._run_settings(lesson_02.my_settings()) < 0.9 * lesson_02.BAR


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
        *((returned, "dict with exactly these keys") for returned in (7, "settings", [], {})),
    ],
)
def test_settings_outside_the_rules_are_not_run(changed, said, monkeypatch):
    monkeypatch.setattr(lesson_02, "_challenge_loss", lambda **_: pytest.fail("it was run"))
    settings = lesson_02._settings(**changed) if changed and isinstance(changed, dict) else changed
    score = check("lora-4", lambda: settings)
    assert float(score) == 0 and said in score.message


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Arguments with which a remembered function was really computed; its files lie in a folder of the test's own."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    return []


def computed(runs, **conditions):
    """As a new process would have it: nothing in memory, only the files."""
    return remembered("test", **conditions)(lambda **settings: runs.append(settings) or 0.01)


def test_the_same_settings_are_run_once_on_a_machine(runs):
    assert computed(runs)(rank=8) == computed(runs)(rank=8) == 0.01
    assert runs == [{"rank": 8}]
    computed(runs)(rank=9)
    computed(runs, steps=50)(rank=8)
    assert len(runs) == 3


def test_runs_of_several_threads_wait_for_each_other(runs):
    """Grading marks in threads; two models loaded at once end in "Cannot copy out of meta tensor"."""
    inside, most = [], []

    def slow(**settings):
        inside.append(settings)
        most.append(len(inside))
        time.sleep(0.05)
        inside.remove(settings)
        return 0.01

    run = remembered("test")(slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda rank: run(rank=rank % 3), range(6))) == [0.01] * 6
    assert max(most) == 1 and len(most) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"result": "x"}', '{"result": null}'])
def test_a_damaged_file_is_computed_again(content, runs, tmp_path):
    computed(runs)(rank=8)
    (file,) = (tmp_path / "challenges").iterdir()
    file.write_text(content)
    assert computed(runs)(rank=8) == 0.01
    assert len(runs) == 2


def test_numbers_that_are_equal_are_the_same_settings(monkeypatch):
    seen = []
    monkeypatch.setattr(lesson_02, "_challenge_loss", lambda **settings: seen.append(settings) or 0.01)
    for rank in (8, 8.0):
        settings = lesson_02._settings(rank=rank)
        assert check("lora-4", lambda settings=settings: settings).passed
    assert seen[0] == seen[1] and type(seen[0]["rank"]) is type(seen[1]["rank"]) is int
