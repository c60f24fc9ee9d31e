"""Lesson 02: what the recorded sweep must still say, prompts with rules, and escalations counted."""

import pytest

from course_utils.data_prep import load_task
from course_utils.evidence import lesson_02
from course_utils.evidence.lesson_02 import LORA, average, best_full, fields_right, over_seeds, truncation

ATTENTION = "attention only, equal size"


def losses(run, measure="validation_loss"):
    return over_seeds(run, measure)


def spread(run):
    return max(losses(run)) - min(losses(run))


def learned():
    """Runs that reached a validation loss below 0.25."""
    names = {name.rpartition(" | ")[0] for name in lesson_02.assets.read_record("lora-sweep")["runs"]}
    return [name for name in names if name and not name.startswith("truncated") and average(name) < 0.25]


FINDINGS = {
    "rank 1 does no worse than rank 64": lambda: max(losses("rank 1")) <= min(losses("rank 64")),
    "rank 1 reaches full fine-tuning's loss": lambda: (
        abs(average("rank 1") - average(best_full())) < min(spread("rank 1"), spread(best_full()))
    ),
    "a higher alpha learns faster and forgets more": lambda: (
        average("alpha 128") < average(LORA) < average("alpha 8")
        and average("alpha 128", "prose_loss") > average(LORA, "prose_loss")
    ),
    "the learning rate decides": lambda: average(LORA) < min(0.1 * average("rate 2e-05"), average("rate 0.005")),
    "at the highest rate one run of three fails": lambda: (
        sorted(losses("rate 0.005"))[2] > 1.5 * sorted(losses("rate 0.005"))[1]
    ),
    "full fine-tuning gets more labels right": lambda: min(fields_right(best_full())) > max(fields_right(LORA)),
    "at its best rate full fine-tuning forgets less": lambda: (
        average(best_full()) <= average(LORA) and average(best_full(), "prose_loss") < average(LORA, "prose_loss")
    ),
    "attention alone learns as much and forgets more": lambda: (
        abs(average(ATTENTION) - average(LORA)) <= spread(LORA)
        and min(losses(ATTENTION, "prose_loss")) > max(losses(LORA, "prose_loss"))
    ),
    "whoever has learned the task answers small talk with records": lambda: all(
        share >= 0.9 for run in learned() for share in over_seeds(run, "records_for_questions")
    ),
    "sixteen directions keep the gain, one most of it": lambda: (
        min(half["rank 16"] for half in truncation()) >= 0.95
        and [round(100 * half["rank 1"]) for half in truncation()] == [87, 77]
    ),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_the_sweep_bears(finding):
    assert FINDINGS[finding]()


def test_escalations_are_counted_by_what_became_of_them():
    right = [{"escalation": value} for value in ("danger", "money", "legal", "none", "none", "none")]
    said = [{"escalation": "danger"}, {"escalation": "legal"}, None, {"escalation": "money"}, {"escalation": "none"}, None]
    rows = lesson_02.alarms(said, right).rows
    assert len(rows) == 6 and {(row["messages"], row["of"]) for row in rows.values()} == {(1, 3)}


def test_a_prompt_with_rules_holds_the_fields_and_solved_examples():
    task = load_task("support_tickets", ["category", "order_id"])
    (prompt,) = lesson_02.with_rules(task, task.prompts("validation")[:1], examples=2)
    assert [message["role"] for message in prompt] == ["system", *["user", "assistant"] * 2, "user"]
    assert "category: one of" in prompt[0]["content"] and "order_id:" in prompt[0]["content"]
    assert "product" not in prompt[0]["content"]
    assert prompt[-1] == task.validation[0][1] and prompt[2] == task.train[0][-1]
