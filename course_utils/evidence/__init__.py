"""Claims that circulate, judged: a card for each, with the evidence and the code that judged it behind a fold.

One module per lesson holds a function per claim, `judge_L3` for claim L3, which returns a `Verdict`. The notebook calls
`evidence.card("L3")`, with what it has measured itself as further arguments.
"""

import importlib
from typing import Any

from course_utils.evidence.cards import Verdict, card, summary

__all__ = ["Verdict", "card", "lesson_01", "lesson_02", "lesson_03", "lesson_04", "lesson_05", "lesson_06", "summary"]


def __getattr__(name: str) -> Any:
    """Load a lesson's module at its first use: two of them need NumPy, which a page's Python does not have."""
    if name.startswith("lesson_") and name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
