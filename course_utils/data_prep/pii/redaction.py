"""`find` personal data in a text; a `Redactor` replaces it in rows by a label, a mask, or a consistent pseudonym."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from course_utils.data_prep.pii.addresses import find_addresses
from course_utils.data_prep.pii.credentials import find_secrets
from course_utils.data_prep.pii.known import Known, is_person, kind_of_field, people_in, people_in_addresses
from course_utils.data_prep.pii.names import find_names, parts_of
from course_utils.data_prep.pii.words import common_words, foreign_words, name_lists
from course_utils.data_prep.reading import json_or_none
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from faker import Faker

# The first wins where two overlap: a check digit is stronger evidence than a pattern, and a pattern than a list of words.
PII_KINDS = (
    "SECRET", "IBAN", "CARD", "EMAIL", "NATIONAL_ID", "IP", "BIRTH_DATE", "ACCOUNT", "VEHICLE", "HANDLE", "ADDRESS", "PHONE", "NAME"
)  # fmt: skip
MODES = ("label", "mask", "pseudonym")
# Letters of other scripts than Latin, two or more.
NOT_LATIN = re.compile(
    r"[\u0370-\u1dff\u2c00-\u2dff\u3040-\ud7ff\uf900-\ufaff\ufb1d-\ufdff\ufe70-\ufefc\uff66-\uff9f\U00020000-\U0003ffff]{2,}"
)
UNSEARCHED_SHARE = 0.2
CAPITALISED_SCRIPTS = ("Cyrillic", "Greek", "Armenian")  # Faker has lists of their names
WINDOW = 2_500  # characters that are searched together


@dataclass(frozen=True)
class Entity:
    """Personal data in a text.

    Attributes:
        kind: kind of personal data, one of `PII_KINDS`.
        start, end: position in characters, end exclusive.
        text: the text itself.
    """

    kind: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Redacted:
    """A row without its personal data.

    Attributes:
        row: the row.
        findings: what was found in it, as (field, entity); a field is like "messages[1].content".
        script: the script that a fifth or more of one of its texts is in, if names or addresses are not looked for there
            (see `unsearched_script`); otherwise "".
    """

    row: dict
    findings: list[tuple[str, Entity]] = field(repr=False)
    script: str = ""


def find(text: str, allow: Iterable[str] = (), preceding: str = "", writer: str = "") -> list[Entity]:
    """Return the personal data in a text, in order and without overlaps.

    Web addresses, base64 and hexadecimal ids are not text, and only searched for secrets.

    Args:
        text: any text.
        allow: values that identify nobody, such as the company's own address and number; case does not matter.
        preceding: the message before, which may ask a question that the text answers ("And your date of birth?").
        writer: "user" or "assistant" if one of them wrote the text: an answer greets a person, and a question is signed by
            one, whose name may be in no list.

    Raises:
        CourseError: a library of the extra `data` is not installed.
    """
    searched = blotted(text)
    # Keys look like the ids and the base64 that are not searched.
    secrets = [_entity(text, "SECRET", *span) for span in find_secrets(text, preceding)]
    for secret in secrets:
        searched = searched[: secret.start] + BLOT * len(secret.text) + searched[secret.end :]
    entities = sorted([*_in_windows(searched, preceding, writer), *secrets], key=lambda entity: entity.start)
    allowed = [re.compile(rf"(?<!\w){re.escape(value)}(?!\w)", re.IGNORECASE) for value in allow]
    return [e for e in entities if BLOT not in e.text and not any(_covers(value, text, e) for value in allowed)]


def _covers(value: re.Pattern[str], text: str, entity: Entity) -> bool:
    """Whether an entity is an allowed value, a part of it, or more only by words that name nobody: "Im Helio Fix 24"."""
    for match in value.finditer(text, max(0, entity.start - 100), entity.end + 100):
        if match.start() < entity.end and match.end() > entity.start:
            outside = (
                text[entity.start : max(entity.start, match.start())] + text[max(entity.start, match.end()) : entity.end]
            )
            words = set(re.findall(r"[^\W\d_]+", outside.lower()))
            return not re.search(r"\d", outside) and not any(words & known for known in name_lists())
    return False


def unsearched_script(text: str) -> str:
    """Return the script of a text if names or addresses in it are not looked for: "Chinese", "Arabic", "Cyrillic"; else "".

    Names are found by their capital letters and addresses by the words for streets in languages in Latin script. It counts
    if it has a fifth of the letters; single letters, as in formulas, don't count.
    """
    if text.isascii():
        return ""
    letters = "".join(NOT_LATIN.findall(text))
    if not letters or len(letters) < UNSEARCHED_SHARE * sum(map(str.isalpha, text)):
        return ""
    names = Counter(unicodedata.name(letter, "unknown").split()[0] for letter in letters[:200])
    kana = names["HIRAGANA"] + names["KATAKANA"]  # Japanese has Chinese characters too
    script = "Japanese" if kana else names.most_common(1)[0][0].title()
    return {"Cjk": "Chinese", "Hangul": "Korean"}.get(script, script)


def not_looked_for(script: str) -> str:
    """Return what is not looked for in a script that `unsearched_script` returns."""
    return "addresses" if script in CAPITALISED_SCRIPTS else "names and addresses"


def _find(text: str, preceding: str, writer: str) -> list[Entity]:
    """Like `find`, without secrets, for a text that fits into one window."""
    if not text.strip(BLOT):
        return []
    recognizers = _recognizers()
    entities: list[Entity] = []
    if re.search(r"[\d@:\[({<]", text):
        context = preceding[-100:] + "\n" if preceding else ""
        whole = context + text
        separated = recognizers.separated(whole)
        for entity, gate, finder in recognizers.FINDERS:
            kind = entity if entity in PII_KINDS else "NATIONAL_ID"
            if not gate.search(text):
                continue
            # An e-mail address may have such letters itself, and words before a number tell whether it is a phone's.
            for start, end in finder(whole if kind in ("CARD", "EMAIL", "PHONE") else separated):
                if start >= len(context):
                    entities.append(_entity(text, kind, start - len(context), end - len(context)))
    if recognizers.DIGIT.search(text):
        entities += [_entity(text, "ADDRESS", *span) for span in find_addresses(text)]
    entities = _without_overlaps(entities)
    # Numbers and addresses are blotted out first, because streets are named after people.
    masked_text = recognizers.separated(text)
    for found in entities:
        masked_text = masked_text[: found.start] + "0" * (found.end - found.start) + masked_text[found.end :]
    entities += [_entity(text, "NAME", *span) for span in find_names(masked_text, writer)]
    return _without_overlaps(entities)


def _in_windows(text: str, preceding: str, writer: str) -> list[Entity]:
    """Search a text window by window, because the time for names and addresses grows with the square of the length."""
    entities, start = [], 0
    while start < len(text):
        end = min(start + WINDOW, len(text))
        if end < len(text):  # cut between lines, sentences or words, in this order
            cuts = (text.rfind(mark, start + WINDOW // 2, end) + len(mark) for mark in ("\n", ". ", " "))
            end = next((cut for cut in cuts if cut > start + WINDOW // 2), end)
        for entity in _find(text[start:end], preceding, writer):
            entities.append(Entity(entity.kind, entity.start + start, entity.end + start, entity.text))
        preceding, start = text[start:end], end
    return entities


class Redactor:
    """Removes personal data from rows; the same person gets the same pseudonym in all of them.

    Args:
        mode: "label" writes [NAME], "mask" a * for each letter and digit, "pseudonym" an invented value of the same kind.
        seed: determines the pseudonyms; without knowing it, nobody can compute them from the values.
        allow: see `find`.

    Raises:
        CourseError: the mode is unknown.
    """

    def __init__(self, mode: str = "label", seed: int | str = 0, allow: Iterable[str] = ()) -> None:
        if mode not in MODES:
            raise CourseError(f"unknown mode {mode!r}; choose among {', '.join(MODES)}")
        self.mode, self.seed, self.allow = mode, seed, tuple(allow)

    def text(self, text: str, preceding: str = "") -> tuple[str, list[Entity]]:
        """Return a text without its personal data, and what was found in it.

        Warns if the text is in a script in which names or addresses are not looked for.
        """
        if script := unsearched_script(text):
            warnings.warn(f"in {script} script {not_looked_for(script)} are not looked for", stacklevel=2)
        entities = find(text, self.allow, preceding)
        return self._replaced(text, entities), entities

    def _replaced(self, text: str, entities: list[Entity]) -> str:
        pieces, position = [], 0
        for entity in entities:
            pieces += [text[position : entity.start], self.replacement(entity)]
            position = entity.end
        return "".join([*pieces, text[position:]])

    def row(self, row: dict, people: Iterable[str] = ()) -> Redacted:
        """Return a row (with messages, or with prompt and answers) without its personal data; the row itself is not changed.

        A name that is found in one text of the row, or stands in a field such as "patient", is removed from all texts.

        Args:
            row: the row.
            people: names of further people that the row is about.
        """
        pieces: list[Piece] = []
        rewrite(row, lambda piece: pieces.append(piece) or piece.text)  # type: ignore[func-returns-value]
        script = next(filter(None, (unsearched_script(piece.text) for piece in pieces)), "")
        by_key = [_named_by_key(p) for p in pieces]
        entities_of = [named or find(p.text, self.allow, p.preceding, p.writer) for p, named in zip(pieces, by_key)]
        known = Known([*people, *people_in(row), *people_in_addresses(p.text for p in pieces)])
        entities_of = [_with_known(p.text, entities, known, self.allow) for p, entities in zip(pieces, entities_of)]
        # A name found in one message is a name in all: "Thanks, Jana" shows who "dear Jana" is. Everything is found before
        # anything is replaced, so that a pseudonym is not taken for another person.
        entity_of: dict[str, Entity] = {}
        found = [e for entities, named in zip(entities_of, by_key) for e in entities if not named]  # `known` has the others
        for entity in (entity for entity in found if len(entity.text) > 2):
            name = entity.kind == "NAME" and entity.text[0].isupper()
            also = [part for part in parts_of(entity.text) if part.lower() not in foreign_words()] if name else []
            if not (name and entity.text.lower() in common_words()):  # "Bill" signs, and the bill is another one's
                entity_of |= dict.fromkeys([*also, entity.text], entity)
        texts, covered = "\n".join(p.text for p in pieces), "\n".join(e.text for entities in entities_of for e in entities)
        entity_of = {t: entity for t, entity in entity_of.items() if texts.count(t) > covered.count(t)}
        if entity_of:
            pattern = re.compile("|".join(rf"(?<!\w){re.escape(t)}(?!\w)" for t in sorted(entity_of, key=len, reverse=True)))
            entities_of = [_with_repeated(p.text, entities, pattern, entity_of) for p, entities in zip(pieces, entities_of)]
        replaced = iter([self._replaced(p.text, entities) for p, entities in zip(pieces, entities_of)])
        row = rewrite(row, lambda piece: next(replaced))
        findings = [(p.path, entity) for p, entities in zip(pieces, entities_of) for entity in entities]
        return Redacted(row, findings, script)

    def about(self, item: tuple[dict, Iterable[str]]) -> Redacted:
        """Return `row` of a row and its people, as one argument: so that processes can map over both."""
        return self.row(*item)

    def replacement(self, entity: Entity) -> str:
        """Return the text that replaces an entity."""
        if self.mode == "label":
            return f"[{entity.kind}]"
        if self.mode == "mask":
            return re.sub(r"\w", "*", entity.text)
        return pseudonym(entity.kind, entity.text, self.seed)


def _recognizers() -> ModuleType:
    try:
        from course_utils.data_prep.pii import recognizers
    except ImportError as error:
        raise CourseError(
            f"finding personal data needs {error.name}: pip install 'finetuning-course[data]', then run this again"
        ) from error
    return recognizers


def _entity(text: str, kind: str, start: int, end: int) -> Entity:
    return Entity(kind, start, end, text[start:end])


def _named_by_key(piece: Piece) -> list[Entity]:
    """The value of a key for names, dates of birth and so on, whatever it looks like."""
    kind = kind_of_field(piece.path, piece.text) or kind_of_field(f"arguments.{piece.key}", piece.text)
    return [_entity(piece.text, kind, 0, len(piece.text))] if kind else []


def _with_known(text: str, entities: list[Entity], known: Known, allow: Iterable[str]) -> list[Entity]:
    """The entities of a text, and the people in it whose names are known otherwise."""
    allowed = {value.casefold() for value in allow}
    found = (_entity(text, "NAME", start, end) for start, end in known.find(blotted(text)))
    more = [entity for entity in found if entity.text.casefold() not in allowed]
    if not more:
        return entities
    whole = [e for e in entities if e.kind != "NAME" or not any(m.start <= e.start and e.end <= m.end for m in more)]
    return sorted([*whole, *_apart(more, whole)], key=lambda entity: entity.start)


def _apart(entities: Iterable[Entity], others: Sequence[Entity]) -> list[Entity]:
    return [e for e in entities if not any(e.start < other.end and other.start < e.end for other in others)]


def _with_repeated(
    text: str, entities: list[Entity], pattern: re.Pattern[str], entity_of: dict[str, Entity]
) -> list[Entity]:
    """The entities of a text, and further occurrences of entities from other texts of the row."""
    all_entities = list(entities)
    for match in pattern.finditer(blotted(text)):
        entity = entity_of[match.group()]
        all_entities += _apart([_entity(text, entity.kind, *match.span())], entities)
    return sorted(all_entities, key=lambda entity: entity.start)


def _without_overlaps(entities: list[Entity]) -> list[Entity]:
    selected: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (PII_KINDS.index(e.kind), e.start - e.end)):
        if not any(entity.start < other.end and other.start < entity.end for other in selected):
            selected.append(entity)
    return sorted(selected, key=lambda e: e.start)


# Keys whose values nobody wrote as text, except inside the arguments of a call.
NOT_WRITTEN = {
    "role", "type", "name", "from", "tools", "functions", "image_url", "input_audio", "file", "image", "images", "video",
    "videos", "audio", "audios", "url", "urls", "bytes", "b64_json",
}  # fmt: skip
# An id identifies a thing; a key that identifies a person, or a person's number, does not count.
ID = re.compile(r"(?:.*(?:_id|Id|ID)|id|uuid|guid|hash|sha\d*|md5|checksum)")
OF_A_PERSON = re.compile(r"national|tax|passport|social|citizen|identity|person|e?mail|login", re.IGNORECASE)
# Base64 must be longer than an IBAN (34 characters), and must not be the local part of an e-mail address.
PROTECTED = re.compile(
    r"""
    data:[\w.+-]+/[\w.+-]+[^,\s]*,[^\s"'<>)\]]*(?:\r?\n[A-Za-z0-9+/]{40,}+={0,2})*(?:\r?\n[A-Za-z0-9+/]+={0,2}(?=\s|$|["')]))?
    | \b(?:https?|ftp|wss?)://(?:[^\s<>"'`()\[\]{}|\\]|\([^\s<>"'`()]*\))+
    | (?<![\w.+/=@-])[A-Za-z0-9+/_-]{40,}+(?:\r?\n[A-Za-z0-9+/]{40,}+)*(?:\r?\n[A-Za-z0-9+/]{1,39}(?:={1,2}|$))?={0,2}(?![@]|[.][\w.-]*@)
    | \b[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}\b
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
# Fields that one of the two writes, in rows without messages
WRITERS = dict.fromkeys(("prompt", "question", "input", "instruction"), "user") | dict.fromkeys(
    ("completion", "chosen", "rejected", "answer", "output", "response"), "assistant"
)
BLOT = "\0"  # is neither part of a word nor a space, so no pattern matches across it
JSON_STRING = re.compile(r'("(?:[^"\\]|\\.)*+")(\s*:)?')  # the colon makes it a key


@dataclass
class Piece:
    """A piece of text within a row.

    Attributes:
        path: its field, such as "messages[1].content".
        text: the text as a person reads it, without JSON's escapes.
        preceding: the text before it, or its key if it is in JSON.
        writer: the role of the message, or the one that the field's name says; "" if none does.
        key: its key, if it is in the JSON of a text.
    """

    path: str
    text: str
    preceding: str = ""
    writer: str = ""
    key: str = ""


@functools.lru_cache(maxsize=64)  # a text is searched in several ways
def blotted(text: str) -> str:
    """Return the text, at the same length, with everything blotted out that nobody wrote."""
    if len(text) < 36 and "://" not in text and "data:" not in text:  # the shortest other match is a UUID
        return text
    return PROTECTED.sub(lambda match: BLOT * len(match.group()), text)


def rewrite(row: dict, change: Callable[[Piece], str]) -> dict:
    """Return a copy of a row in which each piece of text that someone wrote, in reading order, is what `change` returns."""
    preceding = ""

    def visit(value: Any, path: str, argument: bool, writer: str = "") -> Any:
        nonlocal preceding
        if isinstance(value, str):
            before, preceding = preceding, value
            return _rewritten(Piece(path, value, before, writer), change)
        if isinstance(value, list):
            return [visit(inner, f"{path}[{i}]", argument, writer) for i, inner in enumerate(value)]
        if not isinstance(value, dict):
            return value
        role = str(value.get("role", writer))
        changed = {}
        for key, inner in value.items():
            where = f"{path}.{key}" if path else str(key)
            written = argument or key not in NOT_WRITTEN or (isinstance(inner, str) and is_person(where, inner))
            if written and not is_id(key):
                inner = visit(inner, where, argument or key == "arguments", role or WRITERS.get(key, ""))
            changed[key] = inner
        return changed

    return visit(row, "", False)


def _rewritten(whole: Piece, change: Callable[[Piece], str]) -> str:
    """The changed text; in a JSON object or list only the contents of strings change, and all other bytes stay the same."""
    text = whole.text
    if not text.lstrip().startswith(("{", "[")) or json_or_none(text) is None:
        return change(whole)
    pieces: list[str] = []
    key, position, end = "", 0, 0
    for match in JSON_STRING.finditer(text):
        written, colon = match.groups()
        if "}" in text[end : match.start()]:
            key = ""  # it belonged to an object that has ended
        end = match.end()
        if colon:
            key = json.loads(written, strict=False)
        elif not is_id(key):
            string = json.loads(written, strict=False)
            changed = change(Piece(whole.path, string, key, key=key))
            if changed != string:
                pieces += [text[position : match.start()], json.dumps(changed, ensure_ascii=written.isascii())]
                position = end
    return "".join([*pieces, text[position:]])


def is_id(key: str) -> bool:
    """Return whether the value of this key is the id of a thing."""
    return bool(ID.fullmatch(key)) and not OF_A_PERSON.search(key)


# Parts of names that identify nobody: titles, and particles that occur in many names.
TITLES = {"mr", "mrs", "ms", "miss", "mx", "dr", "prof", "sir", "madam", "herr", "frau", "sr", "sra", "mme", "and"}
PARTICLES = {"de", "la", "le", "da", "di", "du", "van", "von", "der", "den", "del", "al", "el", "bin", "ibn", "y", "e", "zu"}
WORD = re.compile(r"[^\W_]+")


def pseudonym(kind: str, text: str, seed: int | str) -> str:
    """Return an invented value of the same kind for a personal one.

    It depends only on the value and the seed, so it is consistent without a table that could reveal the values. Names are
    replaced word by word, so that "Selin" and "Selin Karagöz" remain one person, and so do "SELIN" and "Karagoz".

    Args:
        kind: kind of personal data, one of `PII_KINDS`.
        text: the value.
        seed: seed of the invented values.
    """
    if kind == "NAME":
        return WORD.sub(lambda match: _word(match, text, seed), text)
    key = re.sub(r"\W", "", text).casefold()
    if kind == "PHONE":
        key = re.sub(r"\D", "", text)[-9:]  # the same with and without the country code
    value = _invented(kind, key, seed)
    return value.lower() if text.islower() else value


def _word(match: re.Match[str], text: str, seed: int | str) -> str:
    word = match.group()
    plain = "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))
    possessive = word.casefold() == "s" and text[match.start() - 1 : match.start()] in ("'", "’")
    if possessive or plain in TITLES or (word.islower() and plain in PARTICLES and text != word):
        return word
    name = _invented("NAME", plain, seed)
    if len(word) == 1:
        return name[0] if word.isupper() else name[0].lower()
    return name.lower() if word.islower() else name.upper() if word.isupper() else name


@functools.cache
def _faker() -> Faker:
    from faker import Faker

    return Faker(["en_GB"], use_weighting=False)


def _invented(kind: str, key: str, seed: int | str) -> str:
    fake = _faker()  # making one takes milliseconds, as long as all the rest of a row
    digest = hashlib.blake2b(f"{kind}\0{key}".encode(), key=str(seed).encode()[:64]).digest()
    fake.seed_instance(int.from_bytes(digest[:8], "big"))
    generator = random.Random(digest)
    return {
        "NAME": lambda: fake.last_name() if generator.random() < 0.5 else fake.first_name(),
        "ADDRESS": lambda: fake.address().replace("\n", ", "),
        "PHONE": lambda: f"+44 7700 900{generator.randrange(1000):03}",  # Ofcom's numbers for drama
        "EMAIL": lambda: f"{fake.user_name()}@example.org",
        "CARD": lambda: fake.credit_card_number("visa16"),
        "IBAN": lambda: fake.iban(),
        "IP": lambda: f"192.0.2.{generator.randrange(1, 255)}",  # RFC 5737
        "NATIONAL_ID": lambda: fake.ssn(),
        "SECRET": lambda: fake.password(length=16, special_chars=False),
        "ACCOUNT": lambda: str(generator.randrange(10_000_000, 100_000_000)),
        "VEHICLE": lambda: fake.license_plate(),
        "HANDLE": lambda: f"@{fake.user_name()}",
        "BIRTH_DATE": lambda: fake.date_of_birth(minimum_age=18, maximum_age=90).isoformat(),
    }[kind]()
