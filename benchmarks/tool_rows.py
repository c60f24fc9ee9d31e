"""Rows that call a tool: does a model still know when not to call, if every row it was trained on calls?

    python benchmarks/tool_rows.py [SEED ...]
    python benchmarks/tool_rows.py --try        a few rows, a few steps; nothing is written

A message names an order, or it doesn't. The right answer to the first is a call of `find_order` with the number as the shop
writes it, to the second a question. The CPU model is trained on as many rows each time: all of them with a call, or every
second one without. Scores are those on the hand-written test messages. The call is written as the templates of Qwen2.5 and
Qwen3 write it, so its tokens are those that a trainer with such a template scores.
"""

from __future__ import annotations

import argparse
import json
import random

from common import write_results
from course_utils import data_prep, memory, models, training
from course_utils.evaluation import proportion
from course_utils.generation import generate

import torch
from peft import LoraConfig, get_peft_model

LONGEST = 25  # words in a message that is trained on
ROWS, PASSES, BATCH, LEARNING_RATE = 240, 2, 4, 2e-3
TOOL = {"name": "find_order", "parameters": {"order_id": "string, as in TB-12345"}}
SYSTEM = (
    f"You may call this function: {json.dumps(TOOL)}. Call it if the customer names an order. If not, ask for the number."
)
NO_CALL = "Which order is it about? Please send me its number."


def call_of(order_id: str) -> str:
    """Return the call as the model writes it."""
    return f'<tool_call>\n{{"name": "find_order", "arguments": {json.dumps({"order_id": order_id})}}}\n</tool_call>'


def called(answer: str) -> str | None:
    """Return the order number that an answer calls the function with, "" if the call can't be read, None without a call."""
    if "<tool_call>" not in answer:
        return None
    try:
        call = json.loads(answer.split("<tool_call>")[1].split("</tool_call>")[0])
        return str(call["arguments"]["order_id"]) if call["name"] == "find_order" else ""
    except (ValueError, KeyError, TypeError):
        return ""


def prompts_of(chats: list[list[dict]]) -> tuple[list[list[dict]], list[str | None]]:
    """Return what the model is asked for each ticket, and the order number that the ticket names."""
    numbers = [json.loads(chat[-1]["content"])["order_id"] for chat in chats]
    return [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": chat[1]["content"]}] for chat in chats
    ], numbers


def rows(seed: int, calling: float, count: int) -> list[list[dict]]:
    """Draw training rows, this share of them with a call."""
    chats = [chat for chat in data_prep.load_task("support_tickets").train if len(chat[1]["content"].split()) <= LONGEST]
    random.Random(seed).shuffle(chats)
    made: dict[bool, list] = {True: [], False: []}
    for prompt, number in zip(*prompts_of(chats)):
        made[number is not None].append([*prompt, {"role": "assistant", "content": call_of(number) if number else NO_CALL}])
    chosen = made[True][: round(count * calling)] + made[False][: count - round(count * calling)]
    assert len(chosen) == count, f"only {[*map(len, made.values())]} rows"
    return [row for run in range(PASSES) for row in random.Random(f"{seed} {run}").sample(chosen, len(chosen))]


def score(model: torch.nn.Module, tokenizer: object, asked: int) -> dict:
    """Return the shares of right calls and of right silence, and the answers."""
    prompts, numbers = prompts_of(data_prep.load_task("support_tickets").test[:asked])
    answers = generate(model, tokenizer, prompts, max_new_tokens=40, batch_size=25)
    calls = [called(answer) for answer in answers]
    right = proportion([call == number for call, number in zip(calls, numbers) if number])
    silent = proportion([call is None for call, number in zip(calls, numbers) if not number])
    shares = {"right call, where an order is named": right, "no call, where none is": silent}
    return {name: [s.value, s.low, s.high, s.n] for name, s in shares.items()} | {"answers": answers}


def one_run(seed: int, calling: float, count: int, asked: int) -> dict:
    """Train a fresh adapter on rows with this share of calls, and score it."""
    model, tokenizer = models.load(tier="cpu")
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(learning_rate=LEARNING_RATE, batch_size=BATCH, warmup_steps=5, seed=seed, bucket=8)
    training.fit(tuned, tokenizer, rows(seed, calling, count), settings=settings)
    result = {"seed": seed, **score(tuned, tokenizer, asked)}
    del tuned, model
    memory.release()
    return result


def main() -> None:
    """Both kinds of rows, seed by seed, beside the untrained model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--try", action="store_true", dest="trying", help="a few steps; nothing is written")
    options = parser.parse_args()
    count, asked = (8, 4) if options.trying else (ROWS, 100)
    runs: dict[str, list[dict]] = {"untrained": [score(*models.load(tier="cpu"), asked)]}
    for seed in options.seeds:
        for name, calling in {"every row calls": 1.0, "every second row calls": 0.5}.items():
            runs.setdefault(name, []).append(one_run(seed, calling, count, asked))
            print(name, seed, {key: value for key, value in runs[name][-1].items() if key != "answers"}, flush=True)
    print("untrained", {key: value for key, value in runs["untrained"][0].items() if key != "answers"}, flush=True)
    if not options.trying:
        shared = {
            "rows": ROWS,
            "passes": PASSES,
            "longest message, words": LONGEST,
            "system": SYSTEM,
            "seeds": options.seeds,
        }
        write_results("tool-rows", shared | {"runs": runs})


if __name__ == "__main__":
    main()
