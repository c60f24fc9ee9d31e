"""Connects the book's parts with Sphinx."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import __version__, assets, lessons
from course_utils.languages import BOOK, GLOSSARY, LANGUAGES, SOURCE, catalogue_file, current, lesson_domain, say
from course_utils.publishing import calculators
from course_utils.publishing.book import epub, formulas
from course_utils.publishing.book.html_pages import finished
from course_utils.publishing.book.lesson_pages import lesson_page
from course_utils.publishing.book.outputs import PICTURES
from course_utils.publishing.book.paper import on_paper
from course_utils.publishing.book.sources import before_and_after, module_file

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LESSON_PAGES = {f"notebooks/{lesson.name}": lesson for lesson in lessons.LESSONS.values()}
BEFORE_AND_AFTER = "<!-- before and after -->"  # where the landing page shows it

# Page → the file in the repository that somebody edits to change it; lessons and modules have theirs.
EDITED = {
    "index": "course_utils/publishing/book/templates/index.md.j2",
    "glossary": "course_utils/glossary.jsonl",
    "cheat-sheets": "notebooks/source",
    "calculators": "course_utils/calculators.py",
    "instructors": "course_utils/publishing/book/templates/instructors.md.j2",
    "api/index": "course_utils/publishing/book/sources.py",
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_config_value("book_live", False, "env", bool, "whether pages have Python")
    app.add_config_value("book_languages", current(), "html", str, "codes of the languages that are built, with commas")
    renderers = {"inline_renderers": (formulas.visit_inline, None), "block_renderers": (formulas.visit_block, None)}
    app.add_html_math_renderer("mathml", **renderers)
    app.connect("source-read", read_lesson)
    app.connect("html-page-context", set_languages, priority=300)  # before the theme looks which of its parts are empty
    app.connect("html-page-context", set_edit_link, priority=400)
    app.connect("html-page-context", finish_page, priority=900)
    app.connect("autodoc-process-docstring", read_docstring)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}


def read_lesson(app: Sphinx, page: str, text: list[str]) -> None:
    """Put the book's version of a notebook in the stored one's place; the download keeps the stored one."""
    pictures: dict[str, bytes] = {}
    if page in LESSON_PAGES:
        text[0] = lesson_page(text[0], LESSON_PAGES[page], pictures, app.config.book_live, _is_paper(app))
    elif page == "index":
        text[0] = text[0].replace(BEFORE_AND_AFTER, before_and_after(pictures))
    folder = Path(app.outdir) / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)


def edited_file(page: str) -> str:
    """Path in the repository of the file behind a page; empty for pages that Sphinx makes.

    In a translated book it is the catalogue, except for the reference, which is not translated.
    """
    if current() != SOURCE and not page.startswith("api/"):
        lesson = LESSON_PAGES.get(page)
        domain = lesson_domain(lesson.number) if lesson else {"glossary": GLOSSARY}.get(page, BOOK)
        file = catalogue_file(current(), domain).relative_to(assets.PACKAGE.parent)
        return file.as_posix() if lesson or page in EDITED else ""
    if page in LESSON_PAGES:
        return f"notebooks/source/{LESSON_PAGES[page].name}.py"
    if page.startswith("api/") and page not in EDITED:
        return module_file(page.removeprefix("api/")).relative_to(assets.PACKAGE.parent).as_posix()
    return EDITED.get(page, "")


def set_languages(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Give the page's templates the language that is spoken, and the page in the others."""
    context["say"] = say
    context["book_languages"] = languages_of(page, app.config.book_languages.split(","), current())


def set_edit_link(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Let the page's edit button lead to the file that one edits, not to what was made from it."""
    if file := edited_file(page):
        # The theme refuses an address that does not mention the page's file name, so a comment of Jinja does.
        context["edit_page_url_template"] = f"{assets.repository_url()}/edit/main/{file}{{# file_name #}}"
        context["edit_page_provider_name"] = "GitHub"


def finish_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Go over a finished page (`html_pages`), and let it load what its calculators and exercises need."""
    if "body" in context:
        if 'class="course-room"' in context["body"]:
            folder = Path(calculators.static()).name
            app.add_css_file(f"{folder}/{calculators.STYLE}")
            if app.config.book_live:
                app.add_js_file(f"{folder}/{calculators.SCRIPT}", loading_method="defer")
        objects = app.env.domains.standard_domain.objects
        terms = {anchor: name for (kind, name), (_, anchor) in objects.items() if kind == "term"}
        context["body"] = finished(context["body"], terms)
        if _is_paper(app):
            context["body"] = on_paper(context["body"])
    if _is_paper(app):
        context["script_files"], context["css_files"] = [], list(epub.STYLES)
        context["html_tag"] = context["html_tag"].replace(">", f' lang="{current()}" xml:lang="{current()}">')
    if page in LESSON_PAGES:
        context["lesson_number"] = LESSON_PAGES[page].number


def _is_paper(app: Sphinx) -> bool:
    """Whether what is built is the ePub."""
    return app.builder.name == "epub"


def languages_of(page: str, codes: list[str], own: str) -> list[tuple[str, str, str]]:
    """Return code, name and address of a page in each language; its own has no address. Empty if there is one language.

    Args:
        page: path from the root of its language, without the extension.
        codes: languages that are built: the first is in the website's root, each other in a folder of its code.
        own: language of the page.
    """
    up = "../" * (page.count("/") + (own != codes[0]))
    places = {code: up + ("" if code == codes[0] else f"{code}/") + f"{page}.html" for code in codes}
    return [(code, LANGUAGES[code].name, places[code] if code != own else "") for code in codes if len(codes) > 1]


def read_docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Read a docstring as people write it: stars and bars are no marks, and what is indented after a colon is code."""
    for number, line in enumerate(lines):
        if "*" in line or "|" in line:
            parts = line.split("`")
            parts[::2] = [part.replace("*", r"\*").replace("|", r"\|") for part in parts[::2]]
            lines[number] = "`".join(parts)
        if line.endswith(":") and not line.endswith("::") and "".join(lines[number + 1 : number + 2]) == "":
            after = "".join(lines[number + 2 : number + 3])
            if after.startswith(" " * (len(line) - len(line.lstrip()) + 4)):
                lines[number] = f"{line}:"
