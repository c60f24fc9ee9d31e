"""What training and answering cost in money: prices with date and source, and the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.errors import CourseError


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens: trained on, read and written by the fine-tuned model; date and source."""

    training: float
    input: float
    output: float
    date: str
    source: str


_OPENAI = ("2026-11", "OpenAI's pricing page, fine-tuning")
PRICES = {
    "gpt-4.1": Price(25.0, 3.0, 12.0, *_OPENAI),
    "gpt-4.1-mini": Price(5.0, 0.80, 3.20, *_OPENAI),
    "gpt-4o": Price(25.0, 3.75, 15.0, *_OPENAI),
    "gpt-4o-mini": Price(3.0, 0.30, 1.20, *_OPENAI),
}


def price_of(model: str) -> Price:
    """Price of a hosted model.

    Raises:
        CourseError: none is known.
    """
    if model not in PRICES:
        raise CourseError(f"no price is known for {model!r}; there are {', '.join(PRICES)}")
    return PRICES[model]


def training_cost(tokens: int, epochs: float = 1, model: str = "gpt-4.1-mini") -> float:
    """Dollars to fine-tune a hosted model on a file of so many tokens; the validation file costs nothing."""
    return tokens * epochs * price_of(model).training / 1e6


def request_cost(prompt_tokens: int, completion_tokens: int, model: str = "gpt-4.1-mini") -> float:
    """Dollars for one request to the fine-tuned model."""
    price = price_of(model)
    return (prompt_tokens * price.input + completion_tokens * price.output) / 1e6
