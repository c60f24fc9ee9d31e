"""Lesson 06: what its records and prices must still say for the lesson to be true, and the counts that it shows."""

import base64
import json
import re
import statistics
from types import SimpleNamespace

import pytest

from course_utils import assets, costs
from course_utils.data_prep import load_task
from course_utils.evidence import lesson_06
from course_utils.evidence.lesson_06 import BOTH_WAYS, ONE_RECORD, OWN_MISTAKES, TUNED_PROMPT, UNTUNED

TUNED, LUNA = costs.PRICES["gpt-4.1-mini"], costs.FRONTIER["gpt-6-luna"]
START = lesson_06.TUNED


def task():
    return load_task("support_tickets", list(lesson_06.FIELDS))


def score(system, measure):
    """Mean over the recorded runs of the comparisons."""
    return statistics.mean(run["scores"][system][measure][0] for run in assets.read_record("hosted")["runs"])


def preferred(name, measure="both"):
    """Mean over the recorded runs of the jobs with pairs."""
    runs = assets.read_record("host-preferences")["runs"]
    return statistics.mean(run["models"][name]["scores"][measure][0] for run in runs)


def none_said(name):
    """Share of a recorded model's answers that say "none"."""
    answers = [run["models"][name]["escalations"] for run in assets.read_record("host-preferences")["runs"]]
    return statistics.mean(own.count("none") / len(own) for own in answers)


def lifecycle(model):
    return [run["scores"][model]["valid format"][0] for run in assets.read_record("service-lifecycle")["runs"]]


def prompts():
    rows = lesson_06.short_rows(task().train, 50)
    return lesson_06.prompt_sizes(task().test, rows[:8]), lesson_06.mean_answer(rows)


def thousand(name, price):
    sizes, answer = prompts()
    return lesson_06.cost_of_thousand(sizes[name], answer, price)


def turns(price):
    sizes, answer = prompts()
    return lesson_06.turning_points(sizes[TUNED_PROMPT], answer, price)


def pays_for_the_hour(prompt):
    """Requests a month at which the tuned model, kept ready by the hour, costs what the untuned one does with a prompt."""
    saved = thousand(prompt, UNTUNED) - thousand(TUNED_PROMPT, UNTUNED)
    return 1e3 * lesson_06.HOSTING_HOUR * lesson_06.HOURS_A_MONTH / saved


FINDINGS = {
    "not told the format, the tuned model keeps it and the base does not": lambda: (
        min(lifecycle("last")) > 0.9 and max(lifecycle("base")) < 0.1
    ),
    "a form can be forced, content cannot": lambda: (
        min(score(system, "valid") for system in ("base, form forced", "tuned, form forced")) > 0.98
        and score("base, form forced", "both") < score("tuned, not told", "both") - 0.1
    ),
    "told the form, the small base follows badly": lambda: score("base, told the form", "valid") < 0.5,
    "more epochs help": lambda: score("tuned, epoch 1", "both") < score("tuned, epoch 3", "both"),
    "distilling from answers beats examples in the prompt": lambda: (
        score("base, told and 8 examples", "both") < score("distilled from its answers", "both")
    ),
    "DPO on one record unlearns the escalation": lambda: (
        score("tuned, and DPO", "escalation") < score("tuned, not told", "escalation") - 0.3 and none_said(ONE_RECORD) < 0.1
    ),
    "every kind of pairs makes the model worse, with full steps": lambda: all(
        preferred(name) < preferred(START) - 0.2 for name in (ONE_RECORD, OWN_MISTAKES, BOTH_WAYS)
    ),
    "with small steps they do nothing": lambda: all(
        -0.1 < preferred(lesson_06.with_small_steps(name)) - preferred(START) < 0.03
        for name in lesson_06.TRIED_WITH_SMALL_STEPS
    ),
    "beside its own untuned prices tuning pays from about 180 tokens": lambda: turns(UNTUNED)[0] in range(174, 187),
    "a small model of today stays cheaper far longer": lambda: (
        850 < turns(LUNA)[0] < 900 and turns(LUNA)[1] == LUNA.cache_from == 1024
    ),
    "instructions are cheaper than tuning, eight examples over twice as expensive": lambda: (
        thousand("instructions", UNTUNED)
        < thousand(TUNED_PROMPT, TUNED)
        < thousand("instructions and 8 examples", UNTUNED) / 2
    ),
    "paid by the hour, tuning needs millions of requests": lambda: (
        7.2e6 < pays_for_the_hour("instructions and 8 examples") < 8.4e6 and 28e6 < pays_for_the_hour("instructions") < 33e6
    ),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_records_and_prices_bear(finding):
    assert FINDINGS[finding]()


def test_what_the_lesson_shows_is_what_the_benchmark_records():
    """The names under which one looks up and the other stores."""
    source = assets.path("notebooks/source/06_openai_api.py").read_text(encoding="utf-8")
    benchmark = assets.path("benchmarks/hosted.py").read_text(encoding="utf-8")
    asked = {name for call in re.findall(r"lesson_06\.recorded\((.*?)\],", source, re.DOTALL)
             for name in re.findall(r"\"([^\"{]+)\"", call)}  # fmt: skip
    stored = set(re.findall(r"keep\(\s*f?\"([^\"]+)\"", benchmark))
    stored |= (
        {"base, told and 8 examples", "base, told and 4 examples"} if "base, told and {shots} examples" in stored else set()
    )
    assert len(asked) >= 8 and asked - {"tuned, epoch "} <= stored
    assert "tuned, epoch {number}" in stored and 'f"tuned, epoch {n}"' in source


def test_weights_and_roles_decide_what_is_learned():
    rows = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
            {"role": "assistant", "content": "c"}, {"role": "assistant", "tool_calls": [1], "weight": 1}]  # fmt: skip
    told = [row["the model"] for row in lesson_06.learned(rows).rows.values()]
    assert told == ["only reads it", "only reads it", "learns to write it", "learns to write it"]


def test_what_the_table_says_is_learned_is_what_the_service_trains_on(packaged):
    """The loss is taken on the texts that `learned` names, and on nothing else."""
    from course_utils.openai_server.messages import flatten
    from course_utils.training import SFT

    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two", "weight": 0},
            {"role": "user", "content": "three"}, {"role": "assistant", "content": "four"},
            {"role": "user", "content": "five"}, {"role": "assistant", "content": "six", "weight": 1}]  # fmt: skip
    tokenizer = packaged[1]
    encoded = SFT(turns="all").encode(tokenizer, flatten(chat), 400, "row")
    ids, weights = encoded.completions[0], encoded.token_values["weight"]
    scored = tokenizer.decode([i for i, weight in zip(ids, weights) if weight])
    assert "two" in tokenizer.decode([*encoded.prompt, *ids])  # it is read
    taught = [row["text"] for row in lesson_06.learned(chat).rows.values() if "learns" in row["the model"]]
    assert taught == ["four", "six"] and scored.replace("<|im_end|>", " ").split() == taught


def test_pairs_are_what_a_host_takes(tmp_path):
    from course_utils.data_prep.validation import validate

    rows = lesson_06.pairs(load_task("support_tickets", list(lesson_06.FIELDS)).train, 20)
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert len(rows) == 20 and validate(file, "preference", "openai").bad_rows == 0
    assert all(row["preferred_output"] != row["non_preferred_output"] for row in rows)


def event(step, kind="metrics", **data):
    return SimpleNamespace(type=kind, data={"step": step, **data}, level="info", message=f"{kind} {step}", created_at=0)


EVENTS = [
    event(4, train_loss=0.2, valid_loss=0.5, full_valid_loss=0.5),
    event(3, train_loss=0.4),
    event(0, "message"),
    event(2, train_loss=0.6, valid_loss=0.7, full_valid_loss=0.7),
    event(1, train_loss=1.0),
]


def test_an_epoch_has_the_mean_of_its_steps_and_its_own_validation():
    assert lesson_06.epochs(EVENTS) == {
        2: {"training loss": pytest.approx(0.8), "validation loss": 0.7},
        4: {"training loss": pytest.approx(0.3), "validation loss": 0.5},
    }
    assert [row["step"] for row in lesson_06.metrics(EVENTS)] == [1, 2, 3, 4]
    assert lesson_06.curve(EVENTS, "t").alt and lesson_06.pair_curve(EVENTS, "t").alt


@pytest.mark.parametrize("coded", [True, False])
def test_a_result_file_is_read_however_it_is_sent(coded):
    text = "step,train_loss,valid_loss\n" + "".join(f"{n},0.{n},\n" for n in range(1, 7))
    data = base64.b64encode(text.encode()) if coded else text.encode()
    client = SimpleNamespace(files=SimpleNamespace(content=lambda id: SimpleNamespace(read=lambda: data)))
    rows = lesson_06.results_table(client, SimpleNamespace(result_files=["file-x"])).rows
    assert list(rows) == ["step 1", "step 2", "step 3", "step 6"] and rows["step 6"]["train_loss"] == "0.6"


def test_costs_are_those_of_the_course():
    assert lesson_06.cost_of_thousand(100, 20, TUNED) == pytest.approx(1000 * costs.request_cost(100, 20, "gpt-4.1-mini"))
    long = lesson_06.cost_of_thousand(2000, 20, costs.FRONTIER["gpt-6-luna"], message=50)
    assert long == pytest.approx(1000 * costs.request_cost(2000, 20, "gpt-6-luna", cached_tokens=1950))


def test_at_a_turning_point_the_order_changes():
    short, answer = 60, 14
    level = lesson_06.cost_of_thousand(short, answer, TUNED)
    found = lesson_06.turning_points(short, answer)
    assert len(found) == 1
    assert lesson_06.cost_of_thousand(found[0] - 1, answer, lesson_06.UNTUNED) <= level
    assert lesson_06.cost_of_thousand(found[0], answer, lesson_06.UNTUNED) > level


def test_where_tuned_and_untuned_cost_the_same_every_token_saved_is_saved():
    price = costs.PRICES["qwen3-8b"]
    assert lesson_06.turning_points(60, 14, price, price)[0] == 61


def test_an_estimate_of_the_hosts_tokens_is_within_its_recorded_error():
    """The counts are those of the host's own tokenizer, recorded with it."""
    kinds, task = assets.read_record("host-tokens")["kinds"], load_task("support_tickets", list(lesson_06.FIELDS))
    messages = [c[1]["content"] for c in (*task.train, *task.validation, *task.test)]
    estimated = sum(lesson_06.count(text, "message") for text in messages) / len(messages)
    assert estimated == pytest.approx(kinds["message"]["mean"], rel=0.001)
    assert 0 < kinds["message"]["off, 60 texts"] < kinds["message"]["off, one text"] < 0.3
    assert "estimated from characters" in lesson_06.how_counted()
