"""Lessons in another language: the stored notebook with its text translated, its code and its outputs as they are.

Two outputs have no results in them and are translated all the same: the quiz, and the fixed words of a claim's card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import assets, claims
from course_utils.evidence.cards import LESSON_OF
from course_utils.exercises.quizzes import quiz
from course_utils.files import write_whole
from course_utils.languages import SOURCE, STAGE, lesson_domain, messages, say, speaking
from course_utils.lessons import LESSONS, find, learner_file
from course_utils.publishing import builder, catalogues

if TYPE_CHECKING:
    from nbformat import NotebookNode

_QUIZ = re.compile(r"""^\s*quiz\(["'](\d\d)["']\)""", re.MULTILINE)


def translated_notebook(section: str, language: str) -> NotebookNode:
    """Return the learner's notebook of a section in another language, as far as that goes; its first cell says how far.

    A cell whose English has changed since the notebook was built stays as it is stored: it belongs to the outputs beside it.
    """
    import nbformat

    name = find(section).name
    notebook: NotebookNode = nbformat.read(assets.path(f"notebooks/{learner_file(name).name}"), 4)
    editions = (builder.learner_edition(name), builder.learner_edition(name, language=language))
    # An id is made from a cell's English text, so it finds the cell also in a notebook that is older than its source.
    texts = {english.id: translated.source for english, translated in zip(*(edition.cells for edition in editions))}
    with speaking(language):
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = texts.get(cell.id, cell.source)
            else:
                _translate_outputs(cell, name)
        if language != SOURCE:
            first = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
            first.source += f"\n\n> {lesson_note(name, language)}"
    notebook.metadata["course"]["language"] = language
    return notebook


def write_notebooks(folder: Path, language: str) -> list[Path]:
    """Write all lessons' notebooks in a language into a folder; one that is there stays: it may be a learner's work."""
    written = []
    for name in (lesson.name for lesson in LESSONS.values()):
        file = folder / f"{name}.ipynb"
        if not file.exists():
            builder.write(translated_notebook(name, language), file)
            written.append(file)
    return written


def share(name: str, language: str) -> float:
    """How much of a lesson is translated, from 0 to 1."""
    translations, source = messages(language, lesson_domain(name)), catalogues.collected(lesson_domain(name))
    return sum(text in translations for text in source) / len(source)


def lesson_note(name: str, language: str) -> str:
    """What a lesson says of its own translation, in that language."""
    with speaking(language):
        done = share(name, language)
        if done == 0:
            return say("This lesson has not been translated yet: its text is in English.")
        text = say("Translated from English. Code, and what it prints and draws, stays in English.")
        if done < 1:
            text += " " + say("{share} % of this lesson's text is translated so far.", share=int(100 * done))
        return text


def note(language: str) -> str:
    """What the book's first page says of its translation, in that language; empty for English."""
    if language == SOURCE:
        return ""
    with speaking(language):
        whole = [lesson.number for lesson in LESSONS.values() if share(lesson.name, language) == 1]
        text = say(
            "Translated from English. In English stay: code, and what it prints and draws; the calculators; the API "
            "reference; the notebooks that Colab and Binder open."
        )
        if len(whole) < len(LESSONS):
            names = ", ".join(whole) or say("none")
            text += " " + say("Lessons that are translated completely so far: {lessons}.", lessons=names)
        return text


def write_texts(file: Path, language: str) -> None:
    """Write the script with what the pages' scripts say, for `say` of `book.js` and `course.js`."""
    texts = dict(sorted(messages(language, STAGE).items())) if language != SOURCE else {}
    script_texts = {
        text: texts[text] for text, places in catalogues.collected(STAGE).items() if text in texts and _in_script(places)
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, f"window.courseTexts = {json.dumps(script_texts, ensure_ascii=False, indent=1)};\n".encode())


def _in_script(places: list[str]) -> bool:
    return any(place.endswith((".js", ".mjs")) for place in places)


def _translate_outputs(cell: NotebookNode, name: str) -> None:
    """Translate a quiz, if its stored output is up to date, and the fixed words of claims' cards; nothing else."""
    quiz_match = _QUIZ.search(cell.source)
    for output in cell.outputs:
        data = output.get("data", {})
        if quiz_match and quiz_match[1] in LESSONS and "text/html" in data:
            with speaking(SOURCE):
                stored = quiz(quiz_match[1])._repr_html_(), repr(quiz(quiz_match[1]))
            if data["text/html"] == stored[0]:
                data["text/html"], data["text/plain"] = quiz(quiz_match[1])._repr_html_(), repr(quiz(quiz_match[1]))
        elif re.search(r"\bevidence\.(?:card|summary)\(", cell.source) and "text/html" in data:
            for text, translation in _fixed_words(name):
                data["text/html"] = data["text/html"].replace(text, translation)


def _fixed_words(name: str) -> Iterator[tuple[str, str]]:
    """What cards say that nobody computes: HTML as it is stored → in the language that is spoken now."""
    domain = lesson_domain(name)
    for id in (id for id in claims.CLAIMS if LESSON_OF[id[:1]] == name[:2]):
        yield f"“{escape(claims.CLAIMS[id])}”", f"“{escape(say(claims.CLAIMS[id], domain))}”"
        yield f"<b>Claim {id}</b>", f"<b>{escape(say('Claim {id}', id=id))}</b>"
        if source := claims.SOURCES.get(id):
            yield (
                f"<div>Source: {escape(source)}</div>",
                f"<div>{escape(say('Source:'))} {escape(say(source, domain))}</div>",
            )
    for word in (claims.HOLDS, claims.FAILS, claims.UNDER_A_CONDITION, claims.NOT_TESTED):
        yield f'font-weight:600">{escape(word)}</span>', f'font-weight:600">{escape(say(word))}</span>'
    summary = "<summary>{}</summary>"
    yield (
        summary.format("Evidence, and the code that judged it"),
        summary.format(escape(say("Evidence, and the code that judged it"))),
    )
