"""Two rewards for the same answers, on the small model: one checks the form of a record, one checks what it says.

    python benchmarks/rewards.py              every run that the record does not have yet; 20 minutes of one core
    python benchmarks/rewards.py "seed 0"     the runs whose names begin so
    python benchmarks/rewards.py --list       the runs, and which of them are recorded

The task is the category of a ticket. The start is the model after a few solved tickets, which makes it write a record
most of the time and the right one some of the time. From it, GRPO draws answers at temperature 1 as in `laptop_rewards.py`:

    form       1 for a valid record: any category will do
    content    1 for the right category

The control goes on with SFT, from the same start, on the right answers to the same messages. Each answers the 100 test
messages at temperature 0.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from course_utils import generation, memory, models
from course_utils.data_prep import load_task
from laptop_runs import MODELS, Prompt, run_command, scores_by_message, summary

import torch

from laptop_rewards import Reward, adapter, fitted, step

NAME = "rewards"
SEEDS = (0, 1, 2)
SOLVED, STEPS, MESSAGES, ANSWERS, ANSWER_TOKENS = 160, 12, 6, 6, 12
LONGEST = 250  # characters of a training message
SFT_RATE, RATE = 1e-3, 1e-4
task = load_task("support_tickets", ["category"])

REWARDS: dict[str, Reward] = {
    "form": lambda record, reference, tokens: float(record is not None),
    "content": lambda record, reference, tokens: float(record == reference),
}


def messages(seed: int) -> tuple[list[int], list[int]]:
    """Indices of the solved training messages, and of those that rewards are given on."""
    short = [i for i, chat in enumerate(task.train) if len(chat[1]["content"]) <= LONGEST]
    drawn = random.Random(seed).sample(short, SOLVED + STEPS * MESSAGES)
    return drawn[:SOLVED], drawn[SOLVED:]


@lru_cache(maxsize=1)
def start(seed: int) -> tuple[Any, Any]:
    """The model after the solved tickets, and its tokenizer."""
    memory.release()
    return fitted(*models.load(MODELS["135M"]), [task.train[i] for i in messages(seed)[0]], SFT_RATE, seed, 4)


def scored(model: Any, tokenizer: Any) -> dict:
    """What a model makes of the test messages at temperature 0."""
    answers = generation.generate(model, tokenizer, task.prompts(), ANSWER_TOKENS, batch_size=50)
    right, counts = scores_by_message(task, answers), Counter(answers)
    return {
        "right": right, "different": len(counts), "answers": dict(counts.most_common(10)),
        "summary": f"{summary(right)}; different {len(counts)}",
    }  # fmt: skip


def started(seed: int) -> dict:
    """Scores of the start."""
    return scored(*start(seed))


def rewarded(reward: str, seed: int) -> dict:
    """GRPO from the seed's start; scores, and what was seen step by step."""
    model, tokenizer = start(seed)
    policy, indices, curve = adapter(model, seed), messages(seed)[1], []
    optimiser = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    for number in range(STEPS):
        chosen = indices[number * MESSAGES : (number + 1) * MESSAGES]
        how = REWARDS[reward], seed * 1000 + number, task, ANSWERS, ANSWER_TOKENS
        curve.append(step(policy, tokenizer, optimiser, chosen, *how))
    columns = {name: [round(row[name], 3) for row in curve] for name in curve[0]}
    result = {"curve": columns} | scored(policy, tokenizer)
    policy.unload()  # the start, for the next run
    return result


def imitated(seed: int) -> dict:
    """The control: SFT from the same start on the right answers to the messages that GRPO draws answers to."""
    model, tokenizer = start(seed)
    start.cache_clear()  # it's merged into
    return scored(*fitted(model, tokenizer, [task.train[i] for i in messages(seed)[1]], SFT_RATE, seed + 10, 4))


def jobs() -> dict[str, Callable[[], dict]]:
    """Name of a run → what measures it."""
    table: dict[str, Callable[[], dict]] = {}
    for seed in SEEDS:
        table[f"seed {seed} | start"] = partial(started, seed)
        for reward in REWARDS:
            table[f"seed {seed} | {reward}"] = partial(rewarded, reward, seed)
        table[f"seed {seed} | SFT"] = partial(imitated, seed)
    return table


def plan() -> dict:
    """What holds for all runs."""
    return {
        "model": MODELS["135M"], "solved": SOLVED, "steps": STEPS, "messages a step": MESSAGES, "answers to each": ANSWERS,
        "rate": RATE, "sft_rate": SFT_RATE, "test": len(task.test), "seeds": SEEDS,
        "most_common": task.most_common()["category"].value,
    }  # fmt: skip


def shown() -> dict[str, Prompt]:
    """A prompt."""
    return {"prompt": task.prompts()[0]}


if __name__ == "__main__":
    run_command(NAME, str(__doc__), jobs(), plan, shown)
