"""The desk's house style as rules: what a reply to a message has to do, so that a program can say whether it does.

The rules need what the data know about the message (`load_preferences("balanced")`): which case it is about, whether the
customer is upset, which order and product it names. They look for a few key phrases, so a reply that says the right thing in
other words counts as wrong; after training on the desk's replies a model hardly ever uses other words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils import evaluation

if TYPE_CHECKING:
    from course_utils.evaluation import Score

Row = Mapping[str, Any]
# Case → what a reply says that takes the right step.
STEPS = {
    "danger": r"unplug",
    "late": r"\bsearch(?:es|ing)?\b(?! engine)|looking for the parcel",
    "defect": r"\breplacement\b",
    "charge": r"\bextra amount\b",
    "login": r"\breset link\b",
    "question": r"\bproduct team\b",
}
APOLOGY = re.compile(r"\b(?:sorry|apolog\w+)\b", re.IGNORECASE)
RULES = ("step first", "right step", "tone fits", "order number right", "finishes")


def steps_in(reply: str) -> set[str]:
    """The cases whose steps a reply takes."""
    return {case for case, pattern in STEPS.items() if re.search(pattern, reply, re.IGNORECASE)}


def judge(row: Row, reply: str) -> dict[str, bool]:
    """The rules, each kept (True) or broken by a reply; of the row, "case", "tone" and "order" count."""
    first = re.split(r"(?<=[.!?;]) ", reply.strip(), maxsplit=1)[0]
    return {
        "step first": bool(steps_in(first)),
        "right step": steps_in(reply) == {row["case"]},
        "tone fits": bool(APOLOGY.search(reply)) == (row["tone"] == "upset"),
        "order number right": set(re.findall(r"\d{4,}", reply)) == {row["order"].removeprefix("TB-")},
        "finishes": reply.rstrip().endswith(".") and len(reply.split()) <= 60,
    }


def score(row: Row, reply: str) -> float:
    """Share of the rules kept; an answer without the right step gets half of it."""
    kept = judge(row, reply)
    return sum(kept.values()) / len(kept) * (1.0 if kept["right step"] else 0.5)


def shares(rows: Sequence[Row], replies: Sequence[str]) -> dict[str, Score]:
    """Rule → share of the replies that keep it, and the share that keeps all of them."""
    judged = [judge(row, reply) for row, reply in zip(rows, replies, strict=True)]
    rule_shares = {rule: evaluation.proportion([one[rule] for one in judged]) for rule in RULES}
    return rule_shares | {"all rules": evaluation.proportion([all(one.values()) for one in judged])}


def wins(rows: Sequence[Row], replies: Sequence[str], others: Sequence[str]) -> list[float]:
    """For each message 1 if the reply has the higher score, 0 if the other one has, 0.5 for a tie."""
    pairs = zip(rows, replies, others, strict=True)
    scores = [(score(row, reply), score(row, other)) for row, reply, other in pairs]
    return [0.5 if a == b else float(a > b) for a, b in scores]


def reward(prompts: Any = None, completions: Sequence[Any] = (), **columns: Sequence[Any]) -> list[float]:
    """`score` as a reward for TRL's GRPO, which passes the columns of the data set by name."""
    texts = [answer if isinstance(answer, str) else answer[-1]["content"] for answer in completions]
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    return [score(row, text) for row, text in zip(rows, texts)]
