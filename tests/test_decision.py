"""The helper against cases that were written from the rules by somebody who had not seen it (tests/decisions.jsonl)."""

import json
from collections import Counter
from pathlib import Path

import pytest

from course_utils.decision import APPROACHES, QUESTIONS, decide, volume_threshold
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
    assert sum(only.values()) >= 30 and set(only) == set(APPROACHES) and min(only.values()) >= 5
    for approach in APPROACHES:  # always the same answer would be wrong in most
        assert sum(approach in case["approach"] for case in CASES) < len(CASES) / 2


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_what_would_change_it_does(case):
    found = decide(**case["answers"])
    for name, value, approach in found.would_change:
        assert decide(**case["answers"] | {name: value}).approach == approach != found.approach
    if found.approach != "prompt":
        assert ("prompt_reaches", None, "prompt") in found.would_change or any(
            name == "prompt_reaches" for name, _, _ in found.would_change
        )


def test_evidence_that_bears_on_it_comes_back():
    evidence = {key: f"about {key}" for key in ("knowledge", "behaviour", "both", "stale", "tokens", "volume")}
    said = lambda **answers: decide(**answers, evidence=evidence).evidence
    assert said(gap="behaviour") == ("about tokens",)
    assert said(gap="knowledge", prompt_reaches=0.4, facts_change="daily") == ("about knowledge", "about stale")
    assert said(gap="both", prompt_reaches=0.4, examples=500) == ("about knowledge", "about behaviour", "about both")
    busy = {"prompt_reaches": 0.9, "requests_a_day": volume_threshold(), "examples": 500}
    assert said(gap="behaviour", **busy) == ("about tokens", "about volume", "about behaviour")
    assert decide("behaviour", **busy | {"requests_a_day": volume_threshold() - 1}).approach == "prompt"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"gap": "skill"}, "gap='skill': choose among 'knowledge', 'behaviour', 'both'"),
        ({"gap": "both", "prompt_reaches": 70}, "prompt_reaches=70: a share between 0 and 1"),
        ({"gap": "both", "prompt_reaches": float("nan")}, "prompt_reaches=nan"),
        ({"gap": "both", "examples": -1}, "examples=-1: a count"),
        ({"gap": "both", "requests_a_day": "many"}, "requests_a_day='many'"),
        ({"gap": "both", "own_machines": "yes"}, "own_machines='yes': True or False"),
        ({"gap": "both", "latency": "low"}, "latency='low': choose among"),
    ],
)
def test_an_answer_that_is_none_is_named(answers, said):
    with pytest.raises(CourseError, match=said):
        decide(**answers)


def test_it_reads_as_text_and_as_html():
    found = decide("both", 0.4, "daily", examples=50, own_machines=True, evidence={"knowledge": "RAG 80 % < 90 %"})
    assert str(found).startswith("Recommendation: rag (where: your own machines)")
    assert "RAG 80 % &lt; 90 %" in found._repr_html_()
    assert set(found.answers) == set(QUESTIONS)
