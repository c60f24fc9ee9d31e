"""The arithmetic of costs is right, at made-up prices; break-even is where the curves cross."""

from dataclasses import fields, replace
from datetime import date

import pytest

from course_utils import costs
from course_utils.errors import CourseError


@pytest.fixture
def made_up(monkeypatch):
    """Prices of two models that do not exist: "tuned" and "large"."""
    day, source = date(2026, 1, 1), "made up"
    monkeypatch.setitem(costs.PRICES, "tuned", costs.TokenPrice(1.0, 4.0, day, source, training=2.0))
    monkeypatch.setitem(costs.FRONTIER, "large", costs.TokenPrice(10.0, 50.0, day, source, cached_input=0.5))


def test_every_price_is_above_zero():
    for price in (*costs.PRICES.values(), *costs.FRONTIER.values(), *costs.UNTUNED.values(), *costs.GPU_PRICES.values()):
        numbers = [number for field in fields(price) if isinstance(number := getattr(price, field.name), int | float)]
        assert numbers and min(numbers) > 0, price
    assert all(price.training for price in costs.PRICES.values())
    assert not any(price.training for price in costs.FRONTIER.values())


def test_requests(made_up):
    assert costs.request_cost(1_000_000, 1_000_000, "large") == pytest.approx(60)
    assert costs.request_cost(1_000_000, 0, "large", cached_tokens=900_000) == pytest.approx(1 + 0.45)
    assert costs.request_cost(1_000_000, 0, "tuned", cached_tokens=1_000_000) == pytest.approx(1)  # no discount
    for cached in (-1, 1001):
        with pytest.raises(CourseError, match="cached tokens in a prompt of 1000"):
            costs.request_cost(1000, 0, "large", cached)


def test_training(made_up):
    assert costs.training_cost(1_000_000, 3, "tuned") == pytest.approx(6)
    with pytest.raises(CourseError, match="large cannot be fine-tuned; .*tuned can"):
        costs.training_cost(1, 1, "large")
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


@pytest.mark.parametrize(
    ("way", "against"),
    [("hosted", "prompted"), ("hosted", "prompted small"), ("self-hosted", "prompted"), ("self-hosted", "hosted")],
)
@pytest.mark.parametrize("assumptions", VARIANTS)
def test_curves_cross_where_break_even_says(assumptions, way, against):
    found = assumptions.break_even(way, against)
    ways, days = assumptions.ways(), assumptions.days
    gain = lambda n: ways[against].total(n, days) - ways[way].total(n, days)
    if found is None:
        assert all(gain(10**power) < 0 for power in range(9))
    else:
        assert gain(0.999 * found) < 0
        steps = [k * ways[way].capacity * 1.0001 for k in range(1, 40)] if ways[way].gpu_day else []  # the next card
        assert all(
            gain(n) >= 0 for n in (*(found * f for f in (1.001, 1.2, 1.5, 2, 3, 7.3, 50)), *(s for s in steps if s > found))
        )


def test_it_never_pays_where_the_card_costs_more_than_the_frontier():
    assert costs.Assumptions(frontier="gpt-6-luna", busy=0.001).break_even("self-hosted") is None


def test_instructions_that_are_long_enough_for_the_model_are_cached():
    for model in ("gpt-6.2-sol", "claude-opus-5.5", "gemini-3.8-flash"):
        limit = costs.price_of(model).cache_from
        short, long = (costs.Assumptions(frontier=model, instructions=n) for n in (limit - 1, limit))
        assert short.prompted(model) > 2 * long.prompted(model) - long.completion * costs.price_of(model).output / 1e6
        assert replace(short, cache=False).prompted(model) == short.prompted(model)
        assert replace(long, cache=False).prompted(model) > short.prompted(model)


def test_a_message_that_differs_each_time_is_not_cached():
    asked = costs.Assumptions(instructions=100, message=5000)
    assert replace(asked, cache=False).ways() == asked.ways()


def test_setup_is_work_and_trainings():
    middle = costs.Assumptions(hours_prompt=1, hours_index=10, hours_tuning=100, hours_renewal=1000, wage=1, trainings=3)
    trained = 3 * costs.training_cost(500 * 100, 3, "qwen3-8b")
    assert middle.setup(False) == 1
    assert middle.setup(False, retrieves=True) == 11
    assert middle.setup(True) == pytest.approx(101 + 2000 + trained)
    assert replace(middle, trainings=1).setup(True, True) == pytest.approx(111 + trained / 3)
    assert replace(middle, passages=50).ways()["prompted"].setup == 11


def test_a_server_of_ones_own_takes_work_every_month():
    busy, left = costs.Assumptions(hours_serving=10, wage=100), costs.Assumptions(hours_serving=0, wage=100)
    year = busy.ways()["self-hosted"].total(1, 365) - left.ways()["self-hosted"].total(1, 365)
    assert year == pytest.approx(12 * 10 * 100)


def test_wrong_names_are_named():
    with pytest.raises(CourseError, match="choose among prompted, prompted small, hosted, self-hosted"):
        costs.Assumptions().break_even("rented")
    with pytest.raises(CourseError, match="against='self-hosted': compare with a way that is billed per token"):
        costs.Assumptions().break_even("hosted", "self-hosted")
    for unknown in (costs.Assumptions(gpu="l4"), costs.Assumptions(small="gpt-4.1")):
        with pytest.raises(CourseError, match="throughput is known for qwen3-8b on h100 only"):
            unknown.break_even("self-hosted")
        assert unknown.break_even("hosted") > 0


@pytest.mark.parametrize(
    "wrong",
    [{"days": 0}, {"busy": 0}, {"busy": 3}, {"busy": -1}, {"examples": -5}, {"wage": float("nan")}, {"wage": "150"}],
)
def test_assumptions_that_are_none_are_named(wrong):
    with pytest.raises(CourseError, match=next(iter(wrong))):
        costs.Assumptions(**wrong)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"kind": "promted", "input": 1.0, "output": 2.0},
            r"prices.toml, \[acme\]: kind is 'promted'; it must be tunable, ",
        ),
        ({"kind": "prompted", "output": 2.0}, r"prices.toml, \[acme\]: add input = US dollars"),
        ({"kind": "prompted", "input": 1.0, "output": "0.50"}, r"\[acme\]: output is '0.50'; it must be a number above 0"),
        (
            {"kind": "prompted", "input": 1.0, "output": 2.0, "cached_inptu": 0.1},
            r"\[acme\]: no column is called 'cached_inptu'; there are cache_from, cached_input",
        ),
    ],
)
def test_a_row_of_prices_that_is_not_whole_is_named(row, message):
    with pytest.raises(CourseError, match=message):
        costs.prices_of_kind("prompted", {"acme": row})
