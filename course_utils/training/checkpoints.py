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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.batching import Encoded
from course_utils.errors import CourseError
from course_utils.files import sha256, to_disk

if TYPE_CHECKING:
    import torch

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
        values: everything else as plain values: the history, and the reference's log-probabilities.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: dict[str, Any]
    random: list[dict[str, Any]]
    values: dict[str, Any]


class Checkpoints:
    """Writes and reads the checkpoints of one run in one folder: the last two."""

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], note: Callable[[str], None]) -> None:
        """Choose the folder, and say which run its checkpoints belong to.

        Args:
            folder: where to write; created when it is first needed.
            identity: plain values that are equal only for runs that may continue each other (see `run_identity`).
            note: called with a sentence about each checkpoint that is damaged or could not be written (`History.note`).
        """
        self.folder, self.identity, self._note = Path(folder), json.loads(json.dumps(identity)), note

    def save(self, state: State) -> None:
        """Write a checkpoint, and remove those that are no longer needed.

        If the checkpoint cannot be written (a full disk, for instance), a note and a warning say so and nothing is raised.
        """
        import torch
        from safetensors.torch import save_file

        def write(folder: Path) -> None:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.weights.items()}
            save_file(weights, folder / "weights.safetensors")
            torch.save({"optimizer": state.optimizer, "random": state.random}, folder / "state.pt")
            plain_values = {"step": state.step, "identity": self.identity, VALUES: state.values}
            (folder / VALUES_FILE).write_text(json.dumps(plain_values), encoding="utf-8")

        if self._write(f"checkpoint-{state.step:06d}", write):
            self._prune()

    def load(self) -> State | None:
        """Return the state in the newest complete checkpoint, or None if there is none.

        Damaged checkpoints are skipped with a note.

        Raises:
            CourseError: the checkpoint belongs to another run: its settings, its data or its model differ from this run's.
        """
        import torch
        from safetensors.torch import load_file

        for folder in self._folders():
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
        except Exception as error:
            shutil.rmtree(partial_folder, ignore_errors=True)
            # safetensors and torch report a full disk with their own error types
            full = re.search(r"space left|quota|IoError|failed writing|unexpected pos", str(error))
            if not full and not isinstance(error, OSError):
                raise
            self._note(f"{name} could not be written ({error}); training goes on without it")
            return False
        return True

    def _prune(self) -> None:
        """Keep the last two checkpoints."""
        for folder in self._folders()[KEPT_CHECKPOINTS:]:
            shutil.rmtree(folder, ignore_errors=True)
        for leftover in self.folder.glob(".partial-*"):
            if not leftover.name.endswith(f"-{os.getpid()}"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Checkpoint folders, newest first."""
        folders = [folder for folder in self.folder.glob("checkpoint-*") if folder.name.rpartition("-")[2].isdigit()]
        return sorted(folders, reverse=True)

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
    compared_settings = {n: v for n, v in asdict(settings).items() if not n.startswith("checkpoint")}
    data = repr([(e.prompt, e.completions) for e in examples])
    return {
        "settings": compared_settings,
        "objective": repr(objective),
        "data": hashlib.sha256(data.encode()).hexdigest(),
        "model": {name: list(p.shape) for name, p in parameters.items()},
        "processes": processes,
    }
