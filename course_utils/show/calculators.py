"""Calculators: what a learner can choose, and the answer as HTML, computed by the course's own functions.

Each has one definition. In a notebook `show.calculator` shows it as a form, and the answer to its first choices is what a
stored notebook keeps; on a page of the book its fields are those of the page and the same function answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from html import escape
from numbers import Real
from typing import Any

from course_utils import costs, decision, memory
from course_utils.errors import CourseError
from course_utils.show.tables import Table
from course_utils.style import PARTS


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

    def starting(self, choice: Any) -> Field:
        """The field with another choice to begin with, which is added to its options if it is none of them."""
        known = not self.options or choice in [option for option, _ in self.options]
        return replace(self, default=choice, options=self.options if known else ((choice, str(choice)), *self.options))

    def written(self, choice: Any) -> str:
        """The choice as people read it."""
        if self.options:
            return dict(self.options)[choice]
        return ("yes" if choice else "no") if isinstance(self.default, bool) else f"{choice:,}"


@dataclass(frozen=True)
class Answer:
    """What a calculator says.

    Attributes:
        summary: one or two sentences, text; a screen reader reads them at each change.
        details: HTML.
        valid: whether the choices were; if not, the summary says what is wrong.
    """

    summary: str
    details: str
    valid: bool = True


@dataclass(frozen=True)
class Calculator:
    """A calculator.

    Attributes:
        id: short name, letters only.
        title: its question.
        source: the function of the course that computes the answer.
        fields: what it asks.
        compute: takes the checked choices, by name.
        fixed: names of what else `compute` takes, and the form doesn't ask.
    """

    id: str
    title: str
    source: str
    fields: tuple[Field, ...]
    compute: Callable[..., Answer]
    fixed: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """The choices to begin with, by name."""
        return {field.name: field.default for field in self.fields}

    def starting(self, **choices: Any) -> Calculator:
        """The calculator with other choices to begin with; those for `fixed` hold for every answer.

        Raises:
            CourseError: a name that is none of the calculator's.
        """
        fixed = {name: value for name, value in choices.items() if name not in self.defaults}
        if unknown := [name for name in fixed if name not in self.fixed]:
            known = ", ".join([*self.defaults, *self.fixed])
            raise CourseError(f"the calculator {self.id!r} has no {', '.join(unknown)}; it has {known}")
        chosen = tuple(field.starting(choices.get(field.name, field.default)) for field in self.fields)
        return replace(self, fields=chosen, compute=partial(self.compute, **fixed))

    def answer(self, choices: Mapping[str, Any]) -> Answer:
        """Compute the answer to a choice for each field, by name.

        Raises:
            KeyError: a choice is missing.
        """
        try:
            return self.compute(**{field.name: field.checked(choices[field.name]) for field in self.fields})
        except CourseError as error:
            return Answer(f"{error}.", "", valid=False)


def _list(heading: str, items: Iterable[str]) -> str:
    """A list under a line of text, or nothing if it would be empty."""
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<p><b>{escape(heading)}</b></p><ul>{lines}</ul>" if lines else ""


# -- will it fit? -------------------------------------------------------------------------------------------------------

METHODS = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA (4-bit base)"}
RANKS = (4, 8, 16, 32, 64, 128, 256)
EMBEDDINGS = (("float32", "float32, by prepare_model_for_kbit_training"), ("bfloat16", "16 bits, as loaded"))
GROUPS = {  # what the bars show → parts of an estimate
    "weights": ("weights", "other models"),
    "what is trained, with its states": ("adapter", "gradients", "optimizer"),
    "activations and logits": ("activations", "logits"),
    "the card's own needs": ("overhead",),
}


def _bars(estimates: Mapping[str, Mapping[str, float]], limit: float, limit_name: str) -> str:
    """A stacked bar for each method, with a line at a limit. For the eye alone: the table under it says the same."""
    widest = max(limit, *(sum(parts.values()) for parts in estimates.values()))
    place = f'<i style="position:absolute;left:{100 * limit / widest:.2f}%;top:-3px;bottom:-3px;border-left:3px dashed"></i>'
    rows = ""
    for method, parts in estimates.items():
        pieces = "".join(
            f'<span style="width:{100 * sum(parts[name] for name in names) / widest:.2f}%;background:{colour}"></span>'
            for names, (colour, _) in zip(GROUPS.values(), PARTS)
        )
        rows += f'<div>{METHODS[method]}</div><div style="position:relative;display:flex;height:1.2em">{pieces}{place}</div>'
    square = '<span style="display:inline-block;width:.8em;height:.8em;background:{}"></span> {}'
    key = " ".join(square.format(colour, name) for name, (colour, _) in zip(GROUPS, PARTS))
    return f'<div aria-hidden="true" style="max-width:40em">{rows}<p>{key} ┆ {escape(limit_name)}</p></div>'


def _will_it_fit(
    model: str, method: str, rank: int, batch_size: int, length: int, checkpointing: bool, embeddings: str, gpu: str
) -> Answer:
    # Full fine-tuning keeps its trained weights in 32 bits; a frozen base has 16, or 4.
    estimates = {
        name: memory.estimate(
            model, name, rank=rank, batch_size=batch_size, length=length, checkpointing=checkpointing,
            precision="amp" if name == "full" else "bf16", embeddings=embeddings if name == "qlora" else "bfloat16",
        )
        for name in METHODS
    }  # fmt: skip
    parts = {name: dict(estimate.rows()) for name, estimate in estimates.items()}
    limit, chosen = memory.gpu_memory(gpu), estimates[method]
    rows = {
        part: {METHODS[name]: round(sizes[part] / 1e9, 2) for name, sizes in parts.items()}
        for part in parts[method] if any(sizes[part] for sizes in parts.values())
    }  # fmt: skip
    rows["together"] = {METHODS[name]: round(estimate.total / 1e9, 2) for name, estimate in estimates.items()}
    table = Table(rows, "Peak memory of one training step, GB", "part", "together")._repr_html_()
    notes = [f"The peak is at: {chosen.phase}.", f"Precision: {chosen.plan.precision}.", *chosen.warnings]
    details = _bars(parts, limit, f"{gpu}, {limit / 1e9:.1f} GB") + table + _list(f"Notes on {METHODS[method]}", notes)
    summary = f"{METHODS[method]}: {chosen.total / 1e9:.1f} GB at the peak: {memory.advice(chosen, model, gpu)}."
    return Answer(summary, details)


_FIT = Calculator(
    "memory",
    "Will it fit?",
    "course_utils.memory.estimate",
    (
        Field("model", "Model", "Llama-3.1-8B", tuple((name, name) for name in memory.ARCHITECTURES)),
        Field("method", "Method", "qlora", tuple(METHODS.items())),
        Field("rank", "Rank of the adapter", 16, tuple((rank, str(rank)) for rank in RANKS)),
        Field("batch_size", "Sequences in a micro-batch", 1, low=1, high=1024),
        Field("length", "Length, tokens", 1024, low=1, high=131_072),
        Field("checkpointing", "Gradient checkpointing", True),
        Field("embeddings", "With a 4-bit base, all that is not in 4 bits", "float32", EMBEDDINGS),
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


def _dollars(amount: float) -> str:
    """An amount with as many digits as are of use."""
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"


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
    rows = {
        WAY_LABELS[name]: {
            "once, $": way.setup,
            "per 1,000 requests, $": 1000 * way.request,
            "rent and care a day, $": replace(way, setup=0.0, request=0.0).total(requests_a_day, 1),
            f"in {assumptions.days:,} days, $": totals[name],
            "beats the first from": _pays_from(assumptions, name),
        }
        for name, way in ways.items()
    }
    cheapest = min(totals, key=lambda name: totals[name])
    volume = assumptions.break_even("hosted")
    pays = "never pays" if volume is None else f"pays from {math.ceil(volume):,} requests a day on"
    summary = f"Cheapest: {WAY_LABELS[cheapest]}, {_dollars(totals[cheapest])} in {assumptions.days:,} days. "
    summary += f"Against prompting {assumptions.frontier}, a fine-tuned {assumptions.small} served per token {pays}."
    table = Table(rows, f"{requests_a_day:,} requests a day", "way", WAY_LABELS[cheapest])._repr_html_()
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
    tuple(field.name for field in fields(costs.Assumptions)),
)  # fmt: skip


# -- prompt, retrieve, fine-tune ----------------------------------------------------------------------------------------

_DEFAULT_ANSWERS = {"gap": "behaviour", "prompt_reaches": 0.7, "examples": 300, "requests_a_day": 1000}
SHARES = ((None, "not measured"), *((step / 100, f"{step} %") for step in range(0, 101, 5)))


def _what_to_try(**answers: Any) -> Answer:
    recommendation = decision.decide(**answers)
    return Answer(recommendation.headline, recommendation.details)


def _question(name: str, question: decision.Question) -> Field:
    """A question as a field."""
    label, _, allowed = question
    if isinstance(allowed, tuple):
        return Field(name, label, _DEFAULT_ANSWERS.get(name, allowed[0]), tuple((word, word) for word in allowed))
    if allowed is bool:
        return Field(name, label, False)
    if name in decision.SHARES:
        return Field(name, label, _DEFAULT_ANSWERS.get(name), SHARES)
    return Field(name, label, _DEFAULT_ANSWERS.get(name, 0))


_DECIDE = Calculator(
    "decision",
    "Prompt, retrieve or fine-tune?",
    "course_utils.decision.decide",
    tuple(_question(*item) for item in decision.QUESTIONS.items()),
    _what_to_try,
    ("assumptions",),
)

CALCULATORS = {calculator.id: calculator for calculator in (_FIT, _COST, _DECIDE)}
