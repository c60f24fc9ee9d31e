"""What lesson 02 says in words about the recorded sweep is what the record says.

Each sentence must be in the lesson, and the record must bear it: whoever changes one of the two meets this test.
"""

import json
import re
import statistics

import pytest

from course_utils.data_prep import load_task
from course_utils.evidence import lesson_02
from course_utils.evidence.lesson_02 import LORA, average, best_full, over_seeds
from course_utils.lessons import find, source_file

ATTENTION = "attention only, equal size"
RATES = ("rate 2e-05", "rate 0.0002", "rate 0.001", LORA, "rate 0.005")
UNTRAINED = "untrained"


def losses(run):
    return over_seeds(run, "validation_loss")


def spread(run):
    return max(losses(run)) - min(losses(run))


def untrained(measure="validation_loss"):
    return lesson_02.sweep()["runs"][UNTRAINED][measure]


def learned():
    """Runs that reached a validation loss below 0.25."""
    names = {name.rpartition(" | ")[0] for name in lesson_02.sweep()["runs"]}
    trained = [name for name in names if name and not name.startswith("truncated")]
    return [name for name in trained if average(name) < 0.25]


def most_common_pair():
    """Test messages whose two labels are those that are most common together in the training set."""
    task = load_task("support_tickets")
    parts = ([json.loads(chat[-1]["content"]) for chat in task.train], task.references())
    trained, tested = ([(row["category"], row["escalation"]) for row in part] for part in parts)
    return tested.count(statistics.mode(trained))


SENTENCES = {
    "on 120 examples, for 30 steps": lambda: lesson_02.sweep()["examples"] == 120 == 30 * lesson_02.sweep()["batch"],
    "three points are three runs on different samples of the examples": lambda: len(lesson_02.sweep()["seeds"]) == 3,
    "Sixty-four times the parameters buy nothing here": lambda: average("rank 64") >= average("rank 1"),
    "rank 1, at the left, is if anything better": lambda: max(losses("rank 1")) <= min(losses("rank 64")),
    "In these short runs a higher alpha means faster learning": lambda: (
        average("alpha 128") < average(LORA) < average("alpha 8")
    ),
    "(its loss on everyday prose is 4.39, against 3.99 at alpha 32)": lambda: (
        [round(average(run, "prose_loss"), 2) for run in ("alpha 128", LORA)] == [4.39, 3.99]
    ),
    "At 0.00002 thirty steps of LoRA leave the loss almost where it was": lambda: average("rate 2e-05") > 0.9 * untrained(),
    "At 0.002 thirty steps are enough": lambda: average(LORA) == min(average(run) for run in RATES),
    "at 0.005 one of three runs already comes out clearly worse": lambda: (
        sorted(losses("rate 0.005"))[2] > 1.5 * sorted(losses("rate 0.005"))[1]
    ),
    "full fine-tuning gets the two labels right more often than LoRA at rank 16 and alpha 32": lambda: (
        min(lesson_02._fields_right(best_full())) > max(lesson_02._fields_right(LORA))
    ),
    "At equal size, attention alone reaches a loss similar to that of all layers": lambda: (
        abs(average(ATTENTION) - average(LORA)) <= spread(LORA)
    ),
    "its loss on prose is higher": lambda: min(over_seeds(ATTENTION, "prose_loss")) > max(over_seeds(LORA, "prose_loss")),
    "Every run with a loss below 0.25 answers nearly every everyday question with a record": lambda: all(
        share >= 0.9 for run in learned() for share in over_seeds(run, "records_for_questions")
    ),
    "Look at the lower left, where both losses are low: full fine-tuning at 0.0001 is there": lambda: (
        average("full, rate 0.0001") <= average(LORA)
        and average("full, rate 0.0001", "prose_loss") < average(LORA, "prose_loss")
    ),
    "At 0.0003 full fine-tuning has forgotten as much as LoRA at 0.002": lambda: (
        abs(average("full, rate 0.0003", "prose_loss") - average(LORA, "prose_loss")) < 0.03
    ),
    "With sixteen directions per matrix both curves keep practically all of the gain": lambda: (
        min(half["rank 16"] for half in lesson_02.truncation()) >= 0.95
    ),
    "our task keeps 87 %, what was learned by heart 77 %": lambda: (
        [round(100 * half["rank 1"]) for half in lesson_02.truncation()] == [87, 77]
    ),
    "LoRA at rank 1 reached the same loss": lambda: (
        abs(average("rank 1") - average(best_full())) < min(spread("rank 1"), spread(best_full()))
    ),
    "twenty times on our coarse grid": lambda: (
        lesson_02.sweep()["base"]["learning_rate"] == 20 * lesson_02._rate(best_full())
    ),
    "Always giving the most common pair of labels is right for 16 of the 100 messages": lambda: most_common_pair() == 16,
}


@pytest.fixture(scope="module")
def prose():
    text = source_file(find("02").name).read_text(encoding="utf-8")
    text = re.sub(r"\{\{term:(?:[^}|]*\|)?([^}]*)\}\}", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"^# ?", "", text, flags=re.M)).replace("*", "")


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_record_bears_the_sentence(sentence, prose):
    assert sentence in prose
    assert SENTENCES[sentence]()
