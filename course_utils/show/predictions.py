"""A question to the reader before a cell is run, and the measured value beside their guess after it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from course_utils.languages import later, say
from course_utils.style import box

if TYPE_CHECKING:
    import ipywidgets

VIEW = "application/vnd.jupyter.widget-view+json"


def predict(question: str, unit: str = "", choices: Sequence[str] = ()) -> Prediction:
    """Ask for a guess: a field in the notebook, or `guess.is_(value)` where there are no widgets.

    A run without a reader ("Run all") goes on without a guess, and says only what was measured.

    Args:
        question: one sentence that ends with a question mark.
        unit: of the number asked for, e.g. "answers".
        choices: answers to choose from, instead of a number.

    Returns:
        Prediction; `reveal(measured)` in a later cell shows both.
    """
    return Prediction(question, unit, tuple(choices))


def _number_of(unit: str) -> str:
    return say("a number of {unit}", unit=unit) if unit else say("a number")


class Prediction:
    """See `predict`.

    Attributes:
        question: as asked.
        guess: what the reader says so far; None for nothing.
        control: the widget; None where ipywidgets is missing.
    """

    def __init__(self, question: str, unit: str, choices: tuple[str, ...]) -> None:
        self.question, self.unit, self.choices = question, unit, choices
        self.guess: float | str | None = None
        self.control: ipywidgets.Widget | None = None
        self._view: ipywidgets.Widget | None = None
        try:
            import ipywidgets
        except ImportError:
            return
        label = ipywidgets.HTML(box(f"<b>{escape(say('Your guess first.'))}</b> {escape(question)}", "caution", "question"))
        if choices:
            self.control = ipywidgets.ToggleButtons(options=[("?", None), *((c, c) for c in choices)], value=None)
        else:
            self.control = ipywidgets.Text(placeholder=_number_of(unit), continuous_update=False)
        self.control.observe(lambda change: self.is_(change["new"]), names="value")
        self._view = ipywidgets.VBox([label, self.control])

    def is_(self, guess: Any) -> None:
        """Say what you expect. Text that is no number counts as no guess."""
        if self.choices or guess is None:
            self.guess = guess if guess in self.choices else None
            return
        try:
            self.guess = float(str(guess).strip().rstrip("%").replace(",", "."))
        except ValueError:
            self.guess = None

    def reveal(self, measured: float | str, unit: str | None = None, source: str = later("measured")) -> Reveal:
        """What was measured, beside the guess; `source` says where it comes from if nobody measured it."""
        return Reveal(self.guess, measured, self.unit if unit is None else unit, source)

    def __repr__(self) -> str:
        how = f"one of {', '.join(self.choices)}" if self.choices else f"a number{' of ' + self.unit if self.unit else ''}"
        return f"Your guess first. {self.question} ({how})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plain = {
            "text/plain": repr(self),
            "text/html": box(f"<b>{escape(say('Your guess first.'))}</b> {escape(self.question)}", "caution"),
        }
        if self._view is None:
            return plain
        # written out, since ipywidgets 7 (Colab's) and 8 make it in different ways
        return {**plain, VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._view.model_id}}


class Reveal:
    """Guess and measured value.

    Attributes:
        guess: None if the reader made none.
        measured: what came out.
    """

    def __init__(self, guess: float | str | None, measured: float | str, unit: str, source: str = later("measured")) -> None:
        self.guess, self.measured, self.unit, self._source = guess, measured, unit, source

    def _sentence(self) -> tuple[str, str]:
        unit = f" {self.unit}" if self.unit else ""
        measured = self.measured if isinstance(self.measured, str) else f"{self.measured:,.4g}"
        value = f"{measured}{unit}"
        source = say(self._source)
        if self.guess is None:
            return f"{source.capitalize()}: {value}.", "plain"
        if isinstance(self.guess, str) or isinstance(self.measured, str):
            right = str(self.guess) == str(self.measured)
            sentence = say("You said {guess}; {source}: {found}.", guess=self.guess, source=source, found=value)
            return sentence, "good" if right else "caution"
        gap = abs(self.guess - self.measured)
        near = gap <= 0.1 * max(abs(self.measured), 1)
        sentence = say("You said {guess}; {source}: {found}.", guess=f"{self.guess:,.4g}{unit}", source=source, found=value)
        return sentence, "good" if near else "caution"

    def _repr_html_(self) -> str:
        text, name = self._sentence()
        return box(f"<b>{escape(text)}</b>", name)

    def __repr__(self) -> str:
        return self._sentence()[0]
