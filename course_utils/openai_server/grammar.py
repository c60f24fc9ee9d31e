"""What an answer may be, as a grammar for llguidance: JSON of a schema, calls of functions, or text with calls in it.

A call is text in the tags that open models use (`messages` writes the same text for training): a line with the tag, a line
of JSON with name and arguments, a line with the closing tag.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # a TypedDict, for checkers only

# JSON as json.dumps writes it, on one line with single blanks: a small model left to itself fills its whole answer with
# white space, which every JSON grammar allows.
JSON_STYLE: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MARK = "<tool_call>"
END = "\n</tool_call>"
MOST_CALLS = 16  # in one answer: a model that is not sure when to stop would call until its context is full


@dataclass(frozen=True)
class Signature:
    """A function that may be called: its name, the schema of its arguments, and whether every keyword must be kept."""

    name: str
    schema: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True)
class Calls:
    """Which calls an answer may have.

    Attributes:
        functions: what may be called; empty for an answer that must not call.
        how: "auto" for text, or calls, or text and then calls; "required" for calls and nothing else.
        most: calls in one answer.
    """

    functions: tuple[Signature, ...]
    how: Literal["auto", "required"] = "auto"
    most: int = MOST_CALLS


def head(name: str) -> str:
    """What stands between the opening tag and the arguments of a call."""
    return f'\n{{"name": {json.dumps(name)}, "arguments": '


def of_json(schema: dict[str, Any], lenient: bool = False) -> str:
    """The grammar of JSON that satisfies a schema; `lenient` passes over keywords that can't be enforced."""
    return f"%llguidance {{}}\nstart: {_json(schema, lenient)}\n"


def of_answer(schema: dict[str, Any] | None, calls: Calls | None) -> str | None:
    """The grammar of an answer; None if anything may be said.

    Args:
        schema: of the answer where it does not call; None for free text.
        calls: None where no tools were given.
    """
    if calls is None:
        return None if schema is None else of_json(schema)
    if not calls.functions:
        return of_json(schema) if schema is not None else _text_without_calls()
    rules = [*_call_rules(calls.functions), f"more: {json.dumps(chr(10) + MARK)} call"]
    again = f" more{{0,{calls.most - 1}}}" if calls.most > 1 else ""
    only_calls = f"{json.dumps(MARK)} call{again}"
    if calls.how == "required":
        start = only_calls
    elif schema is not None:
        start = f"answer | {only_calls}"
        rules.append(f"answer: {_json(schema, lenient=False)}")
    else:
        # Lazy: as soon as the tag is there, what follows must be a call.
        start = f"TEXT | begun{again}"
        rules += ["TEXT: /(.|\\n)*/", f"opening[lazy]: TEXT {json.dumps(MARK)}", "begun: opening call"]
    return "\n".join(["%llguidance {}", f"start: {start}", *rules, ""])


def _call_rules(functions: Sequence[Signature]) -> list[str]:
    named = [
        f"call_{number}: {json.dumps(head(function.name))} {_json(function.schema, not function.strict)} "
        f"{json.dumps('}' + END)}"
        for number, function in enumerate(functions)
    ]
    return ["call: " + " | ".join(f"call_{number}" for number in range(len(functions))), *named]


def _text_without_calls() -> str:
    return f"%llguidance {{}}\nstart: TEXT\nTEXT: /(.|\\n)*/ & ~/(.|\\n)*{MARK}(.|\\n)*/\n"


def _json(schema: dict[str, Any], lenient: bool) -> str:
    options = {**JSON_STYLE, **({"lenient": True} if lenient else {})}
    return f"%json {json.dumps({**schema, 'x-guidance': options})}"
