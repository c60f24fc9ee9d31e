"""Rules for rows that are well formed and still teach the wrong thing; each gives a reason.

A rule is cheap and blunt: it raises a flag, and a person decides. Where the answers of a file have one form (a schema, or JSON
objects with the same keys), the form is a second piece of evidence, and rules flag freely; on free text they flag only what can
hardly mean anything else. What no rule can see (a wrong label, a merely dull answer) is for the eye.
"""

from __future__ import annotations

import functools
import json
import math
import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils.data_prep import formats
from course_utils.data_prep.pii.announced import GERMAN
from course_utils.data_prep.pii.words import CLOSES, CUT, ends, name_lists
from course_utils.data_prep.reading import json_or_none
from course_utils.data_prep.similarity import WITHOUT_SPACES, in_processes, normalise

PATTERNS = {
    name: re.compile(pattern.replace("\n", ""), re.IGNORECASE)
    for name, pattern in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}
REFUSAL_WORDS = 70
GREETING = frozenset(
    "hi hello hey ok okay thanks thank you thx bye please pls yes no test testing asdf anyone there sir madam good morning".split()
)
MIN_WORDS = 3  # that carry information
# Words of an answer → how many different messages must share it before it is flagged; long ones are rarely shared by chance.
CANNED_MESSAGES = {5: 8, 12: 6}
LANGUAGE_CHARACTERS = 25  # letters; shorter texts are not judged
LANGUAGE_PROBABILITY = 0.9
NO_LANGUAGE = "zxx"  # the identifier's code for code and letters that are no language
# The identifier takes plain English for the English-based creole, which is rarely written.
RELATED = {"pcm": "en"}
# Two languages in one row are reported only for longer texts, where the identifier errs less.
MIXED_CHARACTERS = 60
MIXED_PROBABILITY = 0.99
CODE = re.compile(
    r"```|[{};]\s*$|^\s*(?:def|import|from|function|const|let|var|class|SELECT|#include|<\?php|<\w+>)\b|\w\(.*\)\s*[:;{]?\s*$",
    re.MULTILINE,
)
NOTE_WORDS = 8
SHORT_REFUSAL = 15  # words; so short an answer is no letter that somebody asked for
SENTENCE = 6  # words; a shorter answer may be a title or a label
ONE_SENTENCE = 11  # words
# After them something must follow; shorter words never end a sentence without a full stop here.
GOES_ON = frozenset(
    "until with from than that which because about into onto over under between your their this these would could will have been when while "
    "where after before during without within through oder aber wenn weil dass nach über unter einen eine einem einer ihre ihren seine "
    "können werden wurde haben sind pour dans avec sans sous leur leurs votre notre cette sont peut para como desde hasta sobre entre este "
    "esta puede onze onder door voor naar over maar omdat kunnen worden wordt hebben jest oraz albo przez przed żeby jako".split()
)
END = 200  # characters in which an end is looked for
USUAL_END = 0.95  # share of the answers that must end properly before another ending counts as cut off
USUAL_FORM = 0.7  # share of the answers that must have a form before it counts as the file's
# An answer whose long numbers are not in its message is suspicious if at least this share of such answers copy theirs from it.
FROM_MESSAGE = 0.7
OTHERS = 60  # random other messages that an answer is compared with


USELESS, STUB = "useless_answer", "stub"  # no answer, and a note of a ticket system or keyboard mash


@dataclass(frozen=True)
class Reason:
    """Why someone should look at a row: the code of the rule, and a message about what it has found."""

    code: str
    message: str


RULES = ("refusal", "truncated", "mojibake", "answer_format", "language", "low_information", "canned_answer", "other_answer")


def assess(
    rows: Sequence[dict], language: str | None = None, schema: dict | None = None, seed: int = 0, workers: int = 1
) -> list[list[Reason]]:
    """Return for each row the reasons why someone should look at it before it is trained on.

    The list of reasons is empty where no rule objects.

    Args:
        rows: valid chat rows.
        language: ISO 639-1 code of the language that all messages and answers should be in. Without it a message may be in
            any language, and only answers in a language other than their message's are flagged. A message about languages (a
            translation, a lesson) is never flagged.
        schema: JSON Schema of the answers; without it, the form that most answers have, if there is one.
        seed: seed of the sample of other messages that answers are compared with.
        workers: number of processes that identify languages, which takes longest.
    """
    prompts, answers = [formats.prompt_of(row) for row in rows], [formats.answer_of(row) for row in rows]
    wrong_form = form_of(answers, schema)
    formed = wrong_form is not _any_form
    usual = not formed and sum(map(_has_end, answers)) >= USUAL_END * len(answers)
    begins = sum(answer[:1].isupper() for answer in answers) >= USUAL_END * len(answers)
    # Of a conversation, a refusal or a note may be any answer; that there is no answer is judged by the last one.
    turns = [turns_of(row) or [(prompt, answer)] for row, prompt, answer in zip(rows, prompts, answers)]
    lasts = [texts[-1][1] for texts in turns]
    canned, useless, stubs = _canned(prompts, answers), _only(USELESS, lasts), _only(STUB, lasts)
    # Malformed or canned answers don't show what a proper answer has in common with its message.
    proper = [i for i, answer in enumerate(answers) if i not in canned and not wrong_form(answer)]
    # A free-text answer need not take its words from the message.
    strangers = {} if not formed else _answers_to_others([prompts[i] for i in proper], [answers[i] for i in proper], seed)
    strangers = {proper[i]: reason for i, reason in strangers.items()}
    languages = in_processes(functools.partial(_language, language=language), list(zip(prompts, answers)), workers)
    assessed = []
    for index, (prompt, answer, in_language) in enumerate(zip(prompts, answers, languages)):
        reasons = [
            reason
            for reason in (
                useless.get(index),
                stubs.get(index) or (_note(lasts[index]) if usual and begins else None),
                next(filter(None, (_refusal(*turn, wrong_form) for turn in turns[index])), None),
                _truncated(prompt, answer) or (_without_end(prompt, answer) if usual else None),
                _mojibake(prompt, answer),
                canned.get(index),
                wrong_form(answer),
                in_language,
                _low_information(prompt, formed),
                strangers.get(index),
            )
            if reason
        ]
        codes = {reason.code for reason in reasons}
        # A refusal or a truncated answer also has the wrong form; the more specific reason says more.
        # And a faulty answer fits no question, so its poor fit says nothing.
        if codes & {"refusal", "truncated", STUB, USELESS}:
            more = ("truncated",) if codes & {STUB, USELESS} else ()
            reasons = [reason for reason in reasons if reason.code not in ("answer_format", "other_answer", *more)]
        elif codes & {"answer_format", "canned_answer", "language", "low_information"}:
            reasons = [reason for reason in reasons if reason.code != "other_answer"]
        assessed.append(reasons)
    return assessed


def turns_of(row: dict) -> list[tuple[str, str]]:
    """Return what the assistant says, turn by turn, each with the user's last message."""
    turns, prompt = [], ""
    for message in row["messages"]:
        prompt = formats.prompt_of({"messages": [message]}) or prompt
        if answer := formats.answer_of({"messages": [message]}):
            turns.append((prompt, answer))
    return turns


def _only(code: str, answers: Sequence[str]) -> dict[int, Reason]:
    """Answers that are nothing but what a pattern describes; not those that recur because they are a label."""
    pattern = PATTERNS["useless" if code == USELESS else code]
    counts = Counter(answer.strip() for answer in answers)
    labels = len(counts) <= len(answers) / 3
    return {
        index: Reason(code, f"the answer is only {answer.strip()!r}")
        for index, answer in enumerate(answers)
        if pattern.fullmatch(answer.strip()) and not (labels and answer.strip().rstrip(".").isalpha())
    }


def _note(answer: str) -> Reason | None:
    """A few words without capital and full stop, in a file whose answers have both: "pt gebeld, geen gehoor"."""
    text = answer.strip()
    short = 1 < len(text.split()) <= NOTE_WORDS and text[0].islower() and text[-1].isalpha()
    return Reason(STUB, f"the answer is only {text!r}") if short else None


def _refusal(prompt: str, answer: str, wrong_form: Callable[[str], Reason | None]) -> Reason | None:
    # Records and code may contain such words; a refusal is prose.
    if answer.lstrip().startswith(("{", "[", "<", "```")) and not wrong_form(answer):
        return None
    if wrong_form(answer):
        match = PATTERNS["refusal"].search(answer[:400]) or PATTERNS["refusal_elsewhere"].match(answer)
        return Reason("refusal", f'the answer says "{match.group()}"') if match else None
    if set(re.findall(r"\d+", answer)) - set(re.findall(r"\d+", prompt)):
        return None  # "Unfortunately we can't refund it before 3 May" has an answer in it
    opening = _refuses(prompt, answer.strip())
    return Reason("refusal", f'the answer begins with "{opening[:60]}"') if opening else None


def _refuses(prompt: str, answer: str) -> str:
    """The beginning of an answer that is nothing but a refusal; "" for any other answer."""
    if len(answer) > 2 and answer.lower().strip(".!") != "no" and PATTERNS["plain_refusal"].fullmatch(answer):
        return answer
    if (match := PATTERNS["refusal_elsewhere"].match(answer)) and (
        len(answer.split()) <= SHORT_REFUSAL or not PATTERNS["asks_for_text"].search(prompt)
    ):
        return match.group() if len(answer.encode()) < 6 * REFUSAL_WORDS else ""  # a Chinese character has three bytes
    if len(answer.split()) > REFUSAL_WORDS:
        return ""
    remainder, machine = answer, False
    while (apology := PATTERNS["apology"].match(remainder)) and apology.end():
        machine |= apology.group()[:2].lower() == "as"
        remainder = remainder[apology.end() :]
    apologised = len(remainder) < len(answer)
    inability = PATTERNS["inability"].match(remainder)
    if not inability or PATTERNS["instead"].search(remainder[inability.start("remainder") :]):
        return ""
    serving = PATTERNS["service"].search(inability.group())
    if not (apologised or serving) or (
        PATTERNS["asks_for_text"].search(prompt) and not machine and not (apologised and serving)
    ):
        return ""
    if not (serving or machine) and len(re.split(r"[.;!?]\s", answer)) > 1:  # "We cannot store prams. The cellar has room"
        return ""
    return answer[: len(answer) - len(remainder) + inability.start("remainder")]


def _truncated(prompt: str, answer: str) -> Reason | None:
    for text, side in ((prompt, "message"), (answer, "answer")):
        if side == "message" and PATTERNS["to_be_completed"].search(prompt):
            continue
        if PATTERNS["cut"].search(text.rstrip(), max(0, len(text.rstrip()) - END)):
            return Reason("truncated", f"the {side} ends with {text.rstrip()[-12:]!r}")
    if _breaks_off(answer) and not PATTERNS["about_language"].search(prompt):
        return Reason("truncated", f"the answer breaks off: {answer.rstrip()[-20:]!r}")
    if answer.lstrip().startswith(("{", "[")):
        try:
            json.loads(answer)
        except (ValueError, RecursionError) as error:
            if getattr(error, "pos", 0) >= len(answer.rstrip()) - 1 or "Unterminated" in str(error):
                return Reason("truncated", "the answer's JSON ends in the middle")
    return None


def _breaks_off(answer: str) -> bool:
    """Whether prose ends in the middle of a sentence; the comma of "Best regards," ends a letter whose name was cut away."""
    text = answer.rstrip()
    match = PATTERNS["breaks_off"].search(text, max(0, len(text) - END)) or PATTERNS["begins_only"].search(text)
    if not match or formats.written_in(answer) != [answer] or CODE.search(answer):
        return False
    comma = match.groupdict().get("comma")
    sentence = text.splitlines()[-1] if comma else text
    return len(sentence.split()) >= SENTENCE and not (comma and ends(text.lower().rstrip(" ,"), CLOSES))


@functools.cache
def all_names() -> frozenset[str]:
    """Return given names and family names, in lower case."""
    return name_lists()[0] | name_lists()[1]


def _has_end(answer: str) -> bool:
    """Whether a text ends as prose, a list, a letter or a link does: not with a lower-case word."""
    last = answer.rstrip().splitlines()[-1].split() if answer.strip() else []
    if len(last) < SENTENCE or not last[-1].isalpha() or last[0][:1] in "-*•|>":
        return True
    sentence = re.split(r"[.!?,] ", " ".join(last))[-1]
    signs = CUT.intersection(sentence.lower().split()) or last[-1].lower() in all_names()
    noun = last[-1].istitle() and GERMAN.search(sentence) and not signs and len(sentence.split()) > 2
    return not (last[-1].islower() or noun)


def _is_one_sentence(answer: str) -> bool:
    """Whether a short answer is one sentence whose author left out the full stop, with nothing that more must follow."""
    words = answer.split()
    whole = len(words) <= ONE_SENTENCE and "\n" not in answer.strip() and not re.search(r"[.!?] ", answer)
    return whole and words[-1].islower() and len(words[-1]) > 3 and words[-1] not in GOES_ON


def _without_end(prompt: str, answer: str) -> Reason | None:
    """A long last line that ends with a word in lower case, in a file whose answers end properly."""
    if _has_end(answer) or CODE.search(answer) or formats.written_in(answer) != [answer]:
        return None
    if PATTERNS["about_language"].search(prompt) or _is_one_sentence(answer):
        return None
    return Reason("truncated", f"the answer ends without a full stop, unlike most: {answer.rstrip()[-20:]!r}")


def _mojibake(prompt: str, answer: str) -> Reason | None:
    """The word is UTF-8 that somebody read as Windows-1252: "GeblÃ¤se", "pleÅ›Å„"."""
    text = f"{prompt}\n{answer}"
    match = None if text.isascii() else PATTERNS["mojibake"].search(text)
    return Reason("mojibake", f"{match.group()!r} is text in the wrong encoding; export it as UTF-8") if match else None


def form_of(answers: Sequence[str], schema: dict | None = None) -> Callable[[str], Reason | None]:
    """Return a rule that checks the form of an answer.

    Args:
        answers: all answers of the file; without a schema, most of them must be JSON objects for their keys to be the usual
            ones.
        schema: JSON Schema that an answer must fit.

    Returns:
        A function that returns a reason, or None if the form is right.
    """
    if schema is not None:
        import jsonschema

        validator = jsonschema.validators.validator_for(schema)(schema)

        def against_schema(answer: str) -> Reason | None:
            value = json_or_none(answer)
            if value is None:
                return Reason("answer_format", "the answer is not JSON")
            error = next(iter(validator.iter_errors(value)), None)
            return Reason("answer_format", f"the record does not fit: {error.message[:120]}") if error else None

        return against_schema
    shapes = Counter(frozenset(value) for value in map(json_or_none, answers) if isinstance(value, dict))
    keys, count = shapes.most_common(1)[0] if shapes else (frozenset(), 0)
    if count < USUAL_FORM * len(answers):
        return _any_form

    def against_most(answer: str) -> Reason | None:
        value = json_or_none(answer)
        if isinstance(value, dict) and frozenset(value) == keys:
            return None
        return Reason(
            "answer_format",
            f"{count / len(answers):.0%} of the answers are JSON objects with {', '.join(sorted(keys))}, but not this one",
        )

    return against_most


def _any_form(answer: str) -> Reason | None:
    """The rule for answers without a common form: no answer has the wrong one."""
    return None


def _language(texts: tuple[str, str], language: str | None) -> Reason | None:
    prompt, answer = texts
    written = " ".join(formats.written_in(answer))
    if language is None and min(_letters(written), _letters(prompt)) < MIXED_CHARACTERS:
        return None
    if PATTERNS["about_language"].search(prompt):
        return None
    if language is None:
        return _mixed(prompt, written)
    for text, side in ((prompt, "message"), (written, "answer")):
        if _letters(text) >= LANGUAGE_CHARACTERS:
            identified, probability = identify_language(text)
            if identified != language and probability >= LANGUAGE_PROBABILITY:
                return Reason("language", f"the {side} is in {identified} ({probability:.2f})")
    return None


def _mixed(prompt: str, answer: str) -> Reason | None:
    """The answer is in a language that no part of its message is in. Both have at least `MIXED_CHARACTERS` letters."""
    if CODE.search(answer):
        return None
    (prompt_language, prompt_probability), (answer_language, answer_probability) = (
        identify_language(prompt),
        identify_language(answer),
    )
    if (
        prompt_language == answer_language
        or NO_LANGUAGE in (prompt_language, answer_language)
        or min(prompt_probability, answer_probability) < MIXED_PROBABILITY
    ):
        return None
    # An instruction in one language about a passage in another may be answered in either.
    parts = [part for part in re.split(r"[\n.!?。！？]+", prompt) if _letters(part) >= LANGUAGE_CHARACTERS]
    if WITHOUT_SPACES.search(prompt) and WITHOUT_SPACES.search(answer):
        return None  # the identifier mistakes Chinese for several languages
    if answer_language in {identify_language(part)[0] for part in parts}:
        return None
    return Reason(
        "language", f"the message is in {prompt_language}, the answer in {answer_language} ({answer_probability:.2f})"
    )


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def identify_language(text: str) -> tuple[str, float]:
    """Return the ISO 639-1 code of a text's language and its probability.

    They come from py3langid (Lui and Baldwin 2012), whose package contains its model.
    """
    from course_utils.errors import CourseError

    try:
        import py3langid
    except ImportError as error:
        raise CourseError(
            "identifying languages needs py3langid: pip install 'finetuning-course[data]', then run this again"
        ) from error
    ranked = [(RELATED.get(code, code), score) for code, score in py3langid.rank(text)]
    scores = np.array([score for _, score in ranked], dtype=float)
    probabilities = np.exp(scores - scores.max())
    return ranked[0][0], float(probabilities.max() / probabilities.sum())


def _low_information(prompt: str, formed: bool) -> Reason | None:
    words = normalise(prompt).split()
    if not formed:
        # "Hi", "2+2" and "What is AI?" can be answered; a message without any letter or digit hardly can.
        return None if words or re.search(r"[^\W_]", prompt) else Reason("low_information", "no word at all")
    words = [word for word in words if word not in GREETING]
    if len(words) >= 2 * MIN_WORDS:
        return None
    informative = sum(0.5 for word in words if WITHOUT_SPACES.match(word)) + sum(
        len(word) > 2 and bool(re.search(r"[aeiouyàâäáåæèéêëíîïòóôöøùúûü\d]|[^\x00-\x7f]", word)) for word in words
    )
    if informative < MIN_WORDS:
        return Reason("low_information", f"only {informative:g} words that carry information")
    return None


def _canned(prompts: list[str], answers: list[str]) -> dict[int, Reason]:
    """Answers that many different messages have (see `CANNED_MESSAGES`), in a file where most answers are unique.

    If answers are labels, many messages have the same one, and nothing is flagged.
    """
    messages: dict[str, set[int]] = {}
    for prompt, answer in zip(prompts, answers):
        messages.setdefault(normalise(answer), set()).add(hash(normalise(prompt)))
    if len(messages) < 0.5 * len(answers):
        return {}
    return {
        index: Reason("canned_answer", f"{len(messages[key]):,} different messages have this answer")
        for index, key in enumerate(map(normalise, answers))
        if any(len(messages[key]) >= least and len(key.split()) >= words for words, least in CANNED_MESSAGES.items())
    }


def _answers_to_others(prompts: list[str], answers: list[str], seed: int) -> dict[int, Reason]:
    """Rows whose answer fits many random other messages better than its own, judged by the rare word stems and numbers in common.

    If answers take nothing from the messages (a mere label), this can't be judged, and nothing is flagged.
    """
    texts = [" ".join(formats.written_in(answer)) + " " + " ".join(re.findall(r"\d{3,}", answer)) for answer in answers]
    answer_stems = [_stems(text) for text in texts]
    written = frozenset[str]().union(*answer_stems)  # the stems of all messages would take gigabytes
    prompt_stems = [_stems(prompt) & written for prompt in prompts]
    prompts_with = Counter(stem for stems in prompt_stems for stem in stems)
    n = len(prompts)
    weight = {stem: math.log(n / count) for stem, count in prompts_with.items()}
    own_scores = np.array([sum(weight.get(s, 0) for s in a & p) for a, p in zip(answer_stems, prompt_stems)])
    if n < 30 or np.mean(own_scores > 0) < 0.7:
        return {}
    draw = random.Random(seed)
    reasons = {}
    long_numbers = [{s for s in stems if s.isdigit() and len(s) >= 4} for stems in answer_stems]
    from_message = [bool(numbers & stems) for numbers, stems in zip(long_numbers, prompt_stems) if numbers]
    # "1939" may well answer a question without a number, unless the answers of this file copy their numbers from messages.
    copied = len(from_message) >= 30 and np.mean(from_message) >= FROM_MESSAGE
    for index, stems in enumerate(answer_stems):
        if len(stems) < 3 or own_scores[index] > 6:
            continue
        others = [sum(weight.get(s, 0) for s in stems & prompt_stems[j]) for j in draw.sample(range(n), min(OTHERS, n))]
        better = sum(other > own_scores[index] for other in others) / len(others)
        if better > 0.15:
            reasons[index] = Reason("other_answer", f"{better:.0%} of random other messages fit the answer better")
            continue
        numbers = long_numbers[index]
        if copied and numbers and not numbers & prompt_stems[index]:
            reasons[index] = Reason("other_answer", f"the number {sorted(numbers)[0]} in the answer is not in the message")
    return reasons


def _stems(text: str) -> set[str]:
    words = normalise(text)
    return {word if word.isdigit() else word[:5] for word in words.split() if len(word) > 3} | {
        *re.findall(r"\d{4,}", words)
    }
