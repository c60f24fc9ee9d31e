"""What lesson 06 shows: jobs of a hosted API, their curves and files, what they cost, and what leaving takes."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from course_utils import assets, charts, costs, facts
from course_utils.evaluation import Score, proportion
from course_utils.evidence import lesson_05
from course_utils.show.tables import Table

if TYPE_CHECKING:
    from openai import OpenAI

    from course_utils.figures import Figure

FIELDS = ("category", "escalation")
LONGEST = 25  # words in a training message, so that a CPU is quick enough
INSTRUCTIONS = """Triage this customer message. Answer with one JSON object on one line and nothing else: no explanation, no
Markdown. Two fields, both required.
"category": "delivery", "billing", "returns", "defect", "account" or "question".
"escalation": "danger" if somebody could be hurt, "misuse" for fraud, "money" for a large sum, "legal" for a threat of court,
"deadline" if it is urgent by a date, else "none"."""
SHOWN_MODEL = "gpt-4.1-mini"  # whose prices the lesson works with
UNTUNED = costs.UNTUNED[SHOWN_MODEL]
TODAY_SMALL = "gpt-6-luna"  # a small model of today, prompted
# Tokens that the host adds: three for each message and one for its role, three to begin the answer (OpenAI's cookbook,
# "How to count tokens with tiktoken").
PER_MESSAGE, TO_ANSWER = 4, 3
TUNED_PROMPT = "four words (tuned)"
HOSTING = facts.table("prices")["azure-hosting"]  # dollars for an hour of a tuned model that is kept ready
HOSTING_HOUR, HOSTING_READ, HOURS_A_MONTH = HOSTING["hour"], HOSTING["date"], 730
BOTH = "both fields right"  # a column
# The models of `benchmarks/hosted.py pairs`.
TUNED, ONE_RECORD = "tuned, before any pairs", "pairs that punish one record"
OWN_MISTAKES, BOTH_WAYS = "pairs of its own mistakes", "as many for “none” as against it"
SMALL_STEPS = ", steps a tenth as large"
TRIED_WITH_SMALL_STEPS = (ONE_RECORD, OWN_MISTAKES)


# -- records ----------------------------------------------------------------------------------------------------------------


def pooled(shares: Iterable[float], each: int = 100) -> Score:
    """The mean of several runs on the same so many messages, with the interval of that many: runs add no messages."""
    right = round(each * float(np.mean(list(shares))))
    return proportion([True] * right + [False] * (each - right))


def before_and_after() -> Figure:
    """Recorded: both fields right before the job, after one epoch and at its end, beside a program that reads nothing.

    Three jobs with 100 examples of the whole record and 3 epochs.
    """
    runs = assets.read_record("service-lifecycle")["runs"]
    mean = lambda model: 100 * float(np.mean([run["scores"][model]["all enumeration fields right"][0] for run in runs]))  # noqa: E731
    rows = {
        "the model before the job": mean("base"),
        lesson_05.COMMONEST: 100 * lesson_05.commonest_pair(_task().references()).value,
        "after one epoch": mean("checkpoint 1"),
        "after three epochs": mean("last"),
    }
    title = "A hundred examples: the same model before and after a job, asked in the same four words"
    unit = f"category and escalation both right, % of 100 test messages, mean of {len(runs)} jobs"
    return charts.bars(rows, title, unit, decimals=0, highlight=["after three epochs"])


def recorded(names: Sequence[str], caption: str, baseline: bool = False) -> Table:
    """Recorded scores of some systems, all runs in one pool.

    The runs answer the same messages, so the intervals are a little too narrow.

    Args:
        names: of the systems, as `benchmarks/hosted.py runs` calls them.
        caption: what is compared.
        baseline: whether a last row shows the scores of a program that reads nothing.
    """
    record, columns = assets.read_record("hosted"), {"valid": "valid records", "category": "category right", "both": BOTH}
    rows = {
        name: {column: pooled(run["scores"][name][key][0] for run in record["runs"]) for key, column in columns.items()}
        for name in names
    }
    if baseline:
        truth = _task().references()
        pair = json.loads(Counter(json.dumps(row) for row in truth).most_common(1)[0][0])
        rows[lesson_05.COMMONEST] = {
            "valid records": proportion([True] * len(truth)),
            "category right": proportion([row["category"] == pair["category"] for row in truth]),
            BOTH: lesson_05.commonest_pair(truth),
        }
    return Table(rows, f"{caption} ({_recorded_on(record)})", "model", "")


def _recorded_on(record: Mapping[str, Any]) -> str:
    seeds = len(record["seeds"])
    runs = f"mean of {seeds} runs, the same 100 messages" if seeds > 1 else "one run, 100 messages"
    return f"recorded {record['date']}: {runs}"


# -- files and jobs ---------------------------------------------------------------------------------------------------------


def short_rows(conversations: Sequence[list[dict[str, Any]]], number: int) -> list[dict[str, Any]]:
    """The first rows whose message has at most `LONGEST` words, each {"messages": conversation}."""
    short = [conversation for conversation in conversations if len(conversation[1]["content"].split()) <= LONGEST]
    return [{"messages": conversation} for conversation in short[:number]]


def learned(messages: Sequence[Mapping[str, Any]]) -> Table:
    """Which messages of a training row the loss is taken on, by their roles and weights."""
    rows = {}
    for number, message in enumerate(messages):
        weight = message.get("weight")
        is_learned = message["role"] == "assistant" and weight != 0
        rows[f"message {number}"] = {
            "role": message["role"],
            "text": message.get("content") or json.dumps(message.get("tool_calls")),
            "weight": "–" if weight is None else str(weight),
            "the model": "learns to write it" if is_learned else "only reads it",
        }
    return Table(rows, f"What a row of {len(messages)} messages teaches", "message", "")


def _pair(conversation: Sequence[dict[str, Any]], rejected: str) -> dict[str, Any]:
    """A preference as the API takes it: the conversation's last message, and what is rejected in its place."""
    return {
        "input": {"messages": conversation[:-1]},
        "preferred_output": [conversation[-1]],
        "non_preferred_output": [{"role": "assistant", "content": rejected}],
    }


def pairs(conversations: Sequence[list[dict[str, Any]]], number: int) -> list[dict[str, Any]]:
    """Preferences as the API takes them: the right record, and the form as it opens, where that is wrong."""
    left_open = json.dumps(lesson_05.LEFT_EMPTY)
    return own_mistakes(conversations, [left_open] * len(conversations), number)


def own_mistakes(conversations: Sequence[list[dict[str, Any]]], answers: Sequence[str], number: int) -> list[dict[str, Any]]:
    """Preferences as the API takes them: the right record, and what a model has answered instead, where that is wrong.

    Args:
        conversations: each ends with the right record.
        answers: the model's, to the same messages.
        number: of pairs, at most.
    """
    answered = [(chat, answer.strip()) for chat, answer in zip(conversations, answers, strict=True)]
    return [_pair(chat, answer) for chat, answer in answered if answer not in ("", chat[-1]["content"])][:number]


def with_small_steps(name: str) -> str:
    """A job's name if its learning-rate multiplier is a tenth of what the host would take."""
    return name + SMALL_STEPS


def preferences() -> Table:
    """Recorded: a tuned model before and after DPO jobs on several kinds of pairs, and how often each says "none"."""
    record = assets.read_record("host-preferences")
    columns, none = (
        {"category": "category right", "escalation": "escalation right", "both": BOTH},
        "says “none”, % of answers",
    )
    rows: dict[str, dict[str, Any]] = {}
    for name in (TUNED, ONE_RECORD, OWN_MISTAKES, BOTH_WAYS, *map(with_small_steps, TRIED_WITH_SMALL_STEPS)):
        models = [run["models"][name] for run in record["runs"]]
        rows[name] = {column: pooled(model["scores"][key][0] for model in models) for key, column in columns.items()}
        shares = [model["escalations"].count("none") / len(model["escalations"]) for model in models]
        rows[name][none] = round(100 * float(np.mean(shares)))
        number = record["runs"][0]["pairs"].get(name.removesuffix(SMALL_STEPS))
        rows[name] |= {"pairs": number} if number else {}
    said = [row["escalation"] == "none" for row in _task().references()]
    rows["the right answers"] = {none: round(100 * float(np.mean(said)))}
    return Table(rows, f"Jobs of preferences on the same model ({_recorded_on(record)})", "model", "")


def recorded_turn() -> Figure:
    """Recorded: training and validation loss at the end of each epoch of a job that trains too long."""
    record = assets.read_record("hosted")
    run = record["runs"][0]["turn"]
    lowest, number = int(np.argmin(run["held"])) + 1, len(run["held"])
    title = f"Recorded, {record['few']} examples, {number} epochs: validation is lowest after epoch {lowest}, then it rises"
    lines = {"training": (range(1, number + 1), run["trained"]), "validation": (range(1, number + 1), run["held"])}
    return charts.lines(lines, title, "epochs", "loss (nats per token)")


def _task() -> Any:
    from course_utils.data_prep import load_task

    return load_task("support_tickets", list(FIELDS))


def metrics(events: Iterable[Any]) -> list[dict[str, Any]]:
    """The numbers of a job's metrics events, in the order of the steps."""
    return sorted((dict(event.data) for event in events if event.type == "metrics"), key=lambda data: data["step"])


def epochs(events: Iterable[Any]) -> dict[int, dict[str, float]]:
    """The step that ends each epoch → mean training loss of the epoch's steps, and validation loss at its end."""
    by_step: dict[int, dict[str, float]] = {}
    losses: list[float] = []
    for data in metrics(events):
        losses.append(data["train_loss"])
        if "full_valid_loss" in data:
            by_step[data["step"]] = {"training loss": float(np.mean(losses)), "validation loss": data["full_valid_loss"]}
            losses = []
    return by_step


def curve(events: Iterable[Any], title: str, top: float | None = None) -> Figure:
    """Training and validation loss of a job, per token; steps whose loss is above `top` are not drawn."""
    rows = metrics(events)
    held_out = {data["step"]: data["valid_loss"] for data in rows if "valid_loss" in data}
    return charts.loss_curve([data["train_loss"] for data in rows], title, held_out, top)


def pair_curve(events: Iterable[Any], title: str) -> Figure:
    """The loss of a DPO job, which is one per pair and not per token, beside its value before the first step."""
    rows = metrics(events)
    steps = [data["step"] for data in rows]
    lines = {"loss": (steps, [data["train_loss"] for data in rows]), "ln 2": (steps, [float(np.log(2))] * len(steps))}
    return charts.lines(lines, title, "step", "loss (nats per pair)")


def epochs_table(events: Iterable[Any]) -> Table:
    """The losses of each epoch."""
    rows = {f"epoch {number}": dict(losses) for number, losses in enumerate(epochs(events).values(), 1)}
    best = min(rows, key=lambda name: rows[name]["validation loss"])
    return Table(rows, "Losses of each epoch (nats per token)", "after", best)


def events_table(events: Iterable[Any], number: int = 4) -> Table:
    """The first and the last messages of a job, oldest first; `events` come newest first, as the API lists them."""
    everything = list(events)[::-1]
    messages = [event for event in everything if event.type == "message"]
    shown = [*messages[:number], *messages[-number:]] if len(messages) > 2 * number else messages
    rows = {f"event {n}": {"level": event.level, "message": event.message} for n, event in enumerate(shown, 1)}
    return Table(rows, f"{len(shown)} of the job's {len(everything)} events, the oldest first", "event", "")


def jobs_table(jobs: Iterable[Any]) -> Table:
    """Jobs as a list that people read."""
    rows = {}
    for job in jobs:
        rows[job.id] = {
            "status": job.status,
            "seconds": job.finished_at - job.created_at if job.finished_at else None,
            "tokens trained": job.trained_tokens,
            "method": job.method.type if job.method else "–",
            "metadata": ", ".join(f"{key}={value}" for key, value in (job.metadata or {}).items()) or "–",
            "why it failed": job.error.code if job.error and job.error.code else "–",
        }
    return Table(rows, "Jobs on this host, the newest first", "job", "")


def checkpoints_table(checkpoints: Iterable[Any]) -> Table:
    """The checkpoints that a job has kept."""
    rows = {}
    for checkpoint in sorted(checkpoints, key=lambda c: c.step_number):
        rows[f"step {checkpoint.step_number}"] = {
            "a model by this name": checkpoint.fine_tuned_model_checkpoint,
            "validation loss": checkpoint.metrics.full_valid_loss,
        }
    return Table(rows, "Checkpoints that were kept", "after", "")


def results_table(client: OpenAI, job: Any, number: int = 3) -> Table:
    """The first rows of a job's result file and its last one."""
    data = client.files.content(job.result_files[0]).read()
    text = (data if b"," in data else base64.b64decode(data)).decode("utf-8")
    file_rows = list(csv.DictReader(io.StringIO(text)))
    shown = [*file_rows[:number], file_rows[-1]]
    rows = {f"step {row['step']}": {name: value or "" for name, value in row.items() if name != "step"} for row in shown}
    return Table(rows, f"Four of the {len(file_rows)} rows of the result file", "after", "")


# -- money ------------------------------------------------------------------------------------------------------------------


def count(text: str, kind: str) -> float:
    """The host's tokens of a text, estimated from its characters (`benchmarks/hosted.py tokens`).

    Args:
        text: the text.
        kind: "message", "answer" or "instructions", which differ in characters per token.
    """
    return len(text) * float(assets.read_record("host-tokens")["kinds"][kind]["per character"])


def row_tokens(row: Mapping[str, Any]) -> float:
    """The host's tokens of a training row of three messages."""
    kinds = ("instructions", "message", "answer")
    return sum(count(m["content"], kind) + PER_MESSAGE for m, kind in zip(row["messages"], kinds)) + TO_ANSWER


def mean_answer(rows: Sequence[Mapping[str, Any]]) -> float:
    """The host's tokens of an answer, mean over training rows."""
    return float(np.mean([count(row["messages"][2]["content"], "answer") for row in rows]))


def how_counted() -> str:
    """How the host's tokens are counted, with the error of the estimate."""
    record = assets.read_record("host-tokens")
    off = record["kinds"]["message"]
    return (
        f"estimated from characters; for a file of 60 messages the estimate is off by at most "
        f"{100 * off['off, 60 texts']:.0f} % in 95 of 100 cases, for one message by {100 * off['off, one text']:.0f} % "
        f"(recorded {record['date']} with {record['counted with']})"
    )


def prompt_sizes(
    conversations: Sequence[Sequence[Mapping[str, Any]]], shown: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The host's tokens of three prompts, means over some messages: four words, instructions, instructions with examples.

    Args:
        conversations: system, user and perhaps assistant message.
        shown: training rows that stand as examples in the longest prompt.
    """
    messages = [count(conversation[1]["content"], "message") for conversation in conversations]
    message_tokens = float(np.mean(messages)) + 2 * PER_MESSAGE + TO_ANSWER
    instructed_tokens = message_tokens + count(INSTRUCTIONS, "instructions")
    examples = sum(
        count(e["messages"][1]["content"], "message") + count(e["messages"][2]["content"], "answer") + 2 * PER_MESSAGE
        for e in shown
    )
    return {
        TUNED_PROMPT: message_tokens + count(conversations[0][0]["content"], "instructions"),
        "instructions": instructed_tokens,
        f"instructions and {len(shown)} examples": instructed_tokens + examples,
    }


def cost_of_thousand(prompt: float, answer: float, price: costs.TokenPrice, message: float = 45.0) -> float:
    """Dollars for a thousand requests; the beginning of a long prompt, all but the message, is cached where it may be."""
    cached = 0.0
    if price.cached_input is not None and prompt >= price.cache_from:
        cached = max(0.0, prompt - message)
    plain = price.cached_input or 0.0
    return ((prompt - cached) * price.input + cached * plain + answer * price.output) / 1e3


def tuned_price(model: str = SHOWN_MODEL) -> costs.TokenPrice:
    """What a fine-tuned model costs per million tokens."""
    return costs.PRICES[model]


def turning_points(
    short: float,
    answer: float,
    untuned: costs.TokenPrice = UNTUNED,
    tuned: costs.TokenPrice | None = None,
    up_to: int = 6000,
) -> list[int]:
    """Prompt lengths at which the untuned model's request becomes more expensive than the tuned one's, or cheaper again.

    Args:
        short: tokens of the tuned model's prompt.
        answer: tokens of an answer.
        untuned, tuned: prices; None for `SHOWN_MODEL` tuned.
        up_to: the longest prompt that is looked at.

    Returns:
        At the first one it becomes more expensive, at the second cheaper again, and so on; empty if it stays cheaper.
    """
    limit = cost_of_thousand(short, answer, tuned or tuned_price())
    lengths, dearer = [], False
    for prompt in range(int(short), up_to):
        if (cost_of_thousand(prompt, answer, untuned) > limit) != dearer:
            dearer = not dearer
            lengths.append(prompt)
    return lengths


def price_figure(sizes: Mapping[str, float], answer: float, up_to: int = 2400) -> Figure:
    """Dollars for a thousand requests by the length of the prompt: tuned with the short one, untuned with any."""
    short = sizes[TUNED_PROMPT]
    lengths = sorted({*range(int(short), up_to, 260), 1023, 1024, up_to, *(round(n) for n in sizes.values())})
    level = cost_of_thousand(short, answer, tuned_price())
    lines = {
        f"{SHOWN_MODEL}, tuned": (lengths, [level] * len(lengths)),
        f"{SHOWN_MODEL}, untuned": (lengths, [cost_of_thousand(n, answer, UNTUNED) for n in lengths]),
        f"{TODAY_SMALL}, untuned": (lengths, [cost_of_thousand(n, answer, costs.FRONTIER[TODAY_SMALL]) for n in lengths]),
    }
    first = turning_points(short, answer)[0]
    title = f"Beside the same model untuned, tuning is cheaper from a prompt of {first} tokens on"
    return charts.lines(
        lines,
        title,
        "tokens in the untuned model's prompt",
        "dollars for 1,000 requests",
        notes=[(f"{first} tokens", first, level)],
    )


def price_table(sizes: Mapping[str, float], answer: float) -> Table:
    """What a thousand requests cost with each prompt and price."""
    rows = {}
    for name, size in sizes.items():
        is_tuned = name == TUNED_PROMPT
        rows[name] = {
            "tokens in the prompt": round(size),
            f"{SHOWN_MODEL} tuned, $": cost_of_thousand(size, answer, tuned_price()) if is_tuned else None,
            f"{SHOWN_MODEL} untuned, $": None if is_tuned else cost_of_thousand(size, answer, UNTUNED),
            f"{TODAY_SMALL} untuned, $": None if is_tuned else cost_of_thousand(size, answer, costs.FRONTIER[TODAY_SMALL]),
        }
    prices = ((f"{SHOWN_MODEL} tuned", tuned_price()), ("untuned", UNTUNED), (TODAY_SMALL, costs.FRONTIER[TODAY_SMALL]))
    per_million = "; ".join(f"{name} {price.input:.2f} and {price.output:.2f}" for name, price in prices)
    caption = (
        f"A thousand requests, answers of {answer:.0f} tokens, at these dollars for a million tokens read and written: "
        f"{per_million} (prices of {UNTUNED.date} to {prices[-1][1].date})"
    )
    return Table({name: _cents(row) for name, row in rows.items()}, caption, "prompt", "")


def hosting_table(
    sizes: Mapping[str, float], answer: float, requests: Sequence[int] = (10_000, 100_000, 1_000_000, 10_000_000)
) -> Table:
    """Dollars for a thousand requests where a tuned model is paid for by the hour and its tokens cost what the base's do.

    Args:
        sizes: `prompt_sizes`.
        answer: tokens of an answer.
        requests: how many a month.
    """
    rows = {}
    longest = max(sizes, key=lambda name: sizes[name])
    for number in requests:
        hours = HOSTING_HOUR * HOURS_A_MONTH / number * 1e3
        rows[f"{number:,}"] = {
            "hours, $": hours,
            "tuned, hours and tokens, $": hours + cost_of_thousand(sizes[TUNED_PROMPT], answer, UNTUNED),
            "untuned, instructions, $": cost_of_thousand(sizes["instructions"], answer, UNTUNED),
            f"untuned, {longest}, $": cost_of_thousand(sizes[longest], answer, UNTUNED),
        }
    caption = (
        f"A thousand requests of {SHOWN_MODEL} at {HOSTING_HOUR:.2f} dollars an hour (Azure's example of {HOSTING_READ}) "
        f"and {UNTUNED.input:.2f} and {UNTUNED.output:.2f} dollars for a million tokens"
    )
    return Table({name: _cents(row) for name, row in rows.items()}, caption, "requests a month", "")


def _cents(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}


def training_table(rows: Sequence[Mapping[str, Any]], passes: int) -> Table:
    """What a job on these rows costs at each price that is known."""
    tokens = sum(row_tokens(row) for row in rows)
    table = {}
    for name, price in costs.PRICES.items():
        closes = costs.NO_NEW_JOBS.get(name, (None,))[0]
        table[name] = {
            "host": "OpenAI" if name.startswith("gpt-") else "Tinker",
            "$ per million tokens": float(price.training or 0),
            f"this job, {passes} epochs, $": f"{costs.training_cost(round(tokens), passes, name):.3f}",
            "new jobs until": closes or "no date known",
            "price read on": price.date,
        }
    return Table(table, f"{len(rows)} rows, {tokens:,.0f} tokens, {how_counted()}", "model", "")


# -- hosts ------------------------------------------------------------------------------------------------------------------


def hosts_table(hosts: Mapping[str, Any]) -> Table:
    """Hosts of the same API: what they train, whether they give the weights, until when their models answer."""
    rows = {}
    for host in hosts.values():
        rows[host.name] = {
            "models tuned from, for example": host.base_model,
            "methods": ", ".join(host.methods),
            "gives you the weights": "yes" if host.weights else "no",
            "these answer until": host.ends,
            "where and when we read it": f"{host.date:%Y-%m}, {host.source}",
        }
    return Table(rows, "Hosts of the same API", "host", "")


def differences_table(hosts: Mapping[str, Any]) -> Table:
    """What code written for OpenAI meets elsewhere."""
    rows = {
        host.name: {
            "base URL": host.base_url or "it says when it starts",
            "end dates": host.dates,
            "key in": host.key_variable or "it says when it starts",
            "calls that work": host.jobs,
            "what differs": "; ".join(host.differences),
        }
        for host in hosts.values()
    }
    return Table(rows, "What differs when the same code goes to another host", "host", "")


def days_left(host: Any, today: date | None = None) -> int:
    """Days until a host's fine-tuned models stop answering; negative when they have."""
    return (host.ends - (today or date.today())).days
