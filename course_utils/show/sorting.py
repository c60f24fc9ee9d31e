"""Cards that the reader sorts into buckets, and the buckets of a rule beside theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.style import box, columns
from course_utils.show.tables import Table

if TYPE_CHECKING:
    import ipywidgets

VIEW = "application/vnd.jupyter.widget-view+json"
HIGHEST = "34em"  # of the list with controls, which scrolls


def sort(cards: Sequence[Mapping[str, str]], buckets: Sequence[str]) -> Sorting:
    """Cards with a choice under each; without widgets, all cards, and `sorting.is_(3, "format")` for the third.

    A run without a reader ("Run all") goes on without an answer.

    Args:
        cards: what each says, as label → text.
        buckets: names to choose from.

    Returns:
        Sorting; `reveal(right)` in a later cell compares.
    """
    return Sorting([dict(card) for card in cards], tuple(buckets))


class Sorting:
    """See `sort`.

    Attributes:
        cards: as given.
        buckets: as given.
        answers: number of the card, counted from 1 → bucket, as far as the reader has sorted.
        controls: one widget for each card; empty where ipywidgets is missing.
    """

    def __init__(self, cards: list[dict[str, str]], buckets: tuple[str, ...]) -> None:
        self.cards, self.buckets = cards, buckets
        self.answers: dict[int, str] = {}
        self.controls: list[ipywidgets.Widget] = []
        self._view: ipywidgets.Widget | None = None
        try:
            import ipywidgets
        except ImportError:
            return
        parts: list[ipywidgets.Widget] = []
        for number in range(1, len(cards) + 1):
            control = ipywidgets.ToggleButtons(
                options=[("?", None), *((name, name) for name in buckets)], value=None, style={"button_width": "auto"}
            )
            control.observe(lambda change, number=number: self.is_(number, change["new"]), names="value")
            self.controls.append(control)
            parts += [ipywidgets.HTML(self._card(number)), control]
        self._view = ipywidgets.VBox(parts, layout=ipywidgets.Layout(max_height=HIGHEST, overflow="auto", display="block"))

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

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plain = {"text/plain": repr(self), "text/html": self._html()}
        if self._view is None:
            return plain
        # written out, since ipywidgets 7 (Colab's) and 8 make it in different ways
        return {**plain, VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._view.model_id}}

    def __repr__(self) -> str:
        lines = [f"Sort them: {', '.join(self.buckets)}?"]
        for number, card in enumerate(self.cards, 1):
            lines.append(f"{number}. " + "; ".join(f"{label}: {text}" for label, text in card.items()))
        return "\n".join(lines)
