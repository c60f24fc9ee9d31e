"""What the rules of all shapes share."""

from __future__ import annotations

import re
from typing import Any

from course_utils.data_prep.findings import ERROR, Finding, shorten
from course_utils.data_prep.variants import is_meaningful

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class RowRules:
    """Collects what is wrong with one row.

    Attributes:
        line: of the row in its file.
        target: "openai" or "trl".
        findings: so far.
    """

    def __init__(self, line: int, target: str) -> None:
        self.line, self.target = line, target
        self.findings: list[Finding] = []

    @property
    def errors(self) -> bool:
        """Whether one of the findings is an error."""
        return any(finding.severity == ERROR for finding in self.findings)

    def add(self, place: str, code: str, message: str, **details: Any) -> None:
        """Note a finding; `details` are for programs (see `Finding`)."""
        self.findings.append(Finding(self.line, place, code, message, details))

    def extra(self, item: dict, known: set, place: str) -> None:
        """Note the fields of `item` that are not `known`."""
        for key in item:
            if key not in known and is_meaningful(key, item[key]):
                self.add(f"{place}.{key}" if place else key, "field_in_use", f"{key} has no place at OpenAI")
            elif key not in known:
                name = shorten(key, 40)
                where = name.strip("'")
                self.add(
                    f"{place}.{where}" if place else where,
                    "extra_key",
                    f"the key {name} is not one of {', '.join(sorted(known))}",
                    key=where,
                )


def type_of(value: object) -> str:
    """The JSON type of a value, in words."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number")
