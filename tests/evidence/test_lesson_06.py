"""Lesson 06: what its records and prices must still say for the lesson to be true, and the table of its rivals."""

import copy
import re
import statistics

import pytest

from course_utils import assets, costs, facts
from course_utils.evidence import lesson_06
from course_utils.exercises.lesson_06 import requests_until_paid
from course_utils.openai_server import HOSTS


def score(system, measure):
    """Mean over the recorded runs of the comparisons."""
    return statistics.mean(run["scores"][system][measure][0] for run in assets.read_record("hosted")["runs"])


def preferred(name, measure="both"):
    """Of each recorded run of the jobs with pairs."""
    return [run["models"][name]["scores"][measure][0] for run in assets.read_record("host-preferences")["runs"]]


def losses(name):
    return assets.read_record("hosted")["runs"][0]["curve"][name]


def both_right(run):
    """Share of the hundred messages that a run through the service has right in both fields."""
    return statistics.mean(assets.read_record("laptop-service")["runs"][run]["right"]["all fields"])


def million(price, tokens_in, tokens_out=15):
    return tokens_in * price.input + tokens_out * price.output


LUNA, ADAPTER = costs.price_of("gpt-6-luna"), costs.ADAPTERS["qwen3-14b-adapter"]
FINDINGS = {
    "training beats every recorded prompt, on both models": lambda: all(
        both_right(f"{size} | tuned | 0") > both_right(run) + 0.1
        for size in ("135M", "0.5B")
        for run in assets.read_record("laptop-service")["runs"]
        if run.startswith(f"{size} | told")
    ),
    "the third epoch brings a higher validation loss and no better answers": lambda: (
        losses("held")[1] < min(losses("held")[0], losses("held")[2])
        and losses("trained") == sorted(losses("trained"), reverse=True)
        and score("tuned, epoch 3", "both") <= score("tuned, epoch 2", "both")
    ),
    "a model trained on another's answers is as good, as far as a hundred messages show": lambda: (
        abs(score("distilled from its answers", "both") - score("tuned, not told", "both")) < 0.05
    ),
    "pairs that reject one record ruin a good model": lambda: all(
        after < before - 0.3
        for before, after in zip(preferred("tuned, before any pairs"), preferred("pairs that punish one record"))
    ),
    "40 hours come back after more than a hundred million requests": lambda: (
        40 * 80 / (million(LUNA, 170) - million(ADAPTER, 60)) > 100
    ),
    "a model by the hour is never cheaper than instructions, and dearest up to ten million requests": lambda: (
        million(costs.UNTUNED["gpt-4.1-mini"], 60) > million(LUNA, 170)
        and 730 * facts.table("prices")["azure-hosting"]["hour"] / 10 + million(costs.UNTUNED["gpt-4.1-mini"], 60)
        > million(LUNA, 530)
    ),
    "where a tuned token costs more, a saved prompt need not pay": lambda: (
        requests_until_paid(1.0, 60, 160, 15, (0.80, 3.20), (0.40, 1.60)) is None
    ),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_records_and_prices_bear(finding):
    assert FINDINGS[finding]()


def test_the_rivals_are_read_by_the_names_under_which_the_benchmark_stores_them(monkeypatch):
    right = {"valid": [1, 1, 0, 1], "category": [1, 1, 0, 0], "escalation": [1, 0, 0, 0], "all fields": [1, 0, 0, 0]}
    other = copy.deepcopy(right) | {"all fields": [1, 1, 0, 0]}
    record = {"date": "2026-12-01", "seeds": [0, 1], "runs": {
        "0.5B | told | 0": {"right": right}, "0.5B | tuned | 0": {"right": right}, "0.5B | tuned | 1": {"right": other},
    }}  # fmt: skip
    monkeypatch.setattr(assets, "read_record", lambda name: record)
    table = lesson_06.rivals()
    row = table.rows["Qwen2.5-Coder-0.5B, trained on 240 rows, 2 runs"]
    assert row["both right"].value == pytest.approx(0.375) and "2026-12-01" in table.caption
    assert table.rows["Qwen2.5-Coder-0.5B, instructions"]["both right"].value == pytest.approx(0.25)
    nothing = table.rows[list(table.rows)[-1]]
    assert nothing["both right"].value < nothing["escalation right"].value > nothing["category right"].value
    source = assets.path("benchmarks/laptop_service.py").read_text(encoding="utf-8")
    told = set(re.findall(r'f?"(told[^"]*)": \(', source.replace("{EXAMPLES_SHOWN}", "8")))
    assert set(lesson_06.WAYS.values()) == told | {"tuned"} and "| tuned | {seed}" in source


def test_every_host_says_how_a_model_is_deployed_and_what_it_costs():
    shown, differing = lesson_06.hosts_table().rows, lesson_06.differences_table().rows
    assert list(shown) == list(differing) == [host.name for host in HOSTS.values()]
    assert all(all(row.values()) for row in (*shown.values(), *differing.values()))
