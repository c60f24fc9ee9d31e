"""Choices drawn for the calculators, the same at every run."""

import random

from course_utils.show.calculators import CALCULATORS

# Numbers in the range in which somebody asks; each field allows more.
USUAL = {
    "batch_size": (1, 64), "length": (16, 8192), "requests_a_day": (0, 300_000), "instructions": (0, 4000),
    "message": (1, 2000), "passages": (0, 6000), "completion": (1, 1500), "examples": (0, 20_000),
    "hours_tuning": (0, 300), "wage": (0, 200), "days": (1, 1500), "text_tokens": (0, 60_000),
}  # fmt: skip


def choices(id, count=100):
    """`count` valid choices for a calculator."""
    drawn = random.Random(id)

    def choice(field):
        if field.options:
            return drawn.choice([option for option, _ in field.options])
        return drawn.random() < 0.5 if isinstance(field.default, bool) else drawn.randint(*USUAL[field.name])

    return [{field.name: choice(field) for field in CALCULATORS[id].fields} for _ in range(count)]
