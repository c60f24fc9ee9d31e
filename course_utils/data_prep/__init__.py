"""From an export to training data: the course's own data sets, and tools to make your own.

`validate` says what is wrong with a file; `prepare` cleans it step by step, and each step is also a function on rows.
Libraries that only this lesson uses (phonenumbers, python-stdnum, py3langid, Faker) are in the extra `data`.
"""

from __future__ import annotations

import importlib
from typing import Any

# Imported on first use, so that reading the course's own data does not wait for what only the data lesson needs.
_MODULE_OF = {
    **dict.fromkeys(("TASKS", "Preferences", "Task", "load_preferences", "load_task"), "tasks"),
    **dict.fromkeys(("Report", "validate"), "validation"),
    **dict.fromkeys(("convert", "shape_of", "prompt_of", "answer_of"), "formats"),
    **dict.fromkeys(("Deduplicated", "deduplicate"), "deduplication"),
    "Redactor": "pii",
    **dict.fromkeys(("contamination", "split"), "splitting"),
    "assess": "quality",
    **dict.fromkeys(("Catalogue", "load_catalogue"), "catalogue"),
    **dict.fromkeys(("Preparation", "Prepared", "prepare"), "pipeline"),
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
