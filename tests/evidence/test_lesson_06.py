"""What decides about lesson 06's claims, and the figures and tables that the lesson shows."""

import base64
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from course_utils import claims, costs
from course_utils.data_prep import load_task
from course_utils.evidence import lesson_06
from course_utils.openai_server import HOSTS

TUNED = costs.PRICES["gpt-4.1-mini"]


def lifecycle(before=0.0, after=0.97):
    score = lambda share: {"valid format": [share], "all enumeration fields right": [share / 2]}
    return [{"scores": {"base": score(before), "checkpoint 1": score(after - 0.05), "last": score(after)}}] * 3


def losses(*held):
    return {n: {"validation loss": loss, "training loss": 1 / n} for n, loss in enumerate(held, 1)}


@pytest.fixture(autouse=True)
def _no_record(monkeypatch):
    monkeypatch.setattr(lesson_06, "record", lambda: None)


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [(0.0, 0.97, claims.HOLDS), (0.0, 0.6, claims.UNDER_A_CONDITION), (0.95, 0.95, claims.FAILS), (0.9, 0.5, claims.FAILS)],
)
def test_the_format_without_instructions(monkeypatch, before, after, word):
    monkeypatch.setattr(lesson_06, "lifecycle", lambda: lifecycle(before, after))
    verdict = lesson_06.judge_O1()
    assert verdict.word == word and "100 messages" in verdict.sentence and "135M" in verdict.scope


@pytest.mark.parametrize(
    ("weights", "word"),
    [((False, True), claims.UNDER_A_CONDITION), ((False, False), claims.HOLDS), ((True, True), claims.FAILS)],
)
def test_hosts_and_their_weights(weights, word):
    hosts = {name: replace(HOSTS["openai"], name=name, weights=given) for name, given in zip("ab", weights)}
    assert lesson_06.judge_O2(hosts).word == word


def test_the_service_on_this_machine_is_no_hosted_one():
    assert "this machine" not in lesson_06.judge_O2(HOSTS).sentence


@pytest.mark.parametrize(
    ("held", "word"),
    [
        ((1.3, 0.8, 0.7, 0.75, 0.8), claims.HOLDS),
        ((1.3, 0.8, 0.7, 0.69, 0.68), claims.FAILS),
        ((1.3, 0.8, 0.7, 0.69, 0.75), claims.FAILS),  # one epoch up may be chance
        ((1.3, 0.6, 0.7, 0.61, 0.75), claims.FAILS),  # up and down again
        ((1.3, 0.6, 0.7, 0.65, 0.64), claims.HOLDS),  # up, and it stays there
        ((1.3, 0.6, 0.61, 0.62, 0.62), claims.FAILS),  # hardly higher
    ],
)
def test_a_curve_turns_only_if_it_ends_clearly_above_its_lowest(held, word, monkeypatch):
    turn = {"held": list(held), "trained": [1 / n for n in range(1, len(held) + 1)]}
    monkeypatch.setattr(lesson_06, "record", lambda: {"runs": [{"turn": turn}] * 2})
    assert lesson_06.judge_O3(losses(*held)).word == word


def test_one_job_judges_no_claim_about_curves(monkeypatch):
    rising = {"turn": {"held": [1.3, 0.8, 0.7, 0.75, 0.8], "trained": [1.0, 0.5, 0.4, 0.3, 0.2]}}
    monkeypatch.setattr(lesson_06, "record", lambda: {"runs": [rising]})
    assert lesson_06.judge_O3(losses(1.3, 0.8, 0.7, 0.75, 0.8)).word == claims.NOT_TESTED


def test_recorded_jobs_that_do_not_turn_make_a_condition_of_it(monkeypatch):
    flat = {"turn": {"held": [1.0, 0.9, 0.8], "trained": [1.0, 0.5, 0.2]}}
    rising = {"turn": {"held": [1.3, 0.8, 0.7, 0.75, 0.8], "trained": [1.0, 0.5, 0.4, 0.3, 0.2]}}
    monkeypatch.setattr(lesson_06, "record", lambda: {"runs": [flat, rising]})
    verdict = lesson_06.judge_O3(losses(1.3, 0.8, 0.7, 0.75, 0.8))
    assert verdict.word == claims.UNDER_A_CONDITION and "1 of 2 recorded" in verdict.sentence


def test_every_claim_of_the_lesson_has_a_judge():
    assert all(hasattr(lesson_06, f"judge_{id}") for id in claims.CLAIMS if id.startswith("O"))


def test_without_a_record_the_comparison_is_said_to_be_missing():
    assert list(lesson_06.recorded(["tuned, not told"], "c").rows) == ["not recorded yet"]


@pytest.mark.parametrize(("seeds", "said"), [(1, "one run, 100 messages"), (2, "mean of 2 runs"), (3, "mean of 3 runs")])
def test_a_record_is_shown_with_all_its_answers_however_many_seeds_it_has(seeds, said, monkeypatch):
    shares = {"valid": [1.0], "category": [0.5], "both": [0.25]}
    runs = [{"scores": {"tuned, not told": shares}}] * seeds
    monkeypatch.setattr(lesson_06, "record", lambda: {"date": "d", "seeds": list(range(seeds)), "runs": runs})
    shown = lesson_06.recorded(["tuned, not told"], "c")
    row = shown.rows["tuned, not told"]
    assert row["category right"].n == 100 and row["both fields right"].value == 0.25 and said in repr(shown)


def test_what_the_lesson_shows_is_what_the_benchmark_records():
    """The names under which one looks up and the other stores."""
    import re

    from course_utils import assets

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


# -- files and jobs ---------------------------------------------------------------------------------------------------------


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


def test_pairs_of_own_mistakes_prefer_the_right_record_to_what_the_model_said():
    chats = load_task("support_tickets", list(lesson_06.FIELDS)).train[:3]
    rights = [chat[-1]["content"] for chat in chats]
    rows = lesson_06.own_mistakes(chats, [rights[0], " nonsense ", ""], 5)
    assert [row["preferred_output"][0]["content"] for row in rows] == [rights[1]]
    assert rows[0]["non_preferred_output"] == [{"role": "assistant", "content": "nonsense"}]
    assert rows[0]["input"]["messages"] == chats[1][:-1]


def test_as_many_pairs_prefer_none_as_prefer_another_escalation():
    pair = lambda said: {"preferred_output": [{"content": json.dumps({"escalation": said})}]}
    chosen = lesson_06.both_ways([pair("none")] * 5 + [pair("danger")] * 2 + [pair("legal")], 10)
    said = [json.loads(row["preferred_output"][0]["content"])["escalation"] for row in chosen]
    assert said == ["none", "danger", "none", "danger", "none", "legal"]
    assert len(lesson_06.both_ways([pair("none"), pair("danger")] * 9, 4)) == 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [('{"category": "billing", "escalation": "none"}', "none"), ("Hello!", "no record"), ("[1]", "no record")],
)
def test_what_an_answer_says_of_the_escalation(answer, said):
    assert lesson_06.escalation(answer) == said


def test_the_two_kinds_of_pairs_are_shown_with_how_often_none_is_said(monkeypatch):
    model = {
        "scores": {"category": [0.7], "escalation": [0.8], "both": [0.6]},
        "escalations": ["none"] * 3 + ["danger"],
    }
    names = (lesson_06.TUNED, lesson_06.ONE_RECORD, lesson_06.OWN_MISTAKES, lesson_06.BOTH_WAYS)
    run = {"models": dict.fromkeys(names, model), "pairs": dict.fromkeys(names[1:], 41)}
    monkeypatch.setattr(lesson_06, "_newest", lambda name: {"date": "2026-12-01", "seeds": [0], "runs": [run]})
    shown = lesson_06.preferences()
    assert shown.rows[lesson_06.TUNED]["says “none”, % of answers"] == 75 and "pairs" not in shown.rows[lesson_06.TUNED]
    assert shown.rows[lesson_06.OWN_MISTAKES]["pairs"] == 41
    assert shown.rows["the right answers"]["says “none”, % of answers"] == 70
    assert "mean of 1 run, the same 100 messages" in shown.caption and "2026-12-01" in shown.caption


def test_the_recorded_curve_says_where_it_is_lowest(monkeypatch):
    run = {"turn": {"held": [1.0, 0.5, 0.9], "trained": [1.0, 0.4, 0.1]}}
    monkeypatch.setattr(lesson_06, "record", lambda: {"few": 12, "runs": [run]})
    assert "lowest after epoch 2" in lesson_06.recorded_turn().alt


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


# -- money ------------------------------------------------------------------------------------------------------------------


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


def test_an_estimate_of_the_hosts_tokens_is_within_its_recorded_error(monkeypatch):
    """The counts are those of the host's own tokenizer, recorded with it."""
    monkeypatch.setattr(lesson_06, "host_encoder", lambda: None)
    kinds, task = lesson_06.counting()["kinds"], load_task("support_tickets", list(lesson_06.FIELDS))
    messages = [c[1]["content"] for c in (*task.train, *task.validation, *task.test)]
    estimated = sum(lesson_06.count(text, "message") for text in messages) / len(messages)
    assert estimated == pytest.approx(kinds["message"]["mean"], rel=0.001)
    assert 0 < kinds["message"]["off, 60 texts"] < kinds["message"]["off, one text"] < 0.3
    assert "estimated from characters" in lesson_06.how_counted()


def test_the_hosts_own_tokenizer_is_taken_where_it_is(monkeypatch):
    monkeypatch.setattr(lesson_06, "host_encoder", lambda: str.split)
    assert lesson_06.count("three short words", "message") == 3 and "the host's tokenizer" in lesson_06.how_counted()


def test_tables_of_money_and_hosts_are_whole():
    task = load_task("support_tickets", list(lesson_06.FIELDS))
    rows = lesson_06.short_rows(task.train, 60)
    prompts, answer = lesson_06.prompt_sizes(task.test, rows[:8]), lesson_06.mean_answer(rows)
    table = lesson_06.price_table(prompts, answer).rows
    assert table[lesson_06.TUNED_PROMPT]["gpt-4.1-mini untuned, $"] is None
    assert list(lesson_06.training_table(rows, 3).rows) == list(costs.PRICES)
    assert len(lesson_06.hosts_table(HOSTS).rows) == len(lesson_06.differences_table(HOSTS).rows) == len(HOSTS)
    assert len(lesson_06.price_figure(prompts, answer).alt) <= 300 and lesson_06.before_and_after().alt
