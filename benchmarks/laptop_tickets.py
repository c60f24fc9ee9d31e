"""Tickets on a model that people deploy: told, shown examples, held to the schema, and trained on 80, 240 and 540.

    python benchmarks/laptop_tickets.py                     every run that the record does not have yet; hours
    python benchmarks/laptop_tickets.py 0.5B                the runs whose names begin so
    python benchmarks/laptop_tickets.py --list              the runs, and which of them are recorded

The models are the CPU tier's, the laptop tier's and the next larger one, all on the same 100 hand-written test messages at
temperature 0. Learning rates are chosen on the validation messages, with the first seed, for each way of training: the runs
"rate" come first, and what is trained afterwards takes the best of them. A seed draws other examples, for the prompt and for
training, and another start of the adapter.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from common import RECORDS, run_missing
from course_utils import memory, models, training
from course_utils.data_prep import load_task
from course_utils.generation import generate, prompt_token_ids
from course_utils.openai_server.constrained import generate_in_schema
from course_utils.retrieval import Retriever

import torch
from peft import LoraConfig, get_peft_model

NAME = "laptop-tickets"
MODELS = {
    "135M": "SmolLM2-135M-Instruct",
    "0.5B": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    "1.5B": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
}
FIELDS = ("category", "escalation", "product", "order_id")
RULES = """Triage this customer message. Answer with one JSON object on one line and nothing else. Its fields, in this order:
category: delivery, billing, returns, defect, account or question.
escalation: danger if somebody could be hurt, misuse for fraud, money for a large sum, legal for a threat of court, \
deadline if it is urgent by a date, else none. Mostly none.
product: the product, copied letter for letter from the message, or null.
order_id: the order number as TB- and five digits, or null."""
SEEDS = (0, 1, 2)
SIZES = (80, 240, 540)
RATES = {
    "135M": {"LoRA": (5e-4, 1e-3, 2e-3)},
    "0.5B": {"LoRA": (1e-4, 2e-4, 4e-4, 8e-4), "full": (1e-5, 3e-5, 1e-4)},
    "1.5B": {"LoRA": (2e-4,)},
}
SWEPT_ON, CHECKED_ON = 160, 66  # training and validation messages of a run "rate"
BATCH = 8
ANSWER_TOKENS = 56
SHOWN = 10  # test messages whose answers are kept

task = load_task("support_tickets", FIELDS)


@cache
def loaded(size: str) -> tuple[Any, Any]:
    """The model as it is, for prompts; training loads its own."""
    return models.load(MODELS[size])


def scores_of(answers: list[str], split: str = "test") -> dict:
    """Per field 0 or 1 for each message, in the messages' order, so that runs can be compared message by message."""
    references, records = task.references(split)[: len(answers)], task.evaluate(answers, split).records
    right: dict[str, list[int]] = {"valid": [int(record is not None) for record in records]}
    for field in FIELDS:
        right[field] = [int(r is not None and r[field] == ref[field]) for r, ref in zip(records, references)]
    right["all fields"] = [int(all(row)) for row in zip(*(right[field] for field in FIELDS))]
    return right


def summary(right: dict[str, list[int]]) -> str:
    """One line of percentages."""
    return ", ".join(f"{name} {100 * sum(values) / len(values):.0f}" for name, values in right.items())


def told(prompt: list[dict], examples: list[list[dict]]) -> list[dict]:
    """The prompt with the rules for its system message, and solved examples as earlier turns."""
    turns = [message for example in examples for message in example if message["role"] != "system"]
    return [{"role": "system", "content": RULES}, *turns, prompt[-1]]


def prompted(size: str, shots: str, seed: int) -> dict:
    """The untrained model's answers: "rules", "rules + 3", "rules + 8 retrieved" or "rules, in the schema"."""
    memory.release()
    model, tokenizer = loaded(size)
    pool = random.Random(seed).sample(task.train, 540)  # what the largest training run of this seed sees
    prompts = task.prompts()
    if "retrieved" in shots:
        by_id = {str(number): conversation for number, conversation in enumerate(pool)}
        index = Retriever([{"id": id, "text": conversation[1]["content"]} for id, conversation in by_id.items()], "hybrid")
        hits = index.search_all([prompt[-1]["content"] for prompt in prompts], 8)
        # the most similar last, next to the message
        asked = [told(prompt, [by_id[hit.id] for hit in reversed(found)]) for prompt, found in zip(prompts, hits)]
    else:
        asked = [told(prompt, pool[:3] if "3" in shots else []) for prompt in prompts]
    started = time.perf_counter()
    if "schema" in shots:
        answers = generate_in_schema(model, tokenizer, asked, task.schema, ANSWER_TOKENS)
    else:
        answers = generate(model, tokenizer, asked, ANSWER_TOKENS, batch_size=10 if "retrieved" in shots else 50)
    seconds = time.perf_counter() - started
    tokens = [len(prompt_token_ids(tokenizer, conversation)) for conversation in asked]
    right = scores_of(answers)
    return {
        "right": right, "answers": answers[:SHOWN], "prompt_tokens": round(sum(tokens) / len(tokens), 1),
        "seconds_a_message": round(seconds / len(asked), 2), "summary": summary(right),
    }  # fmt: skip


def trained(size: str, method: str, examples: int, rate: float | None, seed: int, split: str = "test") -> dict:
    """Train once and score; `rate` None takes the best one of the sweep."""
    loaded.cache_clear()
    memory.release()
    rate = rate or best_rate(size, "LoRA" if method == "QLoRA" else method)
    rows = random.Random(seed).sample(task.train, 540)[:examples]
    torch.manual_seed(seed)
    if method == "full":
        # In float32: in bfloat16 most of AdamW's small steps would be rounded away (lesson 03 measures it).
        model, tokenizer = models.load(MODELS[size], dtype=torch.float32)
        model.requires_grad_(True)
    else:
        model, tokenizer = models.load(MODELS[size], quantization="nf4" if method == "QLoRA" else None)
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(learning_rate=rate, batch_size=BATCH, warmup_steps=4, seed=seed)
    started = time.perf_counter()
    with memory.track("training") as report:
        history = training.fit(model, tokenizer, rows, task.validation, settings=settings)
    seconds = time.perf_counter() - started
    if method == "LoRA":
        model = model.merge_and_unload()
    elif method == "full":
        model = model.to(torch.bfloat16)
    started = time.perf_counter()
    answers = generate(model, tokenizer, task.prompts(split), ANSWER_TOKENS, batch_size=50)
    answering = time.perf_counter() - started
    right = scores_of(answers, split)
    return {
        "rate": rate, "examples": examples, "training_seconds": round(seconds),
        "memory_added_mb": round(report.process_increase / 1e6),
        "validation_losses": history.validation_losses, "seconds_a_message": round(answering / len(answers), 2),
        "right": right, "answers": answers[:SHOWN], "summary": summary(right),
    }  # fmt: skip


def best_rate(size: str, method: str) -> float:
    """The rate of the sweep with which most validation messages were wholly right; of several, that of the lower loss."""
    if len(RATES[size][method]) == 1:
        return RATES[size][method][0]
    runs = json.loads(sorted(RECORDS.glob(f"{NAME}-[0-9]*.json"))[-1].read_text(encoding="utf-8"))["runs"]
    swept = [runs[f"{size} | rate {rate:g}, {method} | 0"] for rate in RATES[size][method]]
    return max(swept, key=lambda run: (sum(run["right"]["all fields"]), -run["validation_losses"][-1]))["rate"]


def jobs() -> dict[str, Callable[[], dict]]:
    """Name of a run → what measures it, in the order in which the answers are wanted."""
    table: dict[str, Callable[[], dict]] = {}

    def add(size: str, what: str, seed: int, function: Callable[..., dict], *arguments: Any) -> None:
        table[f"{size} | {what} | {seed}"] = partial(function, size, *arguments)

    def sweep(size: str, method: str) -> None:
        for rate in RATES[size][method]:
            add(size, f"rate {rate:g}, {method}", 0, trained, method, SWEPT_ON, rate, 0, "validation")

    def prompts_and_sizes(size: str, seed: int) -> None:
        for what in ("rules", "rules, in the schema") if seed == 0 else ():  # these draw no examples
            add(size, what, seed, prompted, what, seed)
        for what in ("rules + 3", "rules + 8 retrieved"):
            add(size, what, seed, prompted, what, seed)
        for examples in SIZES:
            add(size, f"LoRA, {examples}", seed, trained, "LoRA", examples, None, seed)

    sweep("0.5B", "LoRA")
    for seed in SEEDS:
        prompts_and_sizes("0.5B", seed)
        if seed == 0:
            for what in ("rules", "rules + 3", "rules + 8 retrieved", "rules, in the schema"):
                add("1.5B", what, 0, prompted, what, 0)
            add("1.5B", "LoRA, 240", 0, trained, "LoRA", 240, None, 0)
    sweep("135M", "LoRA")
    for seed in SEEDS:
        prompts_and_sizes("135M", seed)
    sweep("0.5B", "full")
    for seed in SEEDS:
        for method in ("QLoRA", "full"):
            add("0.5B", f"{method}, 240", seed, trained, method, 240, None, seed)
    return table


def main() -> None:
    """Run what is missing, or list it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beginnings", nargs="*", help="only runs whose names begin so")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    beginnings = tuple(options.beginnings) or ("",)
    chosen = {name: job for name, job in jobs().items() if name.startswith(beginnings)}
    if options.list:
        earlier = sorted(RECORDS.glob(f"{NAME}-[0-9]*.json"))
        runs = json.loads(earlier[-1].read_text(encoding="utf-8"))["runs"] if earlier else {}
        print(*(f"{name:<40} {runs[name]['summary'] if name in runs else 'missing'}" for name in chosen), sep="\n")
        return
    plan = {"models": MODELS, "rules": RULES, "fields": FIELDS, "batch": BATCH, "swept on": SWEPT_ON, "seeds": SEEDS}
    plan["most common"] = {name: score.value for name, score in task.most_common().items()}
    run_missing(NAME, chosen, plan)


if __name__ == "__main__":
    sys.exit(main())
