"""The desk's house style as rules: what a reply to a message has to do, so that a program can say whether it does.

The rules need what the data know about the message (`load_preferences("balanced")`): which case it is about, whether the
customer is upset, which order and product it names. They look for a few key phrases, so a reply that says the right thing in
other words counts as wrong; after training on the desk's replies a model hardly ever uses other words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
