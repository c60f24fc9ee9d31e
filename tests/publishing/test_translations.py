"""Translations: what is cut out of the course, what a changed sentence does, and what a translated lesson must not touch."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape

import nbformat
import pytest
from visiting import Visitor, built, in_a_browser, served

from course_utils import cli, languages, release
from course_utils.languages import TRANSLATIONS, speaking
from course_utils.lessons import LESSONS, learner_file
from course_utils.publishing import builder, calculators, catalogues, translating
from course_utils.publishing.book import build_book, building, extension, sources, theme_words
from course_utils.publishing.markdown_messages import kept, messages, parts, translated

TEMPLATES = sorted((catalogues.assets.PACKAGE / catalogues.BOOK_TEMPLATES).rglob("*.md.j2"))
SPANISH = "lesson_03"  # the lesson that these tests look at


def cut(text):
    return [(part.text, part.is_message) for part in parts(text)]


# -- Markdown as messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.number)
def test_a_lesson_is_cut_without_losing_a_word(lesson):
    cells = [cell.source for cell in builder.expanded_cells(lesson.name) if cell.cell_type == "markdown"]
    for text in cells:  # marks of quotations are as many as lines, and lines are joined
        assert [w for w in "".join(part.text for part in parts(text)).split() if w != ">"] == [
            w for w in text.split() if w != ">"
        ]
    assert sum(len(list(messages(text))) for text in cells) > 100


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_a_template_is_cut_without_losing_a_word(file):
    text = file.read_text(encoding="utf-8")
    assert "".join(part.text for part in parts(text)).split() == text.split()


PAGE = """\
# A heading with `code`

A paragraph that is wrapped
over two lines.

- an item that goes on
  below
- {{words}}

$$h = W x + b$$

```python
print("code")
```

<details><summary><b>A fold</b></summary>

| you want to | do |
| :-- | --: |
| count `a | b` | 3 |

</details>
<!-- assumes: token -->
"""


def test_messages_are_what_people_read_and_nothing_else():
    assert list(messages(PAGE)) == [
        "A heading with `code`", "A paragraph that is wrapped over two lines.", "an item that goes on below", "A fold",
        "you want to", "do", "count `a | b`",
    ]  # fmt: skip


def test_translating_keeps_everything_around_the_messages():
    shouted = translated(PAGE, lambda text: text.replace("`a | b`", "X").upper().replace("X", "`a | b`"))
    assert "# A HEADING WITH `CODE`\n" in shouted
    assert "- AN ITEM THAT GOES ON BELOW\n- {{words}}\n" in shouted
    assert '$$h = W x + b$$\n\n```python\nprint("code")\n```\n' in shouted
    assert "<details><summary><b>A FOLD</b></summary>\n\n| YOU WANT TO | DO |\n| :-- | --: |\n" in shouted
    assert "| COUNT `a | b` | 3 |\n\n</details>\n<!-- assumes: token -->\n" in shouted
    assert translated(PAGE, lambda text: text) == PAGE  # untranslated text is not even wrapped anew


def test_a_message_keeps_its_id_wherever_it_moves_and_however_it_is_wrapped():
    paragraph = "A sentence that is\nwrapped here."
    moved = f"## Elsewhere\n\n{PAGE}\n\nA sentence\nthat is wrapped here.\n"
    assert next(messages(paragraph)) in set(messages(moved))


def test_directives_and_entries_of_a_page_are_read_too():
    card = ":::{grid-item-card} Decide\n:shadow: none\n\nPrompt or train.\n:::\n"
    text = f"{card}```{{button-ref}} x\n:ref-type: doc\n\nRead\n```\n"
    toctree = (
        "```{toctree}\n:hidden:\n:caption: At hand\n\nGlossary <glossary>\n{{ a }} · {{ b }} <notebooks/{{ c }}>\n```\n"
    )
    assert list(messages(text + toctree)) == ["Decide", "Prompt or train.", "Read", "At hand", "Glossary"]
    assert ":hidden:\n:caption: Glosario\n" in translated(toctree, lambda _: "Glosario")
    assert "Glosario <glossary>\n" in translated(toctree, lambda _: "Glosario")


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("run `make lab` first", "ejecuta `hacer lab` primero"),
        ("the loss $-\\log p$", "la pérdida $-\\log q$"),
        ("a {{term:token}} is short", "un token es corto"),
        ("a {{term:token|tokens}}", "un {{term:tokenizer|token}}"),
        ("see [the paper](https://arxiv.org/abs/1)", "mira [el artículo](https://arxiv.org/abs/2)"),
        ("the <b>first</b>", "el primero"),
        ("{hits} of {number}", "{hits} de {numero}"),
        ("85 % of 1,024", "58 % de 1,024"),
        ("{% if a %}x y{% endif %}", "x y"),
        ("{{ count }} words", "palabras"),
    ],
)
def test_what_a_translation_must_repeat_is_missed(text, wrong):
    assert catalogues.broken(text, wrong)
    assert not catalogues.broken(text, text)


def test_a_term_may_be_shown_in_other_words():
    assert kept("a {{term:learning rate}} of 0.1") == kept("una {{term:learning rate|tasa de aprendizaje}} de 0.1")


# -- catalogues --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_the_catalogues_are_in_order(language):
    """As `course translate --check` says: nothing is broken, and whatever is declared complete is complete."""
    assert catalogues.problems(language, catalogues.check(language)) == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_the_stored_catalogues_are_what_an_update_would_write(language):
    for domain in catalogues.DOMAINS:
        text = catalogues.written(catalogues._merged(domain, language)[0], language)
        assert languages.catalogue_file(language, domain).read_text(encoding="utf-8") == text, (
            f"run: course translate {language}"
        )


@pytest.fixture
def declared_complete(tmp_path, monkeypatch):
    """A copy of the catalogues of a language that is declared complete, with one lesson, and with what the course says."""
    shutil.copytree(languages.FOLDER, tmp_path / "locale")
    monkeypatch.setattr(languages, "FOLDER", tmp_path / "locale")
    monkeypatch.setattr(catalogues, "DOMAINS", (SPANISH,))
    monkeypatch.setitem(languages.LANGUAGES, "es", replace(languages.LANGUAGES["es"], is_complete=True))
    said = dict(catalogues.collected(SPANISH))
    monkeypatch.setattr(catalogues, "collected", lambda domain: said)
    languages.messages.cache_clear()
    yield said
    languages.messages.cache_clear()


def rename(said, old, new):
    """The course with one sentence changed, in its place."""
    items = [(new if text == old else text, places) for text, places in said.items()]
    said.clear()
    said.update(items)


SENTENCE = "Try it on twelve messages that it has not seen."


def test_a_changed_sentence_turns_fuzzy_and_the_check_red(declared_complete, capsys):
    sentence = next(text for text in declared_complete if SENTENCE in text)
    changed = sentence.replace("twelve", "thirteen")
    before = catalogues.check("es")
    assert cli.main(["translate", "es", "--check"]) == (1 if catalogues.problems("es", before) else 0)
    rename(declared_complete, sentence, changed)
    assert cli.main(["translate", "es", "--check"]) == 1  # before anybody has updated anything
    printed = capsys.readouterr().out
    assert f"{SPANISH}: fuzzy: {changed[:40]}" in printed and "run `course translate es`, correct" in printed
    (report,) = catalogues.update("es")
    assert changed in report.fuzzy and report.obsolete == ()
    text = languages.catalogue_file("es", SPANISH).read_text(encoding="utf-8")
    assert re.search(r'#, fuzzy\nmsgid "[^"]*\n?(?:"[^"]*"\n)*?[^"]*"?[^"]*thirteen', text) and "#|" not in text
    assert all(
        line == "" or (re.match(r'#|msgid "|msgstr "|"', line) and line.count('"') != 1) for line in text.splitlines()
    )
    with speaking("es"):
        assert languages.say(changed, SPANISH) == changed  # readers get the English until somebody has looked
    assert cli.main(["translate", "es", "--check"]) == 1


def test_a_new_sentence_is_missing_and_a_removed_one_obsolete(declared_complete):
    sentence = next(text for text in declared_complete if SENTENCE in text)
    new = "Quite another thought about zebras, quartz and the weather of the day before yesterday."
    rename(declared_complete, sentence, new)
    (report,) = catalogues.check("es")
    assert new in report.missing and sentence in report.obsolete
    assert any("missing: Quite another" in line for line in catalogues.problems("es", [report]))
    catalogues.update("es")
    assert sentence not in languages.read(languages.catalogue_file("es", SPANISH).read_text(encoding="utf-8"))


def test_a_moved_paragraph_changes_no_message(declared_complete):
    before = languages.read(languages.catalogue_file("es", SPANISH).read_text(encoding="utf-8"))
    items = list(reversed(declared_complete.items()))
    declared_complete.clear()
    declared_complete.update(items)
    (report,) = catalogues.update("es")
    assert report.is_whole
    assert languages.read(languages.catalogue_file("es", SPANISH).read_text(encoding="utf-8")) == before


def test_a_broken_translation_is_red_in_a_language_that_is_not_complete(declared_complete, monkeypatch):
    monkeypatch.setitem(languages.LANGUAGES, "es", replace(languages.LANGUAGES["es"], is_complete=False))
    assert catalogues.problems("es", catalogues.check("es")) == []
    file = languages.catalogue_file("es", SPANISH)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("{{term:QLoRA}} guarda cada", "QLoRA guarda cada"), encoding="utf-8")
    (line,) = catalogues.problems("es", catalogues.check("es"))
    assert "lacks {{term:QLoRA" in line
    monkeypatch.setattr(catalogues, "collected", lambda domain: {**declared_complete, "A new sentence.": ["x"]})
    assert len(catalogues.problems("es", catalogues.check("es"))) == 1  # what is missing is no error there


def test_what_a_learner_reads_is_collected():
    lesson = catalogues.collected("lesson_03")
    assert "4 · Scales, and scales of scales" in lesson
    assert "The longest example decides alone here. What does the card allow?" in lesson  # a diagnosis
    assert "Fusionar" not in "".join(lesson) and "print(" not in "".join(text for text in lesson if "`" not in text)
    stage = catalogues.collected("stage")
    assert {
        "Your guess first.",
        "{name} is not a function; run the answer cell above first.",
        "Mark as read",
        "Check",
    } <= set(stage)
    assert "course_utils/publishing/book/static/book.js" in stage["Mark as read"]
    assert "A piece of text that a model reads or writes" in "".join(catalogues.collected("glossary"))
    assert "Start reading" in catalogues.collected("book")


# -- lessons and packs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """Lesson 03 as it is stored and in Spanish."""
    name = LESSONS["03"].name
    return nbformat.read(learner_file(name), 4), translating.translated_notebook(name, "es")


def test_a_translated_lesson_has_the_same_code_and_the_same_results(pair):
    stored, spanish = pair
    assert [cell.cell_type for cell in stored.cells] == [cell.cell_type for cell in spanish.cells]
    for before, after in zip(stored.cells, spanish.cells):
        assert before.id == after.id and before.metadata == after.metadata
        if before.cell_type != "code":
            continue
        assert before.source == after.source and before.execution_count == after.execution_count
        if "quiz(" not in before.source:
            assert before.outputs == after.outputs
    assert {**spanish.metadata["course"], "language": None} == {**stored.metadata["course"], "language": None}


def test_a_translated_lesson_reads_in_that_language(pair):
    stored, spanish = pair
    english = {cell.source for cell in stored.cells if cell.cell_type == "markdown"}
    prose = [cell.source for cell in spanish.cells if cell.cell_type == "markdown"]
    assert not english & set(prose)  # a cell that is older than its source would stay in English: run `course build`
    text = "\n".join(prose)
    assert "# 03 · QLoRA: entrena un modelo que no cabría" in text and "{{" not in text
    assert '*[tasa de aprendizaje](#Palabras-de-esta-lección "Cuánto cambia' in text
    assert "## Palabras de esta lección" in text and "| **cuantización** | Guardar los números" in text
    assert "> Traducido del inglés. El código, y lo que imprime y dibuja, queda en inglés." in prose[0]
    assert "| Ejecutar todo en |" in text


def test_a_quiz_is_translated(pair):
    _, spanish = pair
    (asked,) = [cell for cell in spanish.cells if cell.cell_type == "code" and cell.source.startswith("quiz(")]
    assert "<b>Correcto.</b>" in asked.outputs[0].data["text/html"]


def test_a_quiz_that_is_not_todays_stays_as_it_was_stored():
    cell = nbformat.v4.new_code_cell(
        'quiz("03")', outputs=[nbformat.v4.new_output("execute_result", {"text/html": "<p>old</p>"})]
    )
    with speaking("es"):
        translating._translate_outputs(cell)
    assert cell.outputs[0].data["text/html"] == "<p>old</p>"


def test_the_language_of_the_environment_does_not_reach_what_is_built(monkeypatch):
    before = builder.learner_edition("03")
    monkeypatch.setenv(languages.VARIABLE, "es")
    assert builder.learner_edition("03") == before


def test_a_cell_that_has_changed_since_the_notebook_was_built_stays_beside_its_outputs(monkeypatch):
    stored = nbformat.read(learner_file(LESSONS["03"].name), 4)
    editions = {code: builder.learner_edition("03", language=code) for code in ("en", "es")}
    changed = next(n for n, cell in enumerate(stored.cells) if "## 4 · Scales" in cell.source)
    for edition in editions.values():
        edition.cells[changed]["id"], edition.cells[changed].source = "03-another", "Something else."
    monkeypatch.setattr(translating.builder, "learner_edition", lambda name, language="en": editions[language])
    spanish = translating.translated_notebook("03", "es")
    assert spanish.cells[changed].source == stored.cells[changed].source
    assert "## 3 · Dieciséis valores para un peso" in "".join(cell.source for cell in spanish.cells)


def test_an_untranslated_lesson_says_so(monkeypatch):
    monkeypatch.setattr(translating, "messages", lambda language, domain: {})
    assert translating.lesson_note("03_qlora", "es") == "Esta lección todavía no se ha traducido: su texto está en inglés."
    assert "Lecciones traducidas por completo hasta ahora: ninguna." in translating.note("es")
    assert translating.note("en") == ""


def test_a_half_translated_lesson_says_how_much(monkeypatch):
    source = list(catalogues.collected(SPANISH))
    monkeypatch.setattr(translating, "messages", lambda language, domain: dict.fromkeys(source[: len(source) // 2], "x"))
    assert re.search(r"está traducido el (49|50) % del texto", translating.lesson_note("03_qlora", "es"))


def test_the_learners_pack_is_written_in_a_language(tmp_path, monkeypatch):
    monkeypatch.setattr(release, "write_wheel", lambda folder: folder / "finetuning_course-1-py3-none-any.whl")
    with speaking("es"):
        release._write_learner_pack(tmp_path, [LESSONS["03"].name], "es")
    notebook = json.loads((tmp_path / "notebooks" / "03_qlora.ipynb").read_text(encoding="utf-8"))
    assert notebook["metadata"]["course"]["language"] == "es"
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "course lab --language es" in readme and "Los ejercicios se califican solos" in readme
    assert "Run all" not in readme


def test_the_lab_opens_copies_in_a_language_and_never_overwrites_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(translating, "LESSONS", {"03": LESSONS["03"]})
    folder = cli._working_copies("es")
    assert folder == tmp_path / "finetuning-course-es"
    file = folder / "03_qlora.ipynb"
    assert "Un nuevo" not in file.read_text(encoding="utf-8") and "no cabría" in file.read_text(encoding="utf-8")
    file.write_text("a learner's work", encoding="utf-8")
    cli._working_copies("es")
    assert file.read_text(encoding="utf-8") == "a learner's work"


def test_the_lab_tells_its_kernels_the_language(monkeypatch, tmp_path):
    from course_utils import models

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(languages.VARIABLE, raising=False)
    monkeypatch.setattr(translating, "LESSONS", {})
    monkeypatch.setattr(models, "prepare_packaged_model", lambda: None)
    started = []
    monkeypatch.setattr(cli.os, "execv", lambda *arguments: started.append(cli.os.environ.get(languages.VARIABLE)))
    environment = dict(cli.os.environ)
    monkeypatch.setattr(cli.os, "environ", environment)
    assert cli.main(["lab", "--language", "es", "--no-browser"]) == 0
    assert started == ["es"]
    assert cli.main(["lab", "--language", "tlh"]) == 2


def test_exercises_are_found_in_a_translated_notebook(pair):
    stored, spanish = pair

    def answers(notebook):
        cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
        return [(cell.metadata["nbgrader"]["grade_id"], cell.source) for cell in cells]

    assert answers(stored) == answers(spanish) != []


# -- the book ------------------------------------------------------------------------------------------------------------


def test_a_page_leads_to_itself_in_the_other_language():
    codes = ["en", "es"]
    assert extension.languages_of("notebooks/03_qlora", codes, "en") == [
        ("en", "English", ""), ("es", "español", "../es/notebooks/03_qlora.html"),
    ]  # fmt: skip
    assert extension.languages_of("notebooks/03_qlora", codes, "es") == [
        ("en", "English", "../../notebooks/03_qlora.html"), ("es", "español", ""),
    ]  # fmt: skip
    assert extension.languages_of("index", codes, "es")[0][2] == "../index.html"
    assert extension.languages_of("index", ["es"], "es") == []


def test_the_edit_button_of_a_translated_page_leads_to_its_catalogue():
    with speaking("es"):
        assert extension.edited_file("notebooks/03_qlora") == "course_utils/locale/es/LC_MESSAGES/lesson_03.po"
        assert extension.edited_file("glossary") == "course_utils/locale/es/LC_MESSAGES/glossary.po"
        assert extension.edited_file("index") == "course_utils/locale/es/LC_MESSAGES/book.po"
        assert extension.edited_file("api/memory") == "course_utils/memory/__init__.py"
        assert extension.edited_file("search") == ""
    assert extension.edited_file("notebooks/03_qlora") == "notebooks/source/03_qlora.py"


def test_a_cheat_sheet_is_found_by_its_english_heading():
    english = ["## Other\n\n- x\n", "**What you can do now**\n\n| a | b |\n| --- | --- |\n| c | d |\n"]
    spanish = ["## Otra\n\n- y\n", "**Lo que ya puedes hacer**\n\n| e | f |\n| --- | --- |\n| g | h |\n"]
    assert sources.cheat_sheet(english, spanish).endswith("| g | h |")
    assert sources.cheat_sheet(english).endswith("| c | d |")


def test_objectives_are_read_in_the_language(pair):
    from course_utils.publishing.objectives import objectives_in

    english = [cell.source for cell in pair[0].cells if cell.cell_type == "markdown"]
    with speaking("es"):
        spanish = sources._objectives(LESSONS["03"], english)
    assert len(spanish) == len(objectives_in(english, LESSONS["03"].name)) > 3
    assert "doble cuantización" in " ".join(spanish)


def test_a_pages_python_has_the_catalogues_of_its_language_only():
    import io
    import zipfile

    names = {code: zipfile.ZipFile(io.BytesIO(calculators.archive(code))).namelist() for code in ("en", "es")}
    assert not [name for name in names["en"] if name.endswith(".po")]
    assert "course_utils/locale/es/LC_MESSAGES/stage.po" in names["es"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A book in English and Spanish."""
    return build_book(tmp_path_factory.mktemp("both") / "book", live=False, languages=("en", "es"))


@built
@pytest.mark.slow
def test_the_book_is_built_in_two_languages_that_lead_to_each_other(both):
    book = both
    assert book.warnings == () and book.languages == ("en", "es")
    english = [page for page in book.pages if not page.startswith("es/")]
    assert [page for page in book.pages if page.startswith("es/")] == sorted(f"es/{page}" for page in english)
    for page, other, code in (("notebooks/03_qlora.html", "../es/notebooks/03_qlora.html", "en"),
                              ("es/notebooks/03_qlora.html", "../../notebooks/03_qlora.html", "es")):  # fmt: skip
        text = (book.folder / page).read_text(encoding="utf-8")
        assert f'<html lang="{code}"' in text
        address = re.search(r'<nav class="book-languages".*?href="([^"]+)"', text, re.DOTALL)[1]
        assert address == other and (book.folder / page).parent.joinpath(address).resolve().exists()
    lesson = unescape((book.folder / "es/notebooks/03_qlora.html").read_text(encoding="utf-8"))
    assert "Escalas, y escalas de escalas" in lesson and "Scales, and scales of scales" not in lesson
    assert 'data-term="cuantización"' in lesson and "Mostrar la respuesta" in lesson and "texts.js" in lesson
    assert "Empezar a leer" in (book.folder / "es/index.html").read_text(encoding="utf-8")
    assert "Escalas" not in (book.folder / "notebooks/03_qlora.html").read_text(encoding="utf-8")
    assert "tasa de aprendizaje" in unescape((book.folder / "es/glossary.html").read_text(encoding="utf-8"))
    texts = (book.folder / "es/_static/texts.js").read_text(encoding="utf-8")
    assert json.loads(texts.removeprefix("window.courseTexts = ").rstrip(";\n"))["Mark as read"] == "Marcar como leída"


# -- the book's own furniture, and the way from one language to the other ------------------------------------------------


def test_what_the_theme_says_is_translated_and_lessons_are_not(tmp_path):
    page = tmp_path / "index.html"
    text = '<button title="{}"></button><span class="btn__text-container">{}</span><p title="x">{}</p>'
    page.write_text(text.format("Toggle primary sidebar", "Repository", "Repository"), encoding="utf-8")
    with speaking("es"):
        theme_words.translate_theme(tmp_path)
    said = text.format("Mostrar u ocultar el índice del curso", "Repositorio", "Repository")
    assert page.read_text(encoding="utf-8") == said


def test_a_switch_to_a_page_that_is_not_there_leads_to_the_first_page(tmp_path):
    switch = '<a href="{}" lang="es" hreflang="es">español</a>'
    for page in ("index.html", "es/index.html", "a/here.html", "es/a/here.html", "a/only.html"):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(switch.format(f"../es/{page}"), encoding="utf-8")
    building._mend_switches(tmp_path, ("en", "es"))
    assert (tmp_path / "a/only.html").read_text(encoding="utf-8") == switch.format("../es/index.html")
    assert (tmp_path / "a/here.html").read_text(encoding="utf-8") == switch.format("../es/a/here.html")


class TestTheSwitch:
    pytestmark = in_a_browser

    @pytest.mark.parametrize("page", ["index.html", "notebooks/03_qlora.html", "api/costs.html", "only.html"])
    def test_leads_to_the_same_page_and_back(self, browser, both, page):
        """A page that one language alone has leads to the other's first page."""
        lesson = (both.folder / "glossary.html").read_text(encoding="utf-8")
        (both.folder / "only.html").write_text(lesson.replace("es/glossary.html", "es/only.html"), encoding="utf-8")
        building._mend_switches(both.folder, both.languages)
        there = "index.html" if page == "only.html" else page
        with served(both.folder) as address:
            someone = Visitor(browser, address)
            seen = someone.go(page)
            seen.locator(".book-languages a").click()
            seen.wait_for_url(f"{address}/es/{there}")
            assert seen.locator("html").get_attribute("lang") == "es"
            captions = seen.locator(".bd-sidebar-primary .caption-text").all_inner_texts()
            assert captions == ["Lecciones", "A la mano"]
            seen.locator(".book-languages a").click()
            seen.wait_for_url(f"{address}/{there}")
            assert seen.locator(".bd-sidebar-primary .caption-text").all_inner_texts() == ["Lessons", "At hand"]
            someone.context.close()
            assert someone.wrong == []
