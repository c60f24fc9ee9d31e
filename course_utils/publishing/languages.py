"""Lessons in other languages, by gettext: `data/locale/LANGUAGE.po` holds each paragraph of the lessons and its translation.

A message is a paragraph of a Markdown cell or of an exercise's text, with its markers (`{{record:…}}`, `{{term:…}}`), so
that figures come from the records in every language. What has no translation, or one that is marked fuzzy because the
English has changed since, stays English; so do code, outputs and the package's own messages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import assets
from course_utils.errors import CourseError
from course_utils.files import write_whole
from course_utils.lessons import NOTEBOOKS, find, learner_file
from course_utils.publishing import markers

if TYPE_CHECKING:
    from babel.messages import Catalog, Message
    from nbformat import NotebookNode

_PARAGRAPHS = re.compile(r"\n{2,}")
_MARKERS = re.compile(r"{{(?!term:).*?}}|{{term:[^|}]*")
_FIGURE = re.compile(r"{{(?:record|fact|estimate):[^{}]*:(?P<form>[^{}:]*)}}")
DATES = {"%d %B %Y": "yMMMMd", "%B %Y": "yMMMM", "%B": ""}  # Python's format → Unicode's skeleton; none for a month alone
# A line break that is nothing but a space: so a paragraph that is only wrapped anew keeps its translation.
_WRAPPED = re.compile(r"\n(?![|\-#><+=:!\s\d]|\$\$)")
_WORDS = re.compile(r"[^\W\d_]{2}")


@dataclass(frozen=True)
class Progress:
    """How far a language's catalogue is.

    Attributes:
        messages: paragraphs of all lessons.
        translated: those with a translation that is not fuzzy.
        faulty: translations whose markers differ from the English ones: they are not used.
    """

    messages: int
    translated: int
    faulty: tuple[str, ...]


def catalogue_file(language: str) -> Path:
    """Return the path of a language's catalogue, such as "es"."""
    return assets.root() / "data" / "locale" / f"{language}.po"


def languages() -> list[str]:
    """Return the languages that have a catalogue."""
    return sorted(file.stem for file in catalogue_file("es").parent.glob("*.po"))


def translated(section: str, language: str) -> NotebookNode:
    """Return the learner's edition of a lesson with its prose in another language and its stored outputs.

    Raises:
        CourseError: there is no such catalogue, or the lesson must be built first.
    """
    import nbformat

    from course_utils.publishing import builder

    known = {str(m.id): str(m.string) for m in _read(language) if m.id and m.string and not m.fuzzy and _keeps_markers(m)}
    notebook = builder.learner_edition(section, translate=lambda text: _translate(text, known, language))
    name = find(section).name
    stored = nbformat.read(learner_file(name), as_version=4)
    code, outputs = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (notebook, stored))
    if [cell.source for cell in code] != [cell.source for cell in outputs]:
        raise CourseError(f"{name}: the notebook is older than its source; run `course build {section}`")
    for cell, recorded in zip(code, outputs):
        cell.outputs, cell.execution_count = recorded.outputs, recorded.execution_count
    notebook.metadata["course"]["language"] = language
    return notebook


def write_all(language: str) -> Callable[[str], Path]:
    """Write every lesson in a language below `build/`; return the function that finds one by its full name."""
    from course_utils.publishing import builder

    folder = assets.root() / "build" / language
    for lesson in NOTEBOOKS.values():
        builder.write(translated(lesson.name, language), folder / f"{lesson.name}.ipynb")
    return lambda name: folder / f"{name}.ipynb"


def update(language: str) -> Progress:
    """Bring a language's catalogue up to date with the lessons, as `msgmerge` does; a new language begins with an empty one.

    A paragraph that has changed keeps the translation of the most similar old one, marked fuzzy, for a person to correct.
    """
    from babel.messages import Catalog
    from babel.messages.pofile import write_po

    template = Catalog(project=assets.DISTRIBUTION, charset="utf-8", fuzzy=False)
    for lesson in NOTEBOOKS.values():
        for message in dict.fromkeys(messages(lesson.name)):
            template.add(message, locations=[(lesson.name, 1)])
    file = catalogue_file(language)
    catalogue = _read(language) if file.exists() else Catalog(locale=language, fuzzy=False)
    catalogue.update(template)
    file.parent.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    write_po(written, catalogue, width=120, include_lineno=False, ignore_obsolete=True)
    write_whole(file, written.getvalue())
    return progress(language)


def progress(language: str) -> Progress:
    """Count what a catalogue has, and check the markers of its translations."""
    found = [message for message in _read(language) if message.id]
    done = [message for message in found if message.string and not message.fuzzy]
    return Progress(len(found), len(done), tuple(str(message.id) for message in done if not _keeps_markers(message)))


def messages(section: str) -> Iterator[str]:
    """Yield the paragraphs of a lesson that have words, in their order."""
    from course_utils.publishing import builder

    seen: list[str] = []

    def collect(text: str) -> str:
        seen.extend(_message(part) for part in _PARAGRAPHS.split(text) if _WORDS.search(_MARKERS.sub("", part)))
        return text

    builder.learner_edition(section, translate=collect)
    yield from seen


def _translate(text: str, known: dict[str, str], language: str) -> str:
    return "\n\n".join(
        _localize(known[_message(part)], language) if _message(part) in known else part for part in _PARAGRAPHS.split(text)
    )


def _localize(text: str, language: str) -> str:
    """Write dates, thousands and percent signs as the language does; other figures are left to the builder."""
    from babel.dates import format_date, format_skeleton

    def written(marker: re.Match[str]) -> str:
        form = marker["form"]
        if form in DATES:
            day = date.fromisoformat(markers.expand(marker[0].replace(f":{form}}}}}", ":%Y-%m-%d}}"), language))
            return format_skeleton(DATES[form], day, locale=language) if DATES[form] else format_date(day, "MMMM", language)
        if form[-1:] in ("%", ","):
            return markers.expand(marker[0], language).replace("%", "\u00a0%").replace(",", "\u00a0")
        return marker[0]

    return _FIGURE.sub(written, text)


def _message(paragraph: str) -> str:
    return paragraph if paragraph[:1] in "#|<" or "```" in paragraph else _WRAPPED.sub(" ", paragraph)


def _keeps_markers(message: Message) -> bool:
    """Whether a translation has the markers of the English, in any order."""
    return sorted(_MARKERS.findall(str(message.id))) == sorted(_MARKERS.findall(str(message.string)))


def _read(language: str) -> Catalog:
    from babel.messages.pofile import read_po

    file = catalogue_file(language)
    if not file.exists():
        raise CourseError(f"there is no catalogue for {language!r}; there are: {', '.join(languages()) or 'none'}")
    with file.open("rb") as opened:
        return read_po(opened, locale=language)
