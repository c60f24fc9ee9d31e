"""The training settings: one frozen dataclass, checked when it is created."""

from __future__ import annotations

import math
from dataclasses import dataclass

from course_utils.errors import CourseError

SCHEDULES = ("constant", "linear", "cosine")
FUSED = ("head", "lora", "mlp", "norm")  # names of the functions in module `fused`


@dataclass(frozen=True)
class Settings:
    """Settings of one run of `fit`.

    Attributes:
        learning_rate: highest learning rate; for LoRA about ten times that of full fine-tuning.
        batch_size: examples per step and process.
        epochs: passes over the training set; ignored when `max_steps` is given.
        max_steps: number of optimiser steps.
        warmup_steps: steps over which the learning rate rises from zero.
        schedule: "constant", "linear" or "cosine" decay to zero after the warm-up.
        max_length: longest example in tokens; a longer prompt is an error, never dropped silently.
        evaluate_every: steps between measurements of the validation loss; None for once at the end.
        checkpoint_folder: where to keep checkpoints; a run that finds its own checkpoints there resumes from the newest. It
            may be a mounted drive. None for no checkpoints.
        checkpoint_every: steps between checkpoints; None for once per epoch.
        micro_batch_tokens: maximum number of tokens (padding included) that go through the model at once; a larger batch is
            cut into micro-batches, with the same gradient. None for what suits the device, and fewer where memory runs out.
        fused: parts of the model's step to compute with one function each (module `fused`): the same result in less time
            and memory.
        seed: seed of the data order and dropout.
    """

    learning_rate: float = 2e-4
    batch_size: int = 8
    epochs: float = 1.0
    max_steps: int | None = None
    warmup_steps: int = 0
    schedule: str = "linear"
    max_length: int = 1024
    evaluate_every: int | None = None
    checkpoint_folder: str | None = None
    checkpoint_every: int | None = None
    micro_batch_tokens: int | None = None
    fused: tuple[str, ...] = FUSED
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, naming the argument and the values that would."""
        for name in ("learning_rate", "epochs", "batch_size", "max_length"):
            if not getattr(self, name) > 0:
                raise CourseError(f"Settings({name}={getattr(self, name)!r}): must be greater than zero")
        for name in ("max_steps", "evaluate_every", "checkpoint_every", "micro_batch_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise CourseError(f"Settings({name}={getattr(self, name)!r}): must be at least 1, or None")
        if self.warmup_steps < 0:
            raise CourseError(f"Settings(warmup_steps={self.warmup_steps!r}): must not be negative")
        if self.schedule not in SCHEDULES:
            raise CourseError(f"Settings(schedule={self.schedule!r}): choose one of {', '.join(SCHEDULES)}")
        if not set(self.fused) <= set(FUSED):
            raise CourseError(f"Settings(fused={self.fused!r}): choose among {', '.join(FUSED)}, or () for none")
        if self.checkpoint_folder is not None:
            object.__setattr__(self, "checkpoint_folder", str(self.checkpoint_folder))  # a Path is accepted too


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
