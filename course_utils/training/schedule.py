"""The learning rate schedule."""

from __future__ import annotations

import math

from course_utils.training.settings import Settings


def learning_rate_factor(step: int, total: int, settings: Settings) -> float:
    """Return the factor, between 0 and 1, by which the schedule multiplies the learning rate in a step.

    Args:
        step: number of the step, from 1.
        total: number of steps in the run.
        settings: has `warmup_steps` and the name of the `schedule`.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    progress = (step - 1 - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
