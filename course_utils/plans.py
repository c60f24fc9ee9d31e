"""What differs between tiers, lesson by lesson: how much data, which learning rate. One table, so that cells are the same.

Learning rates were measured on the CPU tier (`benchmarks/lora_sweep.py`). Those of the GPU tiers follow published sweeps,
which find that larger models want lower ones (Schulman et al., 2025, LoRA Without Regret).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from course_utils import hardware
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from course_utils.show.tables import Table

# Set to 1 to find out whether all code of a lesson runs, without regard to what the models learn, as our tests do on the
# oldest versions and on simulated cards.
SMALL = "COURSE_SMALL"

SHORT_RECORD = ("category", "escalation", "product", "order_id")
WHOLE_RECORD = (*SHORT_RECORD, "summary")
ENUMERATIONS = ("category", "escalation")
CATALOGUE_RECORD = ("topic", "product", "answer")


@dataclass(frozen=True)
class LessonPlan:
    """What a lesson does on one tier.

    Attributes:
        fields: fields of the record that answers consist of; the small model leaves out the summary, the longest.
        examples: number of training examples of the first run, with TRL (lesson 04: pairs).
        more_examples: number of examples of the second run, with `training.fit`, which is faster on a CPU (up to three
            times).
        batch_size: number of examples per step.
        learning_rate: learning rate for LoRA.
        answer_tokens: maximum length of an answer, in tokens.
        longest: messages with more characters (lesson 05: words) are not trained on, so that a CPU is quick enough.
        looked_at: number of messages that slow systems answer while you watch; too few to compare anything by.
        asked: number of messages that the trained system answers.
    """

    fields: tuple[str, ...]
    examples: int
    more_examples: int
    batch_size: int
    learning_rate: float
    answer_tokens: int
    longest: int = 4000
    looked_at: int = 25
    asked: int = 100

    def smaller(self) -> LessonPlan:
        """Return a plan with no more examples and no longer answers than it takes to go through all of the code."""
        # twelve tokens of a record go through everything; of an answer in words, four of them would all be the same
        largest = {
            "examples": 32,
            "more_examples": 32,
            "asked": 8,
            "looked_at": 4,
            "answer_tokens": 12 if self.fields else 40,
        }
        return replace(self, **{name: min(getattr(self, name), number) for name, number in largest.items()})

    def table(self) -> Table:
        """Return the plan as a lesson shows it."""
        from course_utils.show.tables import Table

        rows = {
            "examples, first run": self.examples,
            "examples, second run": self.more_examples,
            "examples per step": self.batch_size,
            "learning rate": f"{self.learning_rate:g}",
            "longest answer, tokens": self.answer_tokens,
        }
        return Table({name: {"on this machine": str(value)} for name, value in rows.items()}, "", "setting", "")


# Lesson 01 trains once, on one wording of each of 100 facts and on 60 more with their passage.
PLANS = {
    "01": {
        "cpu": LessonPlan(
            CATALOGUE_RECORD,
            examples=160,
            more_examples=0,
            batch_size=4,
            learning_rate=2e-3,
            answer_tokens=32,
            looked_at=8,
            asked=50,
        ),
        "t4": LessonPlan(
            CATALOGUE_RECORD,
            examples=160,
            more_examples=0,
            batch_size=8,
            learning_rate=5e-4,
            answer_tokens=32,
            looked_at=25,
        ),
        "a100": LessonPlan(
            CATALOGUE_RECORD,
            examples=160,
            more_examples=0,
            batch_size=8,
            learning_rate=3e-4,
            answer_tokens=32,
            looked_at=25,
        ),
    },
    "02": {
        "cpu": LessonPlan(
            SHORT_RECORD,
            examples=80,
            more_examples=160,
            batch_size=2,
            learning_rate=2e-3,
            answer_tokens=56,
        ),
        "t4": LessonPlan(
            WHOLE_RECORD,
            examples=400,
            more_examples=442,
            batch_size=8,
            learning_rate=5e-4,
            answer_tokens=96,
        ),
        "a100": LessonPlan(
            WHOLE_RECORD,
            examples=400,
            more_examples=442,
            batch_size=8,
            learning_rate=3e-4,
            answer_tokens=96,
        ),
    },
    "03": {
        "cpu": LessonPlan(
            SHORT_RECORD,
            examples=40,
            more_examples=0,
            batch_size=2,
            learning_rate=2e-3,
            answer_tokens=56,
            longest=150,
        ),
        "t4": LessonPlan(
            WHOLE_RECORD,
            examples=400,
            more_examples=0,
            batch_size=4,
            learning_rate=5e-4,
            answer_tokens=96,
        ),
        "a100": LessonPlan(
            WHOLE_RECORD,
            examples=400,
            more_examples=0,
            batch_size=4,
            learning_rate=3e-4,
            answer_tokens=96,
        ),
    },
    # Lesson 04: demonstrations to imitate first, then pairs; messages answered while you watch; test pairs ranked.
    "04": {
        "cpu": LessonPlan(
            (), examples=48, more_examples=120, batch_size=4, learning_rate=3e-4, answer_tokens=48, looked_at=8, asked=24
        ),
        "t4": LessonPlan(
            (), examples=240, more_examples=240, batch_size=4, learning_rate=2e-4, answer_tokens=64, looked_at=48, asked=100
        ),
        "a100": LessonPlan(
            (), examples=240, more_examples=240, batch_size=8, learning_rate=1e-4, answer_tokens=64, looked_at=100, asked=100
        ),
    },
    "05": {
        "cpu": LessonPlan(
            ENUMERATIONS, examples=96, more_examples=0, batch_size=4, learning_rate=2e-3, answer_tokens=24, longest=32
        ),
        "t4": LessonPlan(
            ENUMERATIONS, examples=400, more_examples=0, batch_size=8, learning_rate=5e-4, answer_tokens=24, longest=200
        ),
        "a100": LessonPlan(
            ENUMERATIONS, examples=400, more_examples=0, batch_size=8, learning_rate=3e-4, answer_tokens=24, longest=200
        ),
    },
}


def plan(lesson: str, tier: str | None = None) -> LessonPlan:
    """Return the plan of a lesson on a tier; None takes this machine's tier. COURSE_SMALL=1 in the environment shrinks it.

    Raises:
        CourseError: the lesson has no plan.
    """
    if lesson not in PLANS:
        raise CourseError(f"lesson {lesson!r} has no plan; there are plans for {', '.join(PLANS)}")
    tier_plan = PLANS[lesson][tier or hardware.detect().tier]
    return tier_plan.smaller() if os.environ.get(SMALL) == "1" else tier_plan
