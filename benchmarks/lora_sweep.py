"""Lesson 02's knobs, one at a time, beside full fine-tuning: what is learned, what is forgotten, over three seeds.

    python benchmarks/lora_sweep.py [--shard 0/2]     # runs that are missing; several shards may run side by side
    python benchmarks/lora_sweep.py --write           # the dated record of all runs so far

Each run starts from the same model and sees 120 support messages once (30 steps of 4). Measured after it, on data it has
never seen: the loss on 40 validation messages; the loss on everyday prose; and how many everyday questions are answered
with a record instead of a sentence. Runs marked "answers" also answer the 100 test messages.

Two more experiments ask whether the change that full fine-tuning makes has a low rank. After full fine-tuning, each weight
matrix keeps only the best rank-r approximation of its change (a truncated singular value decomposition), and the loss is
taken again. The same with answers dealt out at random, which can only be memorised, is the control: there a low rank should
be too little.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

from common import RECORDS, MemoryAdded, write_results
from course_utils import assets, memory, models, training
from course_utils.data_prep import load_task
from course_utils.generation import generate

import torch
from peft import LoraConfig, get_peft_model

FIELDS = ["category", "escalation", "product", "order_id"]
SEEDS = (0, 1, 2)
EXAMPLES, BATCH = 120, 4
PARTS = RECORDS / "parts"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
BASE = {"rank": 16, "alpha": 32, "targets": "all-linear", "learning_rate": 2e-3}


def runs() -> dict[str, dict]:
    """Name → what differs from BASE; `full` marks full fine-tuning in float32."""
    table: dict[str, dict] = {"LoRA": {"answers": True}}
    table |= {f"full, rate {lr:g}": {"full": True, "learning_rate": lr} for lr in (2e-5, 1e-4, 3e-4)}
    table |= {f"rank {r}": {"rank": r} for r in (1, 4, 64)}
    table |= {f"rate {lr:g}": {"learning_rate": lr} for lr in (2e-5, 2e-4, 1e-3, 5e-3)}
    table |= {f"alpha {a}": {"alpha": a} for a in (8, 128)}
    # Equal size: the rank that gives attention alone about as many parameters as rank 16 on all layers.
    table["attention only, equal size"] = {"targets": ATTENTION, "rank": 42, "alpha": 84}
    return table


def variants() -> dict[str, dict]:
    """One line each in a table: variants of LoRA, with the first seed only."""
    return {
        "dropout 0.1": {"dropout": 0.1},
        "rsLoRA": {"rslora": True, "alpha": 8},  # alpha / sqrt(16) = 2, the factor of BASE
        "DoRA": {"dora": True},
        "embedding trained too": {"save": ["embed_tokens"]},
    }


def prose() -> list[str]:
    """Everyday passages."""
    with open(assets.path("data/general/passages.jsonl"), encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def questions() -> list[list[dict]]:
    """Everyday questions as conversations."""
    with open(assets.path("data/general/questions.jsonl"), encoding="utf-8") as lines:
        return [[{"role": "user", "content": json.loads(line)["question"]}] for line in lines]


def scored_tokens(tokenizer, conversation: list[dict]) -> tuple[list[int], int]:
    """Token ids of a conversation, and how many of them belong to the prompt."""
    render = lambda messages, prompt: tokenizer.apply_chat_template(  # noqa: E731
        messages, add_generation_prompt=prompt, return_dict=True
    )["input_ids"]
    return render(conversation, False), len(render(conversation[:-1], True))


def mean_loss(model, examples: list[tuple[list[int], int]]) -> float:
    """Mean loss in nats per scored token."""
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for ids, prompt in examples:
            logits = model(torch.tensor([ids])).logits[0, prompt - 1 : -1].float()
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[prompt:]), reduction="sum").item()
            count += len(ids) - prompt
    return total / count


def measure(model, tokenizer, task, answers: bool = False) -> dict:
    """What a model does on data that it has not been trained on."""
    openings = generate(model, tokenizer, questions(), max_new_tokens=4, batch_size=20)
    result: dict = {
        "validation_loss": mean_loss(model, [scored_tokens(tokenizer, row) for row in task.validation[:40]]),
        "prose_loss": mean_loss(model, [(tokenizer(text)["input_ids"], 1) for text in prose()]),
        "records_for_questions": sum(text.lstrip().startswith("{") for text in openings) / len(openings),
    }
    if answers:
        texts = generate(model, tokenizer, task.prompts(), max_new_tokens=56, batch_size=25)
        scores, result["answers"] = task.evaluate(texts), texts[:3]
        result["scores"] = {name: [score.value, score.low, score.high] for name, score in scores.rows()}
    return result


def prepared(spec: dict, seed: int):
    """Model and tokenizer, ready to be trained as a run says."""
    spec = BASE | spec
    torch.manual_seed(seed)
    if spec.get("full"):
        # In float32: in bfloat16 most of AdamW's small steps would be rounded away (lesson 03 measures it).
        model, tokenizer = models.load(tier="cpu", dtype=torch.float32)
        return model.requires_grad_(True), tokenizer
    model, tokenizer = models.load(tier="cpu")
    config = LoraConfig(
        r=spec["rank"], lora_alpha=spec["alpha"], target_modules=spec["targets"], lora_dropout=spec.get("dropout", 0.0),
        use_rslora=spec.get("rslora", False), use_dora=spec.get("dora", False), modules_to_save=spec.get("save"),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, config), tokenizer


def train(model, tokenizer, rows, spec: dict, seed: int, **changed):
    """One run; history and seconds."""
    settings = {"learning_rate": (BASE | spec)["learning_rate"], "batch_size": BATCH, "warmup_steps": 4, "seed": seed}
    started = time.perf_counter()
    history = training.fit(model, tokenizer, rows, settings=training.Settings(**settings | changed))
    return history, time.perf_counter() - started


def one_run(name: str, seed: int) -> dict:
    """Train and measure once."""
    spec = (runs() | variants())[name]
    task = load_task("support_tickets", FIELDS)
    model, tokenizer = prepared(spec, seed)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with MemoryAdded() as added:
        history, seconds = train(model, tokenizer, chosen_rows(task, seed), spec, seed)
    result = measure(model, tokenizer, task, answers=spec.get("answers", False) or spec.get("full", False))
    return {
        "trained_parameters": trained, "seconds": round(seconds, 1), "memory_added_mb": round(added.bytes / 1e6),
        "last_training_loss": statistics.mean(history.losses[-10:]), **result,
    }  # fmt: skip


def chosen_rows(task, seed: int) -> list:
    """The run's training messages, of all lengths, another sample for each seed."""
    return random.Random(seed).sample(task.train, EXAMPLES)


def untrained() -> dict:
    """The same measures before training."""
    task = load_task("support_tickets", FIELDS)
    model, tokenizer = models.load(tier="cpu")
    return measure(model, tokenizer, task, answers=True)


def truncated_updates(seed: int, shuffled: bool) -> dict:
    """Loss when the change of full fine-tuning keeps only r directions in each matrix, for several r.

    With `shuffled`, the answers of 40 messages are dealt out at random and learned by heart (10 passes); the loss is then
    that on the very examples, because nothing else can show what was memorised.
    """
    task = load_task("support_tickets", FIELDS)
    spec = {"full": True, "learning_rate": 2e-4}
    model, tokenizer = prepared(spec, seed)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows, passes = chosen_rows(task, seed), 1
    if shuffled:
        rows, passes = rows[:40], 10
        answers = [row[-1] for row in rows]
        random.Random(seed).shuffle(answers)
        rows = [[*row[:-1], answer] for row, answer in zip(rows, answers)]
    judged = [scored_tokens(tokenizer, row) for row in (rows if shuffled else task.validation[:40])]
    losses = {"before": mean_loss(model, judged)}
    train(model, tokenizer, rows, spec, seed, epochs=passes)
    losses["whole update"] = mean_loss(model, judged)
    with torch.no_grad():
        parts = {}
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parts[name] = torch.linalg.svd(parameter - before[name], full_matrices=False)
        for rank in (1, 4, 16, 64, 256):
            for name, parameter in model.named_parameters():
                if name in parts:
                    u, s, v = parts[name]
                    parameter.copy_(before[name] + (u[:, :rank] * s[:rank]) @ v[:rank])
            losses[f"rank {rank}"] = mean_loss(model, judged)
    energy = [float((s[:16] ** 2).sum() / (s**2).sum()) for _, s, _ in parts.values()]
    return {"losses": losses, "energy_in_16_directions": statistics.mean(energy)}


def jobs() -> dict[str, tuple]:
    """File name → function and its arguments."""
    table: dict[str, tuple] = {"untrained": (untrained,)}
    for seed in SEEDS:
        for name in runs():
            table[f"{name} | {seed}"] = (one_run, name, seed)
        table[f"truncated | {seed}"] = (truncated_updates, seed, False)
        table[f"truncated, shuffled answers | {seed}"] = (truncated_updates, seed, True)
    table |= {f"{name} | {SEEDS[0]}": (one_run, name, SEEDS[0]) for name in variants()}
    return table


def main() -> None:
    """Do what is missing of this shard, or write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th run, beginning with the I-th")
    parser.add_argument("--write", action="store_true", help="write the record of the runs so far")
    options = parser.parse_args()
    PARTS.mkdir(parents=True, exist_ok=True)
    done: dict = {}
    for file in PARTS.glob("lora-sweep*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            done |= json.loads(line)
    if options.write:
        plan = {"fields": FIELDS, "examples": EXAMPLES, "batch": BATCH, "base": BASE, "seeds": SEEDS}
        write_results("lora-sweep", plan | {"runs": done})
        return
    shard, shards = map(int, options.shard.split("/"))
    results = PARTS / f"lora-sweep-{shard}.jsonl"
    for name, (function, *arguments) in list(jobs().items())[shard::shards]:
        if name in done:
            continue
        result = function(*arguments)
        with open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps({name: result}) + "\n")
        print(name, {k: v for k, v in result.items() if k not in ("scores", "answers")}, flush=True)
        memory.release()


if __name__ == "__main__":
    main()
