"""Tokens of an answer as what can be sent: text without half characters, and calls with their arguments piece by piece."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from course_utils.openai_server.grammar import END, MARK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.openai_server.sampling import Token

HEAD = re.compile(r'\s*\{"name": "([^"]+)", "arguments": ')
CLOSING = "}" + END


class Called(NamedTuple):
    """A piece of a call.

    Attributes:
        number: of the call in its answer, from 0.
        name: of the function, in the first piece of a call; None in all others.
        arguments: further text of the arguments.
    """

    number: int
    name: str | None
    arguments: str


class CallReader:
    """Tells text and calls apart while they come.

    The grammar sees to it that a call, once begun, is whole, unless the answer is cut off.

    Args:
        only_calls: whether the answer has to call, so that nothing of it is text.
    """

    def __init__(self, only_calls: bool = False) -> None:
        self.only_calls = only_calls
        self.number = 0  # calls that have begun
        self._buffer = ""
        self._where = "text"  # or "head", "arguments": in a call before its arguments, in them
        self._arguments = ""

    def add(self, text: str) -> tuple[str, list[Called]]:
        """Take text in; returns what is plain text of it, and pieces of calls, which come after that text."""
        self._buffer += text
        plain = ""
        calls: list[Called] = []
        while True:
            if self._where == "text":
                before, mark, after = self._buffer.partition(MARK)
                if not mark:
                    keep = _begun(self._buffer, "\n" + MARK) or _begun(self._buffer, MARK)
                    return plain + self._take(len(self._buffer) - keep), calls
                plain += before.removesuffix("\n")
                self._buffer, self._where = after, "head"
            elif self._where == "head":
                if not (found := HEAD.match(self._buffer)):
                    return plain, calls
                calls.append(Called(self.number, found.group(1), ""))
                self.number += 1
                self._buffer, self._where, self._arguments = self._buffer[found.end() :], "arguments", ""
            else:
                at = self._buffer.find(CLOSING)
                piece = self._take(at if at >= 0 else len(self._buffer) - _begun(self._buffer, CLOSING))
                self._arguments += piece
                if piece:
                    calls.append(Called(self.number - 1, None, piece))
                if at < 0:
                    return plain, calls
                self._buffer, self._where = self._buffer[len(CLOSING) :], "text"

    def end(self) -> tuple[str, list[Called]]:
        """What was held back when the answer ended; of a call that was cut off before its arguments, nothing."""
        rest, where = self._take(len(self._buffer)), self._where
        if where == "text":
            # after a call, what looks like the start of a next one is no text
            return ("" if self.number or self.only_calls else rest), []
        if where == "arguments" and rest and not _whole(self._arguments):
            return "", [Called(self.number - 1, None, rest)]
        return "", []

    def _take(self, size: int) -> str:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


def _begun(text: str, end: str) -> int:
    """Characters at the end of a text that may be the start of something."""
    for size in range(min(len(end) - 1, len(text)), 0, -1):
        if end.startswith(text[-size:]):
            return size
    return 0


def _whole(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


class Choice:
    """Tokens of one answer as text that is safe to send: no half characters, nothing that may be a stop sequence's start.

    Args:
        tokenizer: whose tokens they are.
        stops: texts before which the answer ends. They are looked for in what is said, not in calls.
        reader: of an answer that may have calls.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[str], reader: CallReader | None = None) -> None:
        from tokenizers.decoders import DecodeStream

        self.tokenizer, self.stops = tokenizer, stops
        self.ids: list[int] = []
        # looks at the last few tokens only, and waits for the rest of a character
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._reader = reader
        self.fresh: list[Token] = []
        self._calls: list[Called] = []
        self.sent = 0  # characters
        self.text = ""
        self.stopped = False

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return len(self.ids)

    @property
    def called(self) -> bool:
        """Whether a call has begun."""
        return not self.stopped and self._reader is not None and self._reader.number > 0

    def add(self, token: Token) -> tuple[str, bool]:
        """Take a token in; returns new text to send, and whether a stop sequence has come."""
        self.ids.append(token.id)
        self.fresh.append(token)
        new = self._decoder.step(self.tokenizer.backend_tokenizer, token.id) or ""
        calls: list[Called] = []
        if self._reader is not None:
            new, calls = self._reader.add(new)
        start = max(0, len(self.text) - max(map(len, self.stops), default=0))  # earlier stops were found earlier
        self.text += new
        found = [at for stop in self.stops if (at := self.text.find(stop, start)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
            return "", True
        self._calls += calls
        # once there is a call, no text follows that could make a stop sequence of what was held back
        return self._send(len(self.text) - (0 if self.called else self._held_back())), False

    def rest(self) -> str:
        """What was held back, half characters too."""
        if self.stopped:
            return self._send(len(self.text))
        if self._reader is not None:
            text, calls = self._reader.end()
            self.text += text
            self._calls += calls
        else:
            self.text = self.tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self._send(len(self.text))

    def take(self) -> list[Token]:
        """Tokens that were not reported yet."""
        fresh, self.fresh = self.fresh, []
        return fresh

    def take_calls(self) -> list[Called]:
        """Pieces of calls that were not reported yet; they come after all text."""
        calls, self._calls = self._calls, []
        return calls

    def _send(self, upto: int) -> str:
        piece = self.text[self.sent : upto] if upto > self.sent else ""
        self.sent = max(self.sent, upto)
        return piece

    def _held_back(self) -> int:
        """Characters at the end that can't be sent yet."""
        return max((_begun(self.text, stop) for stop in self.stops), default=0)
