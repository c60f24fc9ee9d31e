"""Notebook 02's fine-tune with three seeds: does the result depend on luck?

    python benchmarks/lora_seeds.py [SEED ...]

Takes the notebook's own settings from its source, so that the record speaks of what learners run.
"""

from __future__ import annotations

import ast
import re
import sys
import time

from common import write_record
from course_utils import models, training
from course_utils.data_prep import load_task
from course_utils.generation import generate
from course_utils.lessons import source_file

import torch
from peft import LoraConfig, get_peft_model


def notebook_plan() -> dict:
    """The CPU row of PLAN in the notebook's source."""
    text = source_file("02_lora").read_text(encoding="utf-8")
    fields = ast.literal_eval(re.search(r"^FIELDS = (\[.*\])", text, re.MULTILINE)[1])
    return ast.literal_eval(re.search(r'"cpu": (\{.*?\})', text)[1].replace("FIELDS", repr(fields)))


def one_run(seed: int) -> dict:
    """Train and test once; shares of the test set as numbers with their intervals."""
    plan, objective = notebook_plan(), training.SFT()
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
    write_record("lora-seeds", {"plan": notebook_plan(), "runs": [one_run(seed) for seed in seeds]})
