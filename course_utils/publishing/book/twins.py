"""What only works beside a kernel, in a form that works without one.

A field for a guess becomes a field of the page, the measured value waits behind a fold, a widget says what it does in the
notebook, and the check of an exercise, which in a stored notebook can only say that nothing has been written yet, says where
to run it. Calculators and exercises that run in the page can take these places: each twin has a class and a key.
"""

from __future__ import annotations

import re
from html import escape, unescape

from course_utils.publishing import calculators
from course_utils.show.calculators import CALCULATORS

# Call in a cell's source → what the reader of a website should know about its output.
LIVE = {
    "show.calculator(": "In the notebook this is a form: change a choice, and the answer follows.",
    "show.sort(": "In the notebook each card has buttons for sorting. Here, sort them in your head or on paper, then go on.",
}
FENCE = "`" * 12  # around HTML, in which an answer may have fences of its own


def live_note(source: str, live: bool = False) -> str:
    """Markdown of the note below a widget's output; empty if the cell shows no widget.

    Args:
        source: the cell.
        live: whether pages have Python, so that the book's calculator does the same, as far as a page can.
    """
    notes = [text for call, text in LIVE.items() if call in source]
    if live and calculator_for(source):
        notes.append("The [calculator](../calculators.md) answers here, without what this lesson has measured.")
    return "\n".join((":::{div} book-live", *notes, ":::")) if notes else ""


def calculator_for(source: str) -> str:
    """The calculator that a cell shows; "" if there is none."""
    called = re.search(r'show\.calculator\(\s*"(\w+)"', source)
    return called[1] if called else ""


class Calculators:
    """The calculators of a lesson's page, each in the place of the first widget that asks the same."""

    def __init__(self) -> None:
        self._placed = set[str]()

    def placed(self, source: str, stored: str = "") -> str:
        """Markdown of the calculator for a cell; empty if it shows no such widget, or the page has the calculator.

        Args:
            source: the cell.
            stored: its stored output as text, whose numbers the calculator begins with: "Message, tokens: 46; ...".
        """
        id = calculator_for(source)
        if not id or id in self._placed:
            return ""
        self._placed.add(id)
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
    """Markdown of an exercise that is solved in the page, and of where else it can be.

    Args:
        id: of the exercise.
        places: links to where it can be run, as Markdown.
    """
    return [raw(calculators.exercise_fragment(id)), f":::{{div}} book-elsewhere book-exercise exercise-{id}\n{places}\n:::"]


def exercise_note(id: str, function: str, places: str) -> str:
    """Markdown in the place of an exercise's check.

    Args:
        id: of the exercise.
        function: name of the function that a learner writes.
        places: links to where it can be run, as Markdown.
    """
    instruction = (
        f"Write `{function}` in the notebook and run the check below it. It draws new cases at every run, says what is "
        "wrong, and knows the typical mistakes."
    )
    return f":::{{admonition}} Your turn\n:class: tip book-exercise exercise-{id}\n\n{instruction} {places}\n:::"
