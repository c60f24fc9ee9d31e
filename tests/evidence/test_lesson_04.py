"""Lesson 04: what its records must still say for the lesson to be true, the house style's rules, logs and pairs."""

import statistics

import pytest

from course_utils.data_prep import load_preferences
from course_utils.evidence import house_style, lesson_04
from course_utils.evidence.lesson_04 import CONTROL, WITH_SFT, per_seed

ORDER, FAST = "order number right", "DPO, rate too high"
BALANCED = load_preferences("balanced")


def means(method, measure):
    return [statistics.mean(row) for row in per_seed(method, measure)]


def share(method, measure):
    """Mean over the recorded seeds and messages."""
    return statistics.mean(means(method, measure))


def ranked(method, *kinds):
    """Share of the test pairs of these kinds that are ranked right, over the recorded seeds."""
    rows = per_seed(method, "right")
    return statistics.mean(hit for row in rows for hit, pair in zip(row, BALANCED.test) if pair["kind"] in kinds)


FINDINGS = {
    "DPO says the step first in nearly every answer, with the SFT term or without, SFT in about a third": lambda: (
        min(means("DPO", "step first") + means(WITH_SFT, "step first")) > 0.9 and 0.28 < share(CONTROL, "step first") < 0.42
    ),
    "DPO names the order number less often": lambda: share("DPO", ORDER) < share(CONTROL, ORDER),
    "by all five rules, all are poor": lambda: all(0.05 < share(name, lesson_04.ALL) < 0.15 for name in ("DPO", CONTROL)),
    "to rank two replies isn't to write one": lambda: ranked("DPO", "item") > 0.9 > 2 * share("DPO", ORDER),
    "which sentence comes first is ranked, promise and tone hardly": lambda: (
        ranked("DPO", "order") > 0.9 and 0.4 < ranked("DPO", "step", "tone") < 0.7
    ),
    "SFT and ORPO keep the number, the others say the step first": lambda: all(
        share(keeps, ORDER) > share(name, ORDER) and share(name, "step first") > share(keeps, "step first")
        for keeps in (CONTROL, "ORPO")
        for name in ("DPO", WITH_SFT, "KTO", "IPO", "SimPO")
    ),
    "too high a rate looks well in the log and is somewhere else entirely": lambda: (
        per_seed(FAST, "last accuracy")[0] > per_seed("DPO", "last accuracy")[0] - 0.1
        and share(FAST, "kl") > 10 * share("DPO", "kl")
    ),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_the_records_bear(finding):
    assert FINDINGS[finding]()


RULE_OF = {"order": "step first", "step": "right step", "tone": "tone fits", "item": "order number right"}


def test_a_pairs_replies_differ_in_the_rule_of_its_kind_and_in_no_other():
    for row in [*BALANCED.train, *BALANCED.validation, *BALANCED.test]:
        chosen, rejected = (house_style.judge(row, row[key]) for key in ("chosen", "rejected"))
        assert {rule for rule in house_style.RULES if chosen[rule] != rejected[rule]} == {RULE_OF[row["kind"]]}, row["id"]
        assert chosen[RULE_OF[row["kind"]]]
        assert all(kept or rule == "step first" for rule, kept in chosen.items()), row["id"]


@pytest.mark.parametrize("broken", house_style.RULES)
def test_each_rule_can_be_broken_alone(broken):
    row = next(r for r in BALANCED.test if r["case"] == "defect" and r["tone"] == "calm" and r["kind"] == "order")
    reply = row["chosen"]
    changed = {
        "step first": row["rejected"],
        "right step": f"{reply} A reset link is in your inbox.",
        "tone fits": f"{reply} We are sorry.",
        "order number right": reply.replace(row["order"], "TB-00000"),
        "finishes": reply.rstrip("."),
    }[broken]
    kept = house_style.judge(row, changed)
    assert not kept[broken]
    assert [rule for rule, fine in kept.items() if not fine] == [broken]
