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
from course_utils.show.style import TONES, box, tone
from course_utils.show.tables import Table

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


class Card:
    """One judged claim; HTML in a notebook, text elsewhere."""

    def __init__(self, id: str, verdict: Verdict, judge: Callable) -> None:
        self.id, self.verdict, self._judge = id, verdict, judge

    def _repr_html_(self) -> str:
        source, verdict = claims.SOURCES.get(self.id, ""), self.verdict
        met = f'<div style="{tone("plain")}">Met in: {escape(source)}</div>' if source else ""
        code = escape(inspect.getsource(self._judge))
        module = self._judge.__module__.replace(".", "/")
        tables = "".join(f"<p></p>{part._repr_html_()}" for part in verdict.evidence)
        scope = f"<p>{escape(verdict.scope)}</p>" if verdict.scope else ""
        badge = (
            f"background:{TONES[TONE_OF[verdict.word]][0]};color:#ffffff;border-radius:4px;padding:.1em .5em;font-weight:600"
        )
        return box(
            f'<div><b>Claim {self.id}</b> “{escape(claims.CLAIMS[self.id])}”</div>{met}'
            f'<p style="margin:.5em 0"><span style="{badge}">{verdict.word}</span> {escape(verdict.sentence)}</p>'
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
    claims.record(id, verdict.word, verdict.sentence)
    return Card(id, verdict, judge)


def summary() -> Table:
    """All claims judged so far, one line each."""
    rows = {
        f"{claim.id}": {"claim": claim.text, "verdict": claim.verdict, "what was found": claim.measured}
        for claim in claims.table()
    }
    return Table(rows, "Claims of this lesson", "id", "")
