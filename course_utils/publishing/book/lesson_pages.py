"""A stored notebook as a page of the book: its text, and its outputs dressed, without what only the notebook needs.

What only works beside a kernel gets a form that works without one: a field for a guess becomes a field of the page, the
measured value waits behind a fold, a widget becomes a calculator or says what it does in the notebook, and the check of an
exercise, which in a stored notebook can only say that nothing has been written yet, says where to run it.
"""

from __future__ import annotations

import ast
import json
import re
from html import escape, unescape
from typing import Any

from course_utils import glossary
from course_utils.in_browser import on_page
from course_utils.lessons import Lesson
from course_utils.publishing import builder, calculators
from course_utils.show.calculators import CALCULATORS
from course_utils.style import LINE, TONES

Cell = dict[str, Any]  # as nbformat 4 has it
# Call in a cell's source → what the reader of a website should know about its output.
LIVE = {
    "show.calculator(": "In the notebook this is a form: change a choice, and the answer follows.",
    "show.sort(": "In the notebook each card has buttons for sorting. Here, sort them in your head or on paper, then go on.",
}
FENCE = "`" * 12  # around HTML, in which an answer may have fences of its own

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
        cells += _code(cell, predictions, live)
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


def _code(cell: Cell, predictions: Predictions, live: bool) -> list[Cell]:
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
    if below := calculator_at(source, stored) if live else "":
        shown["outputs"] = []  # the answer is the calculator's
    else:
        below = live_note(source)
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


# -- what works without a kernel ------------------------------------------------------------------------------------------


def live_note(source: str) -> str:
    """Markdown of the note below a widget's output; empty if the cell shows no widget."""
    notes = [text for call, text in LIVE.items() if call in source]
    return "\n".join((":::{div} book-live", *notes, ":::")) if notes else ""


def calculator_for(source: str) -> str:
    """The calculator that a cell shows; "" if there is none."""
    called = re.search(r'show\.calculator\(\s*"(\w+)"', source)
    return called[1] if called else ""


def calculator_at(source: str, stored: str) -> str:
    """Markdown of the calculator in the place of a cell's widget; empty if the cell shows none.

    Args:
        source: the cell.
        stored: its stored output as text, whose numbers the calculator begins with: "Message, tokens: 46; ...".
    """
    id = calculator_for(source)
    if not id:
        return ""
    begin = {}
    for field in CALCULATORS[id].fields:
        found = re.search(rf"(?:^|[;?] ){re.escape(field.label)}: ([\d,.]+)(?:;|$)", stored, re.MULTILINE)
        if found and not field.options:
            begin[field.name] = field.checked(float(found[1].replace(",", "")))
    return raw(calculators.fragment(id, **begin))


def raw(html: str) -> str:
    """Markdown that brings HTML to the page as it is."""
    return f"{FENCE}{{raw}} html\n{html.strip()}\n{FENCE}"


class Predictions:
    """The guesses that a lesson asks for, in its order: which field a measured value belongs to."""

    def __init__(self, lesson: str) -> None:
        self._lesson, self._count, self._key_of = lesson, 0, {"": ""}

    def asked(self, source: str, text: str, html: str) -> str:
        """HTML of the field for a guess, in the place of the notebook's.

        Args:
            source: the cell, which says under which name the guess is kept.
            text: the output's plain text: "Your guess first. How many? (a number of answers)".
            html: the output's HTML, whose question is shown.
        """
        self._count += 1
        key = f"{self._lesson}-{self._count}"
        name = re.search(r"^(\w+)\s*=\s*(?:show\.)?predict\(", source, re.MULTILINE)
        self._key_of[name[1] if name else ""] = key
        how = re.search(r"\((one of|a number)(?: of)? ?([^()]*)\)\s*$", text)
        choices = [part.strip() for part in how[2].split(",")] if how and how[1] == "one of" else []
        unit = how[2] if how and how[1] == "a number" else ""
        return (
            f'<div class="book-predict" data-key="{key}">{html}<form hidden>{_field(key, choices, unit)}'
            '<button type="submit">Keep my guess</button><output aria-live="polite"></output></form></div>'
        )

    def revealed(self, source: str, html: str) -> str:
        """HTML of a measured value behind a fold, so that it does not answer before it is asked."""
        name = re.search(r"(\w+)\.reveal\(", source)
        key = self._key_of.get(name[1] if name else "", "")
        return (
            f'<details class="book-reveal" data-key="{key}"><summary>Show the answer</summary>'
            f'<p class="book-said" hidden></p>{html}</details>'
        )


def _field(key: str, choices: list[str], unit: str) -> str:
    if choices:
        radios = (
            f'<label><input type="radio" name="{key}" value="{escape(choice, quote=True)}"> {escape(choice)}</label>'
            for choice in choices
        )
        return f"<fieldset><legend>Your guess</legend>{''.join(radios)}</fieldset>"
    label = f"Your guess, a number of {escape(unescape(unit))}" if unit else "Your guess, a number"
    return f'<label>{label} <input type="text" inputmode="decimal" name="{key}" autocomplete="off"></label>'


def exercise_field(id: str, places: str) -> list[str]:
    """Markdown of an exercise that is solved in the page, and of the links to places where else it can be."""
    return [raw(calculators.exercise_fragment(id)), f":::{{div}} book-elsewhere book-exercise exercise-{id}\n{places}\n:::"]


def exercise_note(id: str, function: str, places: str) -> str:
    """Markdown in the place of an exercise's check: the function to write, and links to the places where it can be run."""
    instruction = (
        f"Write `{function}` in the notebook and run the check below it. It draws new cases at every run, says what is "
        "wrong, and knows the typical mistakes."
    )
    return f":::{{admonition}} Your turn\n:class: tip book-exercise exercise-{id}\n\n{instruction} {places}\n:::"


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
