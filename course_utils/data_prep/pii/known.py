"""Names that a row gives away: in a field for its customer, in an e-mail address, in another of its messages.

Where a name is known, a text has it in any case and any order ("danke falk" of "Stark, Falk"), and no list is needed.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable

from course_utils.data_prep.pii.words import (
    CLOSES,
    CUT,
    GREETS,
    INTRODUCES,
    KIN,
    PARTICLE,
    PARTICLES,
    STRONG,
    TITLES,
    common_words,
    ends,
    foreign_words,
    name_lists,
    place_names,
)

# Fields whose values are people, and fields that may as well name a company or a login
PERSON = re.compile(
    r"(?:.*\.)?(?:(?:first|last|given|family|full|customer|client|contact|patient|user|agent|vor|nach|familien|kunden)[_ -]?name|surname|prénom|"
    r"patient|tenant|resident|student|guest|passenger|applicant|employee|teacher|nurse|doctor|driver|person|\w*(?:contact|customer|client|kunde|kontakt|person|owner|sender|recipient|patient)\w*\.name)",
    re.IGNORECASE,
)
PERHAPS = re.compile(
    r"(?:.*\.)?(?:customer|client|contact|requester|user|member|agent|assignee|author|sender|recipient|owner|reporter|operator|account|kunde)|name",
    re.IGNORECASE,
)
# Where somebody's first or last name stands in any case
PART_OF_NAME = re.compile(
    r"(?:first|last|given|family|middle|maiden) ?name|surname|forename|vorname|nachname|familienname|geburtsname|prénom|voornaam|achternaam|apellidos?|cognome"
)
# What else a field says by its name, in words as `spelled` writes them, and what its value must have
FIELDS = {
    "SECRET": (r"(?:.* )?(?:pass(?:word|wort|wd|phrase|code)|kennwort|wachtwoord|contraseña|mot de passe|api ?key|secret|access token|pin)", r"\S*[\d!#$%&*+=?@^~].*"),
    "BIRTH_DATE": (r"(?:.* )?(?:birth ?(?:date|day)|date of birth|dob|born(?: on)?|geburts(?:datum|tag)|geboortedatum|date (?:de )?naissance|fecha (?:de )?nacimiento|data (?:di )?nascita|data urodzenia)", r".*\d.*"),
    "PHONE": (r"(?:.* )?(?:(?:tele)?phone|mobile|cell|fax|handy|telefon|téléphone|teléfono|telefoon|portable)(?: ?(?:number|nummer|no|nr))?|tel", r"(?:\D*\d){6}.*"),
    "ADDRESS": (r"(?!(?:.* )?(?:e ?mail|ip|mac|web) )(?:.* )?(?:address|street|adresse|anschrift|straße|strasse|dirección|indirizzo|adres|post ?code|zip(?: code)?|postal code|plz|postleitzahl|code postal)", r".*\d.*"),
    "HANDLE": (r"(?:.* )?(?:user ?name|log ?in(?: name)?|benutzername|gebruikersnaam|nom (?:d )?utilisateur|usuario)", r"\S{3,}"),
    "NATIONAL_ID": (r"(?:.* )?(?:ssn|nino|national (?:id|insurance)(?: number)?|tax id|passport(?: number| no)?|reisepass\w*|(?:personal)?ausweis\w*|bsn|dni|pesel|steuer ?id)", r"\w*(?:[A-Z. /-]*\d){4}.*"),
    "ACCOUNT": (r"(?:.* )?(?:account number|kontonummer|rekeningnummer|sort code)", r"(?:\D*\d){5}.*"),
    "VEHICLE": (r"(?:.* )?(?:(?:licen[cs]e |number )plate|kennzeichen|kenteken|immatriculation|matrícula)", r".*\d.*"),
}  # fmt: skip
NOBODY = frozenset("unknown anonymous anonym guest none admin system support n/a test unbekannt inconnu desconocido".split())
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
NOUN = re.compile(
    r"\b(?:im|am|zum|zur|beim|vom|der|die|das|den|dem|ein|eine|einen|kein|the|an?) $", re.IGNORECASE
)  # "Im Sommer"
LONGEST_VALUE = 120  # characters of a field's value; a longer one is a text
LOCAL_PART = re.compile(r"(?<![\w.+-])([^\W\d_]{3,}(?:[._-][^\W\d_]{3,}){1,2})\d*@")
ADDITION = rf"(?:,? |,|-| (?:{PARTICLE}) )"
# Letters with a mark → the letter: "Lefèvre" is "lefevre" in a hurry. One letter for one, so that positions stay.
PLAIN = {
    code: base
    for code in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00))
    if len(base := unicodedata.normalize("NFD", chr(code))[0]) == 1 and base.isascii()
}


def is_person(field: str, value: str) -> bool:
    """Return whether the value of a field is somebody's name, such as "Stark, Falk" in "patient"."""
    sure = PERSON.fullmatch(field)
    words = WORD.findall(value)
    if PART_OF_NAME.fullmatch(spelled(field)):
        return 1 <= len(words) <= 4 and not re.search(r"[\d@/\n:;_]", value) and value.strip().lower() not in NOBODY
    shaped = 1 <= len(words) <= 5 and not re.search(r"[\d@/\n:;_]|[.] ?\w{4}", value) and value.strip()[:1].isupper()
    if not (sure or PERHAPS.fullmatch(field)) or not shaped or value.strip().lower() in NOBODY:
        return False
    listed = [word for word in words if word.lower() in name_lists()[0] or word.lower() in name_lists()[1]]
    capitals = all(word[0].isupper() or word in PARTICLES for word in words)
    return capitals and not CUT.intersection(map(str.lower, words)) and (bool(sure) or (len(words) > 1 and bool(listed)))


@functools.lru_cache(maxsize=1024)
def spelled(field: str) -> str:
    """Return the last name of a field in words: "metadata.tenantBirthDate" is "tenant birth date"."""
    return re.sub(r"(?<=[a-zà-ž])(?=[A-Z])|[\W_]+", " ", field.rpartition(".")[2]).lower().strip()


def kind_of_field(field: str, value: str) -> str | None:
    """Return the kind of personal data that the whole value of a field is by the field's name; None if it isn't."""
    if is_person(field, value):
        return "NAME"
    if len(value) > LONGEST_VALUE or "\n" in value or value.strip().lower() in NOBODY:
        return None
    return next((kind for kind, shape in _kinds(spelled(field)) if re.fullmatch(shape, value)), None)


@functools.lru_cache(maxsize=1024)
def _kinds(name: str) -> list[tuple[str, str]]:
    """The kinds of `FIELDS` that a field's name stands for, each with what its value must have."""
    return [(kind, shape) for kind, (names, shape) in FIELDS.items() if re.fullmatch(names, name)]


def people_in(row: dict, field: str = "") -> list[str]:
    """Return the names in a row's fields, also within "metadata", but not in its messages and answers."""
    names: list[str] = []
    for key, value in row.items():
        path = f"{field}.{key}" if field else str(key)
        if isinstance(value, str) and is_person(path, value):
            names.append(value)
        elif isinstance(value, dict) and path.count(".") < 2:
            names += people_in(value, path)
    return names


def people_in_addresses(texts: Iterable[str]) -> list[str]:
    """Return the names in e-mail addresses such as "umarov.dzhokhar@mail.example": one of the words is a known given name."""
    names = []
    for text in texts:
        for local in LOCAL_PART.findall(text) if "@" in text else ():
            words = re.split(r"[._-]", local.lower())
            if _given().intersection(words) and not any(_ordinary(word) for word in words):
                names.append(" ".join(words))
    return names


@functools.cache
def _given() -> frozenset[str]:
    return name_lists()[0] - common_words() - foreign_words() - place_names()


def _ordinary(word: str) -> bool:
    return word in common_words() or word in foreign_words() or word in place_names() or word in CUT


class Known:
    """Finds people whose names are known.

    Args:
        names: their names, in any order of the words.
    """

    def __init__(self, names: Iterable[str]) -> None:
        words = {word.lower() for name in names for word in WORD.findall(name)} - PARTICLES - TITLES - CUT
        self.words = {word.translate(PLAIN): word for word in words if len(word) > 2}
        one = "|".join(sorted(map(re.escape, self.words), key=len, reverse=True))
        self.pattern = re.compile(rf"(?<!\w)(?:{one})(?:{ADDITION}(?:{one}))*(?!\w)", re.IGNORECASE) if one else None

    def find(self, text: str) -> list[tuple[int, int]]:
        """Return where these people are named, as (start, end) in characters, end exclusive.

        One word that is also an ordinary one ("Bill", "Hope") counts only where a name stands: behind a greeting, a closing
        or a relative, or as a line of its own.
        """
        spans = []
        for match in self.pattern.finditer(text.translate(PLAIN)) if self.pattern else ():
            start, end = match.span()
            word = self.words.get(match.group().lower())
            if (
                word is None
                or (not _ordinary(word) and not NOUN.search(text[:start][-8:]))
                or self._placed(text, start, end)
            ):
                spans.append((start, end))
        return spans

    @staticmethod
    def _placed(text: str, start: int, end: int) -> bool:
        before, after = text[max(0, start - 60) : start].lower(), text[end : end + 2]
        if text[start].isupper() and ends(before.rstrip(), INTRODUCES) and not NOUN.search(before[-8:]):
            return True
        if ends(before.rstrip(" ,.!:;\n"), (*GREETS, *CLOSES, *STRONG)):
            return not after.startswith(" ") or after[1:].isupper()
        if ends(before.rstrip(" ,("), KIN) or before.rstrip(" .").rpartition(" ")[2].strip("(") in TITLES:
            return True
        return (not before or before.endswith("\n")) and (not after.strip(" .,!") or after.startswith("\n"))
