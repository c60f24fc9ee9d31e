"""Turns the tokens of an answer into what can be sent: text without incomplete characters, and calls piece by piece."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from course_utils.openai_server.constrained import CALL_END, CALL_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.openai_server.sampling import Token

HEAD = re.compile(r'\s*\{"name": "([^"]+)", "arguments": ')
CLOSING = "}" + CALL_END


class CallPiece(NamedTuple):
    """A piece of a function call.

    Attributes:
        number: index of the call in its answer, from 0.
        name: the function's name in the first piece of a call; None in all others.
        arguments: the next piece of the arguments' text.
    """

    number: int
    name: str | None
    arguments: str


class CallReader:
    """Separates the text of an answer from its function calls as they arrive.

    The grammar ensures that a call, once begun, is complete, unless the answer is cut off.

    Args:
        only_calls: whether the answer must consist of calls, so that none of it is text.
    """

    def __init__(self, only_calls: bool = False) -> None:
        self.only_calls = only_calls
        self.number = 0  # calls that have begun
        self._buffer = ""
        self._state = "text"  # or "head" or "arguments": in a call, before or within its arguments
        self._arguments = ""

    def add(self, text: str) -> tuple[str, list[CallPiece]]:
        """Take in generated text.

        Returns:
            The plain text in it, and the pieces of calls that come after that text.
        """
        self._buffer += text
        plain = ""
        calls: list[CallPiece] = []
        while True:
            if self._state == "text":
                before, mark, after = self._buffer.partition(CALL_START)
                if not mark:
                    held_back = _partial_suffix(self._buffer, "\n" + CALL_START) or _partial_suffix(self._buffer, CALL_START)
                    return plain + self._take(len(self._buffer) - held_back), calls
                plain += before.removesuffix("\n")
                self._buffer, self._state = after, "head"
            elif self._state == "head":
                if not (head := HEAD.match(self._buffer)):
                    return plain, calls
                calls.append(CallPiece(self.number, head.group(1), ""))
                self.number += 1
                self._buffer, self._state, self._arguments = self._buffer[head.end() :], "arguments", ""
            else:
                closing_at = self._buffer.find(CLOSING)
                piece = self._take(
                    closing_at if closing_at >= 0 else len(self._buffer) - _partial_suffix(self._buffer, CLOSING)
                )
                self._arguments += piece
                if piece:
                    calls.append(CallPiece(self.number - 1, None, piece))
                if closing_at < 0:
                    return plain, calls
                self._buffer, self._state = self._buffer[len(CLOSING) :], "text"

    def finish(self) -> tuple[str, list[CallPiece]]:
        """Return what was held back when the answer ended, as text and pieces of calls.

        A call that was cut off before its arguments is left out.
        """
        remainder, state = self._take(len(self._buffer)), self._state
        if state == "text":
            # after a call, what looks like the start of another one is not text
            return ("" if self.number or self.only_calls else remainder), []
        if state == "arguments" and remainder and not _is_valid_json(self._arguments):
            return "", [CallPiece(self.number - 1, None, remainder)]
        return "", []

    def _take(self, size: int) -> str:
        removed, self._buffer = self._buffer[:size], self._buffer[size:]
        return removed


def _partial_suffix(text: str, end: str) -> int:
    """Number of characters at the end of `text` that may be the start of `end`."""
    for size in range(min(len(end) - 1, len(text)), 0, -1):
        if end.startswith(text[-size:]):
            return size
    return 0


def _is_valid_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


class Choice:
    """Turns the tokens of one answer into text that is safe to send.

    It holds back incomplete characters, and whatever may be the start of a stop sequence.

    Args:
        tokenizer: the tokenizer that the tokens belong to.
        stops: stop sequences, before which the answer ends. They are searched for in text, not in calls.
        reader: separates calls from text, for an answer that may contain calls; otherwise None.

    Attributes:
        tokens, text, calls: the answer so far; each call has a name and arguments.
        stopped: whether a stop sequence was found.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[str], reader: CallReader | None = None) -> None:
        from tokenizers.decoders import DecodeStream

        self.tokenizer, self.stops = tokenizer, stops
        self.tokens: list[Token] = []
        self.text = ""
        self.calls: list[dict[str, str]] = []
        self.stopped = False
        # looks at the last few tokens only, and waits until a character is complete
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._reader = reader
        self._sent = 0  # characters

    def add(self, token: Token) -> tuple[str, list[CallPiece]]:
        """Take in a token; return the new text that can be sent, and the new pieces of calls, which come after it."""
        self.tokens.append(token)
        new_text = self._decoder.step(self.tokenizer.backend_tokenizer, token.id) or ""
        calls: list[CallPiece] = []
        if self._reader is not None:
            new_text, calls = self._reader.add(new_text)
        start = max(0, len(self.text) - max(map(len, self.stops), default=0))  # earlier text was searched before
        self.text += new_text
        stop_positions = [position for stop in self.stops if (position := self.text.find(stop, start)) >= 0]
        if stop_positions:
            self.text, self.stopped = self.text[: min(stop_positions)], True
            return "", []
        self._collect(calls)
        # once a call has begun, no text follows that could complete a stop sequence
        held_back = 0 if self.calls else max((_partial_suffix(self.text, stop) for stop in self.stops), default=0)
        return self._send(len(self.text) - held_back), calls

    def finish(self) -> tuple[str, list[CallPiece]]:
        """Return what was held back, incomplete characters included."""
        calls: list[CallPiece] = []
        if self._reader is not None and not self.stopped:
            text, calls = self._reader.finish()
            self.text += text
            self._collect(calls)
        elif not self.stopped:
            ids = [token.id for token in self.tokens]
            self.text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self._send(len(self.text)), calls

    def _collect(self, calls: list[CallPiece]) -> None:
        for call in calls:
            if call.name is not None:
                self.calls.append({"name": call.name, "arguments": ""})
            self.calls[call.number]["arguments"] += call.arguments

    def _send(self, upto: int) -> str:
        piece = self.text[self._sent : upto]
        self._sent = max(self._sent, upto)
        return piece
