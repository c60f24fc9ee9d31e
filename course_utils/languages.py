"""The languages of the course: which there are, and what a sentence of the course is in each.

English is the source. A translation is a gettext catalogue: `locale/LANGUAGE/LC_MESSAGES/DOMAIN.po`, where a domain is a
lesson, the glossary, the book's own pages, or the stage: what the course says around the lessons, such as the check of an
exercise. Catalogues are read as they are, so that nothing has to be compiled and a page's Python can read them too. A
message that is missing or marked as fuzzy is shown in English.

    say("Not this one.")                       the sentence in the language that is spoken now
    say("{name} is not a function.", name=…)   with values, which are put in after it has been translated
    later("holds")                             a sentence that is kept here, and said where it is shown
    with speaking("es"): ...                   within, Spanish is spoken

`publishing.catalogues` collects the messages and keeps the catalogues up to date.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from course_utils.errors import CourseError

VARIABLE = "COURSE_LANGUAGE"  # of the environment: how `course lab --language es` tells the kernels that it starts
SOURCE = "en"
FOLDER = Path(__file__).with_name("locale")
STAGE, GLOSSARY, BOOK = "stage", "glossary", "book"

_spoken: ContextVar[str | None] = ContextVar("language", default=None)


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: as browsers and gettext know it.
        name: what its speakers call it.
        is_complete: whether it is declared complete: then a missing or fuzzy message is an error.
    """

    code: str
    name: str
    is_complete: bool


LANGUAGES = {
    language.code: language
    for language in (Language(SOURCE, "English", is_complete=True), Language("es", "español", is_complete=True))
}
TRANSLATIONS = tuple(code for code in LANGUAGES if code != SOURCE)


def find(code: str) -> Language:
    """Return a language by its code.

    Raises:
        CourseError: the course has no such language.
    """
    if code not in LANGUAGES:
        raise CourseError(f"the course has no language {code!r}; there are {', '.join(LANGUAGES)}")
    return LANGUAGES[code]


def current() -> str:
    """Code of the language that is spoken now: `speaking`'s, else the environment's, else English."""
    requested = _spoken.get() or os.environ.get(VARIABLE, "")
    return requested if requested in LANGUAGES else SOURCE


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Speak a language within a block, in this thread only.

    Raises:
        CourseError: the course has no such language.
    """
    token = _spoken.set(find(code).code)
    try:
        yield
    finally:
        _spoken.reset(token)


def say(text: str, domain: str = STAGE, /, **values: object) -> str:
    """Return a sentence in the language that is spoken now, in English if it has no translation.

    Args:
        text: the English sentence, as the catalogue has it. Calls with a literal are collected by `course translate`.
        domain: the catalogue.
        values: what its `{name}`s stand for; without values braces stay as they are.
    """
    translation = messages(current(), domain).get(text, text)
    return translation.format(**values) if values else translation


def later(text: str) -> str:
    """Return a sentence as it is: it is kept in English, collected for translation, and said where it is shown."""
    return text


def lesson_domain(name: str) -> str:
    """Return the catalogue of a lesson, given its number or full name: "lesson_03"."""
    return f"lesson_{name[:2]}"


def catalogue_file(language: str, domain: str) -> Path:
    """Return the path of a catalogue, whether or not it exists."""
    return FOLDER / language / "LC_MESSAGES" / f"{domain}.po"


@cache
def messages(language: str, domain: str) -> Mapping[str, str]:
    """Return what a catalogue translates: English → translation; nothing for English itself."""
    file = catalogue_file(language, domain)
    if language == SOURCE or not file.exists():
        return MappingProxyType({})
    return MappingProxyType(read(file.read_text(encoding="utf-8")))


def read(catalogue: str) -> dict[str, str]:
    """Return the finished messages of a PO file: English → translation, without empty, fuzzy and obsolete ones.

    As much of the format as our catalogues use, which have neither contexts nor plurals: the base installation and a page's
    Python have no library for it.
    """
    translations: dict[str, str] = {}
    for entry in re.split(r"\n[ \t]*\n", catalogue):
        texts = {"msgid": "", "msgstr": ""}
        name, is_fuzzy = "", False
        for line in entry.splitlines():
            is_fuzzy = is_fuzzy or (line.startswith("#,") and "fuzzy" in line)
            if line.startswith("#"):
                continue
            if match := re.match(r'(msgid|msgstr)\s+(?=")', line):
                name, line = match[1], line[match.end() :]
            if name and line.startswith('"'):
                texts[name] += ast.literal_eval(line.strip())
        if texts["msgid"] and texts["msgstr"] and not is_fuzzy:
            translations[texts["msgid"]] = texts["msgstr"]
    return translations
