"""What differs between tiers, lesson by lesson, from `data/tiers.toml`: how much data, which learning rate."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from course_utils import facts, hardware
from course_utils.errors import CourseError

# Set to 1 to find out whether all code of a lesson runs, without regard to what the models learn, as our tests do on the
# oldest versions and on simulated cards.
SMALL = "COURSE_SMALL"


@dataclass(frozen=True)
class LessonPlan:
    """What a lesson does on one tier.

    Attributes:
        examples: number of training examples of the first run, with TRL (lesson 04: pairs).
        batch_size: number of examples per step.
        learning_rate: learning rate for LoRA.
        answer_tokens: maximum length of an answer, in tokens.
        fields: fields of the record that answers consist of; the small model leaves out the summary, the longest.
        more_examples: number of examples of the second run, with `training.fit`, which is faster on a CPU (up to three
            times).
        longest: messages with more characters are not trained on, so that a CPU is quick enough.
        looked_at: number of messages that slow systems answer while you watch; too few to compare anything by.
        asked: number of messages that the trained system answers.
    """

    examples: int
    batch_size: int
    learning_rate: float
    answer_tokens: int
    fields: tuple[str, ...] = ()
    more_examples: int = 0
    longest: int = 4000
    looked_at: int = 25
    asked: int = 100

    def smaller(self) -> LessonPlan:
        """Return a plan with no more examples and no longer answers than it takes to go through all of the code."""
        # twelve tokens of a record go through everything; of an answer in words, four of them would all be the same
        answer_tokens = 12 if self.fields else 40
        largest = {"examples": 32, "more_examples": 32, "asked": 8, "looked_at": 4, "answer_tokens": answer_tokens}
        return replace(self, **{name: min(getattr(self, name), number) for name, number in largest.items()})


def _plans_by_lesson() -> dict[str, dict[str, LessonPlan]]:
    by_lesson: dict[str, dict[str, LessonPlan]] = {}
    for tier, row in facts.table("tiers").items():
        for lesson, settings in row["plans"].items():
            fields = tuple(settings.get("fields", ()))
            by_lesson.setdefault(lesson, {})[tier] = LessonPlan(**(settings | {"fields": fields}))
    return by_lesson


PLANS = _plans_by_lesson()


def plan(lesson: str, tier: str | None = None) -> LessonPlan:
    """Return the plan of a lesson on a tier; None takes this machine's tier. COURSE_SMALL=1 in the environment shrinks it.

    Raises:
        CourseError: the lesson has no plan.
    """
    if lesson not in PLANS:
        raise CourseError(f"lesson {lesson!r} has no plan; there are plans for {', '.join(PLANS)}")
    tier_plan = PLANS[lesson][tier or hardware.detect().tier]
    return tier_plan.smaller() if os.environ.get(SMALL) == "1" else tier_plan
