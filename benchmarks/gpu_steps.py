"""What gpu.py measures on a card in a process of its own; the last line that it prints is the result, as JSON.

python benchmarks/gpu_steps.py speed sft "TRL as installed"
python benchmarks/gpu_steps.py rate 02 0.5
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import common  # noqa: F401 - prepares the process
from course_utils import hardware, memory, models, plans, training
from course_utils.data_prep import load_preferences, load_task
from course_utils.errors import CourseError

import torch

import speed

KINDS = ("sft", "dpo")
ROUNDS, EXAMPLES, HELD_OUT = (1, 8, 4) if os.environ.get(plans.SMALL) == "1" else (3, 48, 16)
SAMPLE_SECONDS = 0.5  # PyTorch keeps what it has allocated, so that peaks last longer than that
# Name → what it needs beside TRL. (Unsloth changes TRL and transformers when it is imported.)
CONTENDERS = {
    "TRL as installed": (),
    "TRL, packed, flash attention": ("flash_attn",),
    "TRL with Liger": ("liger_kernel",),
    "Unsloth": ("unsloth",),
    "ours": (),
}
SWEPT = ("02", "03", "04")  # LoRA, QLoRA and DPO; lessons 01 and 05 train as 02 does
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


class CardPeak:
    """The most memory of the card that all processes together used, as its driver reports it, above what was in use before.

    Attributes:
        bytes: that; None where there is no nvidia-smi.
    """

    bytes: int | None = None

    def __enter__(self) -> CardPeak:
        self._stop = threading.Event()
        self._before = self._used()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._before is not None:
            self.bytes = 0
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._before is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            used = self._used()
            if used is not None and self._before is not None and self.bytes is not None:
                self.bytes = max(self.bytes, used - self._before)

    @staticmethod
    def _used() -> int | None:
        """Bytes in use on the first card."""
        if not (program := shutil.which("nvidia-smi")):
            return None
        command = [program, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        answer = subprocess.run(command, capture_output=True, text=True)
        return int(answer.stdout) * 2**20 if answer.returncode == 0 and answer.stdout.strip().isdigit() else None


def measure_lesson(number: str) -> dict[str, Any]:
    """Run the learner's notebook, and return its time and memory."""
    from course_utils.publishing import builder, runner

    notebook = builder.learner_edition(number)
    with CardPeak() as card:
        try:
            cost = runner.execute(notebook)
        except CourseError as error:
            return {"error": str(error)[-2000:]}
    return {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes, "card_peak_bytes": card.bytes}


def _missing(name: str) -> str | None:
    absent = [module for module in CONTENDERS[name] if importlib.util.find_spec(module) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    if name == "TRL, packed, flash attention" and torch.cuda.get_device_capability() < (8, 0):
        return "needs a card of compute capability 8.0"
    return None


def _with_unsloth(name: str) -> tuple[Any, Any]:
    """Load the tier's model with Unsloth, with the adapter that `speed.adapter` gives the others."""
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(name, max_seq_length=speed.LENGTH, load_in_4bit=False)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32, target_modules=layers, random_state=0), tokenizer


def runner(kind: str, name: str, rate: float) -> Callable[..., tuple[float, float]]:
    """Return what trains for a contender, as `speed.ours` does."""
    if name == "ours":
        return lambda *arguments: speed.ours(*arguments, rate=rate)
    dtype = hardware.detect().dtype  # TRL's own choice is bfloat16, which a T4 emulates
    settings: dict[str, Any] = {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}
    if name == "TRL, packed, flash attention":
        settings |= {"packing": True} if kind == "sft" else {"padding_free": True}
    elif name == "TRL with Liger":
        settings |= {"use_liger_kernel": True}
    return speed.trl_with(rate, **settings)


def measure_speed(kind: str, name: str) -> dict[str, Any]:
    """Train a new adapter on the tier's model, ROUNDS times after one to warm up."""
    if reason := _missing(name):
        return {"missing": reason}
    models.attention.register()
    rate = plans.plan("04" if kind == "dpo" else "02").learning_rate
    everything = speed.chats(EXAMPLES + HELD_OUT)
    rows, held_out = everything[:EXAMPLES], everything[EXAMPLES:]
    train = runner(kind, name, rate)
    tier_model = models.TIERS[hardware.detect().tier].name
    tuned, base = None, None
    if name == "Unsloth":
        tuned, tokenizer = _with_unsloth(tier_model)
    else:
        base, tokenizer = models.load(tier_model)
        if name == "TRL, packed, flash attention":
            base.set_attn_implementation("flash_attention_2")
    seconds, loss = [], 0.0
    for _ in range(ROUNDS + 1):
        if base is not None:
            tuned = speed.adapter(base)
        memory.release()
        torch.cuda.reset_peak_memory_stats()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            took, set_up = train(kind, tuned, tokenizer, rows, 0)
        seconds.append(took + set_up)
        peak = torch.cuda.max_memory_allocated()
        loss = speed.held_out_loss(kind, tuned, tokenizer, held_out)
        if base is not None:
            base = tuned.unload()
    return {
        "seconds": statistics.median(seconds[1:]),
        "rounds": seconds[1:],
        "first": seconds[0],
        "peak_bytes": peak,
        "loss": loss,
        "examples": EXAMPLES,
        "batch": speed.BATCH[kind],
    }


def measure_rate(lesson: str, factor: float) -> dict[str, Any]:
    """Train as a lesson's plan says, with its learning rate times a factor."""
    plan = plans.plan(lesson)
    torch.manual_seed(0)
    base, tokenizer = models.load(quantization="nf4" if lesson == "03" else None)
    model = speed.adapter(base)
    objective: training.Objective
    if lesson == "04":
        pairs, objective = load_preferences("balanced"), training.DPO()
        train, validation = pairs.train[: plan.more_examples], pairs.validation[: plan.asked]
    else:
        task, objective = load_task("support_tickets", list(plan.fields)), training.SFT()
        train, validation = task.train[: plan.examples], task.validation[: plan.asked]
    settings = training.Settings(learning_rate=factor * plan.learning_rate, batch_size=plan.batch_size)
    history = training.fit(model, tokenizer, train, validation, objective=objective, settings=settings)
    return {
        "rate": settings.learning_rate,
        "loss": history.validation_losses[-1],
        "metrics": {name: values[-1][1] for name, values in history.validation_metrics.items()},
        "train_losses": history.losses,
        "skipped_steps": len(history.skipped_steps),
        "seconds": history.seconds,
    }


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "device":
        result = asdict(hardware.detect())
    elif what == "lesson":
        result = measure_lesson(arguments[0])
    elif what == "speed":
        result = measure_speed(*arguments)
    else:
        result = measure_rate(arguments[0], float(arguments[1]))
    print(json.dumps(result))
