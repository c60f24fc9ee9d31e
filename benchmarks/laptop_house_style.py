"""Lesson 04: does DPO beat plain training on the better replies, on a model that people deploy?

    python benchmarks/laptop_house_style.py                every run that the record does not have yet; two hours, and
                                                           forty minutes for each of KTO's four
    python benchmarks/laptop_house_style.py "seed 0"       the runs whose names begin so
    python benchmarks/laptop_house_style.py --list         the runs, and which of them are recorded

The pairs are the lesson's: two replies to a customer, one of them preferred, that differ in one rule of the desk's house
style (`load_preferences("balanced")`, `course_utils.evidence.house_style`). The start has imitated one reply of each pair,
drawn at random, as a desk's past replies would be. From there

    SFT                 trains on the preferred replies
    SFT, kept rules     trains on those preferred replies that keep all rules; it needs a program that knows the rules
    DPO                 trains on the pairs
    DPO + SFT           adds SFT's loss on the preferred reply, with weight 1
    KTO, IPO, SimPO     train on the pairs: KTO on each reply alone, IPO with a squared distance, SimPO without a reference
    ORPO                trains on the pairs as well, from the model that has imitated nothing: one stage instead of two
    SFT, one stage      its control: the preferred replies, from the same model

with the same pairs, adapter, batch and number of epochs, each at the rate of its sweep that keeps most rules on the 40
validation messages (seed 0). The measure was fixed before training: the share of the 100 test messages whose greedy answer
keeps all five rules. A seed draws another start, another order and another adapter.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from course_utils import models
from course_utils.data_prep import load_preferences
from course_utils.evidence import house_style
from course_utils.generation import generate
from laptop_runs import MODELS, SHOWN, Prompt, copy_run, paired_difference, recorded_run, run_command, summary

from laptop_preferences import learn

NAME = "laptop-house-style"
MODEL = MODELS["0.5B"]
SEEDS = (0, 1, 2)
START_RATE, ANSWER_TOKENS = 2e-4, 64
RATES = {
    "SFT": (5e-5, 1e-4, 2e-4, 4e-4),
    "SFT, kept rules": (2e-4,),
    "DPO": (1e-5, 2e-5, 5e-5, 1e-4),
    "DPO + SFT": (1e-4, 2e-4),
    "KTO": (2e-5, 1e-4),
    "IPO": (2e-5, 1e-4),
    "SimPO": (2e-5, 1e-4),
    "ORPO": (2e-4, 4e-4, 8e-4),
    "SFT, one stage": (2e-4, 4e-4),
}
FOLDER = Path(__file__).parent / "answers"

data = load_preferences("balanced")


def scores_of(rows: Sequence[dict], replies: Sequence[str]) -> dict[str, list[int]]:
    """Rule → 0 or 1 for each reply; and whether it keeps all."""
    judged = [house_style.judge(row, reply) for row, reply in zip(rows, replies, strict=True)]
    right = {rule: [int(one[rule]) for one in judged] for rule in house_style.RULES}
    return right | {"all rules": [int(all(one.values())) for one in judged]}


def answered(model: Any, tokenizer: Any, split: str) -> dict:
    """Greedy answers to a split's messages, and the rules they keep."""
    rows, started = getattr(data, split), time.process_time()
    replies = generate(model, tokenizer, [row["prompt"] for row in rows], ANSWER_TOKENS, batch_size=50)
    right = scores_of(rows, replies)
    return {
        "right": right, "answers": replies[:SHOWN], "summary": summary(right),
        "seconds_a_message": round((time.process_time() - started) / len(rows), 2),
    }  # fmt: skip


def start_folder(seed: int) -> Path:
    """Where a seed's start is kept."""
    return FOLDER / f"start-house-style-{seed}"


def start(seed: int) -> dict:
    """Train the start on one reply of each pair, keep it, and let it answer."""
    dice = random.Random(seed)
    rows = [row | {"chosen": row[dice.choice(("chosen", "rejected"))]} for row in dice.sample(data.train, len(data.train))]
    model, tokenizer, learned = learn(MODEL, "SFT", rows, START_RATE, seed)
    tokenizer.save_pretrained(start_folder(seed))
    model.save_pretrained(start_folder(seed))
    return learned | answered(model, tokenizer, "test")


def trained(method: str, rate: float | None, seed: int) -> dict:
    """Train the start with a method and let it answer; `rate` None takes the best one of the sweep."""
    rows = random.Random(seed).sample(data.train, len(data.train))
    if method == "SFT, kept rules":
        rows = [row for row in rows if all(house_style.judge(row, row["chosen"]).values())]
    if not (start_folder(seed) / "config.json").exists():
        start(seed)
    objective = "SFT" if method.startswith("SFT") else {"DPO + SFT": "DPO + SFT, weight 1"}.get(method, method)
    begin = MODEL if method in ("ORPO", "SFT, one stage") else str(start_folder(seed))
    model, tokenizer, learned = learn(begin, objective, rows, rate or best_rate(method), seed)
    validation = answered(model, tokenizer, "validation")
    return learned | answered(model, tokenizer, "test") | {"validation": validation["right"]}


def best_rate(method: str) -> float:
    """The rate with which most rules were kept on the validation messages, seed 0."""
    swept = [recorded_run(NAME, f"seed 0 | {method}, rate {rate:g}") for rate in RATES[method]]
    best: float = max(swept, key=lambda run: sum(run["validation"]["all rules"]))["rate"]
    return best


def best_of_sweep(method: str) -> dict:
    """The first seed's run at its best rate."""
    return copy_run(NAME, f"seed 0 | {method}, rate {best_rate(method):g}")


def before() -> dict:
    """The untrained model's greedy answers."""
    model, tokenizer = models.load(MODEL)
    return answered(model, tokenizer, "test")


def jobs() -> dict[str, Callable[[], dict]]:
    """Name of a run → what measures it."""
    table: dict[str, Callable[[], dict]] = {}
    for seed in SEEDS:
        table[f"seed {seed} | start"] = partial(start, seed)
        for method, rates in RATES.items():
            for rate in rates if seed == SEEDS[0] else ():
                table[f"seed {seed} | {method}, rate {rate:g}"] = partial(trained, method, rate, seed)
            table[f"seed {seed} | {method}"] = (
                partial(trained, method, None, seed) if seed else partial(best_of_sweep, method)
            )
    for method in ("DPO", "DPO + SFT", "KTO", "IPO", "SimPO", "ORPO"):
        for rival in ("SFT", "SFT, kept rules", "SFT, one stage"):
            table[f"{method} − {rival}"] = partial(paired_difference, NAME, method, rival, "all rules", SEEDS)
    return table | {"before": before}


def plan() -> dict:
    """What holds for all runs."""
    return {
        "model": MODEL, "pairs": len(data.train), "test": len(data.test), "validation": len(data.validation),
        "rules": house_style.RULES, "rates": RATES, "start_rate": START_RATE, "seeds": SEEDS,
        "measure": "all rules, 100 test messages, temperature 0",
    }  # fmt: skip


def shown_prompts() -> dict[str, Prompt]:
    """The one prompt there is."""
    return {"house style": data.test[0]["prompt"]}


if __name__ == "__main__":
    run_command(NAME, str(__doc__), jobs(), plan, shown_prompts)
