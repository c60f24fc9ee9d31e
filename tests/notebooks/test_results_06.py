"""The stored outputs of notebook 06, and the record that it shows, say what the course promises of them.

`course build 06` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.

The record is written by `benchmarks/hosted.py`: a change of code shows in it after the next run of that.
"""

import json
import re
import statistics

import pytest
from support import cards, table_rows

from course_utils import assets, claims
from course_utils.evidence import lesson_06

NOTEBOOK = "06_openai_api"  # whose outputs the fixtures give


@pytest.fixture(scope="module")
def record():
    return json.loads(assets.benchmark_results("hosted").read_text(encoding="utf-8"))


def mean(record, system, measure):
    """Over the seeds."""
    return statistics.mean(run["scores"][system][measure][0] for run in record["runs"])


def test_it_runs_in_five_minutes_on_two_cores(notebook):
    """Notices what makes the lesson slow: more steps, a slower server or worker. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 300


def test_the_first_job_succeeds_and_its_model_has_the_form(printed):
    """Notices a worker that trains on something else than the file, and a server that answers with the base instead."""
    assert re.search(r"→ running → succeeded\n\d+ seconds, and the new model is ft:\S+:triage:\w+", printed)
    epochs, tokens = re.search(
        r"(\d+) epochs, \d+ rows per step, multiplier [\d.]+; ([\d,]+) tokens trained", printed
    ).groups()
    assert epochs == "3" and 5_000 < int(tokens.replace(",", "")) < 12_000
    assert int(re.search(r"of eight answers.*\n+Measured: (\d) answers", printed, re.IGNORECASE)[1]) >= 6


def test_the_services_restart_loses_nothing(printed):
    """Notices a service that forgets its models when it stops."""
    assert re.search(r"still there: \['ft:\S+:triage:", printed)


def test_the_validation_loss_turns(printed):
    """Notices a validation that is made on training rows, and settings under which nothing is overfitted any more."""
    rows = table_rows(printed, "Losses of each epoch")
    held, trained = ([float(row[name]) for row in rows.values()] for name in ("validation loss", "training loss"))
    lowest = held.index(min(held))
    assert len(held) == 6 and lowest < 5 and held[-1] > held[lowest] and trained[-1] < trained[lowest] / 2
    kept = table_rows(printed, "Checkpoints that were kept")
    epochs = [f"epoch {int(name.split()[1]) // 3}" for name in kept]  # twelve rows, four to a step
    assert epochs == list(rows)[-3:] and all(":ckpt-step-" in row["a model by this name"] for row in kept.values())


def test_failures_say_what_is_wrong(printed):
    """Notices a service that fails otherwise than the API does."""
    assert "failed | invalid_n_examples | Training file has 7 example(s)" in printed
    assert "wrong ending: 400 None" in printed
    assert "mistyped name: 404 model_not_found" in printed
    assert "wrong key: 401 invalid_api_key" in printed


def test_a_cancelled_job_has_its_whole_story_in_its_events(printed):
    """Notices a service that loses an event, or a job that cannot be paused."""
    jobs = table_rows(printed, "Jobs on this host")
    assert [row["status"] for row in jobs.values()] == ["cancelled", "failed", "succeeded", "succeeded"]


def test_dpo_starts_at_the_tuned_model(printed):
    """Notices a DPO job that starts at the base, or measures from another reference than the model it starts at."""
    assert float(re.search(r"first logged loss: ([\d.]+)", printed)[1]) == pytest.approx(0.693, abs=0.005)


def test_graders_are_run_and_reinforcement_is_declined(printed):
    """Notices a grader that pays otherwise, and a service that would pretend to run such a job."""
    assert "right: reward 1.0" in printed and "wrong category: reward 0.3" in printed
    assert "eq: method_not_available: " in printed and "equals: invalid_value: " in printed


def test_the_cheaper_prompt_is_the_untuned_ones(printed):
    """Notices prices or prompts under which the section's headline is no longer true."""
    rows = list(table_rows(printed, "A thousand requests").values())
    tuned, untuned = float(rows[0]["gpt-4.1-mini tuned, $"]), float(rows[1]["gpt-4.1-mini untuned, $"])
    assert untuned < tuned < float(rows[2]["gpt-4.1-mini untuned, $"])


def test_the_refusal_is_the_hosts(printed):
    """Notices a service that refuses in other words or with another code."""
    assert "403 training_not_available" in printed and "OpenAI is winding down the fine-tuning platform" in printed


def test_the_model_moves_to_the_readers_hands(printed):
    """Notices an adapter that is not what the service answered with. Rounding may change an answer now and then."""
    assert int(re.search(r"the same to the letter: (\d) of 8", printed)[1]) >= 6
    assert "adapter_model.safetensors" in printed


def test_recorded_runs_are_shown(printed):
    """Notices a build without the record of the comparisons."""
    assert lesson_06.NOT_RECORDED not in printed


def test_the_record_bears_what_the_page_says_of_it(record):
    """Notices a new record in which a form can be forced no more, or content can."""
    assert 1 <= len(record["seeds"]) == len(record["runs"])
    for system in ("base, form forced", "tuned, form forced"):
        assert mean(record, system, "valid") > 0.98  # "the only one that never fails"
    assert mean(record, "base, not told", "valid") < 0.1 < 0.9 < mean(record, "tuned, not told", "valid")
    assert mean(record, "base, told the form", "valid") < mean(record, "tuned, not told", "valid")  # "follows … badly"
    assert mean(record, "base, form forced", "both") < mean(record, "tuned, not told", "both") - 0.1
    assert mean(record, "tuned, epoch 1", "both") < mean(record, "tuned, epoch 3", "both")
    assert mean(record, "base, told and 8 examples", "both") < mean(record, "distilled from its answers", "both")
    for run in record["runs"]:  # "the intervals do not even touch"; "none" is what DPO has unlearned
        (_, low, _), (_, _, high) = (run["scores"][name]["both"] for name in ("tuned, not told", "tuned, and DPO"))
        assert low > high
    assert mean(record, "tuned, and DPO", "escalation") < mean(record, "tuned, not told", "escalation") - 0.3


def test_every_claim_has_one_card(printed):
    """Notices a claim that is judged no more, or twice. Verdicts follow from records: tests/evidence/test_lesson_06.py."""
    found = cards(printed)
    assert found.keys() == {"O1", "O2", "O3"}
    assert all(printed.count(f"Claim {id}: ") == 1 for id in found)
    assert found["O1"].word == claims.HOLDS and found["O2"].word == claims.UNDER_A_CONDITION
