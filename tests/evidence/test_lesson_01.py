"""Lesson 01: what the records must still say for the lesson to be true, and the prompts behind them."""

import pytest

from course_utils import costs, decision, evaluation
from course_utils.evidence import lesson_01
from course_utils.evidence.lesson_01 import FACT, FORM, RECORD, WAYS, right, score

SMALL = "135M"
UNSEEN = "fine-tuned, a passage about a product it never saw"


def share(model, way, kind=lesson_01.BOTH):
    return score(model, way, kind).value


def difference(model, better, worse):
    """How much more often one way is right than another, question by question, over the mean of its seeds."""
    means = [[sum(column) / len(column) for column in zip(*right(model, way))] for way in (better, worse)]
    return evaluation.mean([a - b for a, b in zip(*means)])


FINDINGS = {
    "training teaches form and judgement and no facts": lambda: (
        share(SMALL, "fine-tuned", RECORD) > 0.7 and share(SMALL, "fine-tuned", FACT) < 0.02
    ),
    "fixed examples give half the answers a form, and neither judgement nor facts": lambda: (
        0.45 < share(SMALL, "three fixed examples", FORM) < 0.6
        and max(share(SMALL, "three fixed examples", RECORD), share(SMALL, "three fixed examples", FACT)) < 0.05
    ),
    "reading carries over to products it never saw, not wholly": lambda: (
        difference(SMALL, UNSEEN, "a passage (RAG)").low > 0.1
        and difference(SMALL, UNSEEN, "fine-tuned, a passage").high < 0
    ),
    "retrieved examples are not told from training": lambda: (
        difference(SMALL, "fine-tuned, a passage", "a passage and past answers").low
        < 0
        < difference(SMALL, "fine-tuned, a passage", "a passage and past answers").high
    ),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_the_record_bears(finding):
    assert FINDINGS[finding]()


def test_a_way_that_was_not_recorded_has_no_score():
    assert score("1.5B", UNSEEN) is None and score(SMALL, UNSEEN) is not None


def test_the_table_has_every_way_and_every_model():
    table = lesson_01.rivals()
    assert set(table.rows) == set(WAYS)
    assert all(f"{name}, usable" in row for row in table.rows.values() for name in lesson_01.MODELS.values())


def test_the_helper_says_of_a_company_what_the_quiz_and_the_tree_say():
    contracts = {"gap": "both", "prompt_reaches": 0.55, "facts_change": "monthly", "past_answers_tried": True}
    found = [decision.decide(**contracts, examples=number).approach for number in (40, 100)]
    assert found == ["rag", "rag + fine-tune"]


def test_prices_bear_what_the_lesson_concludes():
    """With the tokens that its program measures: break-even near 9,000 a day, a GPU of one's own at far more."""
    chosen = costs.Assumptions(message=46, completion=25, passages=85, instructions=302)
    assert 5000 < chosen.break_even("hosted") < 15_000 and chosen.break_even("self-hosted", "hosted") > 500_000
