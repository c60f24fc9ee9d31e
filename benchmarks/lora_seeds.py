"""A longer fine-tune than the notebook's, three times: what do more examples bring, and how much of it is luck?

    python benchmarks/lora_seeds.py [SEED ...]

540 support messages, once; each seed draws another sample of them and another start of the adapter. The test set is the
lesson's. Lesson 02 shows the scores beside its own, smaller run, and begins with one of the answers.
"""

from __future__ import annotations

import random
import sys
import time

from common import write_results
from course_utils import models, training
from course_utils.data_prep import load_task
from course_utils.generation import generate

import torch
from peft import LoraConfig, get_peft_model

PLAN = {
    "fields": ["category", "escalation", "product", "order_id"],
    "examples": 540, "answer": 56, "batch_size": 4, "learning_rate": 2e-3,
}  # fmt: skip
SHOWN = 10  # test messages whose answers are kept


def one_run(seed: int) -> dict:
    """Train and test once; shares of the test set as numbers with their intervals."""
    plan = PLAN
    task = load_task("support_tickets", plan["fields"])
    model, tokenizer = models.load(tier="cpu")
    rows = random.Random(seed).sample(task.train, plan["examples"])
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(
        learning_rate=plan["learning_rate"], batch_size=plan["batch_size"], warmup_steps=10, seed=seed
    )
    started = time.perf_counter()
    history = training.fit(tuned, tokenizer, rows, task.validation, settings=settings)
    seconds = time.perf_counter() - started
    answers = generate(tuned.merge_and_unload(), tokenizer, task.prompts(), max_new_tokens=plan["answer"], batch_size=25)
    scores = task.evaluate(answers)
    print(f"seed {seed}: {history}\n{scores}", flush=True)
    return {
        "seed": seed,
        "seconds": round(seconds),
        "validation_losses": history.validation_losses,
        "scores": {name: [s.value, s.low, s.high] for name, s in scores.rows()},
        "answers": answers[:SHOWN],
    }


def untrained() -> list[str]:
    """The base's answers to the first test messages."""
    model, tokenizer = models.load(tier="cpu")
    prompts = load_task("support_tickets", PLAN["fields"]).prompts()[:SHOWN]
    return generate(model, tokenizer, prompts, max_new_tokens=PLAN["answer"])


if __name__ == "__main__":
    seeds = [int(text) for text in sys.argv[1:]] or [0, 1, 2]
    runs = [one_run(seed) for seed in seeds]
    write_results("lora-seeds", {"plan": PLAN, "untrained": untrained(), "runs": runs})
