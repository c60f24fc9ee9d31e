"""Turns the tokens of an answer into what can be sent: text without incomplete characters, and whole calls."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from course_utils.openai_server.constrained import CALL_END, CALL_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.openai_server.sampling import Token

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
