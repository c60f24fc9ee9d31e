"""What differs between tiers, lesson by lesson: how much data, which learning rate. One table, so that cells are the same.

Learning rates were measured on the CPU tier (`benchmarks/lora_sweep.py`). Those of the GPU tiers follow published sweeps,
which find that larger models want lower ones (Schulman et al., 2025, LoRA Without Regret).
"""

from __future__ import annotations

from dataclasses import dataclass

from course_utils import hardware
from course_utils.errors import CourseError

SHORT_RECORD = ("category", "escalation", "product", "order_id")
WHOLE_RECORD = (*SHORT_RECORD, "summary")


@dataclass(frozen=True)
class LessonPlan:
    """What a lesson does on one tier.

    Attributes:
        fields: of the record that answers consist of; the small model leaves out the summary, the longest.
        examples: training examples of the main run.
        batch_size: examples per step.
        learning_rate: for LoRA.
        answer_tokens: longest answer, in tokens.
    """

    fields: tuple[str, ...]
    examples: int
    batch_size: int
    learning_rate: float
    answer_tokens: int


PLANS = {
    "02": {
        "cpu": LessonPlan(SHORT_RECORD, examples=100, batch_size=4, learning_rate=2e-3, answer_tokens=56),
        "t4": LessonPlan(WHOLE_RECORD, examples=842, batch_size=8, learning_rate=5e-4, answer_tokens=96),
        "a100": LessonPlan(WHOLE_RECORD, examples=842, batch_size=8, learning_rate=3e-4, answer_tokens=96),
    },
}


def plan(lesson: str, tier: str | None = None) -> LessonPlan:
    """The plan of a lesson on a tier; None takes this machine's tier.

    Raises:
        CourseError: a lesson without a plan.
    """
    if lesson not in PLANS:
        raise CourseError(f"lesson {lesson!r} has no plan; there are plans for {', '.join(PLANS)}")
    return PLANS[lesson][tier or hardware.detect().tier]
