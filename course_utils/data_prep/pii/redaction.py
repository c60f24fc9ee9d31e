"""`find` what is personal in a text, and `redact` it in rows: a label, a mask, or the same invented stand-in each time."""

from __future__ import annotations

import contextlib
import copy
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

from course_utils.data_prep.pii.pseudonyms import pseudonym
from course_utils.data_prep.pii.wording import BLOT, Piece, blotted, rewrite
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from presidio_analyzer import RecognizerResult

KINDS = ("NAME", "ADDRESS", "PHONE", "EMAIL", "CARD", "IBAN", "IP", "NATIONAL_ID", "BIRTH_DATE")
MODES = ("label", "mask", "pseudonym")
THRESHOLD = 0.5
WINDOW = 2_500  # characters that are looked at together
# Which kind stays where two overlap: what has a check digit says more than what has a shape, a shape more than a list of words.
PRECEDENCE = {
    kind: place
    for place, kind in enumerate(("IBAN", "CARD", "EMAIL", "NATIONAL_ID", "IP", "BIRTH_DATE", "ADDRESS", "PHONE", "NAME"))
}
CONTEXT = {
    "CARD": re.compile(
        r"\b(?:card|visa|mastercard|amex|american express|credit|debit|maestro|cc|karte|carte|tarjeta|paid|charged)\b",
        re.IGNORECASE,
    ),
    "US_SSN": re.compile(r"\b(?:social|ssn|ss#|ss)\b", re.IGNORECASE),
    "DE_TAX_ID": re.compile(r"\b(?:steuer\S*|idnr|tax|tin|bzst)", re.IGNORECASE),
    "PL_PESEL": re.compile(r"\bpesel\b", re.IGNORECASE),
    "ES_NIF": re.compile(r"\b(?:dni|nif|identidad|spanish|id)\b", re.IGNORECASE),
}
PARCEL = re.compile(
    r"\b(?:track(?:ing)?|parcel|shipment|consignment|serial|order|invoice|imei|reference|ref|barcode|ean|meter|gift ?card|voucher|booking|ticket)\b"
    r"(?: (?:number|no\.?|nr\.?|code|id))?[^.\n]{0,12}$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Entity:
    """Something personal in a text: kind, place (characters, end exclusive), the text itself, and a score from 0 to 1."""

    kind: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True)
class Redacted:
    """A row without its personal data, and what was found in it: field ("messages[1].content") and entity."""

    row: dict
    findings: list[tuple[str, Entity]] = field(repr=False)


def find(
    text: str, kinds: Iterable[str] = KINDS, threshold: float = THRESHOLD, allow: Iterable[str] = (), preceding: str = ""
) -> list[Entity]:
    """Personal data in a text, in order, none overlapping.

    Args:
        text: any.
        kinds: of `KINDS`.
        threshold: findings with a lower score are left out.
        allow: values that are nobody's, such as the company's own address and number; case does not matter.
        preceding: what was said before, where a question may stand that the text answers ("And your date of birth?").

    Addresses of pages, base64, and ids in hexadecimal are no text: nothing is looked for in them.

    Raises:
        CourseError: unknown kind, or Presidio is not installed.
    """
    kinds = set(kinds)
    if unknown := kinds - set(KINDS):
        raise CourseError(f"unknown kind {sorted(unknown)[0]!r}; there are {', '.join(KINDS)}")
    shown = blotted(text)
    if len(text) > WINDOW:
        found = _in_windows(shown, kinds, threshold, preceding)
    else:
        found = _find(shown, kinds, threshold, preceding)
    allowed = {value.casefold() for value in allow}
    return [entity for entity in found if BLOT not in entity.text and entity.text.casefold() not in allowed]


def _find(text: str, kinds: set[str], threshold: float, preceding: str) -> list[Entity]:
    """As `find`, for a text that fits a window."""
    if not text.strip(BLOT):
        return []
    recognizers = _recognizers()
    found = []
    if recognizers.DIGIT.search(text) or "@" in text or ":" in text:
        asked = preceding[-100:] + "\n" if preceding else ""
        for gate, recognizer in recognizers.structured():
            entities = [e for e in recognizer.supported_entities if recognizers.ENTITIES[e] in kinds]
            if entities and gate.search(text):
                for result in recognizer.analyze(asked + text, entities, None):
                    score, start, end = _in_context(asked + text, result), result.start - len(asked), result.end - len(asked)
                    if score >= threshold and start >= 0:
                        found.append(_entity(text, recognizers.ENTITIES[result.entity_type], start, end, score))
    name, address = recognizers.unstructured()
    if "ADDRESS" in kinds:
        found += [_entity(text, "ADDRESS", r.start, r.end, r.score) for r in address.analyze(text) if r.score >= threshold]
    found = _without_overlaps(found)
    if "NAME" in kinds:
        # Numbers and addresses are blotted out first: streets are named after people.
        blotted = text
        for entity in found:
            blotted = blotted[: entity.start] + "0" * (entity.end - entity.start) + blotted[entity.end :]
        found += [_entity(text, "NAME", r.start, r.end, r.score) for r in name.analyze(blotted) if r.score >= threshold]
    return _without_overlaps(found)


def _in_windows(text: str, kinds: set[str], threshold: float, preceding: str) -> list[Entity]:
    """A long text window by window: patterns of names and addresses take time that grows with the square of the length."""
    found, start = [], 0
    while start < len(text):
        end = min(start + WINDOW, len(text))
        if end < len(text):  # cut between lines, sentences or words, in this order
            cuts = (text.rfind(mark, start + WINDOW // 2, end) + len(mark) for mark in ("\n", ". ", " "))
            end = next((cut for cut in cuts if cut > start + WINDOW // 2), end)
        for entity in _find(text[start:end], kinds, threshold, preceding):
            found.append(Entity(entity.kind, entity.start + start, entity.end + start, entity.text, entity.score))
        preceding, start = text[start:end], end
    return found


class Redactor:
    """Redacts rows, the same person by the same stand-in in all of them.

    Args:
        mode: "label" writes [NAME], "mask" a * for each letter and digit, "pseudonym" an invented value of the same kind.
        kinds: what is taken out.
        seed: with another seed come other pseudonyms; without knowing it they can't be computed from the values.
        threshold, allow: see `find`.

    Raises:
        CourseError: unknown mode or kind.
    """

    def __init__(
        self,
        mode: str = "label",
        kinds: Iterable[str] = KINDS,
        seed: int | str = 0,
        threshold: float = THRESHOLD,
        allow: Iterable[str] = (),
    ) -> None:
        if mode not in MODES:
            raise CourseError(f"unknown mode {mode!r}; choose among {', '.join(MODES)}")
        kinds = tuple(kinds)
        if unknown := set(kinds) - set(KINDS):
            raise CourseError(f"unknown kind {sorted(unknown)[0]!r}; there are {', '.join(KINDS)}")
        self.mode, self.kinds, self.seed = mode, kinds, seed
        self.threshold, self.allow = threshold, tuple(allow)

    def text(self, text: str, preceding: str = "") -> tuple[str, list[Entity]]:
        """A text without its personal data, and what was found."""
        entities = find(text, self.kinds, self.threshold, self.allow, preceding)
        return self._replaced(text, entities), entities

    def _replaced(self, text: str, entities: list[Entity]) -> str:
        pieces, position = [], 0
        for entity in entities:
            pieces += [text[position : entity.start], self.replacement(entity)]
            position = entity.end
        return "".join([*pieces, text[position:]])

    def row(self, row: dict) -> Redacted:
        """A row with messages, or prompt and answers, without its personal data; in answers, what the prompt calls by name too.

        The row itself is not changed.
        """
        row, pieces = copy.deepcopy(row), list[Piece]()
        rewrite(row, lambda piece: pieces.append(piece) or piece.text)  # type: ignore[func-returns-value]
        found = [find(p.text, self.kinds, self.threshold, self.allow, p.preceding) for p in pieces]
        # A name found in one message is one in all: "Thanks, Jana" tells who "dear Jana" is. All is found before anything is
        # replaced: what was put in somebody's place must not be taken for somebody else.
        known = {entity.text: entity for entities in found for entity in entities if len(entity.text) > 2}
        if known:
            pattern = re.compile("|".join(rf"(?<!\w){re.escape(t)}(?!\w)" for t in sorted(known, key=len, reverse=True)))
            found = [_with_known(p.text, entities, pattern, known) for p, entities in zip(pieces, found)]
        if any(found):
            replaced = iter([self._replaced(p.text, entities) for p, entities in zip(pieces, found)])
            rewrite(row, lambda piece: next(replaced))
        return Redacted(row, [(p.place, entity) for p, entities in zip(pieces, found) for entity in entities])

    def replacement(self, entity: Entity) -> str:
        """What stands in an entity's place."""
        if self.mode == "label":
            return f"[{entity.kind}]"
        if self.mode == "mask":
            return re.sub(r"\w", "*", entity.text)
        return pseudonym(entity.kind, entity.text, self.seed)


def redact(
    rows: Sequence[dict], mode: str = "label", kinds: Iterable[str] = KINDS, seed: int | str = 0, allow: Iterable[str] = ()
) -> list[Redacted]:
    """Rows without personal data; see `Redactor`."""
    redactor = Redactor(mode, kinds, seed, allow=allow)
    return [redactor.row(row) for row in rows]


def _recognizers() -> ModuleType:
    try:
        with _without_torch():
            from course_utils.data_prep.pii import recognizers
    except ImportError as error:
        raise CourseError(
            f"finding personal data needs {error.name}: pip install 'finetuning-course[data]', and again"
        ) from error
    return recognizers


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """spaCy and Presidio import torch and transformers where they are: 250 MB and seconds for what is not used here."""
    hidden = [name for name in ("torch", "transformers") if name not in sys.modules]
    # Both or neither: transformers imported without torch would go on believing that there is none.
    hidden = hidden if len(hidden) == 2 else []
    # typeshed lets no None in; to Python it means that there is no such module
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _entity(text: str, kind: str, start: int, end: int, score: float) -> Entity:
    return Entity(kind, start, end, text[start:end], round(float(score), 2))


def _in_context(text: str, result: RecognizerResult) -> float:
    """A recogniser's score, moved by the words before it: Presidio does this with lemmas from spaCy."""
    before = text[max(0, result.start - 70) : result.start]
    value = text[result.start : result.end]
    score = result.score
    if result.entity_type == "CREDIT_CARD":
        # One number in ten passes Luhn's check by chance.
        if not re.match(r"(?:4|5[1-5]|2[2-7]|3[47]|6(?:011|4[4-9]|5)|3(?:0[0-5]|[689])|35)", re.sub(r"\D", "", value)):
            return 0.0
        if PARCEL.search(before) and not CONTEXT["CARD"].search(before[-25:]):
            return 0.0
    elif result.entity_type == "IP_ADDRESS":
        from course_utils.data_prep.pii.recognizers import VERSION

        if VERSION.search(before) and not re.search(r"\bip\b", before, re.IGNORECASE):
            return 0.0
        # Version numbers look the same; addresses on the internet with small parts alone are rare.
        named = re.search(r"\b(?:ip|login|logged|log|signed|sign|address|session|host|server)\b", before, re.IGNORECASE)
        if re.fullmatch(r"\d{1,2}(?:\.\d{1,2}){3}", value) and not named:
            return 0.0
        if ":" in value and len(re.sub(r"[^0-9A-Fa-f]", "", value)) < 5:  # times such as 12:30:45
            return 0.0
    elif result.entity_type == "US_SSN":
        named = CONTEXT["US_SSN"].search(before)
        shaped = re.fullmatch(r"\d{3}[- ]\d{2}[- ]\d{4}", value)
        score = 0.9 if named else 0.6 if shaped and not PARCEL.search(before) else 0.0
    elif result.entity_type in ("DE_TAX_ID", "PL_PESEL", "ES_NIF"):
        # The number and the word that names it may stand in different sentences.
        score = score if CONTEXT[result.entity_type].search(text) else 0.4
    return score


def _with_known(text: str, entities: list[Entity], pattern: re.Pattern[str], known: dict[str, Entity]) -> list[Entity]:
    """The entities of a text, and what is known from others and stands beside them."""
    found = list(entities)
    for match in pattern.finditer(blotted(text)):
        entity = known[match.group()]
        if not any(match.start() < other.end and other.start < match.end() for other in entities):
            found.append(_entity(text, entity.kind, match.start(), match.end(), entity.score))
    return sorted(found, key=lambda entity: entity.start)


def _without_overlaps(found: list[Entity]) -> list[Entity]:
    kept: list[Entity] = []
    for entity in sorted(found, key=lambda e: (PRECEDENCE[e.kind], e.start - e.end)):
        if not any(entity.start < other.end and other.start < entity.end for other in kept):
            kept.append(entity)
    return sorted(kept, key=lambda e: e.start)
