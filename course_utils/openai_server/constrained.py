"""Answers that are constrained by a grammar: JSON that fits a schema, function calls, or text followed by calls; and what is
read from them as they arrive.

A call is text in the tags that open models use (`messages` writes the same text for training): a line with the opening tag,
a line of JSON with name and arguments, and a line with the closing tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions
    from transformers import PreTrainedTokenizerBase

    from course_utils.openai_server.sampling import Token


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


# -- what is read from an answer as it arrives: text without incomplete characters, and whole calls -------------------------


CALL = re.compile(r'\s*\{"name": "([^"]+)", "arguments": (.*)', re.DOTALL)


class Call(NamedTuple):
    """A function call.

    Attributes:
        name: the function's name.
        arguments: its arguments, as JSON; only their beginning if the answer was cut off.
    """

    name: str
    arguments: str


class CallReader:
    """Separates the text of an answer from its function calls as they arrive.

    The grammar ensures that a call, once begun, is complete, unless the answer is cut off.

    Args:
        only_calls: whether the answer must consist of calls, so that none of it is text.
    """

    def __init__(self, only_calls: bool = False) -> None:
        self.only_calls = only_calls
        self._buffer = ""
        self._called = self._in_call = False

    def add(self, text: str) -> tuple[str, list[Call]]:
        """Take in generated text; return the plain text in it, and the calls that it completes, which come after that."""
        self._buffer += text
        plain = ""
        calls: list[Call] = []
        while True:
            before, mark, after = self._buffer.partition("}" + CALL_END if self._in_call else CALL_START)
            if not mark:
                if not self._in_call:
                    held_back = _partial_suffix(self._buffer, "\n" + CALL_START) or _partial_suffix(self._buffer, CALL_START)
                    plain += self._buffer[: len(self._buffer) - held_back]
                    self._buffer = self._buffer[len(self._buffer) - held_back :]
                return plain, calls
            if self._in_call:
                calls += self._read(before)
            else:
                plain += before.removesuffix("\n")
            self._buffer, self._in_call, self._called = after, not self._in_call, True

    def finish(self) -> tuple[str, list[Call]]:
        """Return what was held back when the answer ended; a call that was cut off before its arguments is left out."""
        if self._in_call:
            return "", self._read(self._buffer[: len(self._buffer) - _partial_suffix(self._buffer, "}" + CALL_END)])
        # after a call, what looks like the start of another one is not text
        return ("" if self._called or self.only_calls else self._buffer), []

    def _read(self, text: str) -> list[Call]:
        match = CALL.match(text)
        return [Call(match[1], match[2])] if match else []


def _partial_suffix(text: str, end: str) -> int:
    """Number of characters at the end of `text` that may be the start of `end`."""
    for size in range(min(len(end) - 1, len(text)), 0, -1):
        if end.startswith(text[-size:]):
            return size
    return 0


class Choice:
    """Turns the tokens of one answer into text that is safe to send.

    It holds back incomplete characters, and whatever may be the start of a stop sequence.

    Args:
        tokenizer: the tokenizer that the tokens belong to.
        stops: stop sequences, before which the answer ends. They are searched for in text, not in calls.
        reader: separates calls from text, for an answer that may contain calls; otherwise None.

    Attributes:
        tokens, text, calls: the answer so far.
        stopped: whether a stop sequence was found.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[str], reader: CallReader | None = None) -> None:
        from tokenizers.decoders import DecodeStream

        self.tokenizer, self.stops = tokenizer, stops
        self.tokens: list[Token] = []
        self.text = ""
        self.calls: list[Call] = []
        self.stopped = False
        # looks at the last few tokens only, and waits until a character is complete
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._reader = reader
        self._sent = 0  # characters

    def add(self, token: Token) -> tuple[str, list[Call]]:
        """Take in a token; return the new text that can be sent, and new calls, which come after it."""
        self.tokens.append(token)
        new_text = self._decoder.step(self.tokenizer.backend_tokenizer, token.id) or ""
        calls: list[Call] = []
        if self._reader is not None:
            new_text, calls = self._reader.add(new_text)
        start = max(0, len(self.text) - max(map(len, self.stops), default=0))  # earlier text was searched before
        self.text += new_text
        stop_positions = [position for stop in self.stops if (position := self.text.find(stop, start)) >= 0]
        if stop_positions:
            self.text, self.stopped = self.text[: min(stop_positions)], True
            return "", []
        self.calls += calls
        # once a call has begun, no text follows that could complete a stop sequence
        held_back = 0 if self.calls else max((_partial_suffix(self.text, stop) for stop in self.stops), default=0)
        return self._send(len(self.text) - held_back), calls

    def finish(self) -> tuple[str, list[Call]]:
        """Return what was held back, incomplete characters included."""
        calls: list[Call] = []
        if self._reader is not None and not self.stopped:
            text, calls = self._reader.finish()
            self.text += text
            self.calls += calls
        elif not self.stopped:
            ids = [token.id for token in self.tokens]
            self.text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self._send(len(self.text)), calls

    def _send(self, upto: int) -> str:
        piece = self.text[self._sent : upto]
        self._sent = max(self._sent, upto)
        return piece
