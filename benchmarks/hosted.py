"""What lesson 06 compares, with enough examples: a job's model beside prompts, forms and ways to leave.

    python benchmarks/hosted.py runs [SEED ...]    half an hour a seed on two slow cores; writes hosted-DATE.json
    python benchmarks/hosted.py pairs [SEED ...]   kinds of pairs for a DPO job, a quarter of an hour a seed; writes
                                                   host-preferences-DATE.json

Everything is trained and asked through the course's own service with the official client, as in the lesson. All scores are
those of the 100 hand-written test messages at temperature 0. A seed draws other rows, another start and other pairs.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from common import write_results
from course_utils import hardware
from course_utils.data_prep import load_task
from course_utils.evidence import lesson_06
from course_utils.openai_server import local_server

EXAMPLES, VALIDATION, PAIRS, FEW, MANY = 240, 40, 60, 12, 10
SHOTS = (4, 8)
SEEDS = (0, 1, 2)
PARTS = Path(__file__).parents[1] / "build" / "hosted"
LEFT_OPEN = json.dumps({"category": "question", "escalation": "none"})  # the form as it opens
# The models of `pairs`.
TUNED, ONE_RECORD = "tuned, before any pairs", "pairs that punish one record"
OWN_MISTAKES, BOTH_WAYS = "pairs of its own mistakes", "as many for “none” as against it"
TRIED_WITH_SMALL_STEPS = (ONE_RECORD, OWN_MISTAKES)


def with_small_steps(name: str) -> str:
    """A job's name if its learning-rate multiplier is a tenth of what the host would take."""
    return f"{name}, steps a tenth as large"


def own_mistakes(conversations: Sequence[list[dict[str, Any]]], answers: Sequence[str], number: int) -> list[dict[str, Any]]:
    """Preferences as the API takes them: the right record, and what a model has answered instead, where that is wrong."""
    return [
        {
            "input": {"messages": chat[:-1]},
            "preferred_output": [chat[-1]],
            "non_preferred_output": [{"role": "assistant", "content": answer.strip()}],
        }
        for chat, answer in zip(conversations, answers, strict=True)
        if answer.strip() not in ("", chat[-1]["content"])
    ][:number]


def pairs_of_forms(conversations: Sequence[list[dict[str, Any]]], number: int) -> list[dict[str, Any]]:
    """Preferences for the right record over the form as it opens, where that is wrong."""
    return own_mistakes(conversations, [LEFT_OPEN] * len(conversations), number)


def metrics(events: Iterable[Any]) -> list[dict[str, Any]]:
    """The numbers of a job's metrics events, in the order of the steps."""
    return sorted((dict(event.data) for event in events if event.type == "metrics"), key=lambda data: data["step"])


def both_ways(pairs: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """As many pairs that prefer "none" as pairs that prefer another escalation: at most `number` in all."""
    says_none = [escalation(pair["preferred_output"][0]["content"]) == "none" for pair in pairs]
    kinds = [
        [pair for pair, none in zip(pairs, says_none, strict=True) if none == prefers_none] for prefers_none in (True, False)
    ]
    each = min(number // 2, *map(len, kinds))
    return [pair for both in zip(*(kind[:each] for kind in kinds), strict=True) for pair in both]


def escalation(answer: str) -> str:
    """What an answer says under "escalation"; "no record" if it is none."""
    try:
        record = json.loads(answer)
    except ValueError:
        return "no record"
    return str(record.get("escalation")) if isinstance(record, dict) else "no record"


def told(
    conversation: Sequence[Mapping[str, Any]], shown: Sequence[Sequence[Mapping[str, Any]]] = ()
) -> list[dict[str, Any]]:
    """The same request with the instructions in the system message, and examples before the customer's message."""
    examples = [dict(message) for example in shown for message in example[1:]]
    return [{"role": "system", "content": lesson_06.INSTRUCTIONS}, *examples, dict(conversation[1])]


class Client:
    """The calls that every run makes."""

    def __init__(self, server: Any, seed: int) -> None:
        self.client = server.client(timeout=600)
        self.base = self.client.models.list().data[0].id
        self.task = load_task("support_tickets", list(lesson_06.FIELDS))
        self.seed = seed

    def upload(self, rows: list[dict]) -> str:
        """Id of a training file of these rows."""
        data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
        return self.client.files.create(file=("rows.jsonl", data), purpose="fine-tune").id

    def job(
        self, rows: list[dict], held_out: list[dict] | None = None, kind: str = "supervised", model: str = "", **settings
    ):
        """A job that has succeeded."""
        asked = {"validation_file": self.upload(held_out)} if held_out else {}
        job = self.client.fine_tuning.jobs.create(
            model=model or self.base, training_file=self.upload(rows), seed=self.seed,
            method={"type": kind, kind: {"hyperparameters": settings}}, **asked,
        )  # fmt: skip
        while job.status in ("validating_files", "queued", "running"):
            time.sleep(1)
            job = self.client.fine_tuning.jobs.retrieve(job.id)
        if job.status != "succeeded":
            raise RuntimeError(f"{job.status}: {job.error}")
        return job

    def answers(self, model: str, conversations: list, **more: Any) -> list[str]:
        """Answers, eight requests at once; greedy unless `more` says otherwise."""

        def one(conversation):
            asked = {"temperature": 0, "max_tokens": 40, **more}
            made = self.client.chat.completions.create(model=model, messages=conversation, **asked)
            return made.choices[0].message.content or ""

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, conversations))

    def scores(self, model: str, change=lambda conversation: conversation, **more: Any) -> dict:
        """Shares of the test messages, with their intervals; `change` makes the prompt of each."""
        return self.judged(self.answers(model, [change(conversation) for conversation in self.task.prompts()], **more))

    def judged(self, answers: list[str]) -> dict:
        """Shares of the test messages that are answered rightly, with their intervals."""
        found = self.task.evaluate(answers)
        named = {"valid": found.valid, **found.exact, "both": found.enumerations}
        return {name: [score.value, score.low, score.high] for name, score in named.items()}

    def curve(self, job: Any) -> dict:
        """Losses at the end of each epoch."""
        events = [
            event.data for event in self.client.fine_tuning.jobs.list_events(job.id, limit=100) if event.type == "metrics"
        ]
        ends = sorted((data for data in events if "full_valid_loss" in data), key=lambda data: data["step"])
        return {"trained": [d["train_loss"] for d in ends], "held": [d["full_valid_loss"] for d in ends]}


def rows_of(conversations: list) -> list[dict]:
    """Training rows of conversations."""
    return [{"messages": conversation} for conversation in conversations]


def one_seed(seed: int) -> dict:
    """All runs of a seed: name → scores; and the curve that turns."""
    with tempfile.TemporaryDirectory() as folder, local_server(Path(folder) / "service", rows=8) as server:
        client = Client(server, seed)
        short = [c for c in client.task.train if len(c[1]["content"].split()) <= lesson_06.LONGEST]
        random.Random(seed).shuffle(short)
        train, other, shown = short[:EXAMPLES], short[EXAMPLES : 2 * EXAMPLES], short[-max(SHOTS) :]
        held_out = rows_of(client.task.validation[:VALIDATION])
        found: dict[str, Any] = {}

        def keep(name: str, scores: dict) -> None:
            found[name] = scores
            print(seed, name, {key: round(value[0], 3) for key, value in scores.items()}, flush=True)

        job = client.job(rows_of(train), held_out)
        tuned = job.fine_tuned_model
        keep("base, not told", client.scores(client.base))
        keep("base, told the form", client.scores(client.base, told))
        for shots in SHOTS:
            keep(
                f"base, told and {shots} examples",
                client.scores(client.base, lambda c, n=shots: told(c, shown[:n])),
            )
        form = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": client.task.schema}}
        keep("base, form forced", client.scores(client.base, response_format=form))
        keep("tuned, not told", client.scores(tuned))
        keep("tuned, form forced", client.scores(tuned, response_format=form))
        for number, checkpoint in enumerate(reversed(client.client.fine_tuning.jobs.checkpoints.list(job.id).data), 1):
            keep(f"tuned, epoch {number}", client.scores(checkpoint.fine_tuned_model_checkpoint))
        pairs = client.job(pairs_of_forms(other, PAIRS), kind="dpo", model=tuned, n_epochs=1, batch_size=4)
        keep("tuned, and DPO", client.scores(pairs.fine_tuned_model))
        written = client.answers(tuned, [conversation[:-1] for conversation in other])
        copied = [[*c[:-1], {"role": "assistant", "content": text}] for c, text in zip(other, written) if text.strip()]
        keep("distilled from its answers", client.scores(client.job(rows_of(copied), held_out).fine_tuned_model))
        keep("trained on people's answers to the same", client.scores(client.job(rows_of(other), held_out).fine_tuned_model))
        few = client.job(rows_of(train[:FEW]), held_out, n_epochs=MANY, batch_size=4, learning_rate_multiplier=4)
        return {"scores": found, "curve": client.curve(job), "turn": client.curve(few)}


def record_seeds(name: str, seeds: list[int], one: Callable[[int], dict], shared: dict[str, Any]) -> None:
    """Run the seeds and write a record of all that are done, those of other days among them.

    A seed is kept as soon as it is done (build/hosted), so that a long benchmark can be cut off and goes on.
    """
    PARTS.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        device = hardware.detect()
        measured = {
            "date": date.today().isoformat(),
            "machine": f"{device.name}, {device.cores} cores",
            "dtype": device.dtype,
        }
        made = json.dumps(one(seed) | {"measured": measured})
        (PARTS / f"{name}-{seed}.json").write_text(made)
        done = [seed for seed in SEEDS if (PARTS / f"{name}-{seed}.json").exists()]
        results = [json.loads((PARTS / f"{name}-{seed}.json").read_text()) for seed in done]
        write_results(name, {"seeds": done, **shared, "runs": results})


def kinds_of_pairs(seed: int) -> dict:
    """A job on rows; on top of it jobs on pairs of three kinds, and two of them again with steps a tenth as large."""
    with tempfile.TemporaryDirectory() as folder, local_server(Path(folder) / "service", rows=8) as server:
        client = Client(server, seed)
        short = [c for c in client.task.train if len(c[1]["content"].split()) <= lesson_06.LONGEST]
        random.Random(seed).shuffle(short)
        train, other = short[:EXAMPLES], short[EXAMPLES : 2 * EXAMPLES]
        held_out = rows_of(client.task.validation[:VALIDATION])
        job = client.job(rows_of(train), held_out)
        asked = [conversation[:-1] for conversation in other]
        written = client.answers(job.fine_tuned_model, asked)
        sampled = client.answers(job.fine_tuned_model, asked, temperature=1)
        kinds = {
            ONE_RECORD: pairs_of_forms(other, PAIRS),
            OWN_MISTAKES: own_mistakes(other, written, PAIRS),
            BOTH_WAYS: both_ways(own_mistakes(other, sampled, len(other)), PAIRS),
        }
        found: dict[str, Any] = {"models": {}, "pairs": {name: len(rows) for name, rows in kinds.items()}}

        def keep(name: str, model: str, done: Any = None) -> None:
            answers = client.answers(model, client.task.prompts())
            escalations = [escalation(answer) for answer in answers]
            found["models"][name] = {"scores": client.judged(answers), "escalations": escalations}
            if done is not None:
                events = client.client.fine_tuning.jobs.list_events(done.id, limit=100)
                found["models"][name]["losses"] = [row["train_loss"] for row in metrics(events)]
            both = found["models"][name]["scores"]["both"][0]
            print(seed, name, both, escalations.count("none"), flush=True)

        keep(TUNED, job.fine_tuned_model)
        jobs = [(name, rows, {}) for name, rows in kinds.items()]
        # Is it the pairs, or how far a step goes?
        small = {"learning_rate_multiplier": 0.1}
        jobs += [(with_small_steps(name), kinds[name], small) for name in TRIED_WITH_SMALL_STEPS]
        for name, rows, more in jobs:
            preferred = client.job(rows, kind="dpo", model=job.fine_tuned_model, n_epochs=1, batch_size=4, **more)
            keep(name, preferred.fine_tuned_model, preferred)
        return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("runs", "pairs"))
    parser.add_argument("seeds", nargs="*", type=int)
    options = parser.parse_args()
    if options.what == "pairs":
        name, shared, one = "host-preferences", {"examples": EXAMPLES, "pairs": PAIRS}, kinds_of_pairs
        record_seeds(name, options.seeds or list(SEEDS), one, shared)
    else:
        shared = {"examples": EXAMPLES, "validation": VALIDATION, "pairs": PAIRS, "few": FEW}
        record_seeds("hosted", options.seeds or list(SEEDS), one_seed, shared)
