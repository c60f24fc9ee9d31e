"""Preferences that pay: what pairs of a model's own answers teach that good examples do not, on a model that people deploy.

    python benchmarks/laptop_preferences.py                every run that the record does not have yet; hours
    python benchmarks/laptop_preferences.py "seed 0"       the runs whose names begin so
    python benchmarks/laptop_preferences.py --list         the runs, and which of them are recorded

The desk answers its customers. Its rules are in the system message, and the model (0.5B) breaks them: it copies the order
number of the prompt's example, and promises refunds. No person has written a reply for it. The model answers each training
message six times at temperature 0.8, and a program says which answers keep all rules (`judge`). From these come

    SFT     training on answers that keep all rules, one pair's better answer at a time
    DPO     training on pairs: an answer that keeps all rules, and one of the same message that does not

on the very same pairs, with the same adapter, batch and number of steps, each at the learning rate that kept most rules on
the validation messages ("rate" runs, seed 0). Tested on the 100 test messages, greedily, three seeds. A seed draws other
messages, pairs, and another start of the adapter. What a rule is stands in `RULES`, so that nobody can bend it afterwards.

Round 2 begins where SFT has ended: its model answers the training messages anew, and what follows learns from pairs of these
answers, SFT again or one of the relatives of DPO. Each is tried at several rates, with the first seed; the rate that keeps
most rules on the validation messages counts.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from course_utils import memory, models, training
from course_utils.data_prep import load_task
from course_utils.generation import generate
from laptop_runs import MODELS, SHOWN, Prompt, copy_run, paired_difference, recorded_run, run_command, summary
from objectives import IPO, ORPO, SimPO

import torch
from peft import LoraConfig, get_peft_model

from preferences import kto

NAME = "laptop-preferences"
MODEL = MODELS["0.5B"]
ORDERS = (
    "You answer a web shop's customers. In at most 30 words, say that our team looks into it; name their product and order "
    "number if they do; invent nothing and promise nothing: no refund, replacement, date or time."
)
EXAMPLE = ' Such as: "Thank you for writing about the lamp, order TB-12345. Our team will look into it."'
# a stronger prompt, to be fair to prompting: it also shows what to write to whoever names neither
TWO_EXAMPLES = EXAMPLE + ' Or: "Thank you for your question. Our team will look into it."'
PROMISES = re.compile(
    r"\b(?:refund|replace|reimburse|compensat|credit|discount|guarantee|promise|free of charge|as soon as|as possible|"
    r"tomorrow|today|tonight|within|soon|shortly|immediately|right away|(?:minutes?|hours?|days?|weeks?)\b|"
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day)",
    re.IGNORECASE,
)
RULES = ("5 to 30 words", "whole sentences", "right number or none", "product named", "promises nothing", "says who")
SEEDS = (0, 1, 2)
LONGEST = 30  # words of a training message, so that two cores are quick enough
POOL, SAMPLES, TEMPERATURE = 360, 6, 0.8
# 144 of the 360 messages got answers of both kinds; three pairs of each at most make 367.
SWEPT_PAIRS, PAIRS, PAIRS_A_MESSAGE = 96, 300, 3
BATCH, BETA, ANSWER_TOKENS = 4, 0.1, 48
RATES = {"SFT": (5e-5, 1e-4, 2e-4, 4e-4), "DPO": (1e-5, 3e-5, 1e-4, 3e-4)}
OBJECTIVES: dict[str, Callable[[], Any]] = {
    "SFT": training.SFT,
    "DPO": lambda: training.DPO(beta=BETA),
    "DPO + SFT": lambda: training.DPO(beta=BETA, sft_weight=0.2),
    "DPO + SFT, weight 1": lambda: training.DPO(beta=BETA, sft_weight=1.0),
    "DPO, β = 0.02": lambda: training.DPO(beta=0.02),
    "DPO, β = 0.5": lambda: training.DPO(beta=0.5),
    "ORPO": lambda: ORPO(beta=0.5),
    "IPO": lambda: IPO(beta=BETA),
    "SimPO": SimPO,
}
# round 2: fewer answers and pairs, and the rates between which the validation messages choose
SAMPLES_2, PAIRS_2 = 4, 160
RATES_2 = {"SFT": (5e-5, 2e-4), "DPO": (2e-5, 5e-5), "DPO + SFT": (5e-5, 1e-4)}
FOLDER = Path(__file__).parent / "answers"  # drawn once, so that a run that goes on has the same pairs
ANSWERS = FOLDER / f"{NAME}.jsonl"

task = load_task("support_tickets")


def judge(row: dict, reply: str) -> dict[str, bool]:
    """Which rules a reply keeps; of the row, the message and the record's order number and product count."""
    record, words = row["record"], reply.split()
    number = (record["order_id"] or "").removeprefix("TB-")
    numbers = set(re.findall(r"\d+", reply)) - set(re.findall(r"\d+", record["product"] or ""))
    kept = (
        5 <= len(words) <= 30,
        "\n" not in reply.strip() and reply.strip()[-1:] in (".", "!", "?") and not re.search(r"\[|\]|\{|\}", reply),
        numbers == ({number} if number else set()),
        record["product"] is None or record["product"].lower() in reply.lower(),
        not PROMISES.search(reply),
        bool(re.search(r"\bour team\b", reply, re.IGNORECASE)) and "the customer" not in reply.lower(),
    )
    return dict(zip(RULES, kept))


def prompt(row: dict, examples: str = EXAMPLE) -> list[dict]:
    """The conversation that a reply follows."""
    return [{"role": "system", "content": ORDERS + examples}, {"role": "user", "content": row["message"]}]


def scores_of(rows: Sequence[dict], replies: Sequence[str]) -> dict[str, list[int]]:
    """Rule → 0 or 1 for each reply; and whether it keeps all."""
    judged = [judge(row, reply) for row, reply in zip(rows, replies, strict=True)]
    right = {rule: [int(one[rule]) for one in judged] for rule in RULES}
    return right | {"all rules": [int(all(one.values())) for one in judged]}


@cache
def pool(start: str = MODEL, file: Path = ANSWERS, samples: int = SAMPLES) -> list[dict]:
    """Training messages with a model's own answers to each, drawn once; those of the untrained model for all seeds."""
    if file.exists():
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in task.rows["train"] if len(row["message"].split()) <= LONGEST]
    rows = random.Random(0).sample(rows, POOL)
    model, tokenizer = models.load(start)
    asked = [prompt(row) for row in rows for _ in range(samples)]
    replies = generate(model, tokenizer, asked, ANSWER_TOKENS, TEMPERATURE, batch_size=64)
    drawn = [row | {"replies": replies[i * samples : (i + 1) * samples]} for i, row in enumerate(rows)]
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in drawn), encoding="utf-8")
    return drawn


def pairs(seed: int, number: int, rows: Sequence[dict]) -> list[dict]:
    """Pairs of answers to the same message, of which the first keeps all rules and the second does not."""
    dice, found = random.Random(seed), []
    for row in dice.sample(rows, len(rows)):
        good = sorted({reply for reply in row["replies"] if all(judge(row, reply).values())})
        bad = sorted({reply for reply in row["replies"] if not all(judge(row, reply).values()) and reply.strip()})
        both = list(product(good, bad))
        for chosen, rejected in dice.sample(both, min(len(both), PAIRS_A_MESSAGE)):
            found.append({"prompt": prompt(row), "chosen": chosen, "rejected": rejected})
    dice.shuffle(found)
    if len(found) < number:
        raise SystemExit(f"{len(found)} pairs, {number} are needed: draw more answers")
    return found[:number]


def sampled() -> dict:
    """What the model's own answers are like: the share that keeps each rule, and how many messages give a pair."""
    rows = [row for row in pool() for _ in row["replies"]]
    right = scores_of(rows, [reply for row in pool() for reply in row["replies"]])
    usable = [sum(all(judge(row, r).values()) for r in row["replies"]) for row in pool()]
    shares = {name: sum(values) / len(values) for name, values in right.items()}
    both = sum(0 < good < len(row["replies"]) for row, good in zip(pool(), usable))
    return {"shares": shares, "messages": len(pool()), "messages with a pair": both, "summary": summary(right)}


def before(examples: str = EXAMPLE, split: str = "test") -> dict:
    """The untrained model's greedy answers."""
    model, tokenizer = models.load(MODEL)
    return answered(model, tokenizer, split, examples)


def answered(model: Any, tokenizer: Any, split: str, examples: str = EXAMPLE) -> dict:
    """Greedy answers to a split's messages, and the rules they keep."""
    rows, started = task.rows[split], time.process_time()
    replies = generate(model, tokenizer, [prompt(row, examples) for row in rows], ANSWER_TOKENS, batch_size=50)
    right = scores_of(rows, replies)
    words = sum(len(reply.split()) for reply in replies) / len(replies)
    return {
        "right": right, "answers": replies[:SHOWN], "words": round(words, 1), "summary": summary(right),
        "seconds_a_message": round((time.process_time() - started) / len(rows), 2),
    }  # fmt: skip


def trained(method: str, number: int, rate: float | None, seed: int, split: str = "test") -> dict:
    """Train on pairs, or on their better answers, and answer; `rate` None takes the best one of the sweep."""
    rate = rate or best_rate("SFT" if method == "SFT" else "DPO")
    model, tokenizer, learned = learn(MODEL, method, pairs(seed, number, pool()), rate, seed)
    return learned | answered(model, tokenizer, split)


def learn(start: str, method: str, rows: Sequence[dict], rate: float, seed: int) -> tuple[Any, Any, dict]:
    """Return a model that has learned from pairs, merged, its tokenizer, and what the training measured."""
    memory.release()
    torch.manual_seed(seed)
    model, tokenizer = models.load(start)
    started = time.process_time()
    if method == "KTO":  # TRL's own trainer
        model = kto(model, tokenizer, rows, rate, {"batch": BATCH}, seed)
        seconds = time.process_time() - started
        return model.merge_and_unload(), tokenizer, {"rate": rate, "pairs": len(rows), "training_seconds": round(seconds)}
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    examples: Sequence[Any] = rows
    if method == "SFT":
        examples = [[*row["prompt"], {"role": "assistant", "content": row["chosen"]}] for row in rows]
    settings = training.Settings(learning_rate=rate, batch_size=BATCH, warmup_steps=4, seed=seed)
    history = training.fit(model, tokenizer, examples, None, OBJECTIVES[method](), settings)
    seconds = time.process_time() - started
    watched = [name for name in ("reward_chosen", "reward_rejected", "accuracy") if name in history.metrics]
    curves = {name: history.metric(name) for name in watched}
    measured = {"rate": rate, "pairs": len(rows), "training_seconds": round(seconds), "losses": history.losses, **curves}
    return model.merge_and_unload(), tokenizer, measured


# -- round 2 ----------------------------------------------------------------------------------------------------------------


def start_2(seed: int) -> str:
    """Return the folder of the model with which round 2 begins: round 1's SFT, trained once more and kept."""
    folder = FOLDER / f"start-{seed}"
    if not (folder / "config.json").exists():
        model, tokenizer, _ = learn(MODEL, "SFT", pairs(seed, PAIRS, pool()), best_rate("SFT"), seed)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return str(folder)


def pool_2(seed: int) -> list[dict]:
    """Return the training messages with answers of round 2's start."""
    file = FOLDER / f"{NAME}-round-2-seed-{seed}.jsonl"
    return pool("" if file.exists() else start_2(seed), file, SAMPLES_2)


def sampled_2(seed: int) -> dict:
    """What the answers of round 2's start are like, and how many pairs they give."""
    rows = [row for row in pool_2(seed) for _ in row["replies"]]
    right = scores_of(rows, [reply for row in pool_2(seed) for reply in row["replies"]])
    usable = [sum(all(judge(row, reply).values()) for reply in row["replies"]) for row in pool_2(seed)]
    both = sum(0 < good < SAMPLES_2 for good in usable)
    return {"messages": len(usable), "messages with a pair": both, "summary": summary(right)}


def round_2(method: str, rate: float | None, seed: int) -> dict:
    """Train round 1's SFT model further, and answer validation and test; `rate` None takes the best of the first seed."""
    rate = rate or best_rate_2(method)
    model, tokenizer, learned = learn(start_2(seed), method, pairs(seed, PAIRS_2, pool_2(seed)), rate, seed)
    validation = answered(model, tokenizer, "validation")
    return learned | answered(model, tokenizer, "test") | {"validation": validation["right"]}


def best_rate_2(method: str) -> float:
    """The rate of round 2 with which most rules were kept on the validation messages."""
    swept = [recorded_run(NAME, f"seed 0 | {method}, round 2, rate {rate:g}") for rate in RATES_2[method]]
    best: float = max(swept, key=lambda run: sum(run["validation"]["all rules"]))["rate"]
    return best


def copy_best_2(method: str) -> dict:
    """The first seed's run at its best rate."""
    return copy_run(NAME, f"seed 0 | {method}, round 2, rate {best_rate_2(method):g}")


def best_rate(method: str) -> float:
    """The rate of the sweep with which most rules were kept on the validation messages."""
    swept = [recorded_run(NAME, f"rate {rate:g}, {method}") for rate in RATES[method]]
    best: float = max(swept, key=lambda run: sum(run["right"]["all rules"]))["rate"]
    return best


def jobs() -> dict[str, Callable[[], dict]]:
    """Name of a run → what measures it."""
    table: dict[str, Callable[[], dict]] = {
        "sampled": sampled,
        "before": before,
        "before, two examples": partial(before, TWO_EXAMPLES),
    }
    for method, rates in RATES.items():
        for rate in rates:
            table[f"rate {rate:g}, {method}"] = partial(trained, method, SWEPT_PAIRS, rate, 0, "validation")
    for seed in SEEDS:
        for method in ("SFT", "DPO"):
            table[f"seed {seed} | {method}"] = partial(trained, method, PAIRS, None, seed)
    table["DPO − SFT"] = partial(paired_difference, NAME, "DPO", "SFT", "all rules", SEEDS)
    for method in ("DPO + SFT", "DPO, β = 0.02", "DPO, β = 0.5"):
        table[f"seed 0 | {method}"] = partial(trained, method, PAIRS, None, 0)
    for seed in SEEDS[1:]:
        table[f"seed {seed} | DPO + SFT"] = partial(trained, "DPO + SFT", PAIRS, None, seed)
    for seed in SEEDS:
        table[f"seed {seed} | sampled, round 2"] = partial(sampled_2, seed)
        for method, rates in RATES_2.items():
            for rate in rates if seed == SEEDS[0] else ():
                table[f"seed {seed} | {method}, round 2, rate {rate:g}"] = partial(round_2, method, rate, seed)
            run = partial(round_2, method, None, seed) if seed else partial(copy_best_2, method)
            table[f"seed {seed} | {method}, round 2"] = run
    for method in ("DPO", "DPO + SFT"):
        difference = partial(paired_difference, NAME, f"{method}, round 2", "SFT, round 2", "all rules", SEEDS)
        table[f"{method} − SFT, round 2"] = difference
    return table


def plan() -> dict:
    """What holds for all runs."""
    return {
        "model": MODEL, "system": ORDERS + EXAMPLE, "rules": RULES, "promises": PROMISES.pattern, "rates": RATES,
        "batch": BATCH, "beta": BETA, "samples": SAMPLES, "temperature": TEMPERATURE, "seeds": SEEDS,
        "round 2": {"samples": SAMPLES_2, "pairs": PAIRS_2, "rates": RATES_2},
    }  # fmt: skip


def shown_prompts() -> dict[str, Prompt]:
    """A prompt of each kind."""
    row = task.rows["test"][0]
    return {"one example": prompt(row), "two examples": prompt(row, TWO_EXAMPLES)}


if __name__ == "__main__":
    run_command(NAME, str(__doc__), jobs(), plan, shown_prompts)
