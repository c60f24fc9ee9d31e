"""A plan that is killed, refused, kept waiting and cut off, against a real server on loopback that sends bills."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_prep.synthesis_run import PLAN, SCHEMA
from support import wait_until

from course_utils.data_prep import prepare
from course_utils.data_prep.endpoint import client_for, json_in
from course_utils.data_prep.synthesis import Plan, as_chat, estimate, read_ledger, synthesise
from course_utils.errors import CourseError
from course_utils.openai_server import Replay

TESTS = Path(__file__).parent.parent


def examples(messages):
    topic = messages[0]["content"].removeprefix("Two examples about ").removesuffix(", please.")
    return json.dumps(
        {"examples": [{"message": f"first of {topic}", "label": "a"}, {"message": f"second of {topic}", "label": "b"}]}
    )


def run(replay, ledger, budget=1e6):
    return synthesise(PLAN, client_for(replay.base_url, "none"), ledger, budget)


def bill(replay) -> float:
    """What the server would ask for: each answered request once, tokens in by its own count."""
    tokens_in = len(PLAN.messages("topic 0")[0]["content"]) // 4
    return sum(PLAN.price.of(tokens_in, out) for out in replay.billed.values())


def test_a_plan_runs_and_every_example_says_where_it_is_from(tmp_path):
    with Replay(examples) as replay:
        made = run(replay, tmp_path / "ledger.jsonl")
    assert (len(made.examples), made.rejected, made.requests, made.unsent) == (120, [], 60, 0)
    assert made.cost == pytest.approx(bill(replay))
    assert all(e["provenance"]["source"] == "synthetic" and e["provenance"]["model"] == "recorded" for e in made.examples)
    assert {e["provenance"]["topic"] for e in made.examples} == set(PLAN.topics)


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost_or_paid_twice(tmp_path):
    ledger, rng, kills = tmp_path / "ledger.jsonl", random.Random(3), 0
    with Replay(examples, seconds=0.15) as replay:
        command = [sys.executable, "-m", "data_prep.synthesis_run", replay.base_url, str(ledger), "100"]
        for _ in range(12):
            known = set(read_ledger(ledger)[0])
            sent = len(replay.log)
            process = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            deadline = time.monotonic() + 60
            while len(replay.log) == sent and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.6))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            assert not known & set(replay.log[sent:])  # what the ledger has is never asked for again
        wait_until(lambda: set(replay.billed) == set(replay.log))  # requests that were under way are on the server's bill
        made = run(replay, ledger)
    assert kills >= 5
    assert len(made.examples) == 120  # no row lost
    assert {e["message"] for e in made.examples} == {f"{n} of topic {i}" for n in ("first", "second") for i in range(10)}
    assert len(replay.billed) == 60
    repeated = len(replay.log) - len(set(replay.log))
    assert repeated <= 4 * kills  # only what was under way
    answers, _ = read_ledger(ledger)
    assert sum(a["cost"] for a in answers.values()) == pytest.approx(bill(replay))  # and billed once under its key
    assert made.cost >= bill(replay)
    assert made.cost <= 100


def test_a_last_line_that_was_cut_off_is_no_harm(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    with Replay(examples) as replay:
        run(replay, ledger)
        whole = ledger.read_bytes()
        ledger.write_bytes(whole[:-20])
        again = run(replay, ledger)
    assert (again.requests, again.reused, len(again.examples)) == (1, 59, 120)
    assert ledger.read_bytes().endswith(b"\n")


def test_a_line_that_is_none_is_named(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text('{"intent": "x", "dearest": 1}\nnonsense\n')
    with Replay(examples) as replay, pytest.raises(CourseError, match="line 2 is not a line of a ledger"):
        run(replay, ledger)


@pytest.mark.parametrize("requests", [0, 1, 7])
def test_the_budget_holds(tmp_path, requests):
    dearest = PLAN.max_cost("topic 0")
    with Replay(examples) as replay:
        made = run(replay, tmp_path / "ledger.jsonl", budget=requests * dearest)
        first = len(replay.billed)
        assert bill(replay) <= requests * dearest
        assert first >= requests  # answers cost less than the dearest, so there is room for more
        assert made.unsent == 60 - first
        # A second run spends what is left, and no more.
        run(replay, tmp_path / "ledger.jsonl", budget=requests * dearest)
        assert bill(replay) <= requests * dearest


def test_a_request_without_an_answer_counts_as_paid(tmp_path):
    """The run was killed after sending: the money may be gone."""
    ledger = tmp_path / "ledger.jsonl"
    key = PLAN.requests()[0][0]
    ledger.write_text(json.dumps({"intent": key, "topic": "topic 0", "number": 0, "dearest": 5.0}) + "\n")
    with Replay(examples) as replay:
        made = run(replay, ledger, budget=5.0)
    assert (made.requests, made.unsent) == (0, 60)


def test_busy_and_broken_servers_are_asked_again(tmp_path):
    for trouble in (("busy", 3), ("broken", 7)):
        with Replay(examples, trouble=trouble) as replay:
            made = run(replay, tmp_path / f"{trouble[0]}.jsonl")
        assert len(made.examples) == 120
        assert len(replay.log) > 60
        assert len(replay.billed) == 60


def test_bad_answers_are_kept_apart_and_paid(tmp_path):
    bad = iter(
        [
            "no JSON at all",
            '{"examples": 3}',
            '{"examples": [{"message": "x", "label": "c"}]}',
            '```json\n{"examples": []}\n```',
        ]
    )
    plan = Plan(("a", "b", "c", "d"), "{topic}", SCHEMA, model="recorded")
    with Replay(lambda messages: next(bad)) as replay:
        made = synthesise(plan, client_for(replay.base_url, "none"), tmp_path / "ledger.jsonl", 10, workers=1)
    assert made.examples == []
    reasons = " | ".join(reason for _, _, reason in made.rejected)
    for word in ("no list of examples", "'c' is not one of", "1 examples instead of 2", "0 examples instead of 2"):
        assert word in reasons
    assert made.cost > 0


def test_an_answer_cut_at_the_limit_says_so(tmp_path):
    plan = Plan(("a",), "{topic}", SCHEMA, model="recorded", max_tokens=5)
    with Replay(examples) as replay:
        made = synthesise(plan, client_for(replay.base_url, "none"), tmp_path / "ledger.jsonl", 10)
    assert made.rejected == [("a", 0, "the answer was cut at max_tokens")]


def test_refusals_are_errors_and_what_came_before_stays(tmp_path):
    seen = []

    def only_five(messages):
        seen.append(messages)
        return examples(messages) if len(seen) <= 5 else None

    ledger = tmp_path / "ledger.jsonl"
    with Replay(only_five) as replay, pytest.raises(CourseError, match="answers 404"):
        synthesise(PLAN, client_for(replay.base_url, "none"), ledger, 1e6, workers=1)
    assert len(read_ledger(ledger)[0]) == 5


def test_a_server_that_is_not_there(tmp_path):
    client = client_for("http://127.0.0.1:9/v1", "none").with_options(max_retries=0)
    with pytest.raises(CourseError, match="can't be reached"):
        synthesise(Plan(("a",), "{topic}", SCHEMA), client, tmp_path / "ledger.jsonl", 10)


def test_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(CourseError, match="set OPENAI_API_KEY"):
        client_for("http://127.0.0.1:9/v1")


def test_one_run_at_a_time(tmp_path):
    from filelock import FileLock

    with FileLock(f"{tmp_path / 'ledger.jsonl'}.lock"), Replay(examples) as replay:
        with pytest.raises(CourseError, match="another run is writing"):
            run(replay, tmp_path / "ledger.jsonl")


def test_another_plan_does_not_take_the_answers(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    with Replay(examples) as replay:
        run(replay, ledger)
        other = Plan(PLAN.topics, PLAN.meta_prompt + " In verse.", SCHEMA, 1, "recorded", PLAN.price, 60)
        made = synthesise(other, client_for(replay.base_url, "none"), ledger, 1e6)
    assert (made.requests, made.reused) == (10, 0)


def test_what_a_plan_will_cost():
    likely, dearest = estimate(PLAN, (50, 30))
    assert likely == pytest.approx(60 * PLAN.price.of(50, 30))
    assert dearest == pytest.approx(60 * PLAN.max_cost("topic 0"))
    assert likely < dearest


def test_examples_go_through_the_pipeline(tmp_path):
    with Replay(examples) as replay:
        made = run(replay, tmp_path / "ledger.jsonl")
    rows = as_chat(made.examples[:20], "Label it.", answer="label")
    path = tmp_path / "synthetic.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(path, steps=["validate"])
    assert len(prepared.rows) == 20
    assert {change.code for change in prepared.changes} == {"extra_key"}  # the provenance, which no host takes


def test_fences_around_json():
    assert json_in('```json\n{"a": 1}\n```') == {"a": 1}
    with pytest.raises(ValueError):
        json_in("nothing")
