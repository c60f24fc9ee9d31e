"""Lesson 03: QLoRA on the data, settings and seeds of the sweep of lesson 02, so that the two can be compared run by run.

    python benchmarks/qlora_seeds.py     # three seeds, three minutes each; writes a dated record

Each run is the sweep's run "LoRA" on a base in NF4 instead of 16 bits; the sweep's record has that one and full fine-tuning.
"""

from __future__ import annotations

from common import MemoryAdded, write_results
from course_utils import memory, models
from course_utils.data_prep import load_task

import torch
from peft import LoraConfig, get_peft_model

import lora_sweep


def one_run(seed: int) -> dict:
    """Train an adapter on a 4-bit base and measure it as the sweep does."""
    base = lora_sweep.BASE
    task = load_task("support_tickets", lora_sweep.FIELDS)
    torch.manual_seed(seed)
    model, tokenizer = models.load(tier="cpu", quantization="nf4")
    config = LoraConfig(r=base["rank"], lora_alpha=base["alpha"], target_modules=base["targets"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    with MemoryAdded() as added:
        history, seconds = lora_sweep.train(model, tokenizer, lora_sweep.chosen_rows(task, seed), {}, seed)
    result = {"seconds": round(seconds, 1), "memory_added_mb": round(added.bytes / 1e6)}
    return result | {"last_training_loss": history.losses[-1], **lora_sweep.measure(model, tokenizer, task, answers=True)}


def main() -> None:
    """All seeds, then the record."""
    runs = {}
    for seed in lora_sweep.SEEDS:
        runs[f"QLoRA | {seed}"] = one_run(seed)
        memory.release()
        print(seed, runs[f"QLoRA | {seed}"]["validation_loss"], flush=True)
    write_results("qlora-seeds", {"examples": lora_sweep.EXAMPLES, "base": lora_sweep.BASE, "runs": runs})


if __name__ == "__main__":
    main()
