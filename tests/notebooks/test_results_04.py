"""The stored outputs of notebook 04, and the records that it shows, say what the course promises of them.

`course build 04` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.

The records are written by `benchmarks/preferences.py`: a change of code shows in them after
their next run.
"""

import json
import re
import statistics

import pytest
from support import cards, table_rows

from course_utils import assets, claims
from course_utils.data_prep import load_preferences
from course_utils.evidence import lesson_04

NOTEBOOK = "04_dpo"  # whose outputs the fixtures give


def number(cell):
    """19 of "19", 54 of "54 % (44-63)"."""
    return float(cell.split()[0].replace(",", ""))


@pytest.fixture(scope="module")
def record():
    return json.loads(assets.benchmark_results("preferences").read_text(encoding="utf-8"))


def mean(record, method, measure):
    """Over the seeds that have the method."""
    runs = [run["methods"][method] for run in record["runs"] if method in run["methods"]]
    return statistics.mean(statistics.mean(run[measure]) for run in runs)


def test_it_runs_in_eight_minutes_on_two_cores(notebook):
    """Notices what makes the lesson slow: more steps, longer answers, a slower loop. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 480


def test_the_loss_begins_at_the_logarithm_of_two(printed):
    """Notices a reference that is not the policy: by hand, in TRL's log, and in the table of the wrong reference."""
    assert re.search(r"loss, step by step: 0\.693, ", printed)
    assert number(table_rows(printed, "The log of")["loss"]["first step"]) == pytest.approx(0.693, abs=0.005)
    right, wrong = (number(row["loss at step 0"]) for row in table_rows(printed, "The same model, the same pairs").values())
    assert right == pytest.approx(0.693, abs=0.005) and abs(wrong - right) > 0.03


def test_dpo_turns_the_replies_round_live_and_the_control_does_not(printed):
    """Notices a training, a mask or data after which DPO no longer learns what tells the pairs apart."""
    rows = table_rows(printed, "Answers at temperature 0")
    first = {name: number(row["step first"]) for name, row in rows.items()}
    assert first["DPO"] >= 50 and first["DPO"] > first["SFT on chosen"] + 20  # of eight: 88 in float32, 62 in bfloat16
    ranked = table_rows(printed, "In how many test pairs")
    assert number(ranked["DPO"]["test pairs ranked right"]) > number(ranked["SFT on chosen"]["test pairs ranked right"])


def test_shortcuts_rank_the_older_pairs_and_not_ours(printed):
    """Notices pairs that length, words or form tell apart."""
    rows = table_rows(printed, "Test pairs ranked right by models")
    trained = {name: rows.pop(name) for name in list(rows) if name.startswith("a trained model")}
    *blind, opening, _ = rows.values()
    assert len(trained) == 3 and all(number(row["our pairs"]) > 60 for row in trained.values())
    assert all(number(row["older pairs"]) > 85 and number(row["our pairs"]) == 50 for row in blind)
    assert number(opening["our pairs"]) == 70


def test_grpo_brings_what_is_rewarded_and_fewer_different_answers(printed):
    """Notices a reward, a template or a rate after which the check is not learned, or nothing collapses."""
    assert 'The most frequent one after training: {"category": "defect"}' in printed  # the prompt's solved example
    before, after = table_rows(printed, "24 sampled answers").values()
    assert number(after["valid JSON"]) > number(before["valid JSON"]) + 20
    assert number(after["different answers"]) < number(before["different answers"])


def test_the_record_bears_what_the_page_says_of_it(record):
    """Notices a new record in which DPO no longer beats the control at what the pairs are about, or β no longer holds."""
    assert mean(record, "DPO", "step first") > 0.85 and mean(record, lesson_04.CONTROL, "step first") < 0.5
    assert (
        mean(record, "DPO", "right step") < mean(record, lesson_04.START, "right step") + 0.05
    )  # "no better than its start"
    assert mean(record, lesson_04.CONTROL, "right step") > mean(record, "DPO", "right step") + 0.05  # "is ahead"
    assert 0.05 < mean(record, "DPO", "all rules") < 0.15  # "about nine in ten still break at least one rule"
    for run in record["runs"]:  # "with every seed"
        assert statistics.mean(run["methods"]["DPO"]["step first"]) > 0.9
    favourites = [lesson_04._favourite(texts) for name in lesson_04.METHODS for texts in lesson_04.per_seed(name, "texts")]
    assert 0.45 < statistics.median(statistics.mean(one) for one in favourites) < 0.6  # "about half for most of them"
    assert mean(record, "DPO", "step first") > mean(record, lesson_04.CONTROL, "step first") + 0.2
    assert mean(record, "DPO", "right") > mean(record, lesson_04.CONTROL, "right")
    cases = [row["case"] for row in load_preferences("balanced").test[: record["plan"]["test"]]]
    assert len(set(cases)) == 6 and max(map(cases.count, cases)) / len(cases) == 0.2  # "makes up a fifth of them"
    assert mean(record, "DPO, β = 1", "kl") < mean(record, "DPO", "kl") < mean(record, "DPO, rate too high", "kl") / 10
    assert mean(record, "DPO, β = 1", "kl") < 0.6 * mean(record, "DPO", "kl")  # "half the distance"
    assert all(mean(record, name, "step first") > 0.9 for name in ("DPO, β = 1", "DPO, β = 0.02"))
    assert mean(record, "DPO, rate too high", "step first") < 0.1  # "hardly an answer says the step first any more"
    for run in record["runs"][:1]:  # the broken runs were made with one seed
        accuracy = {name: run["methods"][name]["last accuracy"] for name in ("DPO", "DPO, rate too high")}
        assert run["methods"]["DPO, rate too high"]["last loss"] > 0.7 > run["methods"]["DPO"]["last loss"] + 0.05
        assert accuracy["DPO, rate too high"] > accuracy["DPO"] - 0.1  # "looks as good as ever"
        assert run["methods"]["DPO, contradictory pairs"]["last accuracy"] < 0.45  # "far below a half"


def test_what_can_be_ranked_without_reading_is_what_was_learned(record):
    """Notices pairs, a model or a plan with which the message is read after all: another story for section 5."""
    kinds = [row["kind"] for row in load_preferences("balanced").test[: record["plan"]["test"]]]

    def share(seeds, *of):
        return statistics.mean(right for rights in seeds for right, kind in zip(rights, kinds, strict=True) if kind in of)

    judge = [run["judge"]["ranks test pairs"] for run in record["runs"]]
    for rights in (lesson_04.per_seed("DPO", "right"), judge):
        assert share(rights, "order") > 0.9 and 0.4 < share(rights, "step", "tone") < 0.7
    assert share(lesson_04.per_seed(lesson_04.START, "right"), "item") > 0.8  # "was right before"


def test_the_price_of_each_method_has_an_interval():
    """Notices in a new record of prices passes that are saved or added, a second body that is not."""
    over = lesson_04.prices()["over SFT"]
    assert over["DPO"]["a token"][0] == pytest.approx(1.5, rel=0.25)
    assert over["ORPO"]["a token"][0] == pytest.approx(1.0, rel=0.25)
    assert over["PPO"]["a token"][1] > 3
    assert over["DPO"]["memory added, MB"][0] > over["SFT"]["memory added, MB"][0]


def test_every_claim_has_a_verdict(printed):
    """Notices a claim that is no longer judged. Verdicts follow from the records: tests/evidence/test_lesson_04.py."""
    found = cards(printed)
    assert found.keys() == {"A1", "A2", "A3", "A4", "A5"}
    assert found["A3"].word == claims.FAILS and found["A5"].word == claims.HOLDS
