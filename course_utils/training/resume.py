"""Going on from a checkpoint: what identifies a run, what a checkpoint of it holds, and how it is put back."""

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
    online: bool,
) -> dict[str, Any]:
    """Plain values in which two runs differ unless one can go on from the other's checkpoint."""
    plain = {n: v for n, v in settings.as_dict().items() if not n.startswith("checkpoint")}
    data = repr([(e.prompt, e.completions, e.example_values) for e in examples])
    return {
        "settings": plain,
        "objective": objective.name if online else repr(objective),  # a reward function has no stable repr
        "data": hashlib.sha256(data.encode()).hexdigest(),
        "model": {name: list(p.shape) for name, p in parameters.items()},
        "processes": processes,
    }


class Resume:
    """Saves the state of a run, and puts a saved one back.

    Attributes:
        checkpoints: where they are written.
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

    def save(self, step: int, record: Mapping[str, Any]) -> None:
        """Write a checkpoint; all processes call this, the main one writes."""
        from accelerate.utils import gather_object

        states = gather_object([random_states()])
        if not self.accelerator.is_main_process:
            return
        optimizer = {"optimizer": self.optimizer.state_dict()}
        if self.accelerator.scaler is not None:
            optimizer["scaler"] = self.accelerator.scaler.state_dict()
        self.checkpoints.save(State(step, self.parameters, optimizer, states, {"history": self.history.as_dict(), **record}))

    def restore(self, state: State) -> None:
        """Put weights, optimiser, history and random generators back."""
        set_weights(self.parameters, state.weights)
        self.optimizer.load_state_dict(state.optimizer["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state.optimizer:
            self.accelerator.scaler.load_state_dict(state.optimizer["scaler"])
        self.history.restore(state.record["history"])
        self.history.note(f"resumed after step {state.step}")
        restore_random_states(state.random[self.accelerator.process_index])
