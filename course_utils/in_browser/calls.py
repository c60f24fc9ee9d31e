"""The one function that a page calls: a request as JSON in, a result as JSON out."""

from __future__ import annotations

import importlib
import json

# Loaded at first use: a page that asks a calculator does not wait for the exercises.
_MODULE_OF = {"calculate": "calculators", "check": "answers"}


def call(request: str) -> str:
    """Answer a page's request.

    Args:
        request: a JSON object: `call` is "calculate" or "check", `arguments` those of the function of that name.

    Returns:
        What the function returns, as JSON.

    Raises:
        KeyError: there is no such call.
        TypeError: the arguments are not the function's.
    """
    body = json.loads(request)
    name = body["call"]
    function = getattr(importlib.import_module(f"course_utils.in_browser.{_MODULE_OF[name]}"), name)
    return json.dumps(function(**body["arguments"]), allow_nan=False)
