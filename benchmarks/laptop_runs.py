"""What the benchmarks of the laptop tier's models share: a command line, the runs recorded so far, one model in memory.

Seconds that a run reports are of the processor, over all threads, so that other work on the machine and a pause don't change
them; the run says so under "clock". Runs without it took them from the wall.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from common import RECORDS, run_missing
from course_utils import evaluation, memory, models
from course_utils.data_prep import Task
from course_utils.generation import prompt_token_ids
from course_utils.scoring import shared_beginning

Prompt = list[dict[str, Any]]
MODELS = {
    "135M": "SmolLM2-135M-Instruct",
    "0.5B": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    "1.5B": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
}
SHOWN = 10  # answers kept of a run


@lru_cache(maxsize=1)
def loaded(size: str) -> tuple[Any, Any]:
    """Return the untrained model of a size and its tokenizer; training loads its own."""
    memory.release()
    return models.load(MODELS[size])


def tokenizer_of(size: str) -> Any:
    """Return the tokenizer of a size, without the model."""
    return models.load_tokenizer(MODELS[size])


def recorded_runs(name: str) -> dict[str, dict]:
    """Return run → its results, from the newest record of a benchmark; an empty dict if there is no record."""
    records = sorted(RECORDS.glob(f"{name}-[0-9]*.json"))
    return json.loads(records[-1].read_text(encoding="utf-8"))["runs"] if records else {}


def recorded_run(name: str, run: str) -> dict:
    """Return the results of a run on which others depend.

    Raises:
        SystemExit: it isn't recorded yet; the message names it.
    """
    runs = recorded_runs(name)
    if run not in runs:
        raise SystemExit(f"first the run {run!r}, on which this one depends")
    return runs[run]


def copy_run(name: str, run: str) -> dict:
    """Return the results of a run that stands for another one too, with the name of its origin."""
    return recorded_run(name, run) | {"copied_from": run}


def count_tokens(tokenizer: Any, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return the mean number of tokens of prompts, and how many tokens at their beginning are the same in all."""
    encoded = [prompt_token_ids(tokenizer, prompt) for prompt in prompts]
    return {
        "prompt_tokens": round(sum(map(len, encoded)) / len(encoded), 1),
        "same_beginning_tokens": shared_beginning(encoded),
    }


def scores_by_message(task: Task, answers: list[str], split: str = "test") -> dict[str, list[int]]:
    """Return "valid", each field and "all fields" → 0 or 1 for each message of a split, in its order."""
    records, references = task.evaluate(answers, split).records, task.references(split)[: len(answers)]
    fields = list(task.schema["properties"])
    right = {"valid": [int(record is not None) for record in records]}
    for field in fields:
        right[field] = [int(r is not None and r[field] == ref[field]) for r, ref in zip(records, references)]
    right["all fields"] = [int(all(row)) for row in zip(*(right[field] for field in fields))]
    return right


def summary(right: Mapping[str, Sequence[int]]) -> str:
    """Return one line of percentages."""
    return ", ".join(f"{name} {100 * sum(values) / len(values):.0f}" for name, values in right.items())


def paired_difference(name: str, better: str, worse: str, measure: str, seeds: Sequence[int]) -> dict:
    """Return by how much one way is better than another on the same test messages, with its 95 % interval over messages.

    Args:
        name: name of the record.
        better, worse: the runs' names without their seed, as in "seed 0 | DPO".
        measure: what of "right" is compared, such as "all fields".
        seeds: seeds whose differences are averaged, message by message.
    """

    def values(seed: int, run: str) -> list[int]:
        right: list[int] = recorded_run(name, f"seed {seed} | {run}")["right"][measure]
        return right

    rows = [[a - b for a, b in zip(values(seed, better), values(seed, worse), strict=True)] for seed in seeds]
    score = evaluation.mean([sum(column) / len(column) for column in zip(*rows, strict=True)])
    by_seed = [sum(row) / len(row) for row in rows]
    return {"difference": [score.value, score.low, score.high], "by_seed": by_seed, "summary": str(score)}


def printed(prompt: Prompt, longest: int = 1200) -> str:
    """Return a prompt as text to read, each message cut in the middle where it is long."""

    def cut(text: str) -> str:
        half = longest // 2
        return text if len(text) <= longest else f"{text[:half]}\n[… {len(text) - longest} characters …]\n{text[-half:]}"

    return "\n".join(f"<{message['role']}> {cut(message['content'])}" for message in prompt)


def _by_processor(job: Callable[[], dict]) -> dict:
    return job() | {"clock": "processor"}


def run_command(
    name: str,
    description: str,
    jobs: Mapping[str, Callable[[], dict]],
    shared: Callable[[], dict],
    show: Callable[[], Mapping[str, Prompt]],
) -> None:
    """Run the chosen jobs that the record lacks; or list them; or print one prompt of each system, without a model.

    Args:
        name: name of the record.
        description: the module's docstring.
        jobs: name of a run → what measures it, in the order in which they run.
        shared: returns what holds for all runs.
        show: returns system → one of its prompts.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beginnings", nargs="*", help="only runs whose names begin so")
    parser.add_argument("--list", action="store_true", help="the runs, and what is recorded of them")
    parser.add_argument("--dry", action="store_true", help="one prompt of each system; no model is loaded")
    options = parser.parse_args()
    chosen = {run: job for run, job in jobs.items() if not options.beginnings or run.startswith(tuple(options.beginnings))}
    if options.list:
        done = recorded_runs(name)
        print(*(f"{run:<64} {done[run]['summary'] if run in done else 'missing'}" for run in chosen), sep="\n")
    elif options.dry:
        print(*(f"=== {system}\n{printed(prompt)}\n" for system, prompt in show().items()), sep="\n")
    else:
        run_missing(name, {run: partial(_by_processor, job) for run, job in chosen.items()}, shared())
