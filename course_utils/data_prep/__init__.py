"""From an export to training data: the course's own sets, and the tools to make one's own.

`validate` says what is wrong with a file, `prepare` cleans it step by step; each step is a function on rows too. What needs
a library that only this lesson uses (Presidio, py3langid, Faker) is in the extra `data`.
"""

from __future__ import annotations

import importlib
from typing import Any

# Imported on first use: reading the course's own data must not wait for what only the lesson on data needs.
_WHERE = {
    **dict.fromkeys(("TASKS", "Preferences", "Task", "load_preferences", "load_task", "read_rows"), "tasks"),
    **dict.fromkeys(("Report", "validate"), "validation"),
    **dict.fromkeys(("convert", "shape_of", "prompt_of", "answer_of"), "formats"),
    **dict.fromkeys(("Deduplicated", "deduplicate"), "deduplication"),
    **dict.fromkeys(("Redactor", "redact"), "pii"),
    **dict.fromkeys(("contamination", "kinship", "split"), "splitting"),
    **dict.fromkeys(("distance", "resample"), "distribution"),
    "assess": "quality",
    **dict.fromkeys(("Catalogue", "load_catalogue"), "catalogue"),
    **dict.fromkeys(("Prepared", "prepare"), "pipeline"),
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
