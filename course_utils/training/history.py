"""What a run of `fit` leaves behind: losses by step, speed, and how to draw them."""

from __future__ import annotations

from dataclasses import dataclass, field

from course_utils.training.settings import Settings


@dataclass
class History:
    """Record of one training run.

    Attributes:
        settings: what it was asked to do.
        steps: step numbers, from 1.
        losses: training loss of each step, mean over its scored tokens (nats a token).
        learning_rates: learning rate of each step.
        grad_norms: gradient norm of each step before clipping.
        validation_steps: steps at which the validation loss was taken; 0 is before training.
        validation_losses: mean over all scored tokens of the validation set.
        tokens: tokens processed (padding not counted).
        scored_tokens: tokens that carried loss.
        seconds: time in training steps, validation not counted.
    """

    settings: Settings
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    tokens: int = 0
    scored_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Training speed over the whole run, padding not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def plot(self, title: str = "Loss while training"):
        """Learning curve, as a `figures.Figure` with alt text."""
        from course_utils import figures

        return figures.learning_curve({"run": self}, title=title)

    def __str__(self) -> str:
        text = f"{len(self.steps)} steps, {self.tokens:,} tokens in {self.seconds:.0f} s ({self.tokens_per_second:.0f}/s)"
        if self.losses:
            text += f", training loss {self.losses[0]:.3f} → {self.losses[-1]:.3f}"
        if self.validation_losses:
            text += f", validation loss {self.validation_losses[0]:.3f} → {self.validation_losses[-1]:.3f}"
        return text
