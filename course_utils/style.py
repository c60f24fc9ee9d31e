"""Colours and boxes that everything shown in the course shares: charts, tables, cards, calculators and drawings.

Boxes carry inline CSS, since a notebook's output can't count on a style sheet. Each pair of text and background has a
contrast of at least 4.5:1 (`tests/test_style.py` computes it), and the background is always given with the text, so that a
dark theme can't make one of the two vanish. The drawings in `drawings/` use the same colours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

TEXT, PAPER, QUIET, LINE = "#1f2933", "#ffffff", "#52606d", "#cbd2d9"
# Name → (text, background). Colours never stand alone: a word or a sign says the same.
TONES = {
    "plain": (TEXT, PAPER),
    "quiet": (QUIET, "#f5f7fa"),
    "accent": ("#0b4f79", "#e3f0f8"),
    "good": ("#0b5c43", "#e2f4ed"),
    "bad": ("#8f3a00", "#fdeee3"),
    "caution": ("#6b4e00", "#fdf5dc"),
}
# What is drawn in several lessons → colour and marker, the same in each; dark enough for text on white.
LOOKS: dict[str, tuple[str, str]] = {
    "training": ("#0072b2", "o"),
    "validation": ("#b34700", "^"),
    "frontier model, long prompt": ("#a0457f", "D"),
    "small model, long prompt": ("#7a5d00", "v"),
    "fine-tuned, hosted": ("#0072b2", "o"),
    "fine-tuned, rented GPU": (QUIET, "s"),
}
# All other lines, in their order.
SERIES = (("#0072b2", "o"), ("#08783e", "s"), ("#a0457f", "D"), ("#7a5d00", "v"), ("#b34700", "^"), (QUIET, "X"))
ACCENT, MUTED, LIMIT = "#0072b2", "#8894a0", "#8f3a00"
# Parts of a bar: fill and hatching, so that they differ without colour too.
PARTS = ((QUIET, ""), ("#0072b2", "//"), ("#e0a100", ".."), (LINE, "xx"), ("#08783e", "\\\\"), ("#a0457f", "++"))
FONT = "font-family:system-ui,sans-serif;font-size:14px;line-height:1.45"


def tone(name: str) -> str:
    """CSS of a tone's text and background."""
    text, background = TONES[name]
    return f"color:{text};background:{background}"


def box(content: str, name: str = "plain", label: str = "") -> str:
    """HTML of a framed box; `content` is HTML, `label` names the box for screen readers."""
    role = f' role="group" aria-label="{escape(label, quote=True)}"' if label else ""
    edge = TONES[name][0]
    return (
        f'<div{role} style="{FONT};{tone(name)};border:1px solid {LINE};border-left:4px solid {edge};border-radius:6px;'
        f'padding:.6em .9em;margin:.4em 0;max-width:56em;overflow-wrap:anywhere">{content}</div>'
    )


def columns(parts: Iterable[str], narrowest: str = "15em") -> str:
    """HTML of parts side by side, under one another where the screen is narrow; four stand two by two."""
    parts = list(parts)
    if len(parts) == 4:  # three and one would leave the last alone
        narrowest = f"max({narrowest},40%)"
    return (
        f'<div style="display:grid;grid-template-columns:repeat(auto-fit,minmax(min({narrowest},100%),1fr));gap:.6em">'
        f"{''.join(parts)}</div>"
    )


def escaped(text: str) -> str:
    """Text for HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text))
