"""Lesson 04: pairs and judged replies as cards, and what the record of all methods says."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from course_utils import assets, show
from course_utils.evidence import house_style
from course_utils.show.answers import Answers
from course_utils.show.tables import Table
from course_utils.style import box, tone

Row = Mapping[str, Any]
MARK = "padding:.05em .3em;white-space:nowrap"  # a sign stays with its rule
START, CONTROL, WITH_SFT = "the start", "SFT on chosen", "DPO + SFT"
ALL = "all five"
# Names in records of earlier days → today's.
RECORDED = {
    "the desk's replies (SFT)": START,
    "order is the customer's": "order number right",
    "comes to an end": "finishes",
    "all rules": ALL,
}


def with_todays_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a record with methods and rules under the names that they have today."""
    return {RECORDED.get(name, name): value for name, value in found.items()}


def per_seed(method: str, measure: str) -> list[list[Any]]:
    """Return a measure of a method for each seed that has it: one value per message or pair."""
    runs = [with_todays_names(run["methods"]) for run in assets.read_record("preferences")["runs"]]
    methods = [with_todays_names(run.get(method, {})) for run in runs]
    return [one[measure] for one in methods if measure in one]


# -- replies ----------------------------------------------------------------------------------------------------------------


def pair_card(row: Row) -> Answers:
    """Return a pair as cards: the message, and the two replies beside each other."""
    replies = {name: [row[name]] for name in ("chosen", "rejected")}
    return show.answers([row["prompt"][-1]["content"]], replies, longest=400)


def judged_cards(rows: Sequence[Row], answers: Mapping[str, Sequence[str]]) -> Answers:
    """Return answers to the messages of pairs as cards, with a mark for each rule of the house style."""
    messages = [row["prompt"][-1]["content"] for row in rows]
    return _Judged(messages, {name: list(replies) for name, replies in answers.items()}, list(rows))


class _Judged(Answers):
    """Answers whose text is shown above the marks of the rules."""

    def __init__(self, messages: list[str], models: dict[str, list[str]], rows: list[Row]) -> None:
        super().__init__(messages, models, longest=400)
        self._rows = rows

    def fields(self, name: str, index: int) -> list[tuple[str, Any, bool]]:
        """The rules, each with whether it was kept."""
        verdict = house_style.judge(self._rows[index], self.models[name][index])
        return [(rule, is_kept, is_kept) for rule, is_kept in verdict.items()]

    def _card(self, name: str, index: int) -> str:
        fields = self.fields(name, index)
        marks = " ".join(
            f'<span style="{tone("good" if is_kept else "bad")};{MARK}">{sign} {escape(rule)}</span>'
            for rule, _, is_kept in fields
            for sign in ("✓" if is_kept else "✗")
        )
        text = f'<span style="white-space:pre-wrap">{escape(self._cut(self.models[name][index]))}</span>'
        whole = all(is_kept for _, _, is_kept in fields)
        return box(f"<b>{escape(name)}</b><br>{text}<br>{marks}", "good" if whole else "bad", f"{name}: answer")


# -- the record of all methods ----------------------------------------------------------------------------------------------


def failures_table() -> Table:
    """Return what recorded failures look like, beside DPO as usual."""
    column = "answers with the step first"

    def measured(method: str, measure: str, scale: float, form: str) -> str:
        return format(scale * statistics.mean(statistics.mean(seed) for seed in per_seed(method, measure)), form)

    rows: dict[str, dict[str, Any]] = {START: {column: measured(START, "step first", 100, ".0f") + " %"}}
    for name in ("DPO", "DPO, β = 1", "DPO, rate too high"):
        runs = [run["methods"][name] for run in assets.read_record("preferences")["runs"] if name in run["methods"]]
        rows[name] = {
            "learning rate": f"{runs[0]['rate']:g}",
            "training pairs right": f"{100 * statistics.mean(run['last accuracy'] for run in runs):.0f} %",
            column: measured(name, "step first", 100, ".0f") + " %",
            "KL, nats per answer": measured(name, "kl", 1, ".1f"),
        }
    return Table(rows, "DPO as usual, held closer, and at too high a rate", "run", "DPO")
