"""Invented values to replace personal ones: the same for the same person, however the value is written."""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata

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


def _invented(kind: str, key: str, seed: int | str) -> str:
    from faker import Faker

    fake = Faker(["en_GB"], use_weighting=False)
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
        "BIRTH_DATE": lambda: fake.date_of_birth(minimum_age=18, maximum_age=90).isoformat(),
    }[kind]()
