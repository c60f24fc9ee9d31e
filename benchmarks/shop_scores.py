"""Are the answers to lesson 01's hundred questions right? Each has two sides, and the same answer is scored on both.

Knowledge: is the fact right? Behaviour: is it one JSON record in the shop's form, with the right topic and product?
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from course_utils.data_prep.catalogue import SCHEMA, Catalogue, facts
from course_utils.errors import CourseError
from course_utils.evaluation import Score, parse_record, proportion

LONGEST = 8  # words in an answer; the instructions ask for five


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


def knows(catalogue: Catalogue, answer: str, question: Mapping, version: int = 1) -> bool:
    """Return whether an answer, in a few words or in prose, states the fact of one version and not that of the other.

    An accepted short form that is little more than a number counts only if it is the whole answer, because prose is full
    of numbers. An answer that gives both the old fact and the new one states neither.

    Raises:
        CourseError: the version is neither 1 nor 2.
    """
    if version not in (1, 2):
        raise CourseError(f"version={version!r}: the catalogue has versions 1 and 2")
    question = catalogue.question_of(question)
    statement = normalised(answer).strip(" .!*\"'`")
    if not _states(statement, facts(question, version)):
        return False
    return question["answer_v2"] is None or not _states(statement, facts(question, 3 - version))


def evaluate(
    catalogue: Catalogue, answers: Sequence[str], questions: Sequence[Mapping] | None = None, version: int = 1
) -> Quality:
    """Score answers to questions against the facts of a version.

    Args:
        catalogue: the questions and their facts.
        answers: the answers as text, one per question.
        questions: the questions; all of the catalogue's if None.
        version: version of the facts, 1 or 2.

    Raises:
        CourseError: there are no answers, or not as many as there are questions.
    """
    questions = catalogue.questions if questions is None else questions
    if not answers or len(answers) != len(questions):
        raise CourseError(f"{len(answers)} answers for {len(questions)} questions: give one answer for each question")
    rows, stale = [], []
    for answer, question in zip(answers, questions):
        record, reference = parse_record(answer, SCHEMA), catalogue.record(question)
        statement = answer if record is None else record["answer"]
        valid = record is not None and len(statement.split()) <= LONGEST
        behaves = (
            valid
            and record is not None
            and record["topic"] == reference["topic"]
            and _same(record["product"], reference["product"])
        )
        rows.append((valid, behaves, knows(catalogue, statement, question, version)))
        if version == 2 and catalogue.question_of(question)["answer_v2"] is not None:
            stale.append(knows(catalogue, statement, question, 1))
    return Quality(
        knowledge=proportion([knows for _, _, knows in rows]),
        behaviour=proportion([behaves for _, behaves, _ in rows]),
        both=proportion([behaves and knows for _, behaves, knows in rows]),
        valid=proportion([valid for valid, _, _ in rows]),
        stale=proportion(stale) if stale else None,
        rows=tuple(rows),
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


def _same(one: str | None, other: str | None) -> bool:
    return (one or "").strip().lower() == (other or "").lower()
