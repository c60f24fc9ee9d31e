"""What training and answering cost in money: prices with date and source, arithmetic, and where one way overtakes another.

Prices are in US dollars, as vendors' pages and public transcriptions of them gave them on the date beside each. They age:
`python -m course_utils.costs --check-age` names those that are older than a year, and `course release` refuses them.
Everything else is an assumption, in `Assumptions`, and yours to change.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from numbers import Real
from typing import Any

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
        cache_from: tokens that a repeated beginning must have before it is billed as cached.
    """

    input: float
    output: float
    date: str
    source: str
    cached_input: float | None = None
    training: float | None = None
    cache_from: int = 1024


@dataclass(frozen=True)
class GpuPrice:
    """A GPU on demand: US dollars an hour, date and source as for `Price`."""

    hour: float
    date: str
    source: str


_OPENAI_TUNED = ("2026-11-24", "developers.openai.com/api/docs/pricing, fine-tuning")
_OPENAI = "developers.openai.com/api/docs/models"
_ANTHROPIC = "platform.claude.com/docs/en/about-claude/pricing"
_GOOGLE = "ai.google.dev/gemini-api/docs/pricing"
_TRANSCRIBED = "{}, read from the vendor's page by github.com/{}"
# Models that are tuned, and then served by the token at these prices. OpenAI takes no new jobs from 2027-01-06, and turns
# off what was tuned there on 2027-01-14.
PRICES = {
    "gpt-4.1": Price(3.0, 12.0, *_OPENAI_TUNED, cached_input=0.75, training=25.0),
    "gpt-4.1-mini": Price(0.80, 3.20, *_OPENAI_TUNED, cached_input=0.20, training=5.0),
    "gpt-4o": Price(3.75, 15.0, *_OPENAI_TUNED, cached_input=1.875, training=25.0),
    "gpt-4o-mini": Price(0.30, 1.20, *_OPENAI_TUNED, cached_input=0.15, training=3.0),
    "qwen3-8b": Price(
        0.195, 0.60, "2026-10-07", _TRANSCRIBED.format("Tinker", "api-evangelist/thinking-machines"),
        cached_input=0.039, training=0.44,
    ),
}  # fmt: skip
# Models that are prompted, of three sizes. Claude Haiku's price is that of prompts up to 100,000 tokens; Gemini's is the one
# from 2027-01-01 on, half of it holds until then.
FRONTIER = {
    "claude-opus-5.5": Price(4.0, 20.0, "2026-11-26", _ANTHROPIC, cached_input=0.20, cache_from=512),
    "claude-sonnet-5.5": Price(2.0, 10.0, "2026-11-26", _ANTHROPIC, cached_input=0.10, cache_from=512),
    "claude-haiku-5.5": Price(0.10, 0.50, "2026-11-26", _ANTHROPIC, cached_input=0.01, cache_from=512),
    "gpt-6.2-sol": Price(2.0, 10.0, "2026-11-26", _OPENAI, cached_input=0.10),
    "gpt-6-luna": Price(0.10, 0.50, "2026-11-26", _OPENAI, cached_input=0.01),
    "gemini-3.8-flash": Price(1.50, 7.50, "2026-10-07", _GOOGLE, cached_input=0.15, cache_from=4096),
}
GPUS = {
    "L4": GpuPrice(0.80, "2026-07-01", _TRANSCRIBED.format("Modal", "api-evangelist/modal-labs")),
    "A100 80GB": GpuPrice(1.79, "2026-11-09", _TRANSCRIBED.format("RunPod Secure Cloud", "datareceipts/data-receipts")),
    "H100": GpuPrice(3.99, "2026-11-09", _TRANSCRIBED.format("RunPod Secure Cloud, SXM", "datareceipts/data-receipts")),
}
# What an H100 (SXM) does with Qwen3-8B in bf16 under vLLM, with as many users at once as get their first token within two
# seconds and the next ones within 50 ms: (tokens read, tokens written, requests a second) at two shapes of request
# (derived/csv/perf_points.csv of the source, which calls it a validation run). Two shapes give a price for each side. Far
# from them it flatters: at 1,024 tokens written the same file has half of what they predict, at 2,048 a fifth.
SERVED = ((1024, 128, 23.58), (128, 128, 14_540 / 128))
SERVED_ON, SERVED_MODEL, SERVED_DATE, SERVED_SOURCE = "H100", "Qwen3-8B", "2026-09-24", "github.com/tgarg01/silybench-data"


def price_of(model: str) -> Price:
    """Price of a hosted model.

    Raises:
        CourseError: none is known.
    """
    known = PRICES | FRONTIER
    if model not in known:
        raise CourseError(f"no price is known for {model!r}; there are {', '.join(known)}")
    return known[model]


def stale_prices(today: date, days: int = 365) -> list[tuple[str, str]]:
    """(name, date) of prices and throughputs that on a day are older than so many days; and of those from the future.

    Args:
        today: the day. One that is read a day later is none of the future yet: somewhere that day has begun.
        days: that a price may be old.
    """
    dated = [(name, price.date) for table in (PRICES, FRONTIER, GPUS) for name, price in table.items()]
    dated.append(("throughput", SERVED_DATE))
    return [(name, day) for name, day in dated if not -1 <= (today - date.fromisoformat(day)).days <= days]


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
    """Seconds of an H100 that one request to an 8B model takes with as many users as it serves well (from `SERVED`)."""
    (r1, w1, a), (r2, w2, b) = SERVED
    # r * read + w * written = 1 / requests a second, for both shapes
    determinant = r1 * w2 - r2 * w1
    read, written = (w2 / a - w1 / b) / determinant, (r1 / b - r2 / a) / determinant
    return prompt_tokens * read + completion_tokens * written


def break_even(setup: float, upkeep_a_day: float, old_cost: float, new_cost: float, days: int = 365) -> float | None:
    """Requests a day from which on the new way is cheaper over so many days; None if there is no such volume.

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
    """One way to answer: dollars once, a request, a day, and a day for each GPU that is kept; requests a day a GPU takes."""

    setup: float
    request: float
    day: float = 0.0
    gpu_day: float = 0.0
    capacity: float = math.inf

    def total(self, requests_a_day: float, days: int) -> float:
        """Dollars over so many days."""
        gpus = max(1, math.ceil(requests_a_day / self.capacity)) if self.gpu_day else 0
        return self.setup + days * (requests_a_day * self.request + self.day + gpus * self.gpu_day)


WAYS = ("prompted", "prompted small", "hosted", "self-hosted")


@dataclass(frozen=True)
class Assumptions:
    """All that the comparison rests on.

    The four ways: "prompted", a frontier model with instructions and examples in each prompt; "prompted small", the same
    prompt to a small model; "hosted", that small model fine-tuned and served by the token; "self-hosted", the same on a GPU
    of one's own that is rented around the clock.

    Left out: what writing to a prompt cache costs (a quarter more than the input, once) and that it forgets after minutes;
    tokens that a model thinks before it answers; that vendors cut text into tokens differently.

    Attributes:
        frontier: key of FRONTIER.
        small: key of PRICES.
        instructions: tokens of instructions and examples, the same in each prompt of the two prompted ways.
        message: tokens of the customer's message, with what every way needs around it.
        passages: tokens of retrieved passages, in every way.
        completion: tokens of the answer.
        cache: whether the prompt cache is used where the instructions are long enough (`Price.cache_from`).
        examples: examples trained on, of `message` + `passages` + `completion` tokens each.
        epochs: passes over them.
        trainings: within `days`: the first and the renewals.
        hours_prompt: work on the prompt, in every way: it is measured before anything is trained.
        hours_index: work on the index and its measurement, in every way that retrieves.
        hours_tuning: work on data and evaluation for the first training.
        hours_renewal: the same for each further training.
        hours_serving: work a month on a server of one's own.
        wage: dollars an hour of work.
        gpu: key of GPUS; throughput is known for the H100.
        busy: share of a day's capacity that can be used, since requests do not come evenly.
        days: over which the set-up has to pay.
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
    gpu: str = "H100"
    busy: float = 0.3
    days: int = 365

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in ("str", "bool"):
                continue
            if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
                raise CourseError(f"{field.name}={value!r}: a number, zero or more")
        for name, limit in (("days", math.inf), ("busy", 1)):
            if not 0 < getattr(self, name) <= limit:
                raise CourseError(
                    f"{name}={getattr(self, name)!r}: must be greater than zero" + ", at most 1" * (limit == 1)
                )

    def setup(self, tuned: bool, retrieves: bool = False) -> float:
        """Dollars before the first answer, and for all trainings: work, and the tokens trained on."""
        hours = self.hours_prompt + retrieves * self.hours_index
        if not tuned:
            return hours * self.wage
        hours += self.hours_tuning + max(0, self.trainings - 1) * self.hours_renewal
        tokens = self.examples * (self.message + self.passages + self.completion)
        return hours * self.wage + self.trainings * training_cost(round(tokens), self.epochs, self.small)

    def prompted(self, model: str) -> float:
        """Dollars for a request to a model that is told everything in its prompt."""
        cached = self.instructions if self.cache and self.instructions >= price_of(model).cache_from else 0
        return request_cost(self.message + self.passages + self.instructions, self.completion, model, cached)

    def capacity(self, prompt_tokens: float) -> float:
        """Requests a day that one GPU of one's own takes.

        Raises:
            CourseError: a model or a GPU whose throughput is not known.
        """
        if self.gpu != SERVED_ON or self.small != SERVED_MODEL.lower():
            raise CourseError(
                f"throughput is known for {SERVED_MODEL.lower()} on an {SERVED_ON} only, not for {self.small} on {self.gpu}"
            )
        return 86_400 / gpu_seconds(prompt_tokens, self.completion) * self.busy

    def ways(self) -> dict[str, Way]:
        """The four ways in money; without "self-hosted" where its throughput is not known.

        Raises:
            CourseError: a model without price.
        """
        short, retrieves = self.message + self.passages, self.passages > 0
        told, tuned = self.setup(False, retrieves), self.setup(True, retrieves)
        ways = {
            "prompted": Way(told, self.prompted(self.frontier)),
            "prompted small": Way(told, self.prompted(self.small)),
            "hosted": Way(tuned, request_cost(short, self.completion, self.small)),
        }
        if self.gpu == SERVED_ON and self.small == SERVED_MODEL.lower():
            served = self.hours_serving * self.wage * 12 / 365
            ways["self-hosted"] = Way(tuned, 0.0, served, 24 * GPUS[self.gpu].hour, self.capacity(short))
        return ways

    def break_even(self, way: str, against: str = "prompted") -> float | None:
        """Requests a day from which a way is cheaper than another that is paid by the token; None if it never is.

        With a GPU of one's own the answer is the least volume from which it stays cheaper, also when the next GPU is needed.

        Raises:
            CourseError: an unknown way, one whose throughput is not known, or a comparison with one that is paid by the GPU.
        """
        ways = self.ways()
        if way not in WAYS or against not in WAYS:
            raise CourseError(f"choose among {', '.join(WAYS)}")
        if way not in ways or against not in ways:
            self.capacity(self.message)  # says what is missing
        new, old = ways[way], ways[against]
        if old.gpu_day:
            raise CourseError(f"against={against!r}: compare with a way that is paid by the token")
        setup, saved = new.setup - old.setup, old.request - new.request
        if not new.gpu_day:
            return break_even(setup, new.day - old.day, old.request, new.request, self.days)
        spare = new.capacity * saved - new.gpu_day  # dollars that a full card saves a day, beyond its own price
        if spare <= 0:
            return None
        # Each further card is a step at which the old way may be cheaper once more; the last of these steps decides: the
        # number of full cards that pay for the set-up and for the next card.
        gpus = max(1, math.ceil((setup / self.days + new.day + new.gpu_day) / spare))
        return break_even(setup, new.day + gpus * new.gpu_day, old.request, new.request, self.days)


UNITS = {
    "frontier": "the model that is prompted",
    "small": "the model that is tuned",
    "instructions": "tokens in each prompt",
    "message": "tokens",
    "passages": "tokens, in every way",
    "completion": "tokens",
    "cache": "whether the prompt cache is used",
    "examples": "to train on",
    "epochs": "passes over them",
    "trainings": "within the days",
    "hours_prompt": "of work, once",
    "hours_index": "of work, once, where passages are retrieved",
    "hours_tuning": "of work, for the first training",
    "hours_renewal": "of work, for each further one",
    "hours_serving": "of work a month, on a server of one's own",
    "wage": "dollars an hour",
    "gpu": "rented around the clock",
    "busy": "share of its capacity that can be used",
    "days": "over which it has to pay",
}
VARIED = {
    "frontier": ("gpt-6-luna", "claude-opus-5.5"),
    "instructions": (100, 3000),
    "message": (30, 300),
    "completion": (20, 200),
    "cache": (False, True),
    "hours_tuning": (10, 160),
    "hours_renewal": (0, 40),
    "wage": (30, 150),
    "trainings": (1, 12),
    "busy": (0.05, 0.6),
    "days": (90, 730),
}
STEPS = 30


def sensitivity(
    assumptions: Assumptions,
    way: str = "hosted",
    varied: Mapping[str, tuple[Any, Any]] = VARIED,
    against: str = "prompted",
    steps: int = STEPS,
) -> dict[str, tuple[float | None, ...]]:
    """Break-even (requests a day, None for never) while one assumption at a time moves from one end to the other.

    The ends alone would hide what lies between: a longer prompt costs more until it is long enough to be cached.

    Args:
        assumptions: the middle.
        way: "hosted" or "self-hosted".
        varied: field → its two ends; between two numbers `steps` values are taken, evenly.
        against: the way compared with.
        steps: at least 2.

    Raises:
        CourseError: fewer than two steps, or a field that `Assumptions` does not have.
    """
    if steps < 2:
        raise CourseError(f"steps={steps}: at least 2")
    return {
        name: tuple(replace(assumptions, **{name: value}).break_even(way, against) for value in _between(*ends, steps))
        for name, ends in varied.items()
    }


def _between(first: str | float, last: str | float, steps: int) -> Sequence[Any]:
    if isinstance(first, str | bool) or isinstance(last, str):
        return [first, last]
    values = [first + (last - first) * step / (steps - 1) for step in range(steps)]
    return list(dict.fromkeys(map(round, values))) if isinstance(first, int) and isinstance(last, int) else values


def main(arguments: Sequence[str] | None = None, today: date | None = None) -> int:
    """The maintainers' command: name the prices that have to be read again.

    Args:
        arguments: of the command line, without the program's name; `sys.argv`'s if None.
        today: the day; this machine's if None.

    Returns:
        1 with --strict if there are any, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m course_utils.costs", description="Look after the course's prices.")
    parser.add_argument("--check-age", action="store_true", required=True, help="name prices that are older than a year")
    parser.add_argument("--strict", action="store_true", help="end with 1 if there are any")
    options = parser.parse_args(arguments)
    stale = stale_prices(today or date.today())
    for name, day in stale:
        print(f"warning: {name} is of {day}: read it again, and give the new date in course_utils/costs.py")
    return 1 if stale and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
