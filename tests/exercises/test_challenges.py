"""Challenges are marked by running what an answer chooses: their bars, their rules, and that a run is remembered."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from course_utils import memory
from course_utils.data_prep import load_task
from course_utils.exercises import (
    EXERCISES,
    check,
    checking,
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_04,
    lesson_05,
    lesson_06,
)
from course_utils.exercises.definitions import remembered

NO_NUMBER = float("nan")
KEYS = "exactly these keys"
# Exercise → what an answer returned, and what it is told; the settings that change make the rest.
OUTSIDE = {
    "frame-4": [
        *((lesson_01.my_plan() | changed, said) for changed, said in [
            ({"model": "gpt-4.1-mini"}, "takes no new tuning jobs from 2027-01-06"),
            ({"model": "gpt-2"}, "model must be one of those in the pilot"),
            ({"model": None}, "model must be one of those in the pilot"),
            *(({"passages": passages}, "passages must be") for passages in (True, 2, [1], NO_NUMBER)),
            ({"schema": 1}, "schema must be"),
            ({"more": 1}, KEYS),
        ]),
    ],
    "lora-4": [
        *((lesson_02._settings(**changed), said) for changed, said in [
            ({"rank": 0}, "rank must be a number from 1 to 64"),
            ({"rank": True}, "rank must be a number"),
            ({"learning_rate": NO_NUMBER}, "learning_rate must be a number"),
            ({"learning_rate": "2e-3"}, "learning_rate must be a number"),
            ({"schedule": ["linear"]}, "schedule must be"),
            *(({"target_modules": names}, "target_modules must be") for names in ([], [["q_proj"]], ["embed_tokens"])),
            ({"max_steps": 400}, KEYS),
        ]),
        *((returned, KEYS) for returned in (7, "settings", [], {})),
    ],
    "qlora-1": [
        *((lesson_03._plan(**changed), said) for changed, said in [
            ({"method": "full"}, "method must be one of"),
            ({"checkpointing": 1}, "checkpointing must be one of"),
            ({"embeddings": ["bfloat16"]}, "embeddings must be one of"),
            ({"batch_size": 3}, "must be 16; yours is 48"),
            ({"batch_size": True}, "whole numbers above 0"),
            ({"batch_size": -1, "accumulation": -16}, "whole numbers above 0"),
            ({"length": 64}, KEYS),
        ]),
        *((returned, KEYS) for returned in (7, "plan", [], {})),
    ],
    "align-5": [
        (7, KEYS),
        ({"beta": 1.0}, KEYS),
        *(({"beta": 1.0, "learning_rate": 1.0, "steps": 5} | changed, said) for changed, said in [
            ({"beta": True}, "beta must be a number"),
            ({"beta": NO_NUMBER}, "beta must be a number"),
            ({"learning_rate": 50}, "learning_rate must be a number"),
            ({"steps": 2.5}, "steps must be a whole number"),
        ]),
    ],
    "data-5": [
        (7, "list of pairs"),
        ("rows", "list of pairs"),
        ([1, 2], "must be a pair"),
        ([(0, "delivery"), (0, "delivery")], "occurs twice"),
        *(([(number, "delivery")], "Row numbers go from 0") for number in (-1, True, 10**6)),
        ([(0, "other")], "must be one of"),
        ([(0, ["delivery"])], "must be one of"),
        ([(0, "delivery")], "at least 50 rows"),
        ([], "at least 50 rows"),
    ],
    "api-5": [
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
}  # fmt: skip
RUN_BY = {"lora-4": (lesson_02, "_challenge_loss"), "qlora-1": (memory, "estimate"), "align-5": (lesson_04, "little_policy")}


@pytest.mark.parametrize(("id", "place"), [(id, place) for id, answers in OUTSIDE.items() for place in range(len(answers))])
def test_what_is_outside_the_rules_is_told_so_and_not_run(id, place, monkeypatch):
    returned, said = OUTSIDE[id][place]
    if id in RUN_BY:
        monkeypatch.setattr(*RUN_BY[id], lambda *_, **__: pytest.fail("it was run"))
    points, message = checking._mark(EXERCISES[id], lambda *_: returned)
    assert points == 0 and said in message


def test_every_challenge_has_rules():
    assert {id for id, exercise in EXERCISES.items() if exercise.challenge} == set(OUTSIDE)


@pytest.mark.parametrize(
    ("id", "answer"),
    [
        ("qlora-1", lesson_03._plan_with_float32_embeddings),  # fits a T4
        ("data-5", lesson_05._without_shared),  # one rule alone
    ],
)
def test_half_of_the_way_has_half_of_the_points(id, answer):
    points, message = checking._mark(EXERCISES[id], answer)
    assert points == EXERCISES[id].points / 2 and "bar is" in message


# -- 01: the cheapest plan --------------------------------------------------------------------------------------------------


def test_the_plan_of_the_solution_is_the_cheapest_at_todays_prices():
    """New prices may make another plan the best: then the solution has to change with them."""
    assert lesson_01._run_plan(lesson_01.my_plan()) == pytest.approx(lesson_01.cheapest())


def test_the_cheapest_plan_is_not_won_by_the_first_idea():
    plans = [(m, p, s) for m in lesson_01.READS for p in lesson_01.FOUND for s in (True, False)]
    prices = [lesson_01.plan_dollars(*plan) for plan in plans if lesson_01.plan_quality(*plan) >= lesson_01.TARGET]
    bar = EXERCISES["frame-4"].challenge.bar
    assert 1 <= sum(price <= bar for price in prices) <= 4 < len(prices)
    cheaper = [plan for plan in plans if lesson_01.plan_dollars(*plan) < min(prices)]
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


# -- 02: really trained, and remembered -------------------------------------------------------------------------------------


@pytest.fixture
def _formula_for_training():
    """Overrides the formula of conftest.py: here it is trained."""


@pytest.mark.model
@pytest.mark.slow
def test_the_solution_reaches_the_bar_with_room_to_spare():
    """Processors round differently: what just reaches the bar on one misses it on another."""
    assert check("lora-4", EXERCISES["lora-4"].solution).passed
    assert lesson_02._run_settings(lesson_02.my_settings()) < 0.9 * lesson_02.BAR


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


# -- 04: the little policy --------------------------------------------------------------------------------------------------


def test_the_bar_is_above_what_a_small_beta_reaches_and_below_what_can_be_reached():
    def best(beta):
        runs = [lesson_04.little_policy(beta, 1.0, steps) for steps in range(4, 80, 4)]
        return max(wins for wins, kl in runs if kl <= lesson_04.BUDGET)

    assert best(0.05) < 1 - lesson_04.LOST < best(0.5)
    wins, kl = lesson_04.little_policy(1.0, 1e-9, 1)  # an untrained policy ties with its reference
    assert wins == pytest.approx(0.5) and kl == pytest.approx(0, abs=1e-6)


# -- 05: which rows to train on ---------------------------------------------------------------------------------------------


def test_the_rule_is_that_of_the_record(monkeypatch):
    """The probabilities that the record's function gets, given to the exercise's solution."""
    import sklearn.model_selection

    from benchmarks import wrong_labels

    rows, seen = [], []
    for message, answer in lesson_05._challenge_rows():
        if any(f'"category": "{c}"' in answer for c in lesson_05.CATEGORIES):
            rows.append({"messages": [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]})
    rows = [row for row in rows if row["messages"][1]["content"].endswith("}")][:600]
    original = sklearn.model_selection.cross_val_predict
    monkeypatch.setattr(
        sklearn.model_selection, "cross_val_predict", lambda *a, **o: seen.append(original(*a, **o)) or seen[-1]
    )
    checked = wrong_labels.check_labels(rows, "category")
    given = np.searchsorted(checked.labels, checked.given)
    assert lesson_05.accused_rows(given, seen[0]) == sorted(checked.by_published_rule) != []


def test_training_labels_have_room_to_spare_and_every_record_misses():
    rows = [list(row) for row in lesson_05._challenge_rows()]
    assert lesson_05._run_labels(lesson_05.training_labels(rows)) < lesson_05.CHALLENGE_BAR - 0.01
    assert lesson_05._run_labels(lesson_05._every_record(rows)) > 0.5
    messages = {message for message, _ in lesson_05._challenge_rows()}
    assert not messages & {conversation[1]["content"] for conversation in load_task("support_tickets").test}


# -- 06: twelve jobs for a dollar -------------------------------------------------------------------------------------------


def test_a_dollars_jobs_have_room_to_spare_and_the_obvious_plans_miss():
    rows, prices = [list(row) for row in lesson_06._dollar_rows()], lesson_06._dollar_prices()
    assert lesson_06._run_dollar(lesson_06.twelve_jobs(rows, prices)) < lesson_06.CHALLENGE_BAR - 0.01
    model = lesson_06._last_model(prices)
    most = 5  # passes over everything that a dollar buys
    assert lesson_06._run_dollar((model, most, list(range(len(rows))))) > 0.5
    with pytest.raises(ValueError, match="you have"):
        lesson_06._run_dollar((model, most + 1, list(range(len(rows)))))
    assert len(rows) == 700 and {price["no new jobs from"] for price in prices.values()} == {"2027-01-06", None}


def test_what_is_marked_is_not_among_the_rows():
    task = load_task("support_tickets", ["category", "escalation"])
    asked = [c[1]["content"] for c in (*task.validation, *task.test, *task.train[400:])]
    assert len(asked) == 608 and not {message for message, _, _ in lesson_06._dollar_rows()} & set(asked)
