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

import random
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from common import MemoryAdded
from course_utils import memory, models, training
from course_utils.data_prep import load_task
from course_utils.generation import generate, prompt_token_ids
from in_schema import generate_in_schema
from laptop_runs import MODELS, SHOWN, Prompt, loaded, recorded_run, run_command, scores_by_message, summary
from laptop_search import Hybrid

import torch
from peft import LoraConfig, get_peft_model

NAME = "laptop-tickets"
FIELDS = ("category", "escalation", "product", "order_id")
RULES = """Triage this customer message. Answer with one JSON object on one line and nothing else. Its fields, in this order:
category: delivery, billing, returns, defect, account or question.
escalation: danger if somebody could be hurt, misuse for fraud, money for a large sum, legal for a threat of court, \
deadline if it is urgent by a date, else none. Mostly none.
product: the product, copied letter for letter from the message, or null.
order_id: the order number as TB- and five digits, or null."""
SEEDS = (0, 1, 2)
SIZES = (80, 240, 540)
PASSES = (3, 6)  # over 80 tickets
RATES = {
    "135M": {"LoRA": (5e-4, 1e-3, 2e-3)},
    "0.5B": {"LoRA": (1e-4, 2e-4, 4e-4, 8e-4), "full": (1e-5, 3e-5, 1e-4)},
    "1.5B": {"LoRA": (2e-4,)},
}
SWEPT_ON = 80  # training messages of a run "rate"
# With eight a step, 80 tickets make ten steps: the 0.5B got 19 % of the test messages right (the runs "8 a step"), with two
# a step 38 % of the validation messages.
BATCH = 2
ANSWER_TOKENS, PROMPTED_TOKENS = 56, 72  # an untrained model puts a record on several lines

task = load_task("support_tickets", FIELDS)


def told(prompt: list[dict], examples: list[list[dict]]) -> list[dict]:
    """The prompt with the rules for its system message, and solved examples as earlier turns."""
    turns = [message for example in examples for message in example if message["role"] != "system"]
    return [{"role": "system", "content": RULES}, *turns, prompt[-1]]


def without_fence(answer: str) -> str:
    """The answer without the Markdown fence around it, which any program at work would take off."""
    return re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())


def prompted(size: str, shots: str, seed: int) -> dict:
    """The untrained model's answers: "rules", "rules + 3", "rules, in the schema", or with retrieved examples.

    "rules + 8 retrieved" draws on 540 solved tickets, "rules + 8 of 80 retrieved" on the 80 of "LoRA, 80".
    """
    model, tokenizer = loaded(size)
    pool = random.Random(seed).sample(task.train, 540)  # what the largest training run of this seed sees
    prompts = task.prompts()
    if "retrieved" in shots:
        pool = pool[:80] if "of 80" in shots else pool
        by_id = {str(number): conversation for number, conversation in enumerate(pool)}
        index = Hybrid([{"id": id, "text": conversation[1]["content"]} for id, conversation in by_id.items()])
        hits = index.search_all([prompt[-1]["content"] for prompt in prompts], 8)
        # the most similar last, next to the message
        asked = [told(prompt, [by_id[hit.id] for hit in reversed(found)]) for prompt, found in zip(prompts, hits)]
    else:
        asked = [told(prompt, pool[:3] if "3" in shots else []) for prompt in prompts]
    started = time.process_time()
    if "schema" in shots:
        answers = generate_in_schema(model, tokenizer, asked, task.schema, PROMPTED_TOKENS)
    else:
        answers = generate(model, tokenizer, asked, PROMPTED_TOKENS, batch_size=10 if "retrieved" in shots else 50)
    seconds = time.process_time() - started
    tokens = [len(prompt_token_ids(tokenizer, conversation)) for conversation in asked]
    right = scores_by_message(task, [without_fence(answer) for answer in answers])
    return {
        "right": right, "answers": answers, "fenced": sum(answer != without_fence(answer) for answer in answers),
        "prompt_tokens": round(sum(tokens) / len(tokens), 1), "seconds_a_message": round(seconds / len(asked), 2),
        "summary": summary(right),
    }  # fmt: skip


def trained(
    size: str, method: str, examples: int, rate: float | None, seed: int, split: str = "test", passes: int = 1
) -> dict:
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
    settings = training.Settings(learning_rate=rate, batch_size=BATCH, epochs=passes, warmup_steps=4, seed=seed)
    started = time.process_time()
    with MemoryAdded() as added:
        history = training.fit(model, tokenizer, rows, task.validation, settings=settings)
    seconds = time.process_time() - started
    if method == "LoRA":
        model = model.merge_and_unload()
    elif method == "full":
        model = model.to(torch.bfloat16)
    started = time.process_time()
    answers = generate(model, tokenizer, task.prompts(split), ANSWER_TOKENS, batch_size=50)
    answering = time.process_time() - started
    right = scores_by_message(task, answers, split)
    return {
        "rate": rate, "examples": examples, "passes": passes, "training_seconds": round(seconds),
        "memory_added_mb": round(added.bytes / 1e6),
        "validation_losses": history.validation_losses, "seconds_a_message": round(answering / len(answers), 2),
        "right": right, "answers": answers[:SHOWN], "summary": summary(right),
    }  # fmt: skip


def best_rate(size: str, method: str) -> float:
    """The rate of the sweep with which most validation messages were wholly right; of several, that of the lower loss."""
    if len(RATES[size][method]) == 1:
        return RATES[size][method][0]
    swept = [recorded_run(NAME, f"{size} | rate {rate:g}, {method} | 0") for rate in RATES[size][method]]
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
        for what in ("rules + 3", "rules + 8 retrieved", "rules + 8 of 80 retrieved"):
            add(size, what, seed, prompted, what, seed)
        for examples in SIZES:
            add(size, f"LoRA, {examples}", seed, trained, "LoRA", examples, None, seed)
        # as many steps as with 240 tickets and with 480, so that steps and tickets can be told apart
        for passes in PASSES:
            add(size, f"LoRA, 80, {passes} passes", seed, trained, "LoRA", 80, None, seed, "test", passes)

    sweep("0.5B", "LoRA")
    for seed in SEEDS:
        prompts_and_sizes("0.5B", seed)
        if seed == 0:
            for what in ("rules", "rules + 3", "rules + 8 retrieved", "rules + 8 of 80 retrieved", "rules, in the schema"):
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


def plan() -> dict:
    """What holds for all runs."""
    most_common = {name: score.value for name, score in task.most_common().items()}
    return {
        "models": MODELS, "rules": RULES, "fields": FIELDS, "batch": BATCH, "swept on": SWEPT_ON, "seeds": SEEDS,
        "most common": most_common,
    }  # fmt: skip


def shown_prompts() -> dict[str, Prompt]:
    """A prompt of each kind."""
    first = task.prompts()[0]
    return {"rules": told(first, []), "rules + 3": told(first, task.train[:3]), "trained": first}


if __name__ == "__main__":
    run_command(NAME, str(__doc__), jobs(), plan, shown_prompts)
