"""The course's data sets, as conversations.

A row is a message and the record that a good answer contains, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from course_utils import assets
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from course_utils.evaluation import Score, Scores

SPLITS = ("train", "validation", "test")


# Data set → its system message, which names the task but says nothing about the format: that has to be learned.
TASKS = {"support_tickets": "Triage this customer message."}


@dataclass(frozen=True)
class Task:
    """A data set ready for training and evaluation.

    Attributes:
        name: its folder under `data/`.
        schema: JSON Schema of a record.
        train, validation, test: conversations, each ending with the assistant's correct answer.
        rows: split → rows as they are in the file.
    """

    name: str
    schema: dict
    train: list[list[dict]]
    validation: list[list[dict]]
    test: list[list[dict]]
    rows: dict[str, list[dict]] = field(repr=False)

    def prompts(self, split: str = "test") -> list[list[dict]]:
        """Return the conversations of a split ("train", "validation" or "test"), without the answers."""
        return [conversation[:-1] for conversation in getattr(self, split)]

    def references(self, split: str = "test") -> list[dict]:
        """Return the correct records of a split."""
        return [row["record"] for row in self.rows[split]]

    def most_common(self, split: str = "test") -> dict[str, Score]:
        """Return for each field how often its most common value is right.

        This is the score of a program that never looks at the message.
        """
        from collections import Counter

        from course_utils.evaluation import proportion

        scores = {}
        for name in self.schema["properties"]:
            values = [reference[name] for reference in self.references(split)]
            commonest = Counter(values).most_common(1)[0][0]
            scores[name] = proportion([value == commonest for value in values])
        return scores

    def evaluate(self, answers: list[str], split: str = "test") -> Scores:
        """Score answers to `prompts(split)`, or to as many of its first prompts as there are answers.

        Raises:
            CourseError: there are no answers.
        """
        from course_utils.evaluation import evaluate

        return evaluate(answers, self.references(split)[: len(answers)], self.schema)


def load_task(name: str, fields: Sequence[str] | None = None) -> Task:
    """Load a data set of the course.

    Args:
        name: "support_tickets".
        fields: the fields of a record that the answer should have, in this order; all fields if None.

    Raises:
        CourseError: the name or a field is unknown.
    """
    if name not in TASKS:
        raise CourseError(f"unknown data set {name!r}; the course has {', '.join(TASKS)}")
    schema = json.loads(assets.path(f"data/{name}/schema.json").read_text(encoding="utf-8"))
    rows = {split: assets.read_rows(f"data/{name}/{split}.jsonl") for split in SPLITS}
    if fields is not None:
        available = schema["properties"]
        if not fields or not set(fields) <= set(available):
            raise CourseError(f"load_task({name!r}, fields={list(fields)}): choose among {', '.join(available)}")
        schema = schema | {"properties": {f: available[f] for f in fields}, "required": list(fields)}
        rows = {s: [row | {"record": {f: row["record"][f] for f in fields}} for row in rows[s]] for s in SPLITS}
    conversations = {split: [_conversation(name, row) for row in rows[split]] for split in SPLITS}
    return Task(name, schema, rows=rows, **conversations)


@dataclass(frozen=True)
class Preferences:
    """Pairs of replies for learning from preferences.

    Attributes:
        train, validation, test: rows with "id", "prompt" (the system message and the customer's), "chosen" and "rejected"
            (texts), and "kind", which says what is wrong with the rejected reply. The balanced pairs also have what
            decides: "case" (what the message is about), "tone", "product" and "order"; and "twins", what two rows share.
    """

    train: list[dict]
    validation: list[dict]
    test: list[dict]


PREFERENCE_SYSTEM = "Reply to this customer."


PREFERENCE_SETS = {"confounded": "preferences", "balanced": "preference_balanced"}


def load_preferences(name: str = "confounded") -> Preferences:
    """Load the course's preference pairs.

    Args:
        name: "balanced" for pairs that differ in one respect each, so that length, form and words do not tell them apart.
            "confounded" for a house style against five kinds of worse replies,
            most of which give themselves away by their length or their words.

    Raises:
        CourseError: the name is unknown.
    """
    if name not in PREFERENCE_SETS:
        raise CourseError(f"unknown preference pairs {name!r}; the course has {', '.join(PREFERENCE_SETS)}")
    system, splits = {"role": "system", "content": PREFERENCE_SYSTEM}, {}
    for split in SPLITS:
        rows = assets.read_rows(f"data/{PREFERENCE_SETS[name]}/{split}.jsonl")
        splits[split] = [{"prompt": [system, {"role": "user", "content": row.pop("message")}], **row} for row in rows]
    return Preferences(**splits)


def _conversation(name: str, row: dict) -> list[dict]:
    return [
        {"role": "system", "content": TASKS[name]},
        {"role": "user", "content": row["message"]},
        {"role": "assistant", "content": json.dumps(row["record"], ensure_ascii=False)},
    ]
