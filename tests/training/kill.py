"""Kills a training run again and again and lets it go on, until it comes to its end."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).with_name("a_run.py")
SETTINGS = ["batch_size=2", "epochs=6", "learning_rate=0.01", "checkpoint_every=1", "evaluate_every=3"]


def start(out: Path, checkpoints: Path) -> subprocess.Popen:
    """The run as a process; it goes on from the checkpoints that it finds."""
    command = [sys.executable, str(SCRIPT), str(out), *SETTINGS, f"checkpoint_folder={checkpoints}"]
    fixed = os.environ | {"PYTHONHASHSEED": "0"}  # PEFT's configuration lists target modules in a set's order
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=fixed)


def uninterrupted(folder: Path) -> dict[str, bytes]:
    """Files of the adapter of a run that nobody kills."""
    return _finish(folder / "whole", folder / "whole-checkpoints")


def killed(folder: Path, times: int, seed: int) -> tuple[dict[str, bytes], int, int]:
    """The same of a run killed `times` times; also how often a save was under way, and how often it had to be resumed.

    Every second kill waits for a save to begin (a folder `.partial-…`), the others come at a random moment of training.
    """
    out, checkpoints = folder / f"killed-{seed}", folder / f"killed-{seed}-checkpoints"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    dice, during_save, resumed = random.Random(seed), 0, 0
    for number in range(times):
        process = start(out, checkpoints)
        _wait_for_a_new_checkpoint(process, checkpoints)
        if process.poll() is None and number % 2 == 0:
            during_save += _wait_for_a_save(process, checkpoints)
        elif process.poll() is None:
            time.sleep(dice.uniform(0, 0.2))
        if process.poll() is None:
            resumed += 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    return _finish(out, checkpoints), during_save, resumed


def _finish(out: Path, checkpoints: Path) -> dict[str, bytes]:
    out.mkdir(parents=True, exist_ok=True)
    process = start(out, checkpoints)
    _, errors = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(errors)
    return {file.name: file.read_bytes() for file in sorted((out / "adapter").iterdir()) if file.suffix != ".md"}


def _wait_for_a_new_checkpoint(process, checkpoints: Path) -> None:
    before = set(checkpoints.glob("checkpoint-*"))
    while process.poll() is None and not set(checkpoints.glob("checkpoint-*")) - before:
        time.sleep(0.002)


def _wait_for_a_save(process, checkpoints: Path) -> bool:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if any(checkpoints.glob(".partial-checkpoint-*")):
            return True
    return False
