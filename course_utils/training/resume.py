"""Resuming from a checkpoint: what identifies a run, what its checkpoint contains, and how its state is restored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils.scoring import Encoded
from course_utils.training.checkpoints import Checkpoints, State, random_states, restore_random_states
from course_utils.training.early_stopping import set_weights

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    from course_utils.training.history import History
    from course_utils.training.objectives import Objective
    from course_utils.training.settings import Settings


def run_identity(
    objective: Objective,
    settings: Settings,
    examples: Sequence[Encoded],
    parameters: Mapping[str, torch.nn.Parameter],
    processes: int,
) -> dict[str, Any]:
    """Describe a run by plain values that are equal for two runs only if one can continue from the other's checkpoint.

    Args:
        objective: what is learned. An online objective counts by its name alone, because its reward function has no stable
            text.
        settings: the run's settings; those about checkpoints do not count.
        examples: all encoded examples, for training and validation.
        parameters: the trained parameters, by name.
        processes: number of processes that train together.
    """
    compared_settings = {n: v for n, v in settings.as_dict().items() if not n.startswith("checkpoint")}
    data = repr([(e.prompt, e.completions, e.example_values) for e in examples])
    return {
        "settings": compared_settings,
        "objective": objective.name if objective.is_online else repr(objective),  # a reward function has no stable repr
        "data": hashlib.sha256(data.encode()).hexdigest(),
        "model": {name: list(p.shape) for name, p in parameters.items()},
        "processes": processes,
    }


class Resume:
    """Saves the state of a run in its checkpoints, and restores a saved state.

    Attributes:
        checkpoints: where the states are saved.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        accelerator: Accelerator,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: AcceleratedOptimizer,
        history: History,
    ) -> None:
        self.checkpoints, self.accelerator = checkpoints, accelerator
        self.parameters, self.optimizer, self.history = parameters, optimizer, history

    def save(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a checkpoint. All processes must call this; only the main one writes.

        Args:
            step: number of optimiser steps done.
            values: plain values to keep besides the history, see `State.values`.
        """
        from accelerate.utils import gather_object

        states = gather_object([random_states()])
        if not self.accelerator.is_main_process:
            return
        optimizer = {"optimizer": self.optimizer.state_dict()}
        if self.accelerator.scaler is not None:
            optimizer["scaler"] = self.accelerator.scaler.state_dict()
        self.checkpoints.save(State(step, self.parameters, optimizer, states, {"history": self.history.as_dict(), **values}))

    def restore(self, state: State) -> None:
        """Restore weights, optimiser, history and random generators from a saved state.

        A note says that the run was resumed.
        """
        set_weights(self.parameters, state.weights)
        self.optimizer.load_state_dict(state.optimizer["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state.optimizer:
            self.accelerator.scaler.load_state_dict(state.optimizer["scaler"])
        self.history.restore(state.values["history"])
        self.history.note(f"resumed after step {state.step}")
        restore_random_states(state.random[self.accelerator.process_index])
