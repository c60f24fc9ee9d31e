"""Keeps the best weights of a run and decides when to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from course_utils.training.checkpoints import Checkpoints
    from course_utils.training.history import History


class EarlyStopping:
    """Decides when a run should stop, and keeps the weights that had the lowest validation loss.

    Attributes:
        best_step: step of the lowest validation loss so far; None before the first validation.
    """

    def __init__(
        self, patience: int, parameters: Mapping[str, torch.nn.Parameter], history: History, checkpoints: Checkpoints | None
    ) -> None:
        """Prepare to watch a run.

        Args:
            patience: the run stops after this number of validation losses in a row that do not improve on the best.
            parameters: the trained parameters, by name.
            history: the run's history, to which the trainer adds the validation losses.
            checkpoints: if given, the best weights are also written there; None to keep them in memory only (also on every
                process except the main one).
        """
        self.patience, self.parameters, self.history, self.checkpoints = patience, parameters, history, checkpoints
        self.best_step: int | None = None
        self._weights: dict[str, torch.Tensor] | None = None

    def should_stop(self, step: int) -> bool:
        """Take the latest validation loss into account, and return whether the run should stop.

        Args:
            step: the step at which the loss was measured.

        Returns:
            True if the last `patience` validation losses brought no improvement.
        """
        steps, losses = self.history.validation_steps, self.history.validation_losses
        if self.best_step is None or losses[-1] < losses[steps.index(self.best_step)]:
            self.best_step = step
            self._weights = {name: p.detach().cpu().clone() for name, p in self.parameters.items()}
            if self.checkpoints:
                self.checkpoints.save_best(step, self._weights)
        return len(steps) - 1 - steps.index(self.best_step) >= self.patience

    def restore(self, checkpoints: Checkpoints | None) -> None:
        """Give the model its best weights back, from memory or from the checkpoints.

        If they are missing, add a note to the history.

        Args:
            checkpoints: where the best weights may have been written by an earlier part of the run, or None.
        """
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
    """Copy each tensor of `weights` into the parameter of the same name, in place."""
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
