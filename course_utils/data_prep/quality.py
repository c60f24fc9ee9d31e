"""Rows that are well formed and still teach the wrong thing: rules, each with its reason.

A rule is cheap and blunt. What it drops is written to the rejects with its reason, to be read; what no rule sees (a label that
is wrong, an answer that is only dull) is for a judge (`judging`) or for the eye (`widgets.review`).
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from course_utils.data_prep import formats
from course_utils.data_prep.similarity import normalise

REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|large language|language|virtual|automated|digital)\b|\blanguage model\b|"
    r"\bI(?:'m| am)? ?(?:so |very |truly |really )?(?:sorry|afraid|unable|not able|not in a position|not permitted|not allowed|not comfortable|not equipped|not authori[sz]ed)\b|"
    r"\bI (?:can(?:no|')t|can not|could not|couldn't|won't|will not|do(?:n't| not) have|would (?:need|have to)|must decline|have no (?:access|way|means)|lack)\b|"
    r"\b(?:my apologies|apologies, but|unfortunately,? (?:I|this|that|we))\b|\b(?:not|in)able to (?:help|assist|provide|comment|advise|process|determine)\b|"
    r"\b(?:beyond|outside|exceeds?) (?:of )?(?:my|what I)\b|\b(?:please|kindly) (?:consult|contact|seek|refer to) (?:a|an|your|the|our|with)\b|"
    r"\b(?:against|violat\w+) (?:my|our|the) (?:guidelines|polic)|\bI (?:wouldn't|would not|shouldn't|should not) (?:want to|feel|be (?:able|comfortable)|speculate|presume)|"
    r"\bno (?:information|way (?:for me )?to)\b|\bwithout (?:more|further|additional|access|knowing|seeing)\b|\b(?:can't|cannot|couldn't) (?:be (?:sure|certain)|verify|confirm|say|tell|help|assist|judge|see)\b|"
    r"\bnot (?:something|appropriate|possible|enough information)\b|\b(?:professional|legal|medical|financial) (?:advice|guidance)\b|\bhave to (?:pass|decline)\b|"
    r"\bprefer not to\b|\b(?:my|our) (?:guidelines|training data|knowledge (?:has a )?cut-?off|role does not)\b|\bI(?:'m| am) (?:not a|only (?:a|an)|an automated|programmed|"
    r"designed|hesitant)\b|\b(?:respectfully|must) decline\b|\b(?:inappropriate|irresponsible|wiser) (?:for|of|that)\b|\b(?:stay|remain) neutral\b|\bno opinion on\b|"
    r"\bI(?:'d| would) (?:suggest|encourage|recommend) (?:you|that|checking|speaking|contacting)\b|\b(?:could|can) you (?:please )?(?:rephrase|clarify)\b",
    re.IGNORECASE,
)
# People end with three full stops too: they count after a word that can't end a sentence.
CUT = re.compile(
    r"(?:\w|,|;|:|-)\s*(?:…|\[(?:truncated|cut|more|\.\.\.)\]|\(truncated\)|<truncated>)\s*$|"
    r"(?:,|\b(?:a|an|the|and|or|but|of|to|in|on|at|for|with|my|your|our|their|his|her|is|was|are|were|that|which|this|from|by|as|if|when|because|so|i|we|"
    r"not|very|has|have|had|will|would|can|could|please))\s*\.\.\.\s*$",
    re.IGNORECASE,
)
GREETING = frozenset(
    (
        "hi hello hey ok okay thanks thank you thx bye please pls yes no test testing asdf anyone there sir madam "
        "good morning "
    ).split()
)
MIN_WORDS = 3  # that say something
CANNED = 8
LANGUAGE_CHARACTERS = 25  # shorter texts are not judged
LANGUAGE_PROBABILITY = 0.9


@dataclass(frozen=True)
class Reason:
    """Why a row should go: the rule, and what it saw."""

    code: str
    message: str


# code → what it means, for the report
RULES = {
    "refusal": "the answer refuses or hedges instead of answering",
    "truncated": "the message or the answer ends in the middle",
    "answer_format": "the answer has another form than the task's answers have",
    "language": "the message or the answer is in another language",
    "low_information": "the message says nothing that could be answered",
    "canned_answer": "the same answer stands under many different messages",
    "other_answer": "the answer belongs to another question",
}


def assess(
    rows: Sequence[dict], language: str | None = "en", schema: dict | None = None, seed: int = 0
) -> list[list[Reason]]:
    """For each row, the reasons for which it should not be trained on; an empty list for a good one.

    Args:
        rows: valid chat rows.
        language: ISO 639-1 code of messages and answers; None leaves languages alone.
        schema: JSON Schema of the answers; without it, the form that most answers have, if most have one.
        seed: of the sample that answers are compared with.
    """
    prompts, answers = [formats.prompt_of(row) for row in rows], [formats.answer_of(row) for row in rows]
    wrong_form = form_of(answers, schema)
    canned = _canned(prompts, answers)
    # Answers that are none, or everyone's, say nothing about what an answer has in common with its message.
    own = [i for i, answer in enumerate(answers) if i not in canned and not wrong_form(answer)]
    strangers = _answers_of_others([prompts[i] for i in own], [answers[i] for i in own], seed)
    strangers = {own[i]: reason for i, reason in strangers.items()}
    assessed = []
    for index, (prompt, answer) in enumerate(zip(prompts, answers)):
        reasons = [
            reason
            for reason in (
                _refusal(answer, wrong_form),
                _truncated(prompt, answer),
                canned.get(index),
                wrong_form(answer),
                _language(prompt, answer, language) if language else None,
                _low_information(prompt),
                strangers.get(index),
            )
            if reason
        ]
        codes = {reason.code for reason in reasons}
        # A refusal or a cut answer has the wrong form because it is one: the nearer reason says more.
        # And an answer that is none fits no question.
        if codes & {"refusal", "truncated"}:
            reasons = [reason for reason in reasons if reason.code not in ("answer_format", "other_answer")]
        elif codes & {"answer_format", "canned_answer", "language", "low_information"}:
            reasons = [reason for reason in reasons if reason.code != "other_answer"]
        assessed.append(reasons)
    return assessed


def _refusal(answer: str, wrong_form: Callable[[str], Reason | None]) -> Reason | None:
    # Records and code may quote such words; a refusal is prose.
    if answer.lstrip().startswith(("{", "[", "<", "```")) and not wrong_form(answer):
        return None
    match = REFUSAL.search(answer[:400])
    return Reason("refusal", f'the answer says "{match.group()}"') if match else None


def _truncated(prompt: str, answer: str) -> Reason | None:
    for text, whose in ((prompt, "message"), (answer, "answer")):
        if CUT.search(text):
            return Reason("truncated", f"the {whose} ends with {text.rstrip()[-12:]!r}")
    if answer.lstrip().startswith(("{", "[")):
        try:
            json.loads(answer)
        except (ValueError, RecursionError) as error:
            if getattr(error, "pos", 0) >= len(answer.rstrip()) - 1 or "Unterminated" in str(error):
                return Reason("truncated", "the answer's JSON ends in the middle")
    return None


def form_of(answers: Sequence[str], schema: dict | None = None) -> Callable[[str], Reason | None]:
    """A rule that says whether an answer has the form that answers have: the schema's, or JSON objects with the usual keys."""
    if schema is not None:
        import jsonschema

        validator = jsonschema.validators.validator_for(schema)(schema)

        def against_schema(answer: str) -> Reason | None:
            value = _json(answer)
            if value is None:
                return Reason("answer_format", "the answer is no JSON")
            error = next(iter(validator.iter_errors(value)), None)
            return Reason("answer_format", f"the record does not fit: {error.message[:120]}") if error else None

        return against_schema
    shapes = Counter(frozenset(value) for value in map(_json, answers) if isinstance(value, dict))
    keys, count = shapes.most_common(1)[0] if shapes else (frozenset(), 0)
    if count < 0.5 * len(answers):
        return lambda answer: None

    def against_most(answer: str) -> Reason | None:
        value = _json(answer)
        if isinstance(value, dict) and frozenset(value) == keys:
            return None
        return Reason(
            "answer_format",
            f"{count / len(answers):.0%} of the answers are JSON objects with {', '.join(sorted(keys))}; not this one",
        )

    return against_most


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _language(prompt: str, answer: str, language: str) -> Reason | None:
    for text, whose in ((prompt, "message"), (" ".join(_strings(answer)), "answer")):
        letters = sum(character.isalpha() for character in text)
        if letters >= LANGUAGE_CHARACTERS:
            found, probability = identify_language(text)
            if found != language and probability >= LANGUAGE_PROBABILITY:
                return Reason("language", f"the {whose} is in {found} ({probability:.2f})")
    return None


def identify_language(text: str) -> tuple[str, float]:
    """ISO 639-1 code and probability, by py3langid (Lui and Baldwin 2012), which brings its model along."""
    from course_utils.errors import CourseError

    try:
        import py3langid
    except ImportError as error:
        raise CourseError(
            "telling languages apart needs py3langid: pip install 'finetuning-course[data]', and again"
        ) from error
    ranked = py3langid.rank(text)
    scores = np.array([score for _, score in ranked], dtype=float)
    probabilities = np.exp(scores - scores.max())
    return ranked[0][0], float(probabilities.max() / probabilities.sum())


def _strings(answer: str) -> list[str]:
    """The texts of an answer: free-text values of a record, or all of it."""
    value = _json(answer)
    if not isinstance(value, dict | list):
        return [] if answer.lstrip().startswith(("{", "[")) else [answer]  # broken JSON is of no language
    found: list[str] = []
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str) and " " in item:
            found.append(item)
        elif isinstance(item, dict | list):
            stack.extend(item.values() if isinstance(item, dict) else item)
    return found


def _low_information(prompt: str) -> Reason | None:
    words = [word for word in normalise(prompt).split() if word not in GREETING]
    telling = [word for word in words if len(word) > 2 and re.search(r"[aeiouyàâäáåæèéêëíîïòóôöøùúûü\d]|[^\x00-\x7f]", word)]
    if len(telling) < MIN_WORDS and len(words) < 2 * MIN_WORDS:
        return Reason("low_information", f"{len(telling)} words that say something")
    return None


def _canned(prompts: list[str], answers: list[str]) -> dict[int, Reason]:
    """Answers that stand under at least `CANNED` different messages, where most answers are of their own.

    Where answers are labels, many messages share one, and none is named.
    """
    messages: dict[str, set[str]] = {}
    for prompt, answer in zip(prompts, answers):
        messages.setdefault(normalise(answer), set()).add(normalise(prompt))
    if len(messages) < 0.5 * len(answers):
        return {}
    return {
        index: Reason("canned_answer", f"{len(messages[key]):,} different messages have this answer")
        for index, key in enumerate(map(normalise, answers))
        if len(messages[key]) >= CANNED
    }


def _answers_of_others(prompts: list[str], answers: list[str], seed: int, sample: int = 60) -> dict[int, Reason]:
    """Rows whose answer fits many a random other message better than its own, by rare word stems and numbers in common.

    Where answers take nothing from the messages (a label alone), none can be told, and none is named.
    """
    texts = [" ".join(_strings(answer)) + " " + " ".join(re.findall(r"\d{3,}", answer)) for answer in answers]
    prompt_stems, answer_stems = [_stems(p) for p in prompts], [_stems(t) for t in texts]
    seen = Counter(stem for stems in prompt_stems for stem in stems)
    n = len(prompts)
    weight = {stem: math.log(n / count) for stem, count in seen.items()}
    own = np.array([sum(weight.get(s, 0) for s in a & p) for a, p in zip(answer_stems, prompt_stems)])
    if n < 30 or np.mean(own > 0) < 0.7:
        return {}
    draw = random.Random(seed)
    found = {}
    for index, stems in enumerate(answer_stems):
        if len(stems) < 3 or own[index] > 6:
            continue
        others = [sum(weight.get(s, 0) for s in stems & prompt_stems[j]) for j in draw.sample(range(n), min(sample, n))]
        better = sum(other > own[index] for other in others) / len(others)
        if better > 0.15:
            found[index] = Reason("other_answer", f"{better:.0%} of random other messages fit the answer better")
            continue
        numbers = {s for s in stems if s.isdigit() and len(s) >= 4}
        if numbers and not numbers & prompt_stems[index]:
            found[index] = Reason("other_answer", f"the number {sorted(numbers)[0]} in the answer is not in the message")
    return found


def _stems(text: str) -> set[str]:
    words = normalise(text).split()
    return {word if word.isdigit() else word[:5] for word in words if len(word) > 3} | {
        d for w in words for d in re.findall(r"\d{4,}", w)
    }


def agreement(ours: Iterable, theirs: Iterable) -> float:
    """Cohen's kappa of two labellings: 1 for the same labels, 0 for no better than chance (Cohen 1960)."""
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs:
        return math.nan
    observed = sum(a == b for a, b in pairs) / len(pairs)
    mine, other = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(mine[label] * other[label] for label in mine) / len(pairs) ** 2
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)
