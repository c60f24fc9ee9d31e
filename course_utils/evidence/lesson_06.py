"""What lesson 06 shows and doesn't compute itself: recorded ways to a record, and what is known of the hosts."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from course_utils import assets
from course_utils.data_prep import load_task
from course_utils.errors import CourseError
from course_utils.evaluation import Score, over_seeds, proportion
from course_utils.openai_server.hosts import HOSTS
from course_utils.show.tables import Table

# The set-up that the lesson's reader runs, and `benchmarks/hosted.py` and `benchmarks/laptop_service.py` record.
FIELDS = ("category", "escalation")
LONGEST = 25  # words in a training message, so that a CPU is quick enough
INSTRUCTIONS = """Triage this customer message. Answer with one JSON object on one line and nothing else: no explanation, no
Markdown. Two fields, both required.
"category": "delivery", "billing", "returns", "defect", "account" or "question".
"escalation": "danger" if somebody could be hurt, "misuse" for fraud, "money" for a large sum, "legal" for a threat of court,
"deadline" if it is urgent by a date, else "none"."""

# What the table calls a way → what `hosted` and `laptop-service` call it; None where one of them hasn't measured it.
WAYS = {
    "instructions": ("base, told the form", "told"),
    "form forced, no instructions": ("base, form forced", None),
    "instructions, form forced": (None, "told, form forced"),
    "instructions and 8 examples": ("base, told and 8 examples", "told and 8 examples"),
    "instructions, 8 examples, form forced": (None, "told and 8 examples, form forced"),
    "instructions and the 8 most similar": (None, "told and 8 retrieved"),
    "trained on 240 rows": ("tuned, not told", "tuned"),
}
MEASURES = {"valid records": "valid", "category right": "category", "escalation right": "escalation"}
BOTH = "both right"
COMMONEST = "no model: always the most common pair"
SMALL, LARGER = "SmolLM2-135M", {"0.5B": "Qwen2.5-Coder-0.5B", "1.5B": "Qwen2.5-Coder-1.5B"}


def commonest_pair(references: Sequence[Mapping[str, Any]]) -> Score:
    """Return how often the most common combination of all fields is right: what a program reaches that reads nothing."""
    pairs = [json.dumps(reference, sort_keys=True) for reference in references]
    commonest = Counter(pairs).most_common(1)[0][0]
    return proportion([pair == commonest for pair in pairs])


def rivals() -> Table:
    """Show for each recorded model and way how many of the hundred test messages come out right, beside reading nothing."""
    hosted, rows = assets.read_record("hosted"), dict[str, dict[str, Any]]()
    for way, (name, _) in WAYS.items():
        if name:
            shares = {measure: _pooled(name, key) for measure, key in (MEASURES | {BOTH: "both"}).items()}
            rows[f"{SMALL}, {way}"] = {"runs": len(hosted["runs"]), **shares}
    dates = [hosted["date"], *_larger(rows)]
    references = load_task("support_tickets", list(FIELDS)).references()
    rows[COMMONEST] = {BOTH: commonest_pair(references)}
    caption = f"{len(references)} test messages, in brackets 95 % intervals; recorded {' and '.join(dates)}"
    return Table(rows, caption, "model and way", "")


def _larger(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Add the rows of the larger models, if there is a record of them, and yield its date."""
    try:
        record = assets.read_record("laptop-service")
    except CourseError:
        return
    for size, model in LARGER.items():
        for way, (_, name) in WAYS.items():
            runs = [record["runs"].get(f"{size} | {name} | {seed}") for seed in record["seeds"]]
            right = [run["right"] for run in runs if run]
            if right:
                measures = MEASURES | {BOTH: "all fields"}
                shares = {measure: over_seeds([run[key] for run in right]) for measure, key in measures.items()}
                rows[f"{model}, {way}"] = {"runs": len(right), **shares}
    yield record["date"]


def _pooled(name: str, key: str) -> Score:
    """The mean of several runs on the same 100 messages, with the interval of that many: runs add no messages."""
    runs = assets.read_record("hosted")["runs"]
    right = round(100 * statistics.mean(run["scores"][name][key][0] for run in runs))
    return proportion([True] * right + [False] * (100 - right))


def hosts_table() -> Table:
    """Show what each host trains, what it gives, how it charges, and until when its models answer."""
    rows = {}
    for host in HOSTS.values():
        rows[host.name] = {
            "trains, for example": host.base_model,
            "methods": ", ".join(host.methods) or "none here",
            "gives you the weights": "yes" if host.weights else "no",
            "answers once you have": host.deploy,
            "charges": host.charges,
            "answers until": host.ends,
            "read": f"{host.date:%Y-%m}, {host.source}",
        }
    return Table(rows, "Hosts that the official client can drive", "host", "")


def differences_table() -> Table:
    """Show what the program meets at each host, and further end dates."""
    rows = {
        host.name: {"calls that work": host.jobs, "what differs": "; ".join(host.differences), "other dates": host.dates}
        for host in HOSTS.values()
    }
    return Table(rows, "What differs when the same program goes to another host", "host", "")
