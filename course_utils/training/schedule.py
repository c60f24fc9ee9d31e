"""The learning rate schedule."""

from __future__ import annotations

import math

from course_utils.training.settings import Settings


def learning_rate_factor(step: int, total: int, settings: Settings) -> float:
    """Factor on the learning rate at a step, counted from 1, of a run of `total` steps."""
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    progress = (step - 1 - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
