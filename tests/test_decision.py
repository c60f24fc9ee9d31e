"""The helper against cases that were written from the rules by somebody who had not seen it (tests/decisions.jsonl)."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from course_utils import costs
from course_utils.decision import APPROACHES, DEFAULTS, FREQUENCIES, QUESTIONS, decide, volume_threshold
from course_utils.errors import CourseError

CASES = [json.loads(line) for line in (Path(__file__).parent / "decisions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_written_case(case):
    found = decide(**case["answers"])
    assert found.approach in case["approach"], case["why"]
    assert found.host == case["host"]
    assert found.reasons and found.next_step


def test_the_cases_are_many_and_decide_something():
    assert len(CASES) >= 30
    only = Counter(case["approach"][0] for case in CASES if len(case["approach"]) == 1)
    assert sum(only.values()) >= 30 and set(only) == set(APPROACHES) and min(only.values()) >= 3
    for approach in APPROACHES:  # always the same answer would be wrong in most
        assert sum(approach in case["approach"] for case in CASES) < len(CASES) / 2


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_what_would_change_it_is_all_that_would_and_the_nearest(case):
    answers, dear = DEFAULTS | case["answers"], volume_threshold(own_machines=case["answers"]["own_machines"])
    found = decide(**answers)
    other = lambda name, value: decide(**answers | {name: value}).approach
    told = {name: [(v, a) for n, v, a in found.would_change if n == name] for name in QUESTIONS}
    for name, values in (
        ("gap", ("knowledge", "behaviour", "both", "form")),
        ("latency", ("relaxed", "tight")),
        ("own_machines", (False, True)),
        ("past_answers_tried", (False, True)),
    ):
        flips = [(value, other(name, value)) for value in values if other(name, value) != found.approach]
        assert sorted(told[name], key=str) == sorted(flips, key=str)
    for name in ("facts_change", "behaviour_changes"):
        away = lambda value, name=name: abs(FREQUENCIES.index(value) - FREQUENCIES.index(answers[name]))
        flips = [value for value in FREQUENCIES if other(name, value) != found.approach]
        assert bool(told[name]) == bool(flips)
        assert all(away(value) == min(map(away, flips)) for value, _ in told[name])
    grids = {
        "prompt_reaches": [step / 100 for step in range(101)],
        "larger_reaches": [step / 100 for step in range(101)],
        "examples": range(0, 300),
        "requests_a_day": [n for n in (0, 1, dear - 1, dear, 10 * dear, 10**8) if n >= 0],
    }
    for name, grid in grids.items():
        flips = [value for value in grid if other(name, value) != found.approach]
        assert bool(told[name]) == bool(flips), name
        if flips and answers[name] is not None:
            assert told[name][0][0] == min(flips, key=lambda value, name=name: abs(value - answers[name]))


def test_reasons_fit_the_approach_and_each_other():
    """All combinations of a grid of answers: nothing is recommended that a reason speaks against."""
    grid = itertools.product(
        ("knowledge", "behaviour", "both", "form"), (None, 0.4, 0.8496, 0.85), ("rarely", "daily"),
        ("rarely", "monthly", "weekly"), (0, 99, 100), (100, 10**7), ("relaxed", "tight"), (False, True),
        (None, 0.8, 0.9), (False, True), (0, 4000),
    )  # fmt: skip
    seen = Counter()
    for answers in grid:
        found = decide(*answers)
        gap, reaches, _, moves, examples, _, latency, _, larger, tried, text = answers
        why, enough = " ".join(found.reasons), reaches is not None and reaches >= 0.85
        seen[found.approach] += 1
        assert ("rag" in found.approach) == ("looked up at the time" in why)
        assert ("fine-tune" in found.approach) <= ("which training changes" in why)
        assert not ("fine-tune" in found.approach and (examples < 100 or moves in ("weekly", "daily") or gap == "knowledge"))
        assert not ("fine-tune" in found.approach and not enough and not tried)
        assert found.approach != "larger model" or (larger == 0.9 and latency == "relaxed" and not enough)
        assert found.approach != "schema" or gap == "form"
        assert found.approach != "whole text" or (text and gap in ("knowledge", "both"))
        assert not ("length of the prompt counts" in why and "show the best of them in the prompt" in why)
        assert "only 85 %" not in why and not (examples == 0 and "best of them" in why)
        if reaches is not None and reaches < 0.85 and latency == "tight" and "fine-tune" in found.approach:
            assert "latency is tight" in why
        if found.approach == "fine-tune" and reaches >= 0.85:
            assert "let the host cache it" in found.next_step
        assert not any(change.startswith("with -") for change in found.changes)
    assert set(seen) == set(APPROACHES)


def test_the_volume_that_is_dear_follows_from_the_assumptions():
    cheap = costs.Assumptions(wage=1)
    volume = volume_threshold(cheap)
    assert volume < volume_threshold()
    busy = {"gap": "behaviour", "prompt_reaches": 0.9, "examples": 500, "requests_a_day": volume}
    assert decide(**busy).approach == "prompt"
    assert decide(**busy, assumptions=cheap).approach == "fine-tune"
    free = costs.Assumptions(hours_tuning=0, hours_renewal=0, trainings=0)
    assert volume_threshold(free) == 1 and decide(**busy | {"requests_a_day": 0}, assumptions=free).approach == "prompt"
    never = costs.Assumptions(frontier="gpt-6-luna", message=5000, instructions=1, completion=1)
    assert volume_threshold(never) is None
    assert decide(**busy | {"requests_a_day": 10**9}, assumptions=never).approach == "prompt"


def test_a_model_whose_throughput_is_not_known_can_be_assumed():
    tuned_elsewhere = costs.Assumptions(small="gpt-4.1-mini")
    assert volume_threshold(tuned_elsewhere, own_machines=True) is None
    assert (
        decide("behaviour", 0.5, examples=500, past_answers_tried=True, assumptions=tuned_elsewhere).approach == "fine-tune"
    )


def test_on_ones_own_machines_a_gpu_is_dear_and_no_token():
    taken = volume_threshold(own_machines=True)
    assert taken > 10 * volume_threshold()
    busy = {"gap": "behaviour", "prompt_reaches": 0.9, "examples": 500, "own_machines": True}
    assert decide(**busy, requests_a_day=taken - 1).approach == "prompt"
    found = decide(**busy, requests_a_day=taken)
    assert found.approach == "fine-tune" and "more than one GPU takes" in found.reasons[0]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"gap": "skill"}, "gap='skill': choose among 'knowledge', 'behaviour', 'both'"),
        ({"gap": "both", "prompt_reaches": 70}, "prompt_reaches=70: a share between 0 and 1"),
        ({"gap": "both", "prompt_reaches": float("nan")}, "prompt_reaches=nan"),
        ({"gap": "both", "examples": -1}, "examples=-1: a count"),
        ({"gap": "both", "examples": 99.9}, "examples=99.9: a count, a whole number"),
        ({"gap": "both", "requests_a_day": float("inf")}, "requests_a_day=inf"),
        ({"gap": "both", "requests_a_day": "many"}, "requests_a_day='many'"),
        ({"gap": "both", "own_machines": "yes"}, "own_machines='yes': True or False"),
        ({"gap": "both", "latency": "low"}, "latency='low': choose among"),
    ],
)
def test_an_answer_that_is_none_is_named(answers, said):
    with pytest.raises(CourseError, match=said):
        decide(**answers)


def test_numbers_may_be_numpys():
    import numpy as np

    found = decide("behaviour", np.float32(0.5), examples=np.int64(300), own_machines=np.True_, past_answers_tried=True)
    assert (found.approach, found.host) == ("fine-tune", "own")
    assert "good examples: 300" in str(found) and "data stay here: yes" in found._repr_html_()


def test_it_reads_as_text_and_as_html():
    found = decide("both", 0.4, "daily", examples=50, own_machines=True)
    assert str(found).startswith("Recommendation: rag (on your own machines)")
    assert "<li>the prompt gets only 40 % right</li>" in found._repr_html_()
    assert set(found.answers) == set(QUESTIONS)
