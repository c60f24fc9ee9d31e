"""Lesson 04: what its records must still say for the lesson to be true, the house style's rules, logs and pairs."""

import statistics

import pytest

from course_utils import assets
from course_utils.data_prep import load_preferences
from course_utils.evaluation import over_seeds
from course_utils.evidence import house_style, lesson_04
from course_utils.evidence.lesson_04 import CONTROL, START, WITH_SFT, per_seed

ORDER, FAST = "order number right", "DPO, rate too high"
BALANCED = load_preferences("balanced")


def means(method, measure):
    return [statistics.mean(row) for row in per_seed(method, measure)]


def share(method, measure):
    """Mean over the recorded seeds and messages."""
    return statistics.mean(means(method, measure))


def ranked(rows, *kinds):
    """Share of the test pairs of these kinds that are ranked right, of one row of results for each seed."""
    return statistics.mean(hit for row in rows for hit, pair in zip(row, BALANCED.test) if pair["kind"] in kinds)


def reward_model():
    return [run["judge"]["ranks test pairs"] for run in assets.read_record("preferences")["runs"]]


def over_sft(method, measure):
    return assets.read_record("method-prices")["over SFT"][method][measure][0]


def wins(method, measure="wins over control"):
    return over_seeds(per_seed(method, measure))


FINDINGS = {
    "DPO brings the step first with every seed, SFT on chosen in a third": lambda: (
        min(means("DPO", "step first")) > 0.9 and 0.28 < share(CONTROL, "step first") < 0.42
    ),
    "the right step is promised less often than by the control": lambda: (
        share("DPO", "right step") < min(share(CONTROL, "right step") - 0.1, share(START, "right step"))
    ),
    "DPO loses the order number": lambda: share("DPO", ORDER) < min(share(START, ORDER), share(CONTROL, ORDER)),
    "the SFT term loses fewer and goes half as far": lambda: (
        share(WITH_SFT, "step first") > 0.9
        and share(WITH_SFT, ORDER) > share("DPO", ORDER)
        and share(WITH_SFT, "kl") < 0.5 * share("DPO", "kl")
    ),
    "nine in ten answers still break a rule, of DPO and of the control": lambda: all(
        0.05 < share(name, lesson_04.ALL) < 0.15 for name in ("DPO", CONTROL)
    ),
    "by the rules DPO does not beat the control; the reward model likes it better": lambda: (
        wins("DPO").value < 0.5 and wins(WITH_SFT).low < 0.5 and wins("DPO", "wins by judge").value > wins("DPO").value
    ),
    "DPO ranks three pairs in four, with the SFT term a few more": lambda: (
        share(CONTROL, "right") < share("DPO", "right") < 0.8 <= share(WITH_SFT, "right") < 0.9
    ),
    "what can be ranked without reading is learned, by DPO and by the reward model": lambda: all(
        ranked(rows, "order") > 0.9 and 0.4 < ranked(rows, "step", "tone") < 0.7
        for rows in (per_seed("DPO", "right"), reward_model())
    ),
    "DPO ranks pairs about as well as a reward model": lambda: (
        abs(share("DPO", "right") - statistics.mean(map(statistics.mean, reward_model()))) < 0.1
    ),
    "ORPO goes furthest and promises the right step least often": lambda: all(
        share("ORPO", "kl") > 2 * share(name, "kl") and share("ORPO", "right step") < share(name, "right step")
        for name in (*lesson_04.COMPARED, "KTO", "IPO", "SimPO", "GRPO")
    ),
    "too high a rate looks well in the log and ruins the answers": lambda: (
        per_seed(FAST, "last accuracy")[0] > per_seed("DPO", "last accuracy")[0] - 0.1
        and share(FAST, "step first") < 0.1
        and share(FAST, "kl") > 10 * share("DPO", "kl")
    ),
    "a token costs DPO half as much again as SFT, ORPO the same, PPO over three times": lambda: (
        over_sft("DPO", "a token") == pytest.approx(1.5, rel=0.25)
        and over_sft("ORPO", "a token") == pytest.approx(1.0, rel=0.25)
        and over_sft("PPO", "a token") > 3
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
