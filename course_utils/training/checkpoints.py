"""Checkpoints that survive being killed: written beside, named last, believed only if every byte is as it was written.

A checkpoint is a folder with a manifest of its files' SHA-256, written last. Whether it is whole is decided by the manifest
when it is read, never by a rename, because a mounted Google Drive renames file by file and a process can die anywhere. A
checkpoint that cannot be written (quota, full disk, a drive that went away) costs the checkpoint and not the run.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.files import sha256, to_disk

if TYPE_CHECKING:
    import torch

KEEP = 2
MANIFEST = "manifest.json"


@dataclass
class State:
    """What a run needs to go on as if it had not stopped.

    Attributes:
        step: optimiser steps done.
        weights: name → trained tensor.
        optimizer: the optimiser's state dict, and the loss scaler's under fp16.
        random: states of the random generators, one set for each process.
        record: plain values: the history, the best step so far, the reference's log-probabilities.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: dict[str, Any]
    random: list[dict[str, Any]]
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder: the last two, and the best weights."""

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        """Remember where to write, and what run this is (plain values; see `load`)."""
        self.folder, self.identity = Path(folder), json.loads(json.dumps(identity))
        self.notes: list[str] = []

    def save(self, state: State) -> None:
        """Write a checkpoint and remove those that are no longer needed; a note if it cannot be written."""
        import torch
        from safetensors.torch import save_file

        def write(folder: Path) -> None:
            save_file(
                {name: t.detach().cpu().contiguous() for name, t in state.weights.items()}, folder / "weights.safetensors"
            )
            torch.save({"optimizer": state.optimizer, "random": state.random}, folder / "state.pt")
            record = {"step": state.step, "identity": self.identity, "record": state.record}
            (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")

        if self._write(f"checkpoint-{state.step:06d}", write):
            self._prune()

    def save_best(self, step: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the best weights so far."""
        from safetensors.torch import save_file

        def write(folder: Path) -> None:
            save_file({name: t.detach().cpu().contiguous() for name, t in weights.items()}, folder / "weights.safetensors")

        self._write(f"best-{step:06d}", write)

    def load(self) -> State | None:
        """The newest checkpoint that is whole; None if there is none.

        Raises:
            CourseError: it belongs to another run: other settings, data or model.
        """
        import torch
        from safetensors.torch import load_file

        for folder in self._folders("checkpoint"):
            if fault := self._fault(folder):
                self._note(f"{folder.name} is damaged ({fault}) and is not used; going on from the one before")
                continue
            stored = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            differing = [k for k in self.identity if stored["identity"].get(k) != self.identity[k]]
            if differing:
                raise CourseError(
                    f"{self.folder} holds checkpoints of another run (its {', '.join(differing)} differ); choose another "
                    "Settings(checkpoint_folder=...) or remove the folder"
                )
            # map_location: a run may go on where there is no GPU; plain values and tensors only, no code
            rest = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
            weights = load_file(folder / "weights.safetensors")
            return State(stored["step"], weights, rest["optimizer"], rest["random"], stored["record"])
        return None

    def load_best(self, step: int) -> dict[str, torch.Tensor] | None:
        """The best weights, if they are there and whole."""
        from safetensors.torch import load_file

        folder = self.folder / f"best-{step:06d}"
        if not folder.exists() or self._fault(folder):
            return None
        return load_file(folder / "weights.safetensors")

    def _write(self, name: str, write: Callable[[Path], None]) -> bool:
        beside = self.folder / f".partial-{name}-{os.getpid()}"
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            write(beside)
            sums = {}
            for file in sorted(beside.iterdir()):
                to_disk(file)
                sums[file.name] = sha256(file)
            (beside / MANIFEST).write_text(json.dumps(sums), encoding="utf-8")
            to_disk(beside / MANIFEST)
            target = self.folder / name
            if target.exists():  # of this run before it was stopped, or damaged
                old = self.folder / f".partial-old-{name}-{os.getpid()}"
                os.replace(target, old)
                shutil.rmtree(old, ignore_errors=True)
            os.replace(beside, target)
            to_disk(self.folder)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            self._note(f"{name} could not be written ({error}); training goes on without it")
            return False
        except Exception as error:
            # safetensors and torch wrap a full disk in errors of their own
            shutil.rmtree(beside, ignore_errors=True)
            if not re.search(r"space left|quota|IoError|failed writing|unexpected pos", str(error)):
                raise
            self._note(f"{name} could not be written ({error}); training goes on without it")
            return False
        return True

    def _prune(self) -> None:
        """Keep the last two checkpoints, and the best weights that they and the present know of."""
        folders = self._folders("checkpoint")
        wanted = set()
        for folder in folders[:KEEP]:
            try:
                record = json.loads((folder / "record.json").read_text(encoding="utf-8"))["record"]
                wanted.add(f"best-{record['best_step']:06d}")
            except (OSError, ValueError, KeyError, TypeError):
                continue
        for folder in [*folders[KEEP:], *[f for f in self._folders("best") if f.name not in wanted]]:
            shutil.rmtree(folder, ignore_errors=True)
        for leftover in self.folder.glob(".partial-*"):
            if not leftover.name.endswith(f"-{os.getpid()}"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _folders(self, kind: str) -> list[Path]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((f for f in self.folder.glob(f"{kind}-*") if f.name.rpartition("-")[2].isdigit()), reverse=True)

    def _fault(self, folder: Path) -> str:
        """What is wrong with a checkpoint; empty if nothing."""
        try:
            sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            for name, expected in sums.items():
                if sha256(folder / name) != expected:
                    return f"{name} is not what was written"
        except (OSError, ValueError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _note(self, text: str) -> None:
        self.notes.append(text)
        warnings.warn(text, stacklevel=2)


def random_states() -> dict[str, Any]:
    """States of the random generators of this process, as plain values and tensors."""
    import numpy as np
    import torch

    numpy_state = np.random.get_state()
    assert isinstance(numpy_state, tuple)
    return {
        "python": repr(random.getstate()),
        "numpy": [numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put the random generators where they were."""
    import ast

    import numpy as np
    import torch

    random.setstate(ast.literal_eval(states["python"]))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
