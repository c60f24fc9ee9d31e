"""Merged against unmerged adapter: how often are the tokens the same, on 50 prompts, in float32 and in bfloat16?

    python benchmarks/merged_tokens.py

The adapter is first trained for a few real steps, so that the answers are records and not the base's prose.
"""

from __future__ import annotations

import copy

from common import write_results
from course_utils import models, training
from course_utils.data_prep import load_task
from course_utils.generation import generate

import torch
from peft import LoraConfig, get_peft_model


def agreement(dtype, prompts: int = 50, steps: int = 25, max_new_tokens: int = 48) -> float:
    """Share of prompts whose greedy answers are identical, token by token."""
    task = load_task("support_tickets")
    model, tokenizer = models.load(tier="cpu", dtype=torch.bfloat16)
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(learning_rate=2e-3, batch_size=4, max_steps=steps)
    training.fit(tuned, tokenizer, task.train, settings=settings)
    tuned = tuned.to(dtype) if dtype == torch.float32 else tuned
    test_prompts = task.prompts()[:prompts]
    unmerged_answers = generate(tuned, tokenizer, test_prompts, max_new_tokens=max_new_tokens, batch_size=25)
    merged_answers = generate(
        copy.deepcopy(tuned).merge_and_unload(), tokenizer, test_prompts, max_new_tokens=max_new_tokens, batch_size=25
    )
    return sum(a == b for a, b in zip(unmerged_answers, merged_answers)) / prompts


if __name__ == "__main__":
    shares = {str(dtype).removeprefix("torch."): agreement(dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(shares)
    write_results("merged-tokens", {"prompts": 50, "identical_answers": shares})
