"""What the rules for all shapes have in common."""

from __future__ import annotations

import re
from typing import Any

from course_utils.data_prep.findings import ERROR, Finding, shorten
from course_utils.data_prep.variants import is_meaningful

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
TYPE_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}


class RowRules:
    """Collects what is wrong with one row.

    Attributes:
        line: the row's line in its file.
        target: who will read the row: "openai" or "trl".
        findings: what has been found so far.
    """

    def __init__(self, line: int, target: str) -> None:
        self.line, self.target = line, target
        self.findings: list[Finding] = []

    @property
    def errors(self) -> bool:
        """Whether one of the findings so far is an error."""
        return any(finding.severity == ERROR for finding in self.findings)

    def add(self, path: str, code: str, message: str, **details: Any) -> None:
        """Add a finding; `details` are for programs (see `Finding`)."""
        self.findings.append(Finding(self.line, path, code, message, details))

    def extra(self, item: dict, allowed: set, path: str) -> None:
        """Report the fields of `item` that are not in `allowed`."""
        for key in item:
            if key not in allowed and is_meaningful(key, item[key]):
                self.add(f"{path}.{key}" if path else key, "field_in_use", f"OpenAI's format has no place for {key}")
            elif key not in allowed:
                shown = shorten(key, 40)
                name = shown.strip("'")
                self.add(
                    f"{path}.{name}" if path else name,
                    "extra_key",
                    f"the key {shown} is not one of {', '.join(sorted(allowed))}",
                    key=name,
                )


def type_of(value: object) -> str:
    """Return the JSON type of a value, in words for a message."""
    return "null" if value is None else TYPE_NAMES.get(type(value), "a number")
