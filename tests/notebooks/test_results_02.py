"""The stored outputs of notebook 02 say what the course promises of it; they come from a real run of the present source.

`course build 02` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.
"""

import re

import pytest
from support import cards, table_rows

from course_utils.claims import FAILS, NOT_TESTED, UNDER_A_CONDITION

NOTEBOOK = "02_lora"  # whose outputs the fixtures give


def share(cell):
    """76 of "76 % (67-83)"."""
    return float(cell.partition(" %")[0])


@pytest.fixture(scope="module")
def scores(printed):
    """Rows of the two tables of scores; "trained" is what both runs made of the model, on the test set."""
    rows = table_rows(printed, "25 validation messages")
    tested = table_rows(printed, "100 test messages: share right")
    return rows | tested | {"trained": next(row for name, row in tested.items() if name.startswith("trained on 240"))}


def test_the_table_of_times_holds_this_very_run(notebook):
    """Notices a build that writes the outputs of one run beside the times of another."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert f"| {notebook.metadata.course['seconds'] / 60:.1f} minutes |" in text


def test_format_is_learned_from_nothing(scores):
    """Notices a change of training, template or generation after which the answers no longer keep the form; and a base that
    keeps it untrained, which would make the lesson pointless.
    """
    assert share(scores["untrained"]["valid record"]) < 10
    assert share(scores["trained"]["valid record"]) >= 95


def test_training_beats_a_prompt_with_rules_and_examples(scores):
    """Notices that the rival wins: then there would be no reason to train."""
    prompted, trained = scores["untrained, rules and examples in the prompt, first 50"], scores["trained"]
    assert share(trained["all fields"]) >= share(prompted["all fields"]) + 20


@pytest.mark.parametrize(("field", "margin"), [("category", 25), ("order_id", 10)])
def test_fields_are_better_than_always_the_most_common_value(scores, field, margin):
    """Notices a change of training or data that keeps the form and loses the content."""
    assert share(scores["trained"][field]) >= share(scores["no model: always the most common value"][field]) + margin


def test_the_loss_by_hand_is_that_of_transformers(printed):
    """Notices a label mask, or a shift by one position, that differs from the library's."""
    by_hand, library = re.search(r"by hand ([\d.]+), by transformers ([\d.]+)", printed).groups()
    assert by_hand == library


def test_from_scratch_equals_peft(printed):
    """Notices a change of the lesson's own LoRA, or of PEFT, after which outputs differ."""
    largest, difference = re.search(r"largest output (\S+), largest difference (\S+)", printed).groups()
    assert float(difference) < 1e-5 < 1e-2 < float(largest)


def test_one_weight_moves_against_its_gradient(printed):
    """Notices a step that is not Adam's, or a gradient that is none: the text says how far the weight moves."""
    rows = table_rows(printed, "a weight")
    before, gradient, after = (float(row["value"]) for row in rows.values())
    assert gradient != 0 and (after - before) * gradient < 0
    assert abs(after - before) == pytest.approx(3e-4, rel=0.1)


def test_merging_costs_nothing_and_keeping_apart_does(printed):
    """Notices a merge that leaves the adapter's products in place, and a clock that would not see them."""
    sentence = cards(printed)["L6"].sentence
    merged, apart = re.search(
        r"([\d.]+) times the base's time .*?against ([\d.]+) times with the adapter kept apart", sentence
    ).groups()
    assert float(merged) < 1.15 < float(apart)


def test_every_claim_has_a_verdict(printed):
    """Notices a claim that is no longer judged; of those that are arithmetic or recorded, a change that turns one."""
    found = cards(printed)
    assert found.keys() == {f"L{n}" for n in range(1, 9)}
    steady = {"L1": FAILS, "L2": UNDER_A_CONDITION, "L3": UNDER_A_CONDITION, "L4": FAILS, "L5": FAILS}
    steady |= {"L7": NOT_TESTED, "L8": UNDER_A_CONDITION}
    assert {id: found[id].word for id in steady} == steady


def test_what_overfits_is_seen_to_overfit(notebook):
    """Notices a run of eight examples whose validation loss does not turn up: then the section shows nothing."""
    alts = [
        re.search(r'alt="([^"]*)"', "".join(output["data"]["text/html"]))[1]
        for cell in notebook.cells
        if cell.cell_type == "code" and "overfit.plot" in cell.source
        for output in cell.outputs
        if "alt=" in "".join(output.get("data", {}).get("text/html", ""))
    ]
    lowest, last = re.search(r"lowest at step \d+ with (\d+\.\d+), at the end (\d+\.\d+)", alts[-1]).groups()
    assert float(last) > 1.02 * float(lowest)
