"""What lesson 06 shows and doesn't compute itself: recorded ways to a record, and what is known of the hosts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from course_utils import assets
from course_utils.data_prep import load_task
from course_utils.evaluation import Score, over_seeds, proportion
from course_utils.evidence import MODELS
from course_utils.openai_server import HOSTS
from course_utils.show.tables import Table

# The set-up that the lesson's reader runs, and `benchmarks/hosted.py` and `benchmarks/laptop_service.py` record.
FIELDS = ("category", "escalation")
LONGEST = 25  # words in a training message, so that a CPU is quick enough
INSTRUCTIONS = """Triage this customer message. Answer with one JSON object on one line and nothing else, in this form:
{"category": "...", "escalation": "..."}
category is one of: delivery, billing, returns, defect, account, question.
escalation is "danger" if somebody could be hurt, "misuse" for fraud, "money" for a large sum, "legal" for a threat of court,
"deadline" if it is urgent by a date, and "none" for everything else, which is most messages."""

# What the table calls a way → what `laptop-service` calls it.
WAYS = {
    "instructions": "told",
    "instructions, form forced": "told, form forced",
    "instructions and the 8 most similar": "told and 8 retrieved",
    "instructions, 8 most similar, form forced": "told and 8 retrieved, form forced",
    "trained on 240 rows": "tuned",
}
BOTH = "both right"
MEASURES = {"valid records": "valid", "category right": "category", "escalation right": "escalation", BOTH: "all fields"}
COMMONEST = "no model: always the most common pair"


def commonest_pair(references: Sequence[Mapping[str, Any]]) -> Score:
    """Return how often the most common combination of all fields is right: what a program reaches that reads nothing."""
    pairs = [json.dumps(reference, sort_keys=True) for reference in references]
    commonest = Counter(pairs).most_common(1)[0][0]
    return proportion([pair == commonest for pair in pairs])


def rivals() -> Table:
    """Show for each recorded model and way how many of the hundred test messages come out right, beside reading nothing."""
    record, rows = assets.read_record("laptop-service"), dict[str, dict[str, Any]]()
    for (size, model), (way, name) in product(MODELS.items(), WAYS.items()):
        runs = [record["runs"].get(f"{size} | {name} | {seed}") for seed in record["seeds"]]
        right = [run["right"] for run in runs if run]
        if right:
            shares = {measure: over_seeds([run[key] for run in right]) for measure, key in MEASURES.items()}
            rows[f"{model}, {way}{f', {len(right)} runs' if len(right) > 1 else ''}"] = shares
    task = load_task("support_tickets", list(FIELDS))
    references, usual = task.references(), task.most_common()
    alone = {measure: usual[key] for measure, key in MEASURES.items() if key in FIELDS}
    rows[COMMONEST] = alone | {BOTH: commonest_pair(references)}
    return Table(
        rows, f"{len(references)} test messages, in brackets 95 % intervals; recorded {record['date']}", "model and way", ""
    )


def hosts_table() -> Table:
    """Show each host's methods, what it gives, how it charges, and until when its models answer."""
    rows = {}
    for host in HOSTS.values():
        rows[host.name] = {
            "methods": ", ".join(host.methods) or "none here",
            "gives you the weights": "yes" if host.weights else "no",
            "answers once you have": host.deploy,
            "charges": host.charges,
            "answers until": host.ends,
            "read": f"{host.date:%Y-%m}",
        }
    return Table(rows, "Hosts that the official client can drive", "host", "")


def differences_table() -> Table:
    """Show what the program meets at each host, and further end dates."""
    rows = {
        host.name: {
            "trains, for example": host.base_model,
            "calls that work": host.jobs,
            "what differs": "; ".join(host.differences),
            "other dates": host.dates,
            "read in": host.source,
        }
        for host in HOSTS.values()
    }
    return Table(rows, "What differs when the same program goes to another host", "host", "")
