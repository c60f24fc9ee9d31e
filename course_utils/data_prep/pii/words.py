"""The words that names are found by: lists of names, ordinary words and places, and how a word and a run of words look."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any


def alternatives(words: Iterable[str]) -> str:
    """Return a pattern that matches any of some words, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word))))


Token = tuple[int, int, str]  # start, end, text
WORDS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("names.toml").read_text(encoding="utf-8"))
TITLES, PARTICLES = frozenset(WORDS["titles"]), frozenset(WORDS["particles"])
# What comes before a name; tuples, because `str.endswith` is far faster than a pattern that ends in $.
STRONG, INTRODUCES, KIN = tuple(WORDS["strong"]), tuple(WORDS["introduces"]), (*WORDS["kin"], *WORDS["foreign_kin"])
GREETS, CLOSES, ARTICLES = tuple(WORDS["greets"]), tuple(WORDS["closes"]), tuple(WORDS["articles"])
DETERMINERS = tuple(WORDS["determiners"])
LOCATIVE_PREPOSITIONS = tuple(WORDS["locative_prepositions"])
GREETING, CLOSING, PARTICLE, TITLE = map(alternatives, (GREETS, CLOSES, PARTICLES, TITLES))
CUT, MAKERS = frozenset(WORDS["cut"]), frozenset(WORDS["makers"])
PRODUCT_NOUNS = tuple(WORDS["product_nouns"])
# They are in front of a name, not in it.
BEGINS_NONE = frozenset((*WORDS["foreign_kin"], *GREETS, *WORDS["determiners"], *PRODUCT_NOUNS))
FOREIGN = tuple("de_DE nl_NL fr_FR es_ES it_IT".split())  # languages whose ordinary words Faker lists
# Attributes of Faker's providers of addresses.
PLACE_LISTS = "cities countries states city_names towns counties provinces regions departments".split()
FIRST_NAMES, LAST_NAMES = re.compile("first_(?:romanized_)?names"), re.compile("last_(?:romanized_)?names")
WORD = r"[^\W\d_]+(?:['’ʼ`-][^\W\d_]+)*"
# A unit after a number ("443.2 Hz. Will") is no part of a name.
UNIT = r"(?<=\d[ \u00a0])(?:[A-Z][a-z]?|[A-Z]{2}[A-Za-z]?)\b"
RUN = re.compile(rf"(?<![\w@./{{])(?!{UNIT})(?:{WORD}\.?)(?:[ \u00a0](?:{WORD}\.?))*(?![\w@])")
TOKEN = re.compile(rf"{WORD}\.?")


@functools.cache
def common_words() -> frozenset[str]:
    """Return the words that English text writes more often in lower case than with a capital letter."""
    return frozenset(Path(__file__).with_name("common_words.txt").read_text(encoding="utf-8").split())


def _providers(kind: str, locales: Collection[str] = ()) -> Iterator[Any]:
    """Faker's providers of a kind, for these locales if it has them (Faker 30 lacks words of es_ES), or for all."""
    package = importlib.import_module(f"faker.providers.{kind}")
    for module in pkgutil.iter_modules(package.__path__):
        if not locales or module.name in locales:
            yield importlib.import_module(f"{package.__name__}.{module.name}").Provider


@functools.cache
def name_lists() -> tuple[frozenset[str], frozenset[str]]:
    """Return given names and family names, in lower case."""
    given_names, family_names = set(WORDS["given_names"]), set(WORDS["family_names"])
    for provider in _providers("person"):
        for attribute in dir(provider):
            names = given_names if FIRST_NAMES.match(attribute) else family_names if LAST_NAMES.match(attribute) else None
            values = getattr(provider, attribute) if names is not None else None
            if names is not None and isinstance(values, tuple | list | dict):
                names.update(part.lower() for value in values for part in [value, *value.split()])
    return frozenset(given_names), frozenset(family_names)


@functools.cache
def trusted_given_names() -> frozenset[str]:
    """Return given names that are frequent in German text, in lower case; the others have nouns among them ("Tage")."""
    names = set(WORDS["given_names"])
    for provider in _providers(
        "person", ("de_DE", "de_AT", "de_CH", "pl_PL", "tr_TR", "hr_HR", "fr_FR", "it_IT", "es_ES", "en_GB")
    ):
        for attribute in dir(provider):
            if "first_names" in attribute and isinstance(values := getattr(provider, attribute), tuple | list | dict):
                names.update(value.lower() for value in values)
    return frozenset(names) - common_words() - foreign_words()


@functools.cache
def place_names() -> frozenset[str]:
    """Return capitalised words that are not people, in lower case.

    They are cities, states, countries, days, months, languages and others.
    """
    names = set(WORDS["capitalised"])
    for provider in _providers("address"):
        for attribute in PLACE_LISTS:
            for value in getattr(provider, attribute, ()):
                value = value[1] if isinstance(value, tuple) and len(value) > 1 else value
                if isinstance(value, str):
                    names.add(value.lower())
    return frozenset(names)


@functools.cache
def ordinary_words(*locales: str) -> frozenset[str]:
    """Return the words of Faker's texts in these languages, in lower case."""
    return frozenset(word.lower() for provider in _providers("lorem", locales) for word in provider.word_list)


@functools.cache
def foreign_words() -> frozenset[str]:
    """Return ordinary words of the languages in `FOREIGN`, in lower case."""
    return ordinary_words(*FOREIGN) - PARTICLES


@functools.cache
def unmistakable_family_names() -> frozenset[str]:
    """Return the family names that are no ordinary words, in lower case."""
    return name_lists()[1] - common_words() - foreign_words()


def ends(text: str, phrases: tuple[str, ...]) -> bool:
    """Return whether the text ends with one of the phrases, as whole words."""
    if not text.endswith(phrases):
        return False
    phrase = max((p for p in phrases if text.endswith(p)), key=len)
    return len(text) == len(phrase) or not (text[-len(phrase) - 1].isalnum() and phrase[0].isalnum())
