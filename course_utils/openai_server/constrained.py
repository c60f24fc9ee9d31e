"""Answers that are constrained by a grammar: JSON that fits a schema, function calls, or text followed by calls.

A call is text in the tags that open models use (`messages` writes the same text for training): a line with the opening tag,
a line of JSON with name and arguments, and a line with the closing tag.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# JSON as json.dumps writes it, on one line with single spaces. A grammar that allows white space between tokens lets a small
# model fill its whole answer with it.
JSON_STYLE: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
CALL_START = "<tool_call>"
CALL_END = "\n</tool_call>"
MAX_CALLS = 16  # per answer: a model that does not know when to stop would call until its context is full


@dataclass(frozen=True)
class Signature:
    """A function that may be called.

    Attributes:
        name: its name.
        schema: JSON Schema of its arguments.
        strict: whether all keywords of the schema are enforced.
    """

    name: str
    schema: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True)
class Calls:
    """The function calls that an answer may contain.

    Attributes:
        functions: the functions that may be called; empty for an answer that must not call.
        mode: "auto" for text, calls, or text followed by calls; "required" for calls and nothing else.
        max_calls: maximum number of calls in one answer.
    """

    functions: tuple[Signature, ...]
    mode: Literal["auto", "required"] = "auto"
    max_calls: int = MAX_CALLS


def call_header(name: str) -> str:
    """Return the text between the opening tag and the arguments of a call."""
    return f'\n{{"name": {json.dumps(name)}, "arguments": '


def json_grammar(schema: dict[str, Any], lenient: bool = False) -> str:
    """Return the grammar of JSON that satisfies a schema; with `lenient`, keywords that cannot be enforced are ignored."""
    return f"%llguidance {{}}\nstart: {_json_rule(schema, lenient)}\n"


def answer_grammar(schema: dict[str, Any] | None, calls: Calls | None) -> str | None:
    """Return the grammar of an answer, or None if the answer is unconstrained.

    Args:
        schema: JSON Schema of an answer that does not call; None for free text.
        calls: the calls that are allowed; None if the request has no tools.
    """
    if calls is None:
        return None if schema is None else json_grammar(schema)
    if not calls.functions:
        text_without_calls = f"%llguidance {{}}\nstart: TEXT\nTEXT: /(.|\\n)*/ & ~/(.|\\n)*{CALL_START}(.|\\n)*/\n"
        return json_grammar(schema) if schema is not None else text_without_calls
    rules = [*_call_rules(calls.functions), f"more: {json.dumps(chr(10) + CALL_START)} call"]
    more_calls = f" more{{0,{calls.max_calls - 1}}}" if calls.max_calls > 1 else ""
    only_calls = f"{json.dumps(CALL_START)} call{more_calls}"
    if calls.mode == "required":
        start = only_calls
    elif schema is not None:
        start = f"answer | {only_calls}"
        rules.append(f"answer: {_json_rule(schema, lenient=False)}")
    else:
        # Lazy: as soon as the tag has been written, a call must follow.
        start = f"TEXT | begun{more_calls}"
        rules += ["TEXT: /(.|\\n)*/", f"opening[lazy]: TEXT {json.dumps(CALL_START)}", "begun: opening call"]
    return "\n".join(["%llguidance {}", f"start: {start}", *rules, ""])


def _call_rules(functions: Sequence[Signature]) -> list[str]:
    call_rules = [
        f"call_{number}: {json.dumps(call_header(function.name))} {_json_rule(function.schema, not function.strict)} "
        f"{json.dumps('}' + CALL_END)}"
        for number, function in enumerate(functions)
    ]
    return ["call: " + " | ".join(f"call_{number}" for number in range(len(functions))), *call_rules]


def _json_rule(schema: dict[str, Any], lenient: bool) -> str:
    options = {**JSON_STYLE, **({"lenient": True} if lenient else {})}
    return f"%json {json.dumps({**schema, 'x-guidance': options})}"
