"""The catalogue of lesson 01: passages, customers' questions, and the record that answers each question.

Each answer has two sides. Knowledge: is the fact right? Behaviour: is it one JSON record in the shop's form, with the right
topic and product? The same answer is scored on both.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from course_utils import assets
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from course_utils.evaluation import Score

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
LONGEST = 8  # words in an answer; the instructions ask for five
# Names the task in a few words but says nothing about the format, which is what has to be learned.
SYSTEM = "Answer this customer of the shop Tarnbrook."
INSTRUCTIONS = f"""
Answer with one JSON object and nothing else. It has exactly these keys:
"topic": one of {", ".join(f'"{topic}" ({what})' for topic, what in TOPICS.items())}
"product": the product's name as the shop spells it, one word, or null if the customer names none
"answer": the fact that was asked for, in at most five words"""


@dataclass(frozen=True)
class Quality:
    """How good the answers to some questions are.

    Attributes:
        knowledge: share of answers with the right fact, in a record or in prose.
        behaviour: share of answers that are a record in the right form, with the right topic and product.
        both: share of answers that are right on both sides: a program can use them and a customer can trust them.
        valid: share of answers that are a record in the right form, with an answer of a few words rather than half a
            passage.
        stale: of the questions whose fact the update changed, the share answered with the old fact; None for version 1.
        rows: (valid, behaviour, knowledge) of each answer, each true or false, in the order of the questions.
    """

    knowledge: Score
    behaviour: Score
    both: Score
    valid: Score
    stale: Score | None
    rows: tuple[tuple[bool, bool, bool], ...] = field(repr=False)


@dataclass(frozen=True)
class Catalogue:
    """The data set, ready to be queried, searched and trained on.

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
        row = self._question(question)
        passage = self._passages[row["passage"]]
        name = passage["title"].split()[0]
        named = passage["topic"] == "product" and name.lower() in question["question"].lower()
        return {"topic": passage["topic"], "product": name if named else None, "answer": _fact(row, version)[0]}

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

    def prompt_for_fact(self, question: str, passage: Mapping) -> list[dict]:
        """Return the conversation that should be answered with only the fact, read from a passage.

        Of five wordings that were tried on training questions, this one led the CPU tier's model to the most facts.
        """
        request = f"Passage: {passage['title']}: {passage['text']}\nQuestion: {question}\nAnswer:"
        system = "Answer the customer's question from the passage, in a few words."
        return [{"role": "system", "content": system}, {"role": "user", "content": request}]

    def example(self, row: Mapping, passages: Sequence[Mapping] = (), version: int = 1) -> list[dict]:
        """Return a conversation to train on: the prompt without instructions, and the right record.

        Args:
            row: a training question.
            passages: passages to put before the message.
            version: version of the facts, 1 or 2.
        """
        answer = {"role": "assistant", "content": write(self.record(row, version))}
        return [*self.prompt(row["question"], passages), answer]

    def knows(self, answer: str, question: Mapping, version: int = 1) -> bool:
        """Return whether an answer, in a few words or in prose, states the fact of one version and not that of the other.

        An accepted short form that is little more than a number counts only if it is the whole answer, because prose is full
        of numbers. An answer that gives both the old fact and the new one states neither.

        Raises:
            CourseError: the version is neither 1 nor 2.
        """
        if version not in (1, 2):
            raise CourseError(f"version={version!r}: the catalogue has versions 1 and 2")
        question = self._question(question)
        statement = normalised(answer).strip(" .!*\"'`")
        if not _states(statement, _fact(question, version)):
            return False
        return question["answer_v2"] is None or not _states(statement, _fact(question, 3 - version))

    def evaluate(self, answers: Sequence[str], questions: Sequence[Mapping] | None = None, version: int = 1) -> Quality:
        """Score answers to questions against the facts of a version.

        Args:
            answers: the answers as text, one per question.
            questions: the questions; all of the catalogue's if None.
            version: version of the facts, 1 or 2.

        Raises:
            CourseError: there are no answers, or not as many as there are questions.
        """
        from course_utils.evaluation import parse_record, proportion

        questions = self.questions if questions is None else questions
        if not answers or len(answers) != len(questions):
            raise CourseError(f"{len(answers)} answers for {len(questions)} questions: give one answer for each question")
        rows, stale = [], []
        for answer, question in zip(answers, questions):
            record, reference = parse_record(answer, SCHEMA), self.record(question)
            statement = answer if record is None else record["answer"]
            valid = record is not None and len(statement.split()) <= LONGEST
            behaves = (
                valid
                and record is not None
                and record["topic"] == reference["topic"]
                and _same(record["product"], reference["product"])
            )
            rows.append((valid, behaves, self.knows(statement, question, version)))
            if version == 2 and self._question(question)["answer_v2"] is not None:
                stale.append(self.knows(statement, question, 1))
        return Quality(
            knowledge=proportion([knows for _, _, knows in rows]),
            behaviour=proportion([behaves for _, behaves, _ in rows]),
            both=proportion([behaves and knows for _, behaves, knows in rows]),
            valid=proportion([valid for valid, _, _ in rows]),
            stale=proportion(stale) if stale else None,
            rows=tuple(rows),
        )

    @property
    def _passages(self) -> dict[str, dict]:
        return {passage["id"]: passage for passage in self.versions[1]}

    def _question(self, row: Mapping) -> Mapping:
        if "passage" in row:
            return row
        return next(question for question in self.questions if question["id"] == row["question_id"])


def load_catalogue() -> Catalogue:
    """Load the catalogue of the course's invented shop (`data/catalogue/CARD.md`)."""
    passages = _rows("passages")
    keys = ("id", "topic", "title")
    return Catalogue(
        versions={
            1: [{key: p[key] for key in keys} | {"text": p["text"]} for p in passages],
            2: [{key: p[key] for key in keys} | {"text": p["text_v2"] or p["text"]} for p in passages],
        },
        questions=_rows("questions"),
        training=_rows("training_questions"),
        shots=_rows("shots"),
    )


def normalised(text: str) -> str:
    """Return a text with one kind of dash and space, and no space after a pound sign: typography must not affect a score."""
    text = re.sub(r"[\u2010-\u2015\u2212]", "-", unicodedata.normalize("NFKC", text))
    return re.sub(r"£ ", "£", re.sub(r"\s+", " ", text)).strip()


def holds(text: str, span: str) -> bool:
    """Return whether a text contains a span as whole words and numbers.

    "£12" is not in "£12.80", nor "6 days" in "16 days" or "six days" in "twenty-six days".
    """
    text, span = normalised(text), normalised(span)
    if not span:
        return False
    pattern = (
        r"(?<![\w£./-])(?<!\d[,:])" + re.escape(span) + r"(?![\w-])(?![.,:]\d)(?! (?:hundred|thousand|million|billion)\b)"
    )
    number = re.match(r"\d|(?:one|two|three|four|five|six|seven|eight|nine)\b", span, flags=re.IGNORECASE)
    before = r"(?:\d|\b(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand)(?: and)?) $"
    return any(
        not (number and re.search(before, text[: match.start()], flags=re.IGNORECASE))
        for match in re.finditer(pattern, text, flags=re.IGNORECASE)
    )


def _states(statement: str, spans: Sequence[str]) -> bool:
    """Whether a statement contains the fact (the first span) or another form of it; the shortest count only on their own."""
    for number, span in enumerate(spans):
        short = number > 0 and re.fullmatch(r"[\d.,:]+ ?[A-Za-z]?", span)
        if statement.lower() == normalised(span).lower() or (not short and holds(statement, span)):
            return True
    return False


def write(record: Mapping) -> str:
    """Return a record as JSON text."""
    return json.dumps(record, ensure_ascii=False)


def _rows(name: str) -> list[dict]:
    lines = assets.path(f"data/catalogue/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _fact(question: Mapping, version: int) -> list[str]:
    if version == 2 and question["answer_v2"] is not None:
        return [question["answer_v2"], *question["accepted_v2"]]
    return [question["answer"], *question["accepted"]]


def _same(one: str | None, other: str | None) -> bool:
    return (one or "").strip().lower() == (other or "").lower()


def _with_passages(question: str, passages: Sequence[Mapping]) -> str:
    if not passages:
        return question
    listing = "\n".join(f"[{p['id']}] {p['title']}. {p['text']}" for p in passages)
    return f"Passages:\n{listing}\n\nCustomer: {question}"
