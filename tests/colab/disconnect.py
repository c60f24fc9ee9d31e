"""Lesson 02's fold on Colab's disconnects, as it stands there: checkpoints on the Drive, and a runtime lost in training.

The runtime is a kernel, its end a SIGKILL; the Drive is a folder. What the fold leaves open, its `…`, is filled in here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from course_utils import lessons

from . import kernel

STEPS = 40
LESSON = "02_lora"
BEGIN = """
import hashlib, json, warnings
warnings.filterwarnings("ignore")
from course_utils import models, session, training
session.prepare_process()  # as a lesson's first cell does
from course_utils.data_prep import load_task
model, tokenizer = models.load(tier="cpu")
from peft import LoraConfig, get_peft_model
import torch
torch.manual_seed(0)
model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
rows = load_task("support_tickets").train[:{steps}]
def report(model, resumed_after):
    trained = b"".join(p.detach().float().numpy().tobytes() for p in model.parameters() if p.requires_grad)
    digest = hashlib.sha256(trained).hexdigest()
    print("\\nREPORT", json.dumps({{"resumed_after": resumed_after, "weights": digest}}))
"""
COURSE = """
settings = {settings}
history = training.fit(model, tokenizer, rows, settings=settings)
report(model, next((int(note.split()[-1]) for note in history.notes if note.startswith("resumed after step")), 0))
"""
TRL = """
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
began = []
class Watch(TrainerCallback):
    def on_train_begin(self, args, state, control, **more):
        began.append(state.global_step)
settings = SFTConfig({given})
{settings}
trainer = SFTTrainer(
    model, args=settings, processing_class=tokenizer, callbacks=[Watch()],
    train_dataset=Dataset.from_list([{{"prompt": chat[:-1], "completion": chat[-1:]}} for chat in rows]),
)
{train}
report(trainer.model, began[0])
"""


@dataclass(frozen=True)
class Resumed:
    """How a run went on whose runtime was lost.

    Attributes:
        newest: number of the newest checkpoint on the Drive when the runtime was gone.
        resumed_after: step after which the second runtime went on; 0 if it began anew.
        same_weights: whether it ended with the very weights of a run that nobody disturbed.
    """

    newest: int
    resumed_after: int
    same_weights: bool


def fold() -> dict[str, str]:
    """Return the fold's code: "mount" with the imports, settings of the "course"'s loop and of "trl", and TRL's "train"."""
    import nbformat

    notebook = nbformat.read(lessons.learner_file(LESSON), as_version=4)
    text = next(cell.source for cell in notebook.cells if "drive.mount(" in cell.source)
    lines = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].splitlines()
    lines = [re.sub(r"\s{2,}# .*", "", line) for line in lines]
    (settings,), (train,) = (
        [n for n, line in enumerate(lines) if line.startswith(word)] for word in ("settings.", "trainer.")
    )
    return {
        "mount": "\n".join(lines[:settings]),
        "course": re.search(r"`(training\.Settings\(.*?\))`", text)[1],
        "trl": lines[settings],
        "train": lines[train],
    }


def program(way: str, drive: Path) -> str:
    """Return a cell: a training run as the fold has it, that says at its end from where it went on.

    Args:
        way: "course" or "trl".
        drive: folder that stands for /content/drive.
    """
    code = fold()
    if way == "course":
        given = f"learning_rate=1e-4, batch_size=1, max_steps={STEPS}"
        assert code["course"].count("…") == 1
        rest = COURSE.format(settings=code["course"].replace("…", given))
    else:
        given = f"max_steps={STEPS}, per_device_train_batch_size=1, use_cpu=True, bf16=False, report_to='none'"
        rest = TRL.format(given=given, settings=code["trl"], train=code["train"])
    assert code["mount"].count("/content/drive") == 2
    mount = code["mount"].replace("/content/drive", str(drive))
    return BEGIN.format(steps=STEPS) + mount + rest


def lose_and_resume(way: str, python: Path, folder: Path, environment: Mapping[str, str]) -> Resumed:
    """Train, lose the runtime after the first checkpoint, train again, and compare with a run that nobody disturbed.

    Raises:
        RuntimeError: the second runtime failed, or the first ended before it was lost.
    """
    drive = folder / "drive"
    place = drive / "MyDrive" / "tickets"
    with kernel.started(python, folder, environment, program(way, drive)) as manager:
        until = time.monotonic() + 900
        while not _whole(place):
            if time.monotonic() > until or not manager.is_alive():
                raise RuntimeError(f"no checkpoint came into {place}")
            time.sleep(0.005)
        manager.provisioner.process.kill()
        manager.provisioner.process.wait()
    newest = max(_whole(place))
    if newest >= STEPS:
        raise RuntimeError("the run had ended before its runtime was lost")
    second = _report(kernel.run_cells([program(way, drive)], python, folder, environment))
    whole = _report(kernel.run_cells([program(way, folder / "undisturbed")], python, folder, environment))
    return Resumed(newest, second["resumed_after"], second["weights"] == whole["weights"])


def _whole(place: Path) -> list[int]:
    """Steps whose checkpoints are complete: the course's have that name only then, TRL's have the trainer's state last."""
    found = [file for file in place.glob("checkpoint-*") if (file / "manifest.json").exists() or _trainers(file)]
    return [int(file.name.rpartition("-")[2]) for file in found]


def _trainers(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _report(printed: str) -> dict:
    return json.loads(re.search(r"^REPORT (.*)$", printed, re.MULTILINE)[1])
