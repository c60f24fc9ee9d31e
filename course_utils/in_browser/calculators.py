"""Three calculators: fields to fill in, and an answer as HTML, computed by the course's own functions.

The same function gives the answer that stands on a page when it is built and, in the page's Python, every later one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from numbers import Real
from typing import Any

from course_utils import costs, decision, memory
from course_utils.errors import CourseError


@dataclass(frozen=True)
class Field:
    """A question of a calculator.

    Attributes:
        name: key of the choice.
        label: what it asks, with the unit.
        default: the choice to begin with; a bool for a box to tick.
        options: (choice, text) of each option of a list; () for a number or a box.
        low, high: limits of a number.
        whole: whether the number is a whole one.
    """

    name: str
    label: str
    default: Any
    options: tuple[tuple[Any, str], ...] = ()
    low: float = 0
    high: float = 10**9
    whole: bool = True

    def checked(self, choice: Any) -> Any:
        """Return the choice.

        Raises:
            CourseError: it is none of the options, or not a number within the limits.
        """
        if self.options:
            if choice not in [option for option, _ in self.options]:
                raise CourseError(f"{self.label}: choose one of the list")
            return choice
        if isinstance(self.default, bool):
            return bool(choice)
        is_number = isinstance(choice, Real) and not isinstance(choice, bool) and math.isfinite(choice)
        if not is_number or not self.low <= choice <= self.high or (self.whole and choice != int(choice)):
            kind = "a whole number" if self.whole else "a number"
            raise CourseError(f"{self.label}: {kind} from {self.low:,} to {self.high:,}, please")
        return int(choice) if self.whole else choice


@dataclass(frozen=True)
class Answer:
    """What a calculator says.

    Attributes:
        summary: one or two sentences, text; a screen reader reads them at each change.
        details: HTML.
    """

    summary: str
    details: str


@dataclass(frozen=True)
class Calculator:
    """A calculator.

    Attributes:
        id: short name, letters only.
        title: its question.
        source: the function of the course that computes the answer.
        fields: what it asks.
        compute: takes the checked choices, by name.
    """

    id: str
    title: str
    source: str
    fields: tuple[Field, ...]
    compute: Callable[..., Answer]

    @property
    def defaults(self) -> dict[str, Any]:
        """The choices to begin with, by name."""
        return {field.name: field.default for field in self.fields}


def calculate(id: str, choices: dict[str, Any]) -> dict[str, Any]:
    """Compute an answer.

    Args:
        id: a key of CALCULATORS.
        choices: a choice for each of the calculator's fields, by name.

    Returns:
        `summary` (text), `details` (HTML) and `valid`: whether the choices were; if not, `summary` says what is wrong.

    Raises:
        KeyError: no such calculator, or a choice is missing.
    """
    calculator = CALCULATORS[id]
    try:
        answer = calculator.compute(**{field.name: field.checked(choices[field.name]) for field in calculator.fields})
    except CourseError as error:
        return {"summary": f"{error}.", "details": "", "valid": False}
    return {"summary": answer.summary, "details": answer.details, "valid": True}


# -- HTML ---------------------------------------------------------------------------------------------------------------


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], look: str = "") -> str:
    """A table whose first column names its rows; each cell knows its column's name, which a narrow page shows beside it."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = ""
    for first, *cells in rows:
        values = "".join(f'<td data-label="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(head[1:], cells))
        body += f'<tr><th scope="row">{escape(first)}</th>{values}</tr>'
    return (
        f'<table class="course-table {look}"><caption>{escape(caption)}</caption><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _list(heading: str, items: Iterable[str]) -> str:
    """A list under a line of text, or nothing if it would be empty."""
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<p><b>{escape(heading)}</b></p><ul>{lines}</ul>" if lines else ""


def _bar(parts: Sequence[tuple[str, float]], limit: float, limit_name: str) -> str:
    """Parts as a stacked bar, with a line at a limit. For the eye alone: the table under it says the same.

    The style sheet gives the parts their colours by their order, and the table's rows too.
    """
    widest = max(sum(size for _, size in parts), limit)
    widths = [f"{100 * size / widest:.2f}%" for _, size in parts]
    pieces = "".join(f'<span class="course-part" style="width:{width}"></span>' for width in widths)
    place = 100 * limit / widest
    return (
        f'<div class="course-bar" aria-hidden="true">{pieces}<i class="course-limit" style="left:{place:.2f}%"></i></div>'
        f'<p class="course-bar-note" aria-hidden="true">the line: {escape(limit_name)}</p>'
    )


def _dollars(amount: float) -> str:
    """An amount with as many digits as are of use."""
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"


# -- will it fit? -------------------------------------------------------------------------------------------------------

METHODS = (("full", "full fine-tuning"), ("lora", "LoRA"), ("qlora", "QLoRA (4-bit base)"))
RANKS = (4, 8, 16, 32, 64, 128, 256)


def _will_it_fit(model: str, method: str, rank: int, batch_size: int, length: int, checkpointing: bool, gpu: str) -> Answer:
    # Full fine-tuning keeps its trained weights in 32 bits; a frozen base has 16, or 4.
    precision = "amp" if method == "full" else "bf16"
    estimate = memory.estimate(
        model, method, rank=rank, batch_size=batch_size, length=length, checkpointing=checkpointing, precision=precision
    )
    parts = [(name, size) for name, size in estimate.rows() if size]
    limit = memory.gpu_memory(gpu)
    table = _table(
        "Peak memory of one training step",
        ("part", "GB"),
        [*((name, f"{size / 1e9:.2f}") for name, size in parts), ("together", f"{estimate.total / 1e9:.2f}")],
        "course-parts",
    )
    notes = [f"The peak is at: {estimate.phase}.", f"Precision: {precision}.", *estimate.warnings]
    details = _bar(parts, limit, f"{gpu}, {limit / 1e9:.1f} GB") + table + _list("Notes", notes)
    return Answer(f"{estimate.total / 1e9:.1f} GB at the peak: {memory.advice(estimate, model, gpu)}.", details)


_FIT = Calculator(
    "memory",
    "Will it fit?",
    "course_utils.memory.estimate",
    (
        Field("model", "Model", "Llama-3.1-8B", tuple((name, name) for name in memory.ARCHITECTURES)),
        Field("method", "Method", "qlora", METHODS),
        Field("rank", "Rank of the adapter", 16, tuple((rank, str(rank)) for rank in RANKS)),
        Field("batch_size", "Sequences in a micro-batch", 1, low=1, high=1024),
        Field("length", "Length, tokens", 1024, low=1, high=131_072),
        Field("checkpointing", "Gradient checkpointing", True),
        Field("gpu", "GPU", "t4", tuple((name, f"{name}, {size / 1e9:.1f} GB") for name, size in memory.GPUS.items())),
    ),
    _will_it_fit,
)


# -- what does it cost? -------------------------------------------------------------------------------------------------

WAY_LABELS = {
    "prompted": "prompt the frontier model",
    "prompted small": "prompt the small model",
    "hosted": "fine-tuned, served per token",
    "self-hosted": "fine-tuned, on rented GPUs",
}


def _pays_from(assumptions: costs.Assumptions, way: str) -> str:
    """From how many requests a day a way is cheaper than prompting the frontier model, in words."""
    if way == "prompted":
        return "–"
    volume = assumptions.break_even(way)
    return "never" if volume is None else f"{math.ceil(volume):,} a day"


def _price_notes(assumptions: costs.Assumptions, ways: Iterable[str]) -> list[str]:
    """Where the prices come from, and whether the small model can still be tuned."""
    notes = []
    for model in dict.fromkeys((assumptions.frontier, assumptions.small)):
        price = costs.price_of(model)
        notes.append(
            f"{model}: ${price.input:g} and ${price.output:g} per million tokens in and out, {price.date}, {price.source}"
        )
    if assumptions.small in costs.NO_NEW_JOBS:
        everybody, newcomers = costs.NO_NEW_JOBS[assumptions.small]
        notes.append(f"{assumptions.small} takes no new tuning jobs from {everybody} on (new customers: since {newcomers})")
    if "self-hosted" in ways:
        gpu = costs.GPU_PRICES[assumptions.gpu]
        notes.append(f"{gpu.label}: ${gpu.hour:g} an hour, {gpu.date}, {gpu.source}; throughput: {costs.SERVED_SOURCE}")
    else:
        notes.append(f"rented GPUs: throughput is known for {costs.SERVED_MODEL.lower()} alone")
    return notes


def _what_it_costs(requests_a_day: int, **choices: Any) -> Answer:
    assumptions = costs.Assumptions(**choices)
    ways = assumptions.ways()
    totals = {name: way.total(requests_a_day, assumptions.days) for name, way in ways.items()}
    rows = []
    for name, way in ways.items():
        fixed = replace(way, setup=0.0, request=0.0).total(requests_a_day, 1)
        amounts = (way.setup, 1000 * way.request, fixed, totals[name])
        rows.append((WAY_LABELS[name], *map(_dollars, amounts), _pays_from(assumptions, name)))
    days = f"in {assumptions.days:,} days"
    head = ("way", "once", "per 1,000 requests", "rent and care a day", days, "beats the first from")
    table = _table(f"{requests_a_day:,} requests a day", head, rows)
    cheapest = min(totals, key=lambda name: totals[name])
    volume = assumptions.break_even("hosted")
    pays = "never pays" if volume is None else f"pays from {math.ceil(volume):,} requests a day on"
    summary = f"Cheapest: {WAY_LABELS[cheapest]}, {_dollars(totals[cheapest])} in {assumptions.days:,} days. "
    summary += f"Against prompting {assumptions.frontier}, a fine-tuned {assumptions.small} served per token {pays}."
    return Answer(summary, table + _list("Prices", _price_notes(assumptions, ways)))


_STANDARD = costs.Assumptions()


def _assumed(name: str, label: str, **limits: Any) -> Field:
    return Field(name, label, getattr(_STANDARD, name), **limits)


_COST = Calculator(
    "costs",
    "What does it cost, and when does it pay?",
    "course_utils.costs.Assumptions",
    (
        Field("requests_a_day", "Requests a day", 1000, high=10**8),
        _assumed("frontier", "Frontier model to prompt", options=tuple((name, name) for name in costs.FRONTIER)),
        _assumed("small", "Small model, to prompt or to tune", options=tuple((name, name) for name in costs.PRICES)),
        _assumed("instructions", "Instructions and examples in each prompt, tokens", high=10**6),
        _assumed("message", "Message, tokens", high=10**6),
        _assumed("passages", "Retrieved passages, tokens", high=10**6),
        _assumed("completion", "Answer, tokens", high=10**6),
        _assumed("examples", "Examples to train on", high=10**7),
        _assumed("hours_tuning", "Work for the first training, hours", high=10**5),
        _assumed("wage", "An hour of work, dollars", high=10**5),
        _assumed("days", "Days over which it has to pay", low=1, high=3650),
        _assumed("cache", "The prompt cache is used"),
    ),
    _what_it_costs,
)  # fmt: skip


# -- prompt, retrieve, fine-tune ----------------------------------------------------------------------------------------

_DEFAULT_ANSWERS = {"gap": "behaviour", "prompt_reaches": 0.7, "examples": 300, "requests_a_day": 1000}
SHARES = ((None, "not measured"), *((step / 100, f"{step} %") for step in range(0, 101, 5)))


def _what_to_try(**answers: Any) -> Answer:
    recommendation = decision.decide(**answers)
    where = "on your own machines" if recommendation.host == "own" else "anywhere"
    details = _list("Because", recommendation.reasons) + f"<p><b>Next:</b> {escape(recommendation.next_step)}.</p>"
    return Answer(
        f"Try: {recommendation.approach} ({where}).", details + _list("What would change it", recommendation.changes)
    )


def _question(name: str, label: str, allowed: Any) -> Field:
    """A question of `decision.QUESTIONS` as a field."""
    if isinstance(allowed, tuple):
        return Field(name, label, _DEFAULT_ANSWERS.get(name, allowed[0]), tuple((word, word) for word in allowed))
    if allowed is bool:
        return Field(name, label, False)
    if name == "prompt_reaches":
        return Field(name, label, _DEFAULT_ANSWERS[name], SHARES)
    return Field(name, label, _DEFAULT_ANSWERS[name])


_DECIDE = Calculator(
    "decision",
    "Prompt, retrieve or fine-tune?",
    "course_utils.decision.decide",
    tuple(_question(name, label, allowed) for name, (label, allowed) in decision.QUESTIONS.items()),
    _what_to_try,
)

CALCULATORS = {calculator.id: calculator for calculator in (_FIT, _COST, _DECIDE)}
