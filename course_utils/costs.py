"""What training and answering cost in money: prices with date and source, arithmetic, and where one way overtakes another.

Prices are in US dollars, as vendors' pages and public transcriptions of them gave them on the date beside each. They age: a
test fails when one is older than a year. Everything else is an assumption, in `Assumptions`, and yours to change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from course_utils.errors import CourseError


@dataclass(frozen=True)
class Price:
    """A model by the token: US dollars for a million tokens.

    Attributes:
        input: read.
        output: written.
        date: when the price was read or stated, YYYY-MM-DD.
        source: the vendor's page, or who transcribed it.
        cached_input: read from the prompt cache; None where there is no discount.
        training: trained on; None where it cannot be tuned.
    """

    input: float
    output: float
    date: str
    source: str
    cached_input: float | None = None
    training: float | None = None


@dataclass(frozen=True)
class GpuPrice:
    """A GPU on demand: US dollars an hour, date and source as for `Price`."""

    hour: float
    date: str
    source: str


_OPENAI_TUNED = ("2026-11-24", "OpenAI's pricing page, fine-tuning")
_TRANSCRIBED = "read from the vendor's page by github.com/{}"
# Models that are tuned, and then served by the token at these prices. OpenAI takes no new jobs from 2027-01-06.
PRICES = {
    "gpt-4.1": Price(3.0, 12.0, *_OPENAI_TUNED, training=25.0),
    "gpt-4.1-mini": Price(0.80, 3.20, *_OPENAI_TUNED, training=5.0),
    "gpt-4o": Price(3.75, 15.0, *_OPENAI_TUNED, training=25.0),
    "gpt-4o-mini": Price(0.30, 1.20, *_OPENAI_TUNED, training=3.0),
    "qwen3.5-9b": Price(
        0.20, 0.60, "2026-09-20", "Prime Intellect, " + _TRANSCRIBED.format("api-evangelist/prime-intellect"), training=0.60
    ),
}
# Models that are prompted, of three sizes.
FRONTIER = {
    "claude-opus-5.5": Price(4.0, 20.0, "2026-11-26", "platform.claude.com, model overview", cached_input=0.20),
    "claude-sonnet-5.5": Price(2.0, 10.0, "2026-11-26", "platform.claude.com, model overview", cached_input=0.20),
    "claude-haiku-5.5": Price(0.10, 0.50, "2026-11-26", "platform.claude.com, model overview", cached_input=0.01),
    "gpt-6.2-sol": Price(2.0, 10.0, "2026-11-26", "developers.openai.com, model page", cached_input=0.10),
    "gpt-6-luna": Price(0.10, 0.50, "2026-11-26", "developers.openai.com, model page", cached_input=0.01),
    "gemini-3.8-flash": Price(0.75, 3.75, "2026-10-07", _TRANSCRIBED.format("api-evangelist/deepmind"), cached_input=0.075),
}
GPUS = {
    "L4": GpuPrice(0.80, "2026-05-08", "Modal, " + _TRANSCRIBED.format("api-evangelist/modal")),
    "A100 80GB": GpuPrice(1.79, "2026-11-09", "RunPod, " + _TRANSCRIBED.format("datareceipts/data-receipts")),
    "H100": GpuPrice(3.99, "2026-11-09", "RunPod, " + _TRANSCRIBED.format("datareceipts/data-receipts")),
}
# A prompt below this many tokens is billed in full, whatever it shares with the one before (OpenAI's minimum; Anthropic's is
# 512 to 4,096 by model): docs.litellm.ai, Prompt Caching, 2026-10-07.
CACHE_FROM = 1024
# What an H100 does with Qwen3-8B in bf16 under vLLM, many requests at once: (tokens read, tokens written, requests a second)
# at two shapes of request (perf_points.csv of the source). Two shapes give a price for each side.
SERVED = ((1024, 128, 23.58), (128, 128, 14_540 / 128))
SERVED_ON, SERVED_DATE, SERVED_SOURCE = "H100", "2026-09-24", "github.com/tgarg01/silybench-data"


def price_of(model: str) -> Price:
    """Price of a hosted model.

    Raises:
        CourseError: none is known.
    """
    known = PRICES | FRONTIER
    if model not in known:
        raise CourseError(f"no price is known for {model!r}; there are {', '.join(known)}")
    return known[model]


def outdated(today, days: int = 365) -> list[str]:
    """Names of prices and throughputs that are older than so many days on a `datetime.date`; the tests want none."""
    from datetime import date

    dated = {name: price.date for table in (PRICES, FRONTIER, GPUS) for name, price in table.items()} | {
        "throughput": SERVED_DATE
    }
    return [name for name, day in dated.items() if (today - date.fromisoformat(day)).days > days]


def training_cost(tokens: int, epochs: float = 1, model: str = "gpt-4.1-mini") -> float:
    """Dollars to fine-tune a hosted model on a file of so many tokens; the validation file costs nothing.

    Raises:
        CourseError: no price is known, or the model cannot be tuned.
    """
    price = price_of(model).training
    if price is None:
        raise CourseError(f"{model} cannot be fine-tuned; {', '.join(PRICES)} can")
    return tokens * epochs * price / 1e6


def request_cost(
    prompt_tokens: float, completion_tokens: float, model: str = "gpt-4.1-mini", cached_tokens: float = 0
) -> float:
    """Dollars for one request.

    Args:
        prompt_tokens: all that is read, the cached part included.
        completion_tokens: all that is written.
        model: key of PRICES or FRONTIER.
        cached_tokens: how many of the prompt's tokens come from the prompt cache.

    Raises:
        CourseError: no price is known, or more cached tokens than the prompt has.
    """
    price = price_of(model)
    if not 0 <= cached_tokens <= prompt_tokens:
        raise CourseError(f"{cached_tokens} cached tokens in a prompt of {prompt_tokens}")
    cached = price.input if price.cached_input is None else price.cached_input
    return ((prompt_tokens - cached_tokens) * price.input + cached_tokens * cached + completion_tokens * price.output) / 1e6


def gpu_seconds(prompt_tokens: float, completion_tokens: float) -> float:
    """Seconds of an H100 that one request to an 8B model takes when the card is full (from `SERVED`)."""
    (r1, w1, a), (r2, w2, b) = SERVED
    # r * read + w * written = 1 / requests a second, for both shapes
    determinant = r1 * w2 - r2 * w1
    read, written = (w2 / a - w1 / b) / determinant, (r1 / b - r2 / a) / determinant
    return prompt_tokens * read + completion_tokens * written


def break_even(setup: float, upkeep_a_day: float, old_cost: float, new_cost: float, days: int = 365) -> float | None:
    """Requests a day from which the new way is cheaper over so many days; None if it never is.

    Args:
        setup: dollars, once, more than the old way's.
        upkeep_a_day: dollars a day, however few the requests.
        old_cost: dollars a request.
        new_cost: dollars a request.
        days: over which the set-up has to pay.
    """
    if days <= 0:
        raise CourseError(f"days={days}: must be greater than zero")
    saved = old_cost - new_cost
    return max(0.0, (setup / days + upkeep_a_day) / saved) if saved > 0 else None


@dataclass(frozen=True)
class Way:
    """One way to answer: dollars once, a request, and a day for each GPU that is kept; requests a day that a GPU takes."""

    setup: float
    request: float
    gpu_day: float = 0.0
    capacity: float = math.inf

    def total(self, requests_a_day: float, days: int) -> float:
        """Dollars over so many days."""
        gpus = max(1, math.ceil(requests_a_day / self.capacity)) if self.gpu_day else 0
        return self.setup + days * (requests_a_day * self.request + gpus * self.gpu_day)


WAYS = ("prompted", "hosted", "self-hosted")


@dataclass(frozen=True)
class Assumptions:
    """All that the comparison rests on.

    The three ways: "prompted", a frontier model with instructions and examples in each prompt; "hosted", a small model
    fine-tuned and served by the token; "self-hosted", the same on a GPU of one's own that is paid day and night.

    Attributes:
        frontier: key of FRONTIER.
        small: key of PRICES.
        instructions: tokens of instructions and examples in each prompt of the prompted way.
        message: tokens of the customer's message, with what every way needs around it.
        passages: tokens of retrieved passages, in every way.
        completion: tokens of the answer.
        cache: whether the prompt cache is used where the prompt is long enough (`CACHE_FROM`).
        examples: examples trained on, of `message` + `passages` + `completion` tokens each.
        epochs: passes over them.
        trainings: within `days`: the first and the renewals.
        hours_prompt: work on the prompt.
        hours_tuning: work on data and evaluation, more than that, for the first training.
        wage: dollars an hour of work.
        gpu: key of GPUS; throughput is known for the H100.
        busy: share of a day's capacity that can be used, since requests do not come evenly.
        days: over which the set-up has to pay.
    """

    frontier: str = "gpt-6.2-sol"
    small: str = "qwen3.5-9b"
    instructions: float = 800
    message: float = 60
    passages: float = 0
    completion: float = 40
    cache: bool = True
    examples: int = 500
    epochs: float = 3
    trainings: int = 2
    hours_prompt: float = 8
    hours_tuning: float = 40
    wage: float = 80
    gpu: str = "H100"
    busy: float = 0.3
    days: int = 365

    def ways(self) -> dict[str, Way]:
        """The three ways in money.

        Raises:
            CourseError: a model or a GPU without price, a GPU without known throughput.
        """
        if self.gpu != SERVED_ON:
            raise CourseError(f"gpu={self.gpu!r}: throughput is known for {SERVED_ON} only")
        short = self.message + self.passages
        long = short + self.instructions
        cached = self.instructions if self.cache and long >= CACHE_FROM else 0
        prompting = self.hours_prompt * self.wage
        trained = self.examples * (short + self.completion)
        tuning = prompting + self.hours_tuning * self.wage
        tuning += self.trainings * training_cost(round(trained), self.epochs, self.small)
        capacity = 86_400 / gpu_seconds(short, self.completion) * self.busy
        return {
            "prompted": Way(prompting, request_cost(long, self.completion, self.frontier, cached)),
            "hosted": Way(tuning, request_cost(short, self.completion, self.small)),
            "self-hosted": Way(tuning, 0.0, 24 * GPUS[self.gpu].hour, capacity),
        }

    def break_even(self, way: str, against: str = "prompted") -> float | None:
        """Requests a day from which a fine-tuned way is cheaper than the prompted one; None if it never is.

        With a GPU of one's own the answer is the least volume from which it stays cheaper, also when the next GPU is needed.
        """
        ways = self.ways()
        if way not in ways or against not in ways:
            raise CourseError(f"choose among {', '.join(WAYS)}")
        new, old = ways[way], ways[against]
        if not new.gpu_day:
            return break_even(new.setup - old.setup, 0.0, old.request, new.request, self.days)
        full = new.gpu_day / new.capacity  # dollars a request on cards that are as busy as they may be
        if full >= old.request - new.request:
            return None
        # Each further card is a step at which the prompted way may be cheaper once more; the last of these steps decides.
        setup, gpus = new.setup - old.setup, 1
        while break_even(setup, (gpus + 1) * new.gpu_day, old.request, new.request, self.days) > gpus * new.capacity:
            gpus += 1
        return break_even(setup, gpus * new.gpu_day, old.request, new.request, self.days)


VARIED = {
    "frontier": ("gpt-6-luna", "claude-opus-5.5"),
    "instructions": (200, 3000),
    "message": (30, 300),
    "completion": (20, 200),
    "cache": (False, True),
    "hours_tuning": (10, 160),
    "wage": (30, 150),
    "trainings": (1, 12),
    "busy": (0.05, 0.6),
    "days": (90, 730),
}


def sensitivity(
    assumptions: Assumptions, way: str = "hosted", varied: Mapping[str, tuple] = VARIED
) -> dict[str, tuple[float | None, float | None]]:
    """Break-even (requests a day, None for never) with one assumption at a time at its two ends.

    Args:
        assumptions: the middle.
        way: "hosted" or "self-hosted".
        varied: field → its two ends.
    """
    return {
        name: tuple(replace(assumptions, **{name: end}).break_even(way) for end in ends) for name, ends in varied.items()
    }
