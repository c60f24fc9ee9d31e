"""What the lessons show beside their own runs: recorded runs, arithmetic on published figures, and cards of claims.

One module per lesson; the cards are those of `course_utils.claims`.
"""

import importlib
from typing import Any

from course_utils.claims import card

__all__ = ["card", "lesson_01", "lesson_02", "lesson_03", "lesson_04", "lesson_05", "lesson_06"]

MODELS = {"135M": "SmolLM2-135M", "0.5B": "Qwen2.5-Coder-0.5B", "1.5B": "Qwen2.5-Coder-1.5B"}  # as records call them


def __getattr__(name: str) -> Any:
    """Load a lesson's module at its first use: two of them need NumPy, which a page's Python does not have."""
    if name.startswith("lesson_") and name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
