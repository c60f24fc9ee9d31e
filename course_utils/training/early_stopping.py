"""Keeps the best weights of a run and decides when to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from course_utils.training.checkpoints import Checkpoints
    from course_utils.training.history import History


class EarlyStopping:
    """Keeps the weights of the lowest validation loss.

    Attributes:
        best_step: step of the lowest validation loss so far; None before the first.
    """

    def __init__(
        self, patience: int, parameters: Mapping[str, torch.nn.Parameter], history: History, checkpoints: Checkpoints | None
    ) -> None:
        """Watch a run.

        Args:
            patience: number of validation losses in a row without an improvement after which the run stops.
            parameters: the trained parameters.
            history: where the validation losses are recorded.
            checkpoints: also write the best weights here; None to keep them in memory only (and on all processes but one).
        """
        self.patience, self.parameters, self.history, self.checkpoints = patience, parameters, history, checkpoints
        self.best_step: int | None = None
        self._weights: dict[str, torch.Tensor] | None = None

    def should_stop(self, step: int) -> bool:
        """Process the latest validation loss; returns whether the last `patience` losses brought no improvement."""
        steps, losses = self.history.validation_steps, self.history.validation_losses
        if self.best_step is None or losses[-1] < losses[steps.index(self.best_step)]:
            self.best_step = step
            self._weights = {name: p.detach().cpu().clone() for name, p in self.parameters.items()}
            if self.checkpoints:
                self.checkpoints.save_best(step, self._weights)
        return len(steps) - 1 - steps.index(self.best_step) >= self.patience

    def restore(self, checkpoints: Checkpoints | None) -> None:
        """Give the model the best weights, from memory or from the checkpoints; adds a note if they are lost."""
        if self.best_step is None:
            return
        weights = self._weights or (checkpoints.load_best(self.best_step) if checkpoints else None)
        self.history.best_step = self.best_step
        if weights is None:
            self.history.note(
                f"the best weights (step {self.best_step}) are missing or damaged; the model keeps its last ones"
            )
        else:
            set_weights(self.parameters, weights)


def set_weights(parameters: Mapping[str, torch.nn.Parameter], weights: Mapping[str, torch.Tensor]) -> None:
    """Copy values into parameters of the same names."""
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
