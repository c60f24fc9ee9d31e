"""Sphinx's settings for the book, what connects its parts with Sphinx, and formulas as MathML.

`building` says where Sphinx reads and writes. Browsers draw MathML, screen readers read it, nothing is loaded. MathJax and
KaTeX would bring a megabyte of script and fonts and draw each formula anew on the reader's machine, and need npm or another
host to come by.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import __version__, assets, lessons
from course_utils.publishing import calculators
from course_utils.publishing.book.building import HERE
from course_utils.publishing.book.html_pages import finished
from course_utils.publishing.book.lesson_pages import lesson_page

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator


project = "Teaching models new behaviours"
copyright = "the authors of the course, Apache-2.0"
language = "en"

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
]

# Lessons. Outputs are those that are stored: nothing is run.
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_update_mathjax = False
myst_heading_anchors = 3
html_math_renderer = "mathml"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(HERE / "static")]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_favicon = str(HERE / "static" / "icon.svg")
templates_path = [str(HERE / "sphinx_templates")]
html_sidebars = {"**": ["book-logo.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
html_show_sourcelink = False
html_show_sphinx = False
html_domain_indices = False
html_use_index = False
copybutton_exclude = ".linenos, .gp, .go"
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": project, "image_light": "_static/icon.svg", "image_dark": "_static/icon.svg", "alt_text": ""},
    "repository_url": assets.repository_url(),
    "repository_branch": "main",
    "use_repository_button": True,
    "use_fullscreen_button": False,
    "launch_buttons": {
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
        "notebook_interface": "jupyterlab",
    },
    "article_header_start": ["toggle-primary-sidebar.html", "book-home.html"],
    "footer_content_items": ["copyright.html"],
    "search_bar_text": "Search the course",
    "toc_title": "On this page",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


LESSON_PAGES = {f"notebooks/{lesson.name}": lesson for lesson in lessons.NOTEBOOKS.values()}

_FUNCTION = re.compile(r"<mi>(?:exp|ln|log|max|min)</mi>(?!<mo[^>]*>(?:\(|&#x00028;))")  # needs a gap before its argument


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_config_value("book_live", False, "env", bool, "whether pages have Python")
    app.add_html_math_renderer("mathml", inline_renderers=(visit_formula, None), block_renderers=(visit_formula, None))
    app.connect("source-read", read_lesson)
    app.connect("html-page-context", finish_page, priority=900)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}


def read_lesson(app: Sphinx, page: str, text: list[str]) -> None:
    """Put the book's version of a notebook in the stored one's place; the download keeps the stored one."""
    if page in LESSON_PAGES:
        text[0] = lesson_page(text[0], LESSON_PAGES[page], app.config.book_live)


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
        context["body"] = finished(context["body"], terms, Path(app.outdir), "../" * page.count("/"))
    if page in LESSON_PAGES:
        context["lesson_number"] = LESSON_PAGES[page].number


def mathml(latex: str, block: bool = False) -> str:
    """Return a formula as MathML, its LaTeX kept as an annotation to copy; with `block`, one on a line of its own."""
    from latex2mathml.converter import convert

    xml = _FUNCTION.sub(r"\g<0><mspace width='0.17em'/>", convert(latex, display="block" if block else "inline"))
    start, end = xml.index(">") + 1, xml.rindex("</math>")
    note = f'<annotation encoding="application/x-tex">{escape(latex.strip(), quote=False)}</annotation>'
    return f"{xml[:start]}<semantics>{xml[start:end]}{note}</semantics></math>"


def visit_formula(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula; one on a line of its own scrolls where it is wider than the screen."""
    from docutils.nodes import SkipNode, math_block

    block = isinstance(node, math_block)
    formula = mathml(node.astext(), block)
    frame = '<div class="book-formula" tabindex="0" role="group" aria-label="formula">'
    self.body.append(f"{frame}{formula}</div>" if block else formula)
    raise SkipNode
