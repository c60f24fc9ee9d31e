"""A verifiable reward that works, and one that is gamed: GRPO on tickets, on a model that people deploy.

    python benchmarks/laptop_rewards.py                every run that the record does not have yet; hours
    python benchmarks/laptop_rewards.py "seed 0"       the runs whose names begin so
    python benchmarks/laptop_rewards.py --list         the runs, and which of them are recorded

The start is the 0.5B after 80 solved tickets. From it, each step takes a few training messages that the start has not seen,
draws several answers to each at temperature 1, and moves towards those with more reward than the others of their group
(group-relative advantages: Shao et al., 2024, arXiv 2402.03300). Answers are used once, so that the ratio of new to old
probabilities is 1 and the loss is the policy gradient; all tokens of a step have the same weight (DAPO: Yu et al., 2025,
arXiv 2503.14476), and there is no KL term, as TRL has it by default.

    content    the share of fields that are right, and half a point more if all are: known from the labels
    form       a valid record, and the shorter the better: what somebody might ask for who pays by the token

"form" is the one that is gamed. Rates were chosen on the validation messages with the first seed ("rate" runs, half as many
steps). Tested on the 100 test messages, greedily; three seeds for "content", each from a start of its own. The control goes
on with SFT, from the same start, on the right answers to the same messages.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from course_utils import evaluation, generation, memory, models, training
from course_utils.batching import Encoded, collate, default_micro_batch_tokens, micro_batches, pad_token_id
from course_utils.data_prep import Task
from course_utils.training.fused import fused
from laptop_runs import MODELS, SHOWN, Prompt, paired_difference, recorded_run, run_command, scores_by_message, summary
from laptop_tickets import ANSWER_TOKENS, best_rate, task

import torch
from peft import LoraConfig, get_peft_model

NAME = "laptop-rewards"
MODEL = MODELS["0.5B"]
SEEDS = (0, 1, 2)
SOLVED, STEPS, MESSAGES, ANSWERS = 80, 40, 6, 6
RATES = (3e-5, 1e-4)
FIELDS = list(task.schema["properties"])
PENALTY = 0.02  # for a token of an answer, in "form"


def content(record: dict | None, reference: dict, _tokens: int) -> float:
    """Share of the fields that are right, and half a point more if all are; 0 for what is no record."""
    if record is None:
        return 0.0
    right = [record[field] == reference[field] for field in FIELDS]
    return statistics.mean(right) + 0.5 * all(right)


def form(record: dict | None, _reference: dict, tokens: int) -> float:
    """1 for a valid record, less a little for each token."""
    return float(record is not None) - PENALTY * tokens


Reward = Callable[[dict | None, dict, int], float]  # (record, reference, tokens of the answer) → the reward
REWARDS: dict[str, Reward] = {"content": content, "form": form}


def messages(seed: int) -> tuple[list[int], list[int]]:
    """Indices of the solved training messages, and of the 460 that rewards are given on."""
    drawn = random.Random(seed).sample(range(len(task.train)), 540)
    return drawn[:SOLVED], drawn[SOLVED:]


def start(seed: int) -> tuple[Any, Any]:
    """The model after the solved tickets, and its tokenizer."""
    memory.release()
    rows = [task.train[i] for i in messages(seed)[0]]
    return fitted(*models.load(MODEL), rows, best_rate("0.5B", "LoRA"), seed)


def adapter(model: Any, seed: int) -> Any:
    """The model with a new adapter."""
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def fitted(
    model: Any, tokenizer: Any, rows: Sequence[Prompt], rate: float, seed: int, batch_size: int = 8
) -> tuple[Any, Any]:
    """The model after SFT on rows, merged."""
    tuned = adapter(model, seed)
    settings = training.Settings(learning_rate=rate, batch_size=batch_size, warmup_steps=4, seed=seed)
    training.fit(tuned, tokenizer, rows, settings=settings)
    return tuned.merge_and_unload(), tokenizer


def scored(model: Any, tokenizer: Any, split: str) -> dict:
    """Greedy answers to a split, field by field."""
    prompts = task.prompts(split)
    answers = generation.generate(model, tokenizer, prompts, ANSWER_TOKENS, batch_size=50)
    right = scores_by_message(task, answers, split)
    records = [record for record in task.evaluate(answers, split).records if record]
    nulls = [record[field] is None for record in records for field in ("product", "order_id")]
    tokens = statistics.mean(len(tokenizer(answer)["input_ids"]) for answer in answers)
    return {
        "right": right, "answers": answers[:SHOWN], "answer_tokens": round(tokens, 1),
        "nulls": statistics.mean(nulls) if nulls else None, "summary": summary(right),
    }  # fmt: skip


def step(
    model: Any, tokenizer: Any, optimiser: torch.optim.Optimizer, indices: Sequence[int], reward: Reward, seed: int,
    task: Task = task, answers: int = ANSWERS, answer_tokens: int = ANSWER_TOKENS,
) -> dict[str, float]:  # fmt: skip
    """One step of GRPO on some training messages; what was seen on the way."""
    prompts = [generation.prompt_token_ids(tokenizer, task.train[i][:-1]) for i in indices]
    asked = [prompt for prompt in prompts for _ in range(answers)]
    drawn = generation.complete(model, tokenizer, asked, answer_tokens, temperature=1.0, seed=seed)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in drawn]
    references = [task.rows["train"][i]["record"] for i in indices for _ in range(answers)]
    records = [evaluation.parse_record(text, task.schema) for text in texts]
    rewards = [reward(*one) for one in zip(records, references, map(len, drawn))]
    groups, examples = [rewards[i : i + answers] for i in range(0, len(rewards), answers)], []
    for number, (prompt, group) in enumerate(zip(prompts, groups)):
        spread = statistics.pstdev(group)
        if spread < 1e-6:
            continue  # no answer is better than another: nothing to learn
        group_answers = drawn[number * answers : (number + 1) * answers]
        weights = [(value - statistics.mean(group)) / (spread + 1e-4) for value in group]
        by_token = [weight for weight, ids in zip(weights, group_answers) for _ in ids]
        examples.append(Encoded(prompt, group_answers, token_values={"weight": by_token}))
    if examples:
        totals, objective = {"tokens": sum(map(len, drawn))}, training.SFT()
        model.train()
        with fused(model):
            for batch in micro_batches(examples, default_micro_batch_tokens(model.device)):
                # the cross-entropy, weighted by the advantage: its gradient is GRPO's
                objective.loss(model, collate(batch, pad_token_id(tokenizer)), totals).value.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return {
        "reward": statistics.mean(rewards), "groups": len(examples), "tokens": statistics.mean(map(len, drawn)),
        "all fields": statistics.mean(r == ref for r, ref in zip(records, references)),
    }  # fmt: skip


def rewarded(reward: str, rate: float | None, steps: int, seed: int, split: str = "test") -> dict:
    """GRPO from the seed's start; scores, and the curve of the rewards."""
    rate = rate or max(RATES, key=lambda rate: sum(recorded_run(NAME, f"rate {rate:g}")["right"]["all fields"]))
    model, tokenizer = start(seed)
    policy, indices, began = adapter(model, seed), messages(seed)[1], time.process_time()
    optimiser = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    curve = []
    for number in range(steps):
        chosen = indices[number * MESSAGES : (number + 1) * MESSAGES]
        curve.append(step(policy, tokenizer, optimiser, chosen, REWARDS[reward], seed * 1000 + number))
        print(f"{reward}, seed {seed}, step {number}: {curve[-1]}", flush=True)
    seconds = time.process_time() - began
    columns = {name: [round(row[name], 3) for row in curve] for name in curve[0]}
    return {"rate": rate, "training_seconds": round(seconds), "curve": columns} | scored(
        policy.merge_and_unload(), tokenizer, split
    )


def started(seed: int, split: str = "test") -> dict:
    """Scores of the start."""
    return scored(*start(seed), split)


def imitated(seed: int) -> dict:
    """The control: SFT from the same start on the right answers to the messages that GRPO draws answers to."""
    model, tokenizer = start(seed)
    rows = [task.train[i] for i in messages(seed)[1][: STEPS * MESSAGES]]
    return scored(*fitted(model, tokenizer, rows, best_rate("0.5B", "LoRA"), seed + 10), "test")


def jobs() -> dict[str, Callable[[], dict]]:
    """Name of a run → what measures it."""
    table: dict[str, Callable[[], dict]] = {"start, validation": partial(started, 0, "validation")}
    for rate in RATES:
        table[f"rate {rate:g}"] = partial(rewarded, "content", rate, STEPS // 2, 0, "validation")
    for seed in SEEDS:
        table[f"seed {seed} | start"] = partial(started, seed)
        table[f"seed {seed} | content"] = partial(rewarded, "content", None, STEPS, seed)
    table["content − start"] = partial(paired_difference, NAME, "content", "start", "all fields", SEEDS)
    table["seed 0 | form"] = partial(rewarded, "form", None, STEPS, 0)
    for seed in SEEDS:
        table[f"seed {seed} | SFT on the same messages"] = partial(imitated, seed)
    return table


def plan() -> dict:
    """What holds for all runs."""
    return {
        "model": MODEL, "solved": SOLVED, "steps": STEPS, "messages a step": MESSAGES, "answers to each": ANSWERS,
        "rates": RATES, "penalty": PENALTY, "seeds": SEEDS,
    }  # fmt: skip


if __name__ == "__main__":
    run_command(NAME, str(__doc__), jobs(), plan, lambda: {"prompt": task.prompts()[0]})
