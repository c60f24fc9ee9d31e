"""The catalogue of lesson 01: passages, customers' questions, and the record that answers each question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from course_utils import assets

TOPICS = {
    "product": "what an article is, has or needs",
    "delivery": "sending and collecting",
    "returns": "sending back, changing or cancelling an order",
    "payment": "paying, instalments, gift cards",
    "account": "signing in, personal details, loyalty points",
    "service": "repairs, fitting, taking old things away, whom to ask",
}
SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "enum": list(TOPICS)},
        "product": {"type": ["string", "null"]},
        "answer": {"type": "string"},
    },
    "required": ["topic", "product", "answer"],
    "additionalProperties": False,
}
# Names the task in a few words but says nothing about the format, which is what has to be learned.
SYSTEM = "Answer this customer of the shop Tarnbrook."
INSTRUCTIONS = f"""
Answer with one JSON object and nothing else. It has exactly these keys:
"topic": one of {", ".join(f'"{topic}" ({what})' for topic, what in TOPICS.items())}
"product": the product's name as the shop spells it, one word, or null if the customer names none
"answer": the fact that was asked for, in at most five words"""


@dataclass(frozen=True)
class Catalogue:
    """The data set, ready to be asked, searched and trained on.

    Attributes:
        versions: 1 and 2 → passages with "id", "topic", "title", "text", before and after the update.
        questions: rows of `questions.jsonl`; never trained on.
        training: rows of `training_questions.jsonl`: other wordings of the same facts.
        shots: three examples for a prompt, about passages that are not in the catalogue: "question", "record", "passage".
    """

    versions: dict[int, list[dict]] = field(repr=False)
    questions: list[dict] = field(repr=False)
    training: list[dict] = field(repr=False)
    shots: list[dict] = field(repr=False)

    def record(self, question: Mapping, version: int = 1) -> dict:
        """Return the right record for a question or a training question, in version 1 or 2 of the facts."""
        row = self.question_of(question)
        passage = next(passage for passage in self.versions[1] if passage["id"] == row["passage"])
        name = passage["title"].split()[0]
        named = passage["topic"] == "product" and name.lower() in question["question"].lower()
        return {"topic": passage["topic"], "product": name if named else None, "answer": facts(row, version)[0]}

    def prompt(
        self, question: str, passages: Sequence[Mapping] = (), few_shot: bool = False, instructions: bool = False
    ) -> list[dict]:
        """Return the conversation that should be answered with a record.

        Args:
            question: the customer's message.
            passages: what was retrieved, put before the message; none if the model has to know the facts itself.
            few_shot: whether to describe the record in the system message, and show three examples (with passages if there
                are any).
            instructions: whether to describe the record, without examples.
        """
        messages = [{"role": "system", "content": SYSTEM + INSTRUCTIONS * (few_shot or instructions)}]
        for shot in self.shots * few_shot:
            shown = _with_passages(shot["question"], [shot["passage"]] if passages else [])
            messages += [{"role": "user", "content": shown}, {"role": "assistant", "content": write(shot["record"])}]
        return [*messages, {"role": "user", "content": _with_passages(question, passages)}]

    def question_of(self, row: Mapping) -> Mapping:
        """Return the question that a training question is another wording of; a question itself as it is."""
        if "passage" in row:
            return row
        return next(question for question in self.questions if question["id"] == row["question_id"])


def load_catalogue() -> Catalogue:
    """Load the catalogue of the course's invented shop (`data/catalogue/CARD.md`)."""
    passages = assets.read_rows("data/catalogue/passages.jsonl")
    keys = ("id", "topic", "title")
    return Catalogue(
        versions={
            1: [{key: p[key] for key in keys} | {"text": p["text"]} for p in passages],
            2: [{key: p[key] for key in keys} | {"text": p["text_v2"] or p["text"]} for p in passages],
        },
        questions=assets.read_rows("data/catalogue/questions.jsonl"),
        training=assets.read_rows("data/catalogue/training_questions.jsonl"),
        shots=assets.read_rows("data/catalogue/shots.jsonl"),
    )


def write(record: Mapping) -> str:
    """Return a record as JSON text."""
    return json.dumps(record, ensure_ascii=False)


def facts(question: Mapping, version: int) -> list[str]:
    """Return the fact that answers a question in a version, and the other forms of it that count too."""
    if version == 2 and question["answer_v2"] is not None:
        return [question["answer_v2"], *question["accepted_v2"]]
    return [question["answer"], *question["accepted"]]


def _with_passages(question: str, passages: Sequence[Mapping]) -> str:
    if not passages:
        return question
    listing = "\n".join(f"[{p['id']}] {p['title']}. {p['text']}" for p in passages)
    return f"Passages:\n{listing}\n\nCustomer: {question}"
