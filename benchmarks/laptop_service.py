"""Lesson 06 on a model that people deploy: the base told what to do, shown examples, and tuned, through our own service.

    python benchmarks/laptop_service.py                       every run that the record does not have yet; two hours
    python benchmarks/laptop_service.py "0.5B | tuned"   the runs whose names begin so
    python benchmarks/laptop_service.py --list                the runs, and which of them are recorded
    python benchmarks/laptop_service.py --dry                 one request of each system; no service is started

One set-up for the whole lesson, the one that its reader runs: two fields (`lesson_06.FIELDS`), training messages of at most
`lesson_06.LONGEST` words, the four words of the task for whoever has learned it and `lesson_06.INSTRUCTIONS` for whoever is
told. Everything goes through the official client. All scores are those of the 100 hand-written test messages at temperature
0. A job has the host's own settings ("auto"), as the lesson's has; other multipliers of the learning rate are tried with the
first seed. A seed draws the 240 rows and another start of the adapter. The examples that a prompt shows are the nearest of
the very rows that the job is trained on.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common  # noqa: F401 - prepares the process
from course_utils import facts, hardware
from course_utils.data_prep import Task, load_task
from course_utils.evidence import lesson_06
from course_utils.openai_server import local_server
from course_utils.openai_server.worker import AUTO_MULTIPLIER
from hosted import EXAMPLES, SHOTS, VALIDATION, Client, rows_of, told
from laptop_runs import MODELS, SHOWN, Prompt, run_command, scores_by_message, summary
from laptop_search import Hybrid

NAME = "laptop-service"
TIERS = {"135M": "cpu", "0.5B": "laptop"}  # whose learning rates the service takes
SEEDS = (0, 1, 2)
AUTO = AUTO_MULTIPLIER["supervised"]
MULTIPLIERS = (0.5, 1.0)  # besides
EXAMPLES_SHOWN = max(SHOTS)
ROWS = 8  # requests at once
ALONE = 10  # requests one after the other, to know how long one takes
ANSWER_TOKENS = 40
# An untrained system → whether it is shown solved messages, the nearest of those that the job is trained on, and whether its
# form is forced.
UNTRAINED = {
    "told": (False, False),
    "told, form forced": (False, True),
    f"told and {EXAMPLES_SHOWN} retrieved": (True, False),
    f"told and {EXAMPLES_SHOWN} retrieved, form forced": (True, True),
}


# -- data and prompts -----------------------------------------------------------------------------------------------------


@cache
def ticket_task() -> Task:
    """Return the tickets with lesson 06's two fields."""
    return load_task("support_tickets", list(lesson_06.FIELDS))


def draw(seed: int) -> list[Prompt]:
    """Return a seed's training conversations, as `benchmarks/hosted.py` draws them."""
    short = [c for c in ticket_task().train if len(c[1]["content"].split()) <= lesson_06.LONGEST]
    random.Random(seed).shuffle(short)
    return short[:EXAMPLES]


def prompts(system: str, seed: int, split: str = "test") -> list[Prompt]:
    """Return an untrained system's prompts for the messages of a split."""
    asked = ticket_task().prompts(split)
    if not UNTRAINED[system][0]:
        return [told(prompt) for prompt in asked]
    train = draw(seed)
    index = Hybrid([{"id": str(n), "text": c[1]["content"]} for n, c in enumerate(train)])
    found = index.search_all([prompt[-1]["content"] for prompt in asked], EXAMPLES_SHOWN)
    # the most similar last, next to the message
    return [told(prompt, [train[int(hit.id)] for hit in reversed(hits)]) for prompt, hits in zip(asked, found)]


# -- the service ----------------------------------------------------------------------------------------------------------


class MeasuringClient(Client):
    """The calls that every run makes, with the tokens that the service reports and the seconds that it takes."""

    def request(self, model: str, conversation: Prompt, **more: Any) -> tuple[str, Any, float]:
        """Return the answer at temperature 0, its usage, and the seconds that the request took."""
        started = time.perf_counter()
        made = self.client.chat.completions.create(
            model=model, messages=conversation, temperature=0, max_tokens=ANSWER_TOKENS, **more
        )
        return made.choices[0].message.content or "", made.usage, time.perf_counter() - started

    def measure(self, model: str, conversations: Sequence[Prompt], split: str = "test", **more: Any) -> dict[str, Any]:
        """Ask `ROWS` at once, and the first ones once more one after the other.

        Returns:
            "right" (valid, each field and all fields → 0 or 1 for each message), tokens a request as the service reports
            them, seconds a request in the batch and alone, the first answers and a summary.
        """
        self.request(model, conversations[0], **more)  # the first request loads the model
        started = time.perf_counter()
        with ThreadPoolExecutor(ROWS) as pool:
            made = list(pool.map(lambda conversation: self.request(model, conversation, **more), conversations))
        seconds = (time.perf_counter() - started) / len(conversations)
        alone = [self.request(model, conversation, **more)[2] for conversation in conversations[:ALONE]]
        answers = [text for text, _, _ in made]
        right = scores_by_message(ticket_task(), answers, split)
        return {
            "right": right,
            "prompt_tokens": round(statistics.mean(usage.prompt_tokens for _, usage, _ in made), 1),
            "answer_tokens": round(statistics.mean(usage.completion_tokens for _, usage, _ in made), 1),
            "seconds_a_request": round(seconds, 2),
            "seconds_alone": round(statistics.median(alone), 2),
            "answers": answers[:SHOWN],
            "summary": summary(right),
        }


@contextmanager
def service(size: str, seed: int) -> Iterator[MeasuringClient]:
    """Start the service with a model, and yield a client of it; the service and all that it stores end with the block."""
    tier = {hardware.TIER: TIERS[size]}
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, tier):
        with local_server(Path(folder) / "service", rows=ROWS, model=MODELS[size]) as server:
            yield MeasuringClient(server, seed)


# -- runs -----------------------------------------------------------------------------------------------------------------


def untrained(size: str, system: str, seed: int) -> dict:
    """Return the results of the base with one of the prompts."""
    more: dict[str, Any] = {}
    if UNTRAINED[system][1]:
        schema = {"name": "ticket", "schema": ticket_task().schema}
        more["response_format"] = {"type": "json_schema", "json_schema": schema}
    with service(size, seed) as client:
        return client.measure(client.base, prompts(system, seed), **more)


def tuned(size: str, seed: int, multiplier: float = AUTO) -> dict:
    """Run a job, and return the results of its model and of its checkpoints.

    The job has the host's own number of epochs and of rows a step; the multiplier is on the rate of the size's tier.
    """
    with service(size, seed) as client:
        held_out = rows_of(ticket_task().validation[:VALIDATION])
        job = client.job(rows_of(draw(seed)), held_out, learning_rate_multiplier=multiplier)
        checkpoints = sorted(client.client.fine_tuning.jobs.checkpoints.list(job.id).data, key=lambda c: c.step_number)
        test = ticket_task().prompts()
        run = client.measure(job.fine_tuned_model, test)
        validation = client.answers(job.fine_tuned_model, ticket_task().prompts("validation"))
        earlier = {
            number: scores_by_message(ticket_task(), client.answers(checkpoint.fine_tuned_model_checkpoint, test))
            for number, checkpoint in enumerate(checkpoints[:-1], 1)
        }
        chosen = job.method.supervised.hyperparameters
        return run | {
            "multiplier": multiplier, "rate": multiplier * facts.table("tiers")[TIERS[size]]["rates"]["supervised"],
            "epochs": chosen.n_epochs, "batch": chosen.batch_size, "examples": EXAMPLES,
            "training_seconds": job.finished_at - job.created_at, "trained_tokens": job.trained_tokens,
            "losses": client.curve(job), "validation": scores_by_message(ticket_task(), validation, "validation"),
            "after_epoch": earlier,
        }  # fmt: skip


def jobs() -> dict[str, Callable[[], dict]]:
    """Return name of a run → what measures it, in the order in which the answers are wanted."""
    table: dict[str, Callable[[], dict]] = {}
    for size in TIERS:
        for system, (shown, _) in UNTRAINED.items():
            for seed in SEEDS if shown else SEEDS[:1]:  # without examples nothing is drawn
                table[f"{size} | {system} | {seed}"] = partial(untrained, size, system, seed)
        for seed in SEEDS:
            table[f"{size} | tuned | {seed}"] = partial(tuned, size, seed)
        for multiplier in MULTIPLIERS:
            table[f"{size} | multiplier {multiplier:g} | 0"] = partial(tuned, size, 0, multiplier)
    return table


def plan() -> dict:
    """Return what holds for all runs, with the scores of a program that always gives each field's most common value."""
    return {
        "models": {size: MODELS[size] for size in TIERS}, "fields": lesson_06.FIELDS, "instructions": lesson_06.INSTRUCTIONS,
        "words the tuned one is told": ticket_task().test[0][0]["content"], "longest training message": lesson_06.LONGEST,
        "examples": EXAMPLES, "validation": VALIDATION, "shown": EXAMPLES_SHOWN, "at once": ROWS, "seeds": SEEDS,
        "most common": {name: score.value for name, score in ticket_task().most_common().items()},
        "most common pair": lesson_06.commonest_pair(ticket_task().references()).value,
    }  # fmt: skip


def shown_prompts() -> dict[str, Prompt]:
    """Return system → its request for one test message; a row of the job comes last."""
    return {system: prompts(system, 0)[0] for system in UNTRAINED} | {
        "tuned": ticket_task().prompts()[0], "a row to train on": draw(0)[0]
    }  # fmt: skip


if __name__ == "__main__":
    run_command(NAME, str(__doc__), jobs(), plan, shown_prompts)
