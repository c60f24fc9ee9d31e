"""What can be wrong with a training file: one code for each fault, with its severity and how to fix it.

An error is something that a host refuses, or that trains the wrong behaviour. A warning is something that a host accepts
although it is usually a mistake.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

ERROR, WARNING = "error", "warning"

# code → "words" (see `in_words`), "severity", "fix" (how to), and "fixable" (whether `course check-data --fix` repairs it)
CODES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
# code → how a hosted job fails: the API's "code" and "message"
API_ERRORS: dict[str, dict[str, str]] = CODES.pop("api")
# The same words for what other steps than validation find
WORDS: dict[str, str] = CODES.pop("words")


def in_words(code: str) -> str:
    """Return what a code means, in words that stand behind a number: "with spaces at an edge"."""
    return CODES[code]["words"] if code in CODES else WORDS.get(code, f"with personal data: {code.replace('_', ' ')}")


@dataclass(frozen=True)
class Finding:
    """One fault in a training file.

    Attributes:
        line: line in the file, from 1 (in a CSV, Parquet or JSON file: row); 0 for the file as a whole.
        field: where in the row, such as "messages[2].content"; "" for the whole row.
        code: one of `CODES`.
        message: what is wrong, with the value that is wrong.
        details: facts from the message that programs need ("key", "token", "index" of the message).
    """

    line: int
    field: str
    code: str
    message: str
    details: Mapping[str, Any] = dataclass_field(default_factory=dict, compare=False)

    @property
    def severity(self) -> str:
        """How serious the fault is: "error" or "warning"."""
        return CODES[self.code]["severity"]

    @property
    def fix(self) -> str:
        """What to do about the fault."""
        return CODES[self.code]["fix"]

    @property
    def fixable(self) -> bool:
        """Whether `--fix` can repair the fault without losing anything that would be learned."""
        return CODES[self.code]["fixable"]

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "file"
        return f"{where}{', ' + self.field if self.field else ''}: {self.message} [{self.code}]; {self.fix}"

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain values that can be written as JSON."""
        return {name: getattr(self, name) for name in ("line", "field", "code", "severity", "message", "fix")}


def shorten(value: object, limit: int = 60) -> str:
    """Return a value as it is quoted in a message: on one line, cut to length, and printable whatever it contains."""
    text = repr(value[: limit + 1] if isinstance(value, str) else value) if not isinstance(value, dict | list) else ""
    if isinstance(value, dict):
        text = "{" + ", ".join(repr(str(key)[:20]) for key in list(value)[:5]) + (", …}" if len(value) > 5 else "}")
    elif isinstance(value, list):
        text = f"a list of length {len(value)}"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1] + "…"
