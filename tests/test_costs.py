"""Prices are dated and young; the arithmetic is right; break-even is where the curves cross."""

from dataclasses import fields, replace
from datetime import date, timedelta

import pytest

from course_utils import costs
from course_utils.errors import CourseError


def test_no_price_is_older_than_a_year():
    assert costs.outdated(date.today()) == [], "read these prices again, and give the new date"


def test_a_price_that_is_older_than_a_year_is_named():
    oldest = min(
        date.fromisoformat(price.date) for price in (*costs.PRICES.values(), *costs.FRONTIER.values(), *costs.GPUS.values())
    )
    assert costs.outdated(oldest + timedelta(days=365)) == []
    assert costs.outdated(oldest + timedelta(days=366))
    assert set(costs.outdated(date(2028, 1, 1))) == {*costs.PRICES, *costs.FRONTIER, *costs.GPUS, "throughput"}


@pytest.mark.parametrize("price", [*costs.PRICES.values(), *costs.FRONTIER.values(), *costs.GPUS.values()])
def test_every_price_says_from_where_and_is_not_from_the_future(price):
    assert len(price.source) > 10
    assert date(2026, 1, 1) <= date.fromisoformat(price.date) <= date.today()
    assert all(v is None or v > 0 for v in (getattr(price, f.name) for f in fields(price)) if not isinstance(v, str))


def test_requests():
    assert costs.request_cost(1_000_000, 1_000_000, "gpt-6.2-sol") == pytest.approx(12)
    assert costs.request_cost(1_000_000, 0, "gpt-6.2-sol", cached_tokens=900_000) == pytest.approx(0.2 + 0.09)
    assert costs.request_cost(1000, 10, "gpt-4o-mini", 500) == costs.request_cost(1000, 10, "gpt-4o-mini")
    for cached in (-1, 1001):
        with pytest.raises(CourseError, match="cached tokens in a prompt of 1000"):
            costs.request_cost(1000, 0, "gpt-6.2-sol", cached)


def test_training():
    assert costs.training_cost(1_000_000, 3, "qwen3.5-9b") == pytest.approx(1.8)
    assert all(price.training for price in costs.PRICES.values())
    with pytest.raises(CourseError, match="gpt-6.2-sol cannot be fine-tuned; gpt-4.1,"):
        costs.training_cost(1, 1, "gpt-6.2-sol")
    with pytest.raises(CourseError, match="no price is known for 'gpt-9'"):
        costs.request_cost(1, 1, "gpt-9")


def test_gpu_seconds_give_back_the_published_throughputs():
    for read, written, rate in costs.SERVED:
        assert costs.gpu_seconds(read, written) == pytest.approx(1 / rate)
    assert costs.gpu_seconds(100, 0) > 0 < costs.gpu_seconds(0, 100)


def test_break_even():
    assert costs.break_even(365, 0, 0.02, 0.01) == pytest.approx(100)
    assert costs.break_even(365, 4, 0.02, 0.01) == pytest.approx(500)
    assert costs.break_even(365, 4, 0.01, 0.02) is None
    assert costs.break_even(365, 4, 0.01, 0.01) is None
    assert costs.break_even(-5, 0, 0.02, 0.01) == 0  # cheaper to begin with
    with pytest.raises(CourseError, match="days=0"):
        costs.break_even(1, 1, 2, 1, 0)


VARIANTS = [
    costs.Assumptions(),
    costs.Assumptions(busy=0.0005),  # several cards are needed before it pays
    costs.Assumptions(busy=0.001, instructions=2000, cache=False),
    costs.Assumptions(frontier="claude-opus-5.5", passages=250),
    costs.Assumptions(frontier="gpt-6-luna"),
    costs.Assumptions(days=30, wage=200),
]


@pytest.mark.parametrize("way", ["hosted", "self-hosted"])
@pytest.mark.parametrize("assumptions", VARIANTS)
def test_curves_cross_where_break_even_says(assumptions, way):
    found = assumptions.break_even(way)
    ways, days = assumptions.ways(), assumptions.days
    gain = lambda n: ways["prompted"].total(n, days) - ways[way].total(n, days)
    if found is None:
        assert all(gain(10**power) < 0 for power in range(9))
    else:
        assert gain(0.999 * found) < 0
        assert all(gain(factor * found) >= 0 for factor in (1.001, 1.2, 1.5, 2, 3, 7.3, 50))


def test_it_never_pays_where_the_card_costs_more_than_the_frontier():
    assert costs.Assumptions(frontier="gpt-6-luna", busy=0.001).break_even("self-hosted") is None


def test_a_long_prompt_is_cached_and_a_short_one_is_not():
    short, long = costs.Assumptions(instructions=900, message=60), costs.Assumptions(instructions=1200, message=60)
    assert short.ways()["prompted"].request > long.ways()["prompted"].request
    assert replace(short, cache=False).ways() == short.ways()
    assert replace(long, cache=False).ways()["prompted"].request > short.ways()["prompted"].request


def test_sensitivity_moves_one_assumption_at_a_time():
    middle = costs.Assumptions()
    found = costs.sensitivity(middle, "self-hosted")
    assert set(found) == set(costs.VARIED) <= {field.name for field in fields(middle)}
    low, high = costs.VARIED["wage"]
    ends = [replace(middle, wage=wage).break_even("self-hosted") for wage in (low, high)]
    assert found["wage"] == tuple(ends)
    assert found["wage"][0] < middle.break_even("self-hosted") < found["wage"][1]


def test_wrong_names_are_named():
    with pytest.raises(CourseError, match="choose among prompted, hosted, self-hosted"):
        costs.Assumptions().break_even("rented")
    with pytest.raises(CourseError, match="throughput is known for H100 only"):
        costs.Assumptions(gpu="L4").ways()
