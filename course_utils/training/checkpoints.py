"""Checkpoints that survive being killed: written under a temporary name, renamed last, and used only if every byte is right.

A checkpoint is a folder with a manifest of its files' SHA-256, which is written last. Whether a checkpoint is complete is
decided by the manifest when it is read, not by the rename, because a mounted Google Drive renames file by file and a process
can die at any point. If a checkpoint cannot be written (quota, full disk, a drive that went away), training goes on without
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.batching import Encoded
from course_utils.errors import CourseError
from course_utils.files import sha256, to_disk

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    from course_utils.training.history import History
    from course_utils.training.objectives import Objective
    from course_utils.training.settings import Settings


KEPT_CHECKPOINTS = 2
MANIFEST = "manifest.json"
VALUES_FILE, VALUES = "record.json", "record"  # the file of plain values and their key in it, as older checkpoints have them


@dataclass
class State:
    """Everything that a run needs in order to continue as if it had never stopped.

    Attributes:
        step: number of optimiser steps done.
        weights: name of each trained parameter → its tensor.
        optimizer: the optimiser's state dict, and in fp16 also the state of the loss scaler.
        random: states of the random generators, one set for each process.
        values: everything else as plain values: the history, the step of the best validation loss, the reference's
            log-probabilities, and whether the run has stopped early.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: dict[str, Any]
    random: list[dict[str, Any]]
    values: dict[str, Any]


class Checkpoints:
    """Writes and reads the checkpoints of one run in one folder: the last two, and the best weights.

    Attributes:
        notes: sentences for the user about checkpoints that were damaged or could not be written.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        """Choose the folder, and say which run its checkpoints belong to.

        Args:
            folder: where to write; created when it is first needed.
            identity: plain values that are equal only for runs that may continue each other (see `run_identity`).
        """
        self.folder, self.identity = Path(folder), json.loads(json.dumps(identity))
        self.notes: list[str] = []

    def save(self, state: State) -> None:
        """Write a checkpoint, and remove those that are no longer needed.

        If the checkpoint cannot be written (a full disk, for instance), a note and a warning say so and nothing is raised.
        """
        import torch
        from safetensors.torch import save_file

        def write(folder: Path) -> None:
            save_file(
                {name: t.detach().cpu().contiguous() for name, t in state.weights.items()}, folder / "weights.safetensors"
            )
            torch.save({"optimizer": state.optimizer, "random": state.random}, folder / "state.pt")
            plain_values = {"step": state.step, "identity": self.identity, VALUES: state.values}
            (folder / VALUES_FILE).write_text(json.dumps(plain_values), encoding="utf-8")

        if self._write(f"checkpoint-{state.step:06d}", write):
            self._prune()

    def save_best(self, step: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the best weights so far, under the number of the step at which they were reached.

        A failure becomes a note, as in `save`.
        """
        from safetensors.torch import save_file

        def write(folder: Path) -> None:
            save_file({name: t.detach().cpu().contiguous() for name, t in weights.items()}, folder / "weights.safetensors")

        self._write(f"best-{step:06d}", write)

    def load(self) -> State | None:
        """Return the state in the newest complete checkpoint, or None if there is none.

        Damaged checkpoints are skipped with a note.

        Raises:
            CourseError: the checkpoint belongs to another run: its settings, its data or its model differ from this run's.
        """
        import torch
        from safetensors.torch import load_file

        for folder in self._folders("checkpoint"):
            if problem := self._fault(folder):
                self._note(f"{folder.name} is damaged ({problem}) and is not used; falling back to the one before")
                continue
            stored = json.loads((folder / VALUES_FILE).read_text(encoding="utf-8"))
            differing = [key for key in self.identity if stored["identity"].get(key) != self.identity[key]]
            if differing:
                raise CourseError(
                    f"{self.folder} holds checkpoints of another run (its {', '.join(differing)} differ); choose another "
                    "Settings(checkpoint_folder=...) or remove the folder"
                )
            # map_location: the run may be resumed without a GPU; weights_only: load plain values and tensors, never code
            tensors = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
            weights = load_file(folder / "weights.safetensors")
            return State(stored["step"], weights, tensors["optimizer"], tensors["random"], stored[VALUES])
        return None

    def load_best(self, step: int) -> dict[str, torch.Tensor] | None:
        """Return the best weights, saved at `step`, as parameter name → tensor; None if they are missing or damaged."""
        from safetensors.torch import load_file

        folder = self.folder / f"best-{step:06d}"
        if not folder.exists() or self._fault(folder):
            return None
        return load_file(folder / "weights.safetensors")

    def _write(self, name: str, write: Callable[[Path], None]) -> bool:
        partial_folder = self.folder / f".partial-{name}-{os.getpid()}"
        try:
            shutil.rmtree(partial_folder, ignore_errors=True)
            partial_folder.mkdir(parents=True)
            write(partial_folder)
            hashes = {}
            for file in sorted(partial_folder.iterdir()):
                to_disk(file)
                hashes[file.name] = sha256(file)
            (partial_folder / MANIFEST).write_text(json.dumps(hashes), encoding="utf-8")
            to_disk(partial_folder / MANIFEST)
            target = self.folder / name
            if target.exists():  # written by this run before it was stopped, or damaged
                replaced = self.folder / f".partial-old-{name}-{os.getpid()}"
                os.replace(target, replaced)
                shutil.rmtree(replaced, ignore_errors=True)
            os.replace(partial_folder, target)
            to_disk(self.folder)
        except OSError as error:
            shutil.rmtree(partial_folder, ignore_errors=True)
            self._note(f"{name} could not be written ({error}); training goes on without it")
            return False
        except Exception as error:
            # safetensors and torch report a full disk with their own error types
            shutil.rmtree(partial_folder, ignore_errors=True)
            if not re.search(r"space left|quota|IoError|failed writing|unexpected pos", str(error)):
                raise
            self._note(f"{name} could not be written ({error}); training goes on without it")
            return False
        return True

    def _prune(self) -> None:
        """Keep the last two checkpoints, and the best weights that they refer to."""
        folders = self._folders("checkpoint")
        needed_best = set()
        for folder in folders[:KEPT_CHECKPOINTS]:
            try:
                values = json.loads((folder / VALUES_FILE).read_text(encoding="utf-8"))[VALUES]
                needed_best.add(f"best-{values['best_step']:06d}")
            except (OSError, ValueError, KeyError, TypeError):
                continue
        for folder in [*folders[KEPT_CHECKPOINTS:], *[f for f in self._folders("best") if f.name not in needed_best]]:
            shutil.rmtree(folder, ignore_errors=True)
        for leftover in self.folder.glob(".partial-*"):
            if not leftover.name.endswith(f"-{os.getpid()}"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _folders(self, kind: str) -> list[Path]:
        """Checkpoint folders of a kind, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((f for f in self.folder.glob(f"{kind}-*") if f.name.rpartition("-")[2].isdigit()), reverse=True)

    def _fault(self, folder: Path) -> str:
        """What is wrong with a checkpoint; "" if nothing."""
        try:
            hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            for name, expected in hashes.items():
                if sha256(folder / name) != expected:
                    return f"{name} has changed since it was written"
        except (OSError, ValueError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _note(self, text: str) -> None:
        self.notes.append(text)
        warnings.warn(text, stacklevel=2)


def random_states() -> dict[str, Any]:
    """Return the states of this process's random generators as plain values and tensors.

    They are those of Python, NumPy and PyTorch, and of the one NVIDIA card on which this process computes. The run may be
    resumed where there are fewer cards, or none.
    """
    import numpy as np
    import torch

    numpy_state = np.random.get_state()
    assert isinstance(numpy_state, tuple)
    return {
        "python": repr(random.getstate()),
        "numpy": [numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set the random generators of this process to the states that `random_states` returned."""
    import ast

    import numpy as np
    import torch

    random.setstate(ast.literal_eval(states["python"]))
    name, keys, *position = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *position))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0])  # older checkpoints have the states of all cards, this process's first


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


def run_identity(
    objective: Objective,
    settings: Settings,
    examples: Sequence[Encoded],
    parameters: Mapping[str, torch.nn.Parameter],
    processes: int,
) -> dict[str, Any]:
    """Describe a run by plain values that are equal for two runs only if one can continue from the other's checkpoint.

    Args:
        objective: what is learned.
        settings: the run's settings; those about checkpoints do not count.
        examples: all encoded examples, for training and validation.
        parameters: the trained parameters, by name.
        processes: number of processes that train together.
    """
    compared_settings = {n: v for n, v in settings.as_dict().items() if not n.startswith("checkpoint")}
    data = repr([(e.prompt, e.completions) for e in examples])
    return {
        "settings": compared_settings,
        "objective": repr(objective),
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
