"""Lessons in other languages: what is translated, and what happens if the English changes."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from babel.messages import Catalog
from babel.messages.pofile import write_po

from course_utils.lessons import NOTEBOOKS
from course_utils.publishing import builder, languages

SOURCE = """\
# %% [markdown]
# # 02 · LoRA
#
# It made {{record:lora-seeds:plan.examples:d}} of {{term:logits}},
# on two lines, {{fact:prices:"gpt-4.1-mini".no_new_jobs:%d %B %Y}}.
#
# A second paragraph.
#
# {{words}}
"""
FIGURE, DAY = "{{record:lora-seeds:plan.examples:d}}", '{{fact:prices:"gpt-4.1-mini".no_new_jobs:%d %B %Y}}'
KEY = f"It made {FIGURE} of {{{{term:logits}}}}, on two lines, {DAY}."
SPANISH = f"De {{{{term:logits|logits}}}} hizo {FIGURE}, el {DAY}."


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the test's catalogue is; the checkout's isn't touched."""
    monkeypatch.setattr(languages, "catalogue_file", lambda language: tmp_path / f"{language}.po")
    return tmp_path / "es.po"


def write(file: Path, pairs: dict[str, str]) -> None:
    """Write a catalogue of these translations."""
    catalogue = Catalog(locale="es", fuzzy=False)
    for english, spanish in pairs.items():
        catalogue.add(english, spanish)
    with file.open("wb") as opened:
        write_po(opened, catalogue)


def prose(source: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A source's Markdown in Spanish."""
    edition = builder.learner_edition
    monkeypatch.setattr(builder, "learner_edition", lambda section, translate: edition("02", source, {}, translate))
    monkeypatch.setattr(nbformat, "read", lambda file, as_version: nbformat.v4.new_notebook())
    return "\n\n".join(cell.source for cell in languages.translated("02", "es").cells)


def test_a_paragraph_is_translated_with_its_figure_and_the_rest_stays_english(catalogue, monkeypatch):
    write(catalogue, {KEY: SPANISH})
    text = prose(SOURCE, monkeypatch)
    sentence = text.splitlines()[2]
    assert sentence.startswith("De *[logits]") and sentence.endswith("hizo 540, el 6 de enero de 2027.")
    assert "# 02 · LoRA" in text and "A second paragraph." in text and "It made" not in text


def test_only_a_new_wrapping_keeps_the_translation(catalogue, monkeypatch):
    write(catalogue, {KEY: SPANISH})
    assert "hizo" in prose(SOURCE.replace("{{term:logits}},\n# on two", "{{term:logits}}, on\n# two"), monkeypatch)


def test_lines_of_code_stay_lines(catalogue, monkeypatch):
    write(catalogue, {"```\none\ntwo\n```": "```\nuna\ndos\n```"})
    assert "```\nuna\ndos\n```" in prose(SOURCE.replace("A second paragraph.", "```\n# one\n# two\n# ```"), monkeypatch)


def test_a_lost_marker_is_named_and_the_english_is_shown(catalogue, monkeypatch):
    write(catalogue, {KEY: SPANISH.replace(FIGURE, "540")})
    assert languages.progress("es").faulty == (KEY,)
    assert "It made" in prose(SOURCE, monkeypatch)


def test_update_marks_what_has_changed_as_fuzzy_and_forgets_nothing(catalogue, monkeypatch):
    monkeypatch.setattr(languages, "messages", lambda name: ["First sentence of a lesson.", "Another one."])
    languages.update("es")
    write(catalogue, {"First sentence of a lesson.": "Primera frase.", "Another one.": "Otra."})
    assert languages.update("es") == languages.Progress(2, 2, ())
    monkeypatch.setattr(languages, "messages", lambda name: ["First sentence of this lesson.", "Another one."])
    assert languages.update("es") == languages.Progress(2, 1, ())
    assert "Primera frase." in catalogue.read_text() and "fuzzy" in catalogue.read_text()


@pytest.mark.parametrize("language", languages.languages())
def test_a_language_of_the_course_keeps_all_code_outputs_and_markers(language):
    assert not languages.progress(language).faulty
    for lesson in NOTEBOOKS.values():
        stored = nbformat.read(builder.learner_file(lesson.name), as_version=4)
        found = languages.translated(lesson.name, language)
        code, original = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (found, stored))
        assert [(c.source, c.outputs) for c in code] == [(c.source, c.outputs) for c in original]
