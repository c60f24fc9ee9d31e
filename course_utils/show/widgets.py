"""What a reader can change: calculators, guesses, and cards to sort.

A widget works only while a kernel and a front end are connected. In a stored notebook, on paper and without ipywidgets its
HTML is shown instead, and methods do what the controls do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.show.tables import Table
from course_utils.style import box, columns

if TYPE_CHECKING:
    import ipywidgets

    from course_utils.show.calculators import Answer, Calculator

VIEW = "application/vnd.jupyter.widget-view+json"
HIGHEST = "34em"  # of a list with controls, which scrolls


class Widget:
    """Something with controls, which are made where ipywidgets is installed; else it is shown as HTML.

    Attributes:
        controls: name → ipywidgets control; empty if ipywidgets is missing.
    """

    def __init__(self) -> None:
        self.controls: dict[Any, ipywidgets.Widget] = {}
        self._view: ipywidgets.Widget | None = None
        try:
            import ipywidgets
        except ImportError:
            return
        self._view = ipywidgets.VBox(self._parts())

    def _parts(self) -> list[ipywidgets.Widget]:
        """Make the controls, and return what is shown, from top to bottom."""
        raise NotImplementedError

    def _html(self) -> str:
        """What is shown without controls."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plain = {"text/plain": repr(self), "text/html": self._html()}
        if self._view is None:
            return plain
        # written out, since ipywidgets 7 (in Colab) and 8 create it in different ways
        return {**plain, VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._view.model_id}}


# -- calculators --------------------------------------------------------------------------------------------------------


def calculator(id: str, **choices: Any) -> Form:
    """A calculator as a form whose answer follows every change.

    Args:
        id: "memory" (will it fit?), "costs" (what does it cost?) or "decision" (what to try?).
        choices: choices to begin with instead of the calculator's own, and what it takes besides, such as `assumptions`.

    Raises:
        CourseError: no such calculator, a name that it doesn't know, or a choice that is not valid.
    """
    from course_utils.show.calculators import CALCULATORS  # here, because it loads prices and shapes of models

    if id not in CALCULATORS:
        raise CourseError(f"there is no calculator {id!r}; there are {', '.join(CALCULATORS)}")
    form = Form(CALCULATORS[id].starting(**choices))
    if not form.answer.valid:
        raise CourseError(form.answer.summary.rstrip("."))
    return form


class Form(Widget):
    """See `calculator`.

    Attributes:
        choices: name of a field → choice.
        answer: to these choices.
    """

    def __init__(self, calculator: Calculator) -> None:
        self._calculator, self.choices = calculator, calculator.defaults
        self.answer: Answer = calculator.answer(self.choices)
        super().__init__()

    def _parts(self) -> list[ipywidgets.Widget]:
        import ipywidgets

        looks = {"style": {"description_width": "initial"}, "layout": {"width": "40em", "max_width": "100%"}}
        shown = ipywidgets.HTML(self._answer_html())

        def change(name: str, choice: Any) -> None:
            self.choices[name] = choice
            self.answer = self._calculator.answer(self.choices)
            shown.value = self._answer_html()

        for field in self._calculator.fields:
            settings = {"value": field.default, "description": field.label, **looks}
            if field.options:
                control = ipywidgets.Dropdown(options=[(text, choice) for choice, text in field.options], **settings)
            elif isinstance(field.default, bool):
                control = ipywidgets.Checkbox(indent=False, **settings)
            else:
                number = ipywidgets.BoundedIntText if field.whole else ipywidgets.BoundedFloatText
                control = number(min=field.low, max=field.high, **settings)
            control.observe(lambda event, name=field.name: change(name, event["new"]), names="value")
            self.controls[field.name] = control
        return [*self.controls.values(), shown]

    def _answer_html(self) -> str:
        return f"<p><b>{escape(self.answer.summary)}</b></p>{self.answer.details}"

    def _choices(self) -> str:
        return "; ".join(
            f"{field.label}{'' if field.label.endswith('?') else ':'} {field.written(self.choices[field.name])}"
            for field in self._calculator.fields
        )

    def _html(self) -> str:
        return f"<p><b>{escape(self._calculator.title)}</b> {escape(self._choices())}</p>{self._answer_html()}"

    def __repr__(self) -> str:
        return f"{self._calculator.title} {self._choices()}\n{self.answer.summary}"


# -- guesses ------------------------------------------------------------------------------------------------------------


class Prediction(Widget):
    """Asks for a guess: a field in the notebook, or `guess.is_(value)` where there are no widgets.

    A run without a reader ("Run all") goes on without a guess, and says only what was measured. `reveal(measured)` in a
    later cell shows both.

    Args:
        question: one sentence that ends with a question mark.
        unit: of the number asked for, e.g. "answers".
        choices: answers to choose from, instead of a number.

    Attributes:
        guess: what the reader says so far; None for nothing.
    """

    def __init__(self, question: str, unit: str = "", choices: Sequence[str] = ()) -> None:
        self.question, self.unit, self.choices = question, unit, choices
        self.guess: float | str | None = None
        super().__init__()

    def _parts(self) -> list[ipywidgets.Widget]:
        import ipywidgets

        if self.choices:
            options = [("?", None), *((choice, choice) for choice in self.choices)]
            control = ipywidgets.ToggleButtons(options=options, value=None)
        else:
            placeholder = f"a number of {self.unit}" if self.unit else "a number"
            control = ipywidgets.Text(placeholder=placeholder, continuous_update=False)
        control.observe(lambda change: self.is_(change["new"]), names="value")
        self.controls["guess"] = control
        return [ipywidgets.HTML(self._html()), control]

    def is_(self, guess: Any) -> None:
        """Say what you expect. Text that is no number counts as no guess."""
        if self.choices or guess is None:
            self.guess = guess if guess in self.choices else None
            return
        try:
            self.guess = float(str(guess).strip().rstrip("%").replace(",", "."))
        except ValueError:
            self.guess = None

    def reveal(self, measured: float | str) -> Reveal:
        """What was measured, beside the guess."""
        return Reveal(self.guess, measured, self.unit)

    def _html(self) -> str:
        return box(f"<b>Your guess first.</b> {escape(self.question)}", "caution", "question")

    def __repr__(self) -> str:
        how = f"one of {', '.join(self.choices)}" if self.choices else f"a number{' of ' + self.unit if self.unit else ''}"
        return f"Your guess first. {self.question} ({how})"


class Reveal:
    """A guess, None if the reader made none, and the measured value in a sentence."""

    def __init__(self, guess: float | str | None, measured: float | str, unit: str) -> None:
        unit = f" {unit}" if unit else ""
        said = f"{measured if isinstance(measured, str) else format(measured, ',.4g')}{unit}"
        if guess is None:
            self._text, self._tone = f"Measured: {said}.", "plain"
            return
        if isinstance(guess, str) or isinstance(measured, str):
            guessed, right = str(guess), str(guess) == str(measured)
        else:
            guessed, right = f"{guess:,.4g}{unit}", abs(guess - measured) <= 0.1 * max(abs(measured), 1)
        self._text, self._tone = f"You said {guessed}; measured: {said}.", "good" if right else "caution"

    def _repr_html_(self) -> str:
        return box(f"<b>{escape(self._text)}</b>", self._tone)

    def __repr__(self) -> str:
        return self._text


# -- cards to sort ------------------------------------------------------------------------------------------------------


class Sorting(Widget):
    """Cards with a choice under each; without widgets, all cards, and `sorting.is_(3, "format")` for the third.

    A run without a reader ("Run all") goes on without an answer. `reveal(right)` in a later cell compares.

    Args:
        cards: what each says, as label → text.
        buckets: names to choose from.

    Attributes:
        answers: number of the card, counted from 1 → bucket, as far as the reader has sorted.
    """

    def __init__(self, cards: Sequence[Mapping[str, str]], buckets: Sequence[str]) -> None:
        self.cards, self.buckets = cards, buckets
        self.answers: dict[int, str] = {}
        super().__init__()

    def _parts(self) -> list[ipywidgets.Widget]:
        import ipywidgets

        parts: list[ipywidgets.Widget] = []
        for number in range(1, len(self.cards) + 1):
            options = [("?", None), *((name, name) for name in self.buckets)]
            control = ipywidgets.ToggleButtons(options=options, value=None, style={"button_width": "auto"})
            control.observe(lambda change, number=number: self.is_(number, change["new"]), names="value")
            self.controls[number] = control
            parts += [ipywidgets.HTML(self._card(number)), control]
        return [ipywidgets.VBox(parts, layout=ipywidgets.Layout(max_height=HIGHEST, overflow="auto", display="block"))]

    def is_(self, number: int, bucket: str | None) -> None:
        """Sort a card; None takes it out again.

        Raises:
            CourseError: no such card or bucket.
        """
        if not 1 <= number <= len(self.cards):
            raise CourseError(f"there is no card {number}; they are numbered from 1 to {len(self.cards)}")
        if bucket is None:
            self.answers.pop(number, None)
        elif bucket in self.buckets:
            self.answers[number] = bucket
        else:
            raise CourseError(f"unknown bucket {bucket!r}; choose one of {', '.join(self.buckets)}")

    def reveal(self, right: Sequence[str]) -> Table:
        """How many cards are in which bucket, the reader's and the rule's, and where the two differ.

        Raises:
            CourseError: not as many buckets as cards.
        """
        if len(right) != len(self.cards):
            raise CourseError(f"{len(right)} buckets for {len(self.cards)} cards")
        rule, yours = Counter(right), Counter(self.answers.values())
        differ = [n for n in self.answers if self.answers[n] != right[n - 1]]
        rows: dict[str, dict[str, Any]] = {}
        for name in self.buckets:
            numbers = ", ".join(str(n) for n, bucket in enumerate(right, 1) if bucket == name)
            rows[name] = ({"yours": yours[name]} if self.answers else {}) | {"by the rule": rule[name], "cards": numbers}
        caption = f"{len(self.cards)} cards by the rule"
        if self.answers:
            agreed = len(self.answers) - len(differ)
            caption = f"You and the rule agree on {agreed} of {len(self.answers)} cards"
            if differ:
                caption += f"; look again at {', '.join(map(str, sorted(differ)))}"
        return Table(rows, caption, "bucket", "")

    def _card(self, number: int) -> str:
        lines = "".join(
            f"<div><b>{escape(label)}:</b> {escape(text)}</div>" for label, text in self.cards[number - 1].items()
        )
        return box(f"<b>{number}</b>{lines}", "plain", f"card {number}")

    def _html(self) -> str:
        cards = columns((self._card(number) for number in range(1, len(self.cards) + 1)), "20em")
        return box(f"<b>Sort them:</b> {escape(', '.join(self.buckets))}?", "caution", "question") + cards

    def __repr__(self) -> str:
        lines = [f"Sort them: {', '.join(self.buckets)}?"]
        for number, card in enumerate(self.cards, 1):
            lines.append(f"{number}. " + "; ".join(f"{label}: {text}" for label, text in card.items()))
        return "\n".join(lines)


predict, sort = Prediction, Sorting  # what a lesson calls
