"""The card of a claim, and the table of all that a lesson has judged."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any

from course_utils import claims
from course_utils.errors import CourseError
from course_utils.show.tables import Table
from course_utils.style import FONT, LINE, TONES, box, tone

TONE_OF = {claims.HOLDS: "good", claims.UNDER_A_CONDITION: "caution", claims.FAILS: "bad", claims.NOT_TESTED: "quiet"}
LESSON_OF = {"D": "01", "L": "02", "Q": "03", "A": "04", "P": "05", "O": "06"}


@dataclass(frozen=True)
class Verdict:
    """What came out for a claim.

    Attributes:
        word: `claims.HOLDS`, `UNDER_A_CONDITION`, `FAILS` or `NOT_TESTED`.
        sentence: what was found, with the figures that decide.
        evidence: tables behind the fold.
        scope: what it was measured on, and what would change it.
    """

    word: str
    sentence: str
    evidence: tuple[Table, ...] = ()
    scope: str = ""


def _badge(word: str) -> str:
    colour = TONES[TONE_OF[word]][0]
    return (
        f'<span style="background:{colour};color:#ffffff;border-radius:4px;padding:.1em .5em;font-weight:600">'
        f"{escape(word)}</span>"
    )


class Card:
    """One judged claim; HTML in a notebook, text elsewhere."""

    def __init__(self, id: str, verdict: Verdict, judge: Callable) -> None:
        self.id, self.verdict, self._judge = id, verdict, judge

    def _repr_html_(self) -> str:
        source, verdict = claims.SOURCES.get(self.id, ""), self.verdict
        met = f"<div>Source: {escape(source)}</div>" if source else ""
        code = escape(inspect.getsource(self._judge))
        module = self._judge.__module__.replace(".", "/")
        tables = "".join(f"<p></p>{part._repr_html_()}" for part in verdict.evidence)
        scope = f"<p>{escape(verdict.scope)}</p>" if verdict.scope else ""
        return box(
            f"<div><b>Claim {self.id}</b> “{escape(claims.CLAIMS[self.id])}”</div>{met}"
            f'<p style="margin:.5em 0">{_badge(verdict.word)} {escape(verdict.sentence)}</p>'
            f"<details><summary>Evidence, and the code that judged it</summary>{tables}{scope}"
            f"<p><code>{module}.py</code></p>"
            f'<pre tabindex="0" style="{tone("quiet")};padding:.6em;overflow-x:auto">{code}</pre></details>',
            TONE_OF[verdict.word], f"claim {self.id}",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Claim {self.id}: {claims.CLAIMS[self.id]}\n  {self.verdict.word}. {self.verdict.sentence}"


def card(id: str, **measured: Any) -> Card:
    """Judge a claim and show the card.

    Args:
        id: e.g. "L3".
        measured: what the notebook has measured for it, as the judging function names it.

    Raises:
        CourseError: a claim that no lesson judges.
    """
    module = import_module(f"course_utils.evidence.lesson_{LESSON_OF.get(id[:1], '00')}") if id[:1] in LESSON_OF else None
    judge = getattr(module, f"judge_{id}", None)
    if judge is None:
        raise CourseError(f"there is no evidence for claim {id!r}")
    verdict = judge(**measured)
    claims.set_verdict(id, verdict.word, verdict.sentence)
    return Card(id, verdict, judge)


class Summary:
    """All claims judged so far: a line each, the reasons behind a fold."""

    def __init__(self, cards: dict[str, Card | None]) -> None:
        self._cards = cards
        self._claims = claims.table()

    def _repr_html_(self) -> str:
        rows = ""
        for claim in self._claims:
            card = self._cards.get(claim.id)
            tables = "".join(f"<p></p>{part._repr_html_()}" for part in card.verdict.evidence) if card else ""
            rows += (
                f'<details style="border-top:1px solid {LINE};padding:.35em 0"><summary><b>{claim.id}</b> '
                f"“{escape(claim.text)}” {_badge(claim.verdict)}</summary>"
                f'<div style="margin:.4em 1.2em">{escape(claim.measured)}{tables}</div></details>'
            )
        return f'<div style="{FONT};{tone("plain")};max-width:56em">{rows}</div>'

    def __repr__(self) -> str:
        return "\n".join(f"Claim {c.id}: {c.text}\n  {c.verdict}. {c.measured}" for c in self._claims)


def summary(*ids: str) -> Summary:
    """All claims of the lesson in one list.

    Args:
        ids: claims that no card has judged yet; they are judged now, from arithmetic and records alone.
    """
    return Summary({id: card(id) for id in ids})
