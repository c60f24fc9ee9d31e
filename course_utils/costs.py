"""What training and answering cost: prices with date and source, arithmetic, and the break-even between alternatives.

Prices are in US dollars, from `data/prices.toml` and `data/gpus.toml`, each with its date and source. Everything else is an
assumption in `Assumptions`, which you can change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from numbers import Real

from course_utils import facts
from course_utils.errors import CourseError


@dataclass(frozen=True)
class TokenPrice:
    """The prices of a model that is billed per token, in US dollars per million tokens.

    Attributes:
        input: price of input tokens.
        output: price of output tokens.
        date: when the price was read or stated.
        source: the vendor's page, or its transcription.
        cached_input: price of input tokens from the prompt cache; None if there is no discount.
        training: price of tokens that are trained on; None if the model cannot be fine-tuned.
        cache_from: minimum number of tokens in a repeated prefix for it to be billed as cached.
    """

    input: float
    output: float
    date: date
    source: str
    cached_input: float | None = None
    training: float | None = None
    cache_from: int = 1024

    def request(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
        """Return the dollars of a request; `cached_tokens` of its prompt come from the cache, if that is cheaper."""
        cached = self.input if self.cached_input is None else self.cached_input
        plain = prompt_tokens - cached_tokens
        return (plain * self.input + cached_tokens * cached + completion_tokens * self.output) / 1e6


@dataclass(frozen=True)
class GpuPrice:
    """The price of a GPU on demand, in US dollars per hour; `label` is what tables call it."""

    label: str
    hour: float
    date: date
    source: str


def _token_price(name: str, row: facts.Row) -> TokenPrice:
    for key in ("input", "output"):
        if key not in row:
            raise CourseError(f"data/prices.toml, [{name}]: add {key} = US dollars per million tokens")
    known = {field.name for field in fields(TokenPrice)}
    for key, value in row.items():
        if key not in known | OTHER_COLUMNS:
            raise CourseError(
                f"data/prices.toml, [{name}]: no column is called {key!r}; there are {', '.join(sorted(known))}"
            )
        if key in known - {"date", "source"} and not (type(value) in (int, float) and value > 0):
            raise CourseError(f"data/prices.toml, [{name}]: {key} is {value!r}; it must be a number above 0, without quotes")
    return TokenPrice(**{key: value for key, value in row.items() if key in known})


def prices_of_kind(kind: str, rows: Mapping[str, facts.Row]) -> dict[str, TokenPrice]:
    """Return the prices of one of `KINDS`, by name.

    Raises:
        CourseError: a row is of no such kind, or lacks a price; the message names the row.
    """
    for name, row in rows.items():
        if row.get("kind") not in KINDS:
            raise CourseError(f"data/prices.toml, [{name}]: kind is {row.get('kind')!r}; it must be {', '.join(KINDS)}")
    return {name: _token_price(name, row) for name, row in rows.items() if row["kind"] == kind}


KINDS = ("tunable", "prompted", "adapter", "hosting")
OTHER_COLUMNS = {"kind", "untuned", "no_new_jobs", "no_new_customers", "hour"}  # of the same table
_ROWS, _GPUS = facts.table("prices"), facts.table("gpus")
# Models that can be fine-tuned and are then served per token at these prices; models to prompt; bases on which
# a host serves an adapter; prices of some of the first before they are tuned.
PRICES, FRONTIER = prices_of_kind("tunable", _ROWS), prices_of_kind("prompted", _ROWS)
ADAPTERS = prices_of_kind("adapter", _ROWS)
UNTUNED = {name: _token_price(name, row["untuned"]) for name, row in _ROWS.items() if "untuned" in row}
# Model that takes no new tuning jobs → from which day on nobody can tune it, and since which day no new customer.
NO_NEW_JOBS = {name: (row["no_new_jobs"], row["no_new_customers"]) for name, row in _ROWS.items() if "no_new_jobs" in row}
GPU_PRICES = {name: GpuPrice(row["label"], **row["price"]) for name, row in _GPUS.items() if "price" in row}
# The GPU and the model whose throughput is known, and (input tokens, output tokens, requests per second) for two shapes of
# request.
SERVED_ON, _SERVED = next((name, row["served"]) for name, row in _GPUS.items() if "served" in row)
SERVED, SERVED_MODEL = _SERVED["requests"], _SERVED["model"]
SERVED_DATE, SERVED_SOURCE = _SERVED["date"], _SERVED["source"]


def price_of(model: str) -> TokenPrice:
    """Return the price of a hosted model.

    Raises:
        CourseError: its price is not known.
    """
    prices = PRICES | FRONTIER
    if model not in prices:
        raise CourseError(f"no price is known for {model!r}; there are {', '.join(prices)}")
    return prices[model]


def training_cost(tokens: int, epochs: float = 1, model: str = "gpt-4.1-mini") -> float:
    """Return the dollars that it costs to fine-tune a hosted model; the validation file is free.

    Args:
        tokens: number of tokens in the training file.
        epochs: passes over the file.
        model: key of PRICES.

    Raises:
        CourseError: no price is known, or the model cannot be fine-tuned.
    """
    price = price_of(model).training
    if price is None:
        raise CourseError(f"{model} cannot be fine-tuned; {', '.join(PRICES)} can")
    return tokens * epochs * price / 1e6


def request_cost(
    prompt_tokens: float, completion_tokens: float, model: str = "gpt-4.1-mini", cached_tokens: float = 0
) -> float:
    """Return the dollars that one request costs.

    Args:
        prompt_tokens: all input tokens, cached ones included.
        completion_tokens: all output tokens.
        model: key of PRICES or FRONTIER.
        cached_tokens: how many of the prompt's tokens come from the prompt cache.

    Raises:
        CourseError: no price is known, or there are more cached tokens than prompt tokens.
    """
    if not 0 <= cached_tokens <= prompt_tokens:
        raise CourseError(f"{cached_tokens} cached tokens in a prompt of {prompt_tokens}")
    return price_of(model).request(prompt_tokens, completion_tokens, cached_tokens)


def gpu_seconds(prompt_tokens: float, completion_tokens: float) -> float:
    """Return the seconds of an H100 that one request to an 8B model takes.

    They are those at the number of users that it serves well (from `SERVED`).
    """
    (r1, w1, a), (r2, w2, b) = SERVED
    # r * (seconds per prompt token) + w * (seconds per answer token) = 1 / requests per second, for both shapes
    determinant = r1 * w2 - r2 * w1
    seconds_per_prompt_token, seconds_per_answer_token = (w2 / a - w1 / b) / determinant, (r1 / b - r2 / a) / determinant
    return prompt_tokens * seconds_per_prompt_token + completion_tokens * seconds_per_answer_token


def break_even(setup: float, upkeep_per_day: float, old_cost: float, new_cost: float, days: int = 365) -> float | None:
    """Return the requests per day from which the new way is cheaper; None if there is no such volume.

    Args:
        setup: additional set-up cost of the new way, in dollars, once.
        upkeep_per_day: dollars per day, independent of the number of requests.
        old_cost: dollars per request of the old way.
        new_cost: dollars per request of the new way.
        days: period over which the set-up has to pay off.

    Raises:
        CourseError: the period is not longer than zero days.
    """
    if days <= 0:
        raise CourseError(f"days={days}: must be greater than zero")
    saved_per_request = old_cost - new_cost
    return max(0.0, (setup / days + upkeep_per_day) / saved_per_request) if saved_per_request > 0 else None


@dataclass(frozen=True)
class CostStructure:
    """The fixed and the running costs of one way to answer.

    Attributes:
        setup: dollars, once.
        request: dollars per request.
        day: dollars per day.
        gpu_day: dollars per day for each rented GPU.
        capacity: number of requests per day that one GPU can serve.
    """

    setup: float
    request: float
    day: float = 0.0
    gpu_day: float = 0.0
    capacity: float = math.inf

    def total(self, requests_a_day: float, days: int) -> float:
        """Return the dollars over a number of days."""
        gpus = max(1, math.ceil(requests_a_day / self.capacity)) if self.gpu_day else 0
        return self.setup + days * (requests_a_day * self.request + self.day + gpus * self.gpu_day)


WAYS = ("prompted", "prompted small", "hosted", "self-hosted")


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of the comparison.

    The four ways: "prompted", a frontier model with instructions and examples in each prompt; "prompted small", the same
    prompt for a small model; "hosted", that small model fine-tuned and served per token; "self-hosted", the fine-tuned model
    on a GPU that is rented around the clock.

    Not included: the cost of writing to a prompt cache (once, a quarter more than the input price) and its expiry after
    minutes; reasoning tokens; differences between vendors' tokenizers.

    Attributes:
        frontier: key of FRONTIER.
        small: key of PRICES.
        instructions: tokens of instructions and examples, the same in each prompt of the two prompted ways.
        message: tokens of the customer's message, including what every way needs around it.
        passages: tokens of retrieved passages, in every way.
        completion: tokens of the answer.
        cache: whether the prompt cache is used if the instructions are long enough (`TokenPrice.cache_from`).
        examples: number of training examples, of `message` + `passages` + `completion` tokens each.
        epochs: passes over them.
        trainings: number of trainings within `days`: the first one and the renewals.
        hours_prompt: work on the prompt, in every way, since prompting is measured before anything is trained.
        hours_index: work on the index and its evaluation, in every way that retrieves.
        hours_tuning: work on data and evaluation for the first training.
        hours_renewal: the same for each further training.
        hours_serving: work per month on a self-hosted server.
        wage: dollars per hour of work.
        gpu: key of GPU_PRICES; throughput is known for SERVED_ON alone.
        busy: share of a day's capacity that can be used, since requests do not arrive evenly.
        days: period over which the set-up has to pay off.
    """

    frontier: str = "gpt-6.2-sol"
    small: str = "qwen3-8b"
    instructions: float = 800
    message: float = 60
    passages: float = 0
    completion: float = 40
    cache: bool = True
    examples: int = 500
    epochs: float = 3
    trainings: int = 2
    hours_prompt: float = 8
    hours_index: float = 16
    hours_tuning: float = 40
    hours_renewal: float = 8
    hours_serving: float = 4
    wage: float = 80
    gpu: str = "h100"
    busy: float = 0.3
    days: int = 365

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in ("str", "bool"):
                continue
            if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
                raise CourseError(f"{field.name}={value!r}: a number, zero or more")
        if not self.days > 0:
            raise CourseError(f"days={self.days!r}: must be greater than zero")
        if not 0 < self.busy <= 1:
            raise CourseError(f"busy={self.busy!r}: must be greater than zero, at most 1")

    def setup(self, tuned: bool, retrieves: bool = False) -> float:
        """Return the dollars for work and training tokens, before the first answer and for all renewals."""
        hours = self.hours_prompt + retrieves * self.hours_index
        if not tuned:
            return hours * self.wage
        hours += self.hours_tuning + max(0, self.trainings - 1) * self.hours_renewal
        tokens = self.examples * (self.message + self.passages + self.completion)
        return hours * self.wage + self.trainings * training_cost(round(tokens), self.epochs, self.small)

    def prompted(self, model: str) -> float:
        """Return the dollars for a request with all instructions in the prompt.

        Raises:
            CourseError: no price of the model is known.
        """
        cached = self.instructions if self.cache and self.instructions >= price_of(model).cache_from else 0
        return request_cost(self.message + self.passages + self.instructions, self.completion, model, cached)

    def capacity(self, prompt_tokens: float) -> float:
        """Return the number of requests per day that one rented GPU can serve.

        Raises:
            CourseError: the throughput of the model or the GPU is not known.
        """
        if self.gpu != SERVED_ON or self.small != SERVED_MODEL.lower():
            raise CourseError(
                f"throughput is known for {SERVED_MODEL.lower()} on {SERVED_ON} only, not for {self.small} on {self.gpu}"
            )
        return 86_400 / gpu_seconds(prompt_tokens, self.completion) * self.busy

    def ways(self) -> dict[str, CostStructure]:
        """Return the costs of the four ways, without "self-hosted" if its throughput is not known.

        Raises:
            CourseError: a model has no price.
        """
        prompt_tokens, retrieves = self.message + self.passages, self.passages > 0
        prompting_setup, tuning_setup = self.setup(False, retrieves), self.setup(True, retrieves)
        ways = {
            "prompted": CostStructure(prompting_setup, self.prompted(self.frontier)),
            "prompted small": CostStructure(prompting_setup, self.prompted(self.small)),
            "hosted": CostStructure(tuning_setup, request_cost(prompt_tokens, self.completion, self.small)),
        }
        if self.gpu == SERVED_ON and self.small == SERVED_MODEL.lower():
            serving_per_day = self.hours_serving * self.wage * 12 / 365
            ways["self-hosted"] = CostStructure(
                tuning_setup, 0.0, serving_per_day, 24 * GPU_PRICES[self.gpu].hour, self.capacity(prompt_tokens)
            )
        return ways

    def break_even(self, way: str, against: str = "prompted") -> float | None:
        """Return the requests per day from which a way is cheaper than another one; None if it never is.

        For rented GPUs this is the lowest volume from which the way stays cheaper, even when the next GPU is needed.

        Args:
            way: one of WAYS.
            against: another one of WAYS, billed per token.

        Raises:
            CourseError: a way is unknown, its throughput is not known, or `against` is billed per GPU.
        """
        ways = self.ways()
        if way not in WAYS or against not in WAYS:
            raise CourseError(f"choose among {', '.join(WAYS)}")
        if way not in ways or against not in ways:
            self.capacity(self.message)  # raises an error that says what is missing
        new_way, old_way = ways[way], ways[against]
        if old_way.gpu_day:
            raise CourseError(f"against={against!r}: compare with a way that is billed per token")
        setup, saved_per_request = new_way.setup - old_way.setup, old_way.request - new_way.request
        if not new_way.gpu_day:
            return break_even(setup, new_way.day - old_way.day, old_way.request, new_way.request, self.days)
        saved_per_full_gpu = new_way.capacity * saved_per_request - new_way.gpu_day  # dollars per day
        if saved_per_full_gpu <= 0:
            return None
        # With each additional GPU the old way may become cheaper again, so the last such step decides: the number of fully
        # used GPUs that pay for the set-up and for one more GPU.
        gpus = max(1, math.ceil((setup / self.days + new_way.day + new_way.gpu_day) / saved_per_full_gpu))
        return break_even(setup, new_way.day + gpus * new_way.gpu_day, old_way.request, new_way.request, self.days)
