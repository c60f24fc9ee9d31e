"""The catalogues of translations: the messages of the course collected, PO files kept up to date, and checked.

A message is a sentence of the source, and its id is the sentence itself, so nothing is lost when it moves. If the sentence
changes, its translation becomes fuzzy: it is kept for the translator, and readers get the English until somebody has looked.

What is collected:

- lessons: Markdown of the source and of the exercises, cut by `markdown_messages`; diagnoses, quizzes, claims;
- glossary: names and meanings;
- book: Markdown of its templates; titles and promises of lessons;
- stage: sentences that code says around the lessons, from calls of `say` and `later` in Python, templates and scripts.

Not collected, and always English: code with its comments and docstrings, what code computes, prints and draws, errors, the
API reference, calculators, the instructor's pack and the command line.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import assets, claims, glossary
from course_utils.evidence.cards import LESSON_OF
from course_utils.exercises import EXERCISES
from course_utils.exercises.libraries import REFUSAL
from course_utils.exercises.quizzes import questions
from course_utils.files import write_whole
from course_utils.languages import BOOK, GLOSSARY, SOURCE, STAGE, catalogue_file, find, lesson_domain, speaking
from course_utils.lessons import LESSONS, Lesson
from course_utils.publishing import builder
from course_utils.publishing.markdown_messages import has_words, kept, messages

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog

LESSON_DOMAINS = tuple(lesson_domain(number) for number in LESSONS)
DOMAINS = (STAGE, BOOK, GLOSSARY, *LESSON_DOMAINS)
BOOK_TEMPLATES = "publishing/book/templates"
# What is said and stands neither in a call of `say` nor of `later`: words of lessons' cells, and a constant of the sandbox.
ALSO_SAID = ("the helper", "computed", "estimated", REFUSAL)
ALIKE = 0.6  # as gettext's msgmerge has it: from here on a changed sentence is taken for the same

Places = dict[str, list[str]]  # message → files in which it stands


@dataclass(frozen=True)
class Report:
    """How far a catalogue is.

    Attributes:
        domain: which one.
        total: messages of the source.
        missing, fuzzy: those without a translation, and those whose sentence has changed since.
        obsolete: translations of what the source no longer says.
        wrong: message and what its translation loses or adds: code, formulas, markers, targets, HTML, values, numbers.
    """

    domain: str
    total: int
    missing: tuple[str, ...]
    fuzzy: tuple[str, ...]
    obsolete: tuple[str, ...]
    wrong: tuple[tuple[str, str], ...]

    @property
    def share(self) -> float:
        """Translated messages among all, from 0 to 1."""
        return 1 - (len(self.missing) + len(self.fuzzy)) / self.total if self.total else 1.0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, fuzzy or obsolete."""
        return not (self.missing or self.fuzzy or self.obsolete)

    def __str__(self) -> str:
        done = self.total - len(self.missing) - len(self.fuzzy)
        more = [f"{len(texts)} {name}" for name, texts in (("fuzzy", self.fuzzy), ("obsolete", self.obsolete)) if texts]
        return f"{self.domain}: {done} of {self.total} ({100 * self.share:.0f} %)" + "".join(f", {text}" for text in more)


def check(language: str) -> list[Report]:
    """Compare a language's catalogues with what the course says; nothing is written.

    Raises:
        CourseError: the course has no such language, or it is the source.
    """
    return [_report(domain, language) for domain in DOMAINS]


def problems(language: str, reports: list[Report]) -> list[str]:
    """What has to be repaired, a line each.

    A translation that breaks something is wrong in any language; what is missing, fuzzy or obsolete is so only in one that
    is declared complete.
    """
    lines = []
    for report in reports:
        lines += [f"{report.domain}: {why}: {_short(text)}" for text, why in report.wrong]
        if find(language).is_complete:
            for name in ("missing", "fuzzy", "obsolete"):
                lines += [f"{report.domain}: {name}: {_short(text)}" for text in getattr(report, name)]
    return lines


def update(language: str) -> list[Report]:
    """Bring a language's catalogues up to date with the source, and report.

    New messages get an empty translation, changed ones keep theirs as fuzzy, and what the source no longer says goes.
    """
    for domain in DOMAINS:
        file = catalogue_file(language, domain)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, written(_merged(domain, language)[0], language).encode())
    return check(language)


def written(catalogue: Catalog, language: str) -> str:
    """A catalogue as the text of its file, the same whenever the messages are the same: without dates and line numbers."""
    from babel.messages.pofile import write_po

    buffer = io.BytesIO()
    # Without the previous sentences: Babel wraps these within their quotes, which no other program can read.
    write_po(
        buffer, catalogue, width=120, omit_header=True, include_previous=False, include_lineno=False, ignore_obsolete=True
    )
    head = (
        f"# {find(language).name}: `course translate` keeps the messages up to date; CONTRIBUTING.md says how to translate."
    )
    lines = (
        f"Language: {language}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
    )
    header = "".join(f'"{line}\\n"\n' for line in lines)
    return f'{head}\nmsgid ""\nmsgstr ""\n{header}\n{buffer.getvalue().decode().strip()}\n'


# -- what the course says -------------------------------------------------------------------------------------------------


@cache
def collected(domain: str) -> Places:
    """Return the messages of a catalogue in the order of the source, each with the files in which it stands."""
    places_of: Places = {}
    with speaking(SOURCE):
        for text, place in _SOURCES.get(domain, _of_lesson)(domain):
            places = places_of.setdefault(text, [])
            if place not in places:
                places.append(place)
    return places_of


def _of_stage(_: str) -> Iterator[tuple[str, str]]:
    for file in sorted(assets.PACKAGE.rglob("*")):
        place = file.relative_to(assets.PACKAGE).as_posix()
        if place.startswith("_assets"):
            continue
        if file.suffix == ".py":
            sentences = _said_in_python(file)
        elif file.suffix in (".js", ".mjs", ".j2", ".html"):
            sentences = _said_in_text(file.read_text(encoding="utf-8"))
        else:
            continue
        yield from ((text, f"course_utils/{place}") for text in sentences)
    yield from ((text, "notebooks/source") for text in ALSO_SAID)
    for exercise in EXERCISES.values():
        if exercise.challenge:
            yield exercise.challenge.measure, _file_of(exercise.solution.__module__)


def _said_in_python(file: Path) -> Iterator[str]:
    """Literal sentences of `say` and `later`; one that names another catalogue is collected from where it is kept."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("say", "later") and node.args:
            text = node.args[0]
            if isinstance(text, ast.Constant) and isinstance(text.value, str) and len(node.args) == 1:
                yield text.value


def _said_in_text(text: str) -> Iterator[str]:
    """Literal sentences of `say` in a template or a script, which write strings between double quotes as JSON does."""
    return (json.loads(match[1]) for match in re.finditer(r"""\bsay\(("(?:[^"\\\n]|\\.)*")""", text))


def _of_book(_: str) -> Iterator[tuple[str, str]]:
    for file in sorted((assets.PACKAGE / BOOK_TEMPLATES).rglob("*.md.j2")):
        place = f"course_utils/{file.relative_to(assets.PACKAGE).as_posix()}"
        yield from ((text, place) for text in messages(file.read_text(encoding="utf-8")))
    for lesson in LESSONS.values():
        yield from ((text, "course_utils/lessons.py") for text in (lesson.title, lesson.promise))


def _of_glossary(_: str) -> Iterator[tuple[str, str]]:
    for term in glossary.terms().values():
        yield from ((text, f"course_utils/{glossary.FILE.name}") for text in (term.name, term.meaning))


def _of_lesson(domain: str) -> Iterator[tuple[str, str]]:
    lesson = next(lesson for lesson in LESSONS.values() if lesson_domain(lesson.number) == domain)
    for cell in builder.expanded_cells(lesson.name):
        if cell.cell_type == "markdown":
            yield from ((text, f"notebooks/source/{lesson.name}.py") for text in messages(cell.source))
    for text, place in _beside(lesson):
        if has_words(text):
            yield text, place


def _beside(lesson: Lesson) -> Iterator[tuple[str, str]]:
    """What belongs to a lesson and is kept in the package."""
    for id, exercise in EXERCISES.items():
        if lesson.has(id):
            texts = (exercise.title, " ".join(exercise.hint.split()), *(mistake.diagnosis for mistake in exercise.mistakes))
            yield from ((text, _file_of(exercise.solution.__module__)) for text in texts)
    for question in questions(lesson.number):
        for text in (question.text, *(part for choice, _, why in question.choices for part in (choice, why))):
            yield text, "course_utils/exercises/quizzes.py"
    for id in (id for id in claims.CLAIMS if LESSON_OF[id[:1]] == lesson.number):
        yield from ((text, "course_utils/claims.py") for text in (claims.CLAIMS[id], claims.SOURCES.get(id, "")))


def _file_of(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


_SOURCES: dict[str, Callable[[str], Iterator[tuple[str, str]]]] = {
    STAGE: _of_stage, BOOK: _of_book, GLOSSARY: _of_glossary
}  # fmt: skip


# -- what a catalogue has -------------------------------------------------------------------------------------------------


def _merged(domain: str, language: str) -> tuple[Catalog, tuple[str, ...]]:
    """The messages of the source with a catalogue's translations; and what is translated and no longer said.

    Where a sentence has changed, the translation of its old wording is kept, marked as fuzzy.
    """
    from babel.messages.catalog import Catalog
    from babel.messages.pofile import read_po

    file = catalogue_file(language, domain)
    old = read_po(io.BytesIO(file.read_bytes() if file.exists() else b""), ignore_obsolete=True)
    old_messages = {str(message.id): message for message in old if message.id and message.string}  # no message has a plural
    source = collected(domain)
    unused = {text: old_messages[text] for text in old_messages if text not in source}
    merged = Catalog(charset="utf-8")
    for text, places in source.items():
        flags, string, previous = set[str](), "", tuple[str, ...]()
        if text in old_messages:
            flags, string, previous = (
                set(old_messages[text].flags),
                str(old_messages[text].string),
                tuple(old_messages[text].previous_id),
            )
        elif near := get_close_matches(text, unused, n=1, cutoff=ALIKE):
            flags, string, previous = {"fuzzy"}, str(unused.pop(near[0]).string), (near[0],)
        # babel would guess from percent signs and braces that a sentence is a format of Python's
        flags -= {"python-format", "python-brace-format"}
        message = merged.add(text, string, locations=[(place, 1) for place in places], flags=flags, previous_id=previous)
        if message is not None:
            message.flags -= {"python-format", "python-brace-format"}
    return merged, tuple(unused)


def _report(domain: str, language: str) -> Report:
    merged, obsolete = _merged(domain, language)
    entries = [message for message in merged if message.id]
    done = [message for message in entries if message.string and not message.fuzzy]
    wrong = [(str(m.id), why) for m in done if (why := broken(str(m.id), str(m.string), is_prose=domain != STAGE))]
    return Report(
        domain,
        len(entries),
        tuple(str(message.id) for message in entries if not message.string),
        tuple(str(message.id) for message in entries if message.string and message.fuzzy),
        obsolete,
        tuple(wrong),
    )


def broken(text: str, translation: str, is_prose: bool = True) -> str:
    """What a translation loses or adds of what it must keep; empty if nothing.

    Args:
        text: the English message.
        translation: the same message in another language.
        is_prose: whether numbers count too; a sentence of the stage has its numbers as values.
    """
    before, after = kept(text), kept(translation)
    if not is_prose:
        before, after = (
            Counter({key: n for key, n in counts.items() if not key[0].isdigit()}) for counts in (before, after)
        )
    lost, added = before - after, after - before
    parts = [f"{what} {', '.join(sorted(items))}" for what, items in (("lacks", lost), ("adds", added)) if items]
    return " and ".join(parts)


def _short(text: str, length: int = 90) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
