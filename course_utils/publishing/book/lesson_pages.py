"""A stored notebook as a page of the book: its text, and its outputs dressed, without what only the notebook needs."""

from __future__ import annotations

import ast
import json
import re
from html import escape, unescape
from typing import Any

from course_utils import glossary
from course_utils.in_browser import on_page
from course_utils.lessons import Lesson
from course_utils.publishing import builder
from course_utils.publishing.book.twins import (
    Calculators,
    Predictions,
    exercise_field,
    exercise_note,
    live_note,
)
from course_utils.style import LINE, TONES

Cell = dict[str, Any]  # as nbformat 4 has it

_BADGES = re.compile(r"^\[!\[Open in .*$\n?", re.MULTILINE)
_TERM = re.compile(r"\*\[(?P<text>[^\]]+)\]\(#[\w-]+ \"(?P<tip>[^\"]*)\"\)\*")
_QUIZ = re.compile(r"(?m)^\s*quiz\(")
_IMPORTS = re.compile(r"(?m)^from course_utils\.exercises import check")  # a lesson's imports


def lesson_page(text: str, lesson: Lesson, live: bool = False) -> str:
    """Return a lesson's notebook as the book shows it.

    Args:
        text: the learner's notebook as it is stored, JSON.
        lesson: which one.
        live: whether its page has Python, for calculators in the place of widgets and for exercises that need no library.

    Returns:
        A notebook, JSON again, which Sphinx reads in the place of the stored one.
    """
    notebook = json.loads(text)
    predictions = Predictions(lesson.number)
    solved_here = on_page() if live else {}
    widgets = Calculators() if live else None
    exercise = ""
    cells: list[Cell] = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cells.append({**cell, "source": page_text(source_of(cell))})
            continue
        grading = cell["metadata"].get("nbgrader", {})
        id = grading.get("grade_id", "").removesuffix("_check")
        if grading.get("grade"):
            if id not in solved_here:
                cells.append(_markdown(exercise_note(id, exercise, _places(lesson))))
            continue
        if grading.get("solution"):
            if id in solved_here:
                cells += map(_markdown, exercise_field(id, f"Or solve it in the notebook. {_places(lesson)}"))
                continue
            exercise = _function(source_of(cell))
        cells += _code(cell, predictions, widgets)
    return json.dumps({**notebook, "cells": cells})


def page_text(markdown: str) -> str:
    """Markdown of a cell for the page: terms lead into the book's glossary, badges are left out, as the page has buttons."""
    return _TERM.sub(_role, _BADGES.sub("", markdown))


def source_of(cell: Cell) -> str:
    """A cell's text, which notebooks store whole or as lines."""
    return "".join(cell["source"])


def markdown_of(text: str) -> list[str]:
    """Markdown cells of a stored notebook, in the order of the page."""
    return [source_of(cell) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]


def _role(term: re.Match[str]) -> str:
    """The marker of a term as a link into the glossary; as plain emphasis if the glossary has changed since."""
    meaning = unescape(term["tip"])
    names = [one.name for one in glossary.terms().values() if one.meaning == meaning]
    return f"*{{term}}`{term['text']} <{names[0]}>`*" if names else f"*{term['text']}*"


def _code(cell: Cell, predictions: Predictions, widgets: Calculators | None) -> list[Cell]:
    """A code cell with dressed outputs; below it a calculator, or a note, where its widget needs a kernel."""
    source, tags = source_of(cell), list(cell["metadata"].get("tags", []))
    if "install" in tags:
        return []
    if "folded" in tags or _IMPORTS.search(source) or is_call_of(source, ("lesson.", "evidence.")):
        tags.append("hide-input")
    if is_call_of(source, ("show.drawing", "quiz")):
        tags.append("remove-input")
    outputs = [_output(output, source, predictions) for output in cell["outputs"] if not _is_empty(output)]
    shown = {**cell, "metadata": {**cell["metadata"], "tags": tags}, "outputs": outputs}
    stored = "".join("".join(output.get("data", {}).get("text/plain", "")) for output in cell["outputs"])
    if below := widgets.placed(source, stored) if widgets else "":
        shown["outputs"] = []  # the answer is the calculator's
    else:
        below = live_note(source, widgets is not None)
    return [shown, _markdown(below)] if below else [shown]


def is_call_of(source: str, starts: tuple[str, ...]) -> bool:
    """Whether a cell only calls one function of the course whose name begins so.

    What it draws or lists is what a reader wants, and the call teaches nothing.
    """
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a line for IPython
        return False
    call = body[0].value if len(body) == 1 and isinstance(body[0], ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func).startswith(starts)


def _output(output: Cell, source: str, predictions: Predictions) -> Cell:
    data = output.get("data", {})
    if "text/html" not in data:
        return output
    html, text = "".join(data["text/html"]), "".join(data.get("text/plain", ""))
    if text.startswith("Your guess first."):
        html = predictions.asked(source, text, html)
    elif ".reveal(" in source and "font-family" in html and html.count("<b>") == 1 and "<img" not in html:
        html = predictions.revealed(source, html)
    elif _QUIZ.search(source):
        html = f'<div class="book-quiz">{html}</div>'
    return {**output, "data": {"text/html": dressed(html), "text/plain": text}}


def _is_empty(output: Cell) -> bool:
    """Whether an output shows nothing, as progress that has disappeared."""
    shown = output.get("data", {})
    return bool(shown) and not any("".join(text).strip() for kind, text in shown.items() if kind != "text/plain")


def _markdown(source: str) -> Cell:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _function(source: str) -> str:
    definition = re.search(r"^(?:def|class) (\w+)", source, re.MULTILINE)
    return definition[1] if definition else "the answer"


def _places(lesson: Lesson) -> str:
    colab, binder = builder.colab_url(lesson.name), builder.binder_url(lesson.name)
    download = f"{{download}}`download the notebook </notebooks/{lesson.name}.ipynb>`"
    return f"Open it [in Colab]({colab}) or [in Binder]({binder}), or {download}."


# -- stored outputs: colours that a dark theme may exchange -----------------------------------------------------------------


_STYLE = re.compile(r'style=(?P<quote>["\'])(?P<css>.*?)(?P=quote)', re.DOTALL)
_COLOUR = re.compile(r"(?P<property>[\w-]+)\s*:(?P<before>[^;:]*?)(?P<colour>#[0-9a-fA-F]{6})\b")
_BAR = re.compile(r"<div>\s*(?:<style>.*?</style>)?\s*<progress[^>]*>\s*</progress>\s*(?P<text>.*?)\s*</div>", re.DOTALL)

# Fills for which the style sheet has a dark twin: those of all tones, and of badges, whose fill is a tone's text.
KNOWN = {colour.lower() for pair in TONES.values() for colour in pair} | {LINE.lower()}


def dressed(html: str) -> str:
    """Return a stored output's HTML with colours that a theme can exchange; a progress bar becomes a sentence."""
    html = _BAR.sub(lambda bar: f"<p>{escape(unescape(' '.join(bar['text'].split())))}</p>", html)
    return _STYLE.sub(lambda style: f'style="{exchangeable(style["css"]).replace(chr(34), chr(39))}"', html)


def exchangeable(css: str) -> str:
    """Return a style whose colours are variables, so that a theme can exchange them: `var(--fill-fdf5dc,#fdf5dc)`.

    The variable's name says where the colour is used, since white as paper turns dark and white as a badge's letters does
    not. A style with a fill that the style sheet does not know stays as it is: only the pair of both colours is legible.
    """
    colours = list(_COLOUR.finditer(css))
    if any(_coloured(match["property"]) == "fill" and match["colour"].lower() not in KNOWN for match in colours):
        return css
    return _COLOUR.sub(_variable, css)


def _variable(match: re.Match[str]) -> str:
    colour = match["colour"].lower()
    return f"{match['property']}:{match['before']}var(--{_coloured(match['property'])}-{colour[1:]},{colour})"


def _coloured(name: str) -> str:
    """What a property colours: text, fill or edge."""
    return {"color": "text", "background": "fill", "background-color": "fill"}.get(name, "edge")
