"""The stored outputs of notebook 02 say what the course promises of it; they come from a real run of the present source.

`course build 02` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.
"""

import re

import pytest
from support import judged

from course_utils.claims import CONDITIONAL, FAILS

NOTEBOOK = "02_lora"  # whose outputs the fixtures give


def share(printed, name):
    """Last printed score of a name, in percent."""
    return float(re.findall(rf"{name}:? +([\d.]+) % \[", printed)[-1])


def test_the_table_of_times_holds_this_very_run(notebook):
    """Notices a build that writes the outputs of one run beside the times of another."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert f"| {notebook.metadata.course['seconds'] / 60:.1f} minutes |" in text


def test_format_is_learned_from_nothing(printed):
    """Notices a change of training, template or generation after which the answers no longer keep the form; and a base that
    keeps it untrained, which would make the lesson pointless.
    """
    assert float(re.search(r"valid format: ([\d.]+) %", printed)[1]) < 10
    assert share(printed, "valid format") >= 95


@pytest.mark.parametrize("field", ["category", "escalation"])
def test_enumeration_fields_are_right_often_enough(printed, field):
    """Notices a change of training or data that keeps the form and loses the content."""
    assert share(printed, f"{field}: exact match") >= 75


def test_from_scratch_equals_peft(printed):
    """Notices a change of the lesson's own LoRA, or of PEFT, after which forward, gradients or merged weights differ."""
    gaps = re.search(r"forward (\S+), gradients (\S+), merged weights (\S+)", printed)
    assert max(map(float, gaps.groups())) < 1e-6


def test_merging_costs_nothing_and_keeping_apart_does(printed):
    """Notices a merge that leaves the adapter's products in place, and a clock that would not see them."""
    ratios = dict(re.findall(r"(merged|kept apart): ([\d.]+) times the base's latency", printed))
    assert float(ratios["merged"]) < 1.15 < float(ratios["kept apart"])


def test_every_claim_has_a_verdict(printed):
    """Notices a claim that is no longer judged; of those that are arithmetic, a change of counts that turns one."""
    found = judged(printed)
    assert found.keys() == {f"L{n}" for n in range(1, 9)}
    arithmetic = {"L1": FAILS, "L2": CONDITIONAL, "L3": CONDITIONAL, "L4": FAILS, "L5": FAILS}
    assert {id: found[id].verdict for id in arithmetic} == arithmetic
