"""What the lessons show beside their own runs: recorded runs, arithmetic on published figures, and cards of claims.

One module per lesson; the claims are in `data/claims.toml`.
"""

from __future__ import annotations

import importlib
from html import escape
from typing import Any

from course_utils import facts
from course_utils.errors import CourseError
from course_utils.style import TONES, box

__all__ = ["card", "lesson_01", "lesson_02", "lesson_03", "lesson_04", "lesson_05", "lesson_06"]

MODELS = {"135M": "SmolLM2-135M", "0.5B": "Qwen2.5-Coder-0.5B", "1.5B": "Qwen2.5-Coder-1.5B"}  # as records call them


def __getattr__(name: str) -> Any:
    """Load a lesson's module at its first use: two of them need NumPy, which a page's Python does not have."""
    if name.startswith("lesson_") and name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Verdict → tone of its badge.
TONE_OF = {"holds": "good", "holds under a condition": "caution", "does not hold": "bad", "not tested here": "quiet"}


class Claim:
    """A claim that circulates about fine-tuning, and what was found. HTML in a notebook, text elsewhere.

    Attributes:
        id: the row's name, such as "L4".
        row: the row of `data/claims.toml`.

    Raises:
        CourseError: there is no such claim.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        try:
            self.row = facts.table("claims")[id]
        except KeyError:
            raise CourseError(f"there is no claim {id!r}; the claims are {', '.join(facts.table('claims'))}") from None

    @property
    def badge(self) -> str:
        """The verdict as HTML."""
        colour, word = TONES[TONE_OF[self.row["verdict"]]][0], escape(self.row["verdict"])
        style = f"background:{colour};color:#fff;border-radius:4px;padding:.1em .5em;font-weight:600"
        return f'<span style="{style}">{word}</span>'

    @property
    def basis(self) -> str:
        """What the finding rests on, with its day, such as "method-prices-2026-11-25.json (2026-11-25)"."""
        return f"{', '.join(self.row['record'])} ({self.row['measured']})"

    def _repr_html_(self) -> str:
        row = {name: escape(str(value)) for name, value in self.row.items()}
        return box(
            f"<div><b>Claim {self.id}</b> “{row['claim']}”</div><div>Source: {row['source']}; read {row['date']}</div>"
            f'<p style="margin:.5em 0">{self.badge} {row["finding"]}</p>'
            f"<details><summary>Scope and record</summary><p>{row['scope']}</p><p>{escape(self.basis)}</p></details>",
            TONE_OF[self.row["verdict"]], f"claim {self.id}",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Claim {self.id}: {self.row['claim']}\n  {self.row['verdict']}. {self.row['finding']}"


card = Claim  # what a lesson calls


def claims_page() -> str:
    """Return docs/claims.md, the page of all claims."""
    text = "# Claims that circulate, and what was found\n\nWritten from `data/claims.toml` by `make readme`.\n"
    for claim in map(Claim, facts.table("claims")):
        row = claim.row
        text += (
            f"\n## {claim.id} · {row['verdict']}\n\n“{row['claim']}”\n\n{row['finding']}\n\n"
            f"- Scope: {row['scope']}\n- Measured: {claim.basis}\n- The claim: {row['source']}; read {row['date']}\n"
        )
    return text
