"""A longer fine-tune than the notebook's, with three seeds: what do more examples bring, and does it depend on luck?

    python benchmarks/lora_seeds.py [SEED ...]

540 short support messages, once; the test set is the lesson's. Lesson 02 shows the result beside its own, smaller run.
"""

from __future__ import annotations

import sys
import time

from common import write_record
from course_utils import models, training
from course_utils.data_prep import load_task
from course_utils.generation import generate

import torch
from peft import LoraConfig, get_peft_model

PLAN = {
    "fields": ["category", "escalation", "product", "order_id"],
    "examples": 540, "longest": 90, "answer": 56, "batch_size": 2, "learning_rate": 2e-3,
}  # fmt: skip


def one_run(seed: int) -> dict:
    """Train and test once; shares of the test set as numbers with their intervals."""
    plan, objective = PLAN, training.SFT()
    task = load_task("support_tickets", plan["fields"])
    model, tokenizer = models.load(tier="cpu")
    rows = [c for c in task.train if len(objective.encode(tokenizer, c, 4096, "train")) <= plan["longest"]]
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(
        learning_rate=plan["learning_rate"], batch_size=plan["batch_size"], warmup_steps=10, seed=seed
    )
    started = time.perf_counter()
    history = training.fit(tuned, tokenizer, rows[: plan["examples"]], task.validation, settings=settings)
    seconds = time.perf_counter() - started
    answers = generate(tuned.merge_and_unload(), tokenizer, task.prompts(), max_new_tokens=plan["answer"], batch_size=25)
    scores = task.evaluate(answers)
    print(f"seed {seed}: {history}\n{scores}", flush=True)
    return {
        "seed": seed,
        "seconds": round(seconds),
        "validation_losses": history.validation_losses,
        "scores": {name: [s.value, s.low, s.high] for name, s in scores.rows()},
    }


if __name__ == "__main__":
    seeds = [int(text) for text in sys.argv[1:]] or [0, 1, 2]
    write_record("lora-seeds", {"plan": PLAN, "runs": [one_run(seed) for seed in seeds]})
