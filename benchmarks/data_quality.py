"""How data quality affects a model: raw or cleaned, a hundred good rows or thousands of mediocre ones, duplicates, and a
generator's own test set.

    python benchmarks/data_quality.py [SEED ...]

Every run starts from the CPU model and sees the same number of examples. Scores are measured on the hand-written test set,
on which nothing here was tuned.
"""

from __future__ import annotations

import json
import random
import re
import sys

from common import for_training, write_results
from course_utils import assets, evaluation, memory, models, training
from course_utils.data_prep import load_task, prepare, quality, truth
from course_utils.generation import generate

import jsonschema
import torch
from peft import LoraConfig, get_peft_model

FIELDS = ["category", "escalation"]
LONGEST = 32  # words in a message
EXAMPLES = 300  # seen by each run
BATCH, LEARNING_RATE = 2, 2e-3
SYSTEM = "Triage this customer message."
# The mediocre labeller: rules that a tired colleague might write in ten minutes.
KEYWORDS = {
    "delivery": r"parcel|deliver|courier|tracking|arrive|shipp|lost",
    "billing": r"charg|invoice|paid|refund|money|gift card|debit|price",
    "returns": r"return|send (?:it )?back|cancel|exchange",
    "defect": r"broke|broken|crack|stopp|not work|fault|leak|smok|damag",
    "account": r"log ?in|password|account|e-?mail|unsubscrib|newsletter",
}
URGENT = {
    "danger": r"fire|burn|smok|shock|hurt",
    "legal": r"lawyer|court|police",
    "money": r"twice|double",
    "deadline": r"before|by \w+day",
}


def chat(message: str, record: dict) -> dict:
    """A training row."""
    return {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": message},
                         {"role": "assistant", "content": json.dumps(record)}]}  # fmt: skip


def by_keyword(message: str) -> dict:
    """Labels from the first matching rule for each field."""
    record = {}
    for field, rules, otherwise in (("category", KEYWORDS, "question"), ("escalation", URGENT, "none")):
        record[field] = next((name for name, rule in rules.items() if re.search(rule, message, re.IGNORECASE)), otherwise)
    return record


def sets() -> dict[str, list]:
    """Every training set, and the generator's own test set, as short conversations."""
    export, task = truth.load_raw_export(), load_task("support_tickets", FIELDS)
    full = load_task("support_tickets")
    test = [{"messages": c} for c in full.test]
    raw = prepare(export.path, steps=["validate"])
    clean = prepare(export.path, drop=quality.RULES, language="en", test=test, schema=full.schema, allow=[truth.OWN_ADDRESS])
    short = [c for c in task.train if len(c[1]["content"].split()) <= LONGEST]
    by_category: dict[str, list] = {}
    for conversation in short:
        by_category.setdefault(json.loads(conversation[2]["content"])["category"], []).append(conversation)
    hundred = [c for i in range(17) for rows in by_category.values() for c in rows[i : i + 1]][:100]
    messages = (
        [row["messages"][1]["content"] for row in clean.rows] + [c[1]["content"] for c in full.train] + export.production
    )
    mediocre = [chat(message, by_keyword(message)) for message in messages]
    recorded = (assets.path("data/synthetic_tickets") / "recorded.jsonl").read_text(encoding="utf-8").splitlines()
    generated, validator = [], jsonschema.validators.validator_for(full.schema)(full.schema)
    for line in recorded:
        entry = json.loads(line)
        generated += [chat(e["message"], e["record"]) for e in entry["examples"] if validator.is_valid(e["record"])]
    random.Random(0).shuffle(generated)

    def cut(rows):
        return for_training(rows, FIELDS, LONGEST)

    synthetic = cut(generated)
    return {
        "raw": cut(raw.rows),
        "cleaned": cut(clean.rows[i] for i in clean.train),
        "hundred": hundred,
        "mediocre": cut(mediocre),
        "duplicated": cut(clean.rows[i] for i in clean.train)[:60],
        "synthetic": synthetic[:-80],
        "synthetic test": synthetic[-80:],
        "test": task.test,
    }


def train(rows: list, seed: int, examples: int = EXAMPLES):
    """Train a new adapter on `examples` rows in random order, repeating them if there are fewer."""
    rng = random.Random(seed)
    order: list = []
    while len(order) < examples:
        order += rng.sample(rows, len(rows))
    model, tokenizer = models.load(tier="cpu")
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(learning_rate=LEARNING_RATE, batch_size=BATCH, warmup_steps=10, seed=seed)
    training.fit(tuned, tokenizer, order[:examples], settings=settings)
    memory.release()
    return tuned, tokenizer


def score(tuned, tokenizer, conversations: list) -> dict:
    """Valid format and exact matches, as shares with their intervals."""
    schema = load_task("support_tickets", FIELDS).schema
    answers = generate(tuned, tokenizer, [c[:2] for c in conversations], max_new_tokens=24)
    scores = evaluation.evaluate(answers, [json.loads(c[2]["content"]) for c in conversations], schema)
    named_scores = {"valid": scores.valid, **scores.exact, "both": scores.enumerations}
    return {name: [value.value, value.low, value.high] for name, value in named_scores.items()}


def main(seeds: list[int]) -> None:
    """All runs, seed by seed."""
    data = sets()
    runs = {
        "raw": (data["raw"], EXAMPLES),
        "cleaned": (data["cleaned"], EXAMPLES),
        "a hundred good": (data["hundred"], EXAMPLES),
        "mediocre": (data["mediocre"], EXAMPLES),
        "cleaned, 60 rows repeated": (data["duplicated"], EXAMPLES),
        "synthetic": (data["synthetic"], EXAMPLES),
    }
    wrong = [by_keyword(c[1]["content"]) != json.loads(c[2]["content"]) for c in load_task("support_tickets", FIELDS).train]
    results: dict = {
        "rows": {name: len(rows) for name, rows in data.items()},
        "labels wrong by keyword": sum(wrong) / len(wrong),
    }
    for seed in seeds:
        for name, (rows, examples) in runs.items():
            tuned, tokenizer = train(rows, seed, examples)
            result = {"test": score(tuned, tokenizer, data["test"])}
            if name == "synthetic":
                result["its own test"] = score(tuned, tokenizer, data["synthetic test"])
            results.setdefault("runs", {}).setdefault(name, []).append(result)
            print(seed, name, {k: {n: round(v[0], 3) for n, v in s.items()} for k, s in result.items()}, flush=True)
    write_results("data-quality", {"seeds": seeds, "examples": EXAMPLES, **results})


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [0, 1, 2])
