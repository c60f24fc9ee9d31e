"""The grader's end of the line to a question's process: JSON lines, read to a deadline, with a cap.

What comes out of a sandbox may be anything. Bytes are read as they come, so neither a line without an end nor a flood can
hold the grader up or fill its memory; whatever is not the answer to the call just made ends the question. What a reply costs
to read is of the order of its length, for its depth, its parts and the replies together have limits too.
"""

from __future__ import annotations

import json
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from course_utils.grading.coding import MOST_PARTS, Unsendable, decode

MOST_DEPTH = 200  # lists and objects inside one another; Python's own functions break at some hundreds more


@dataclass(frozen=True)
class Limits:
    """What an answer may use up.

    Attributes:
        call_seconds: for one call of the answer.
        cell_seconds: for running the answer cell.
        question_seconds: for the cell and all calls together.
        reply_bytes: of one value as JSON; of all together twice as many.
        memory_bytes: address space of the question's process.
        file_bytes: of one file in its scratch folder.
    """

    call_seconds: float = 8.0
    cell_seconds: float = 8.0
    question_seconds: float = 20.0
    reply_bytes: int = 2_000_000
    memory_bytes: int = 4_000_000_000
    file_bytes: int = 50_000_000


class Died(Exception):
    """The question's process gives no more answers; `str()` says why, in a sentence's end such as "timed out after 8 s"."""


class Channel:
    """Line to one question's process."""

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        """`connection`: a connected stream socket, which the channel then owns."""
        self._connection, self._limits, self._buffer = connection, limits, b""
        connection.setblocking(False)
        self._over = time.monotonic() + limits.question_seconds
        self._received = 0

    def ask(self, message: dict, seconds: float) -> dict:
        """Send a message and return the next one.

        Raises:
            Died: no reply within `seconds` or within what the question has left, one that is too long, or no JSON object.
        """
        now = time.monotonic()
        spent = now + seconds > self._over
        deadline = min(now + seconds, self._over)
        late = (
            f"timed out: more than {self._limits.question_seconds:g} s in all" if spent else f"timed out after {seconds:g} s"
        )
        self._send(json.dumps(message).encode() + b"\n", deadline, late)
        return self._receive(deadline, late)

    def first(self, seconds: float) -> dict:
        """What the process says before it is asked. Raises as `ask`."""
        return self._receive(time.monotonic() + seconds, f"timed out after {seconds:g} s")

    def close(self) -> None:
        """Give the socket back."""
        self._connection.close()

    def _wait(self, writing: bool, deadline: float, late: str) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLOUT if writing else select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise Died(late)

    def _send(self, data: bytes, deadline: float, late: str) -> None:
        view = memoryview(data)
        while view:
            self._wait(True, deadline, late)
            try:
                view = view[self._connection.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Died("ended itself") from error

    def _receive(self, deadline: float, late: str) -> dict:
        parts, size = [self._buffer], len(self._buffer)
        while b"\n" not in parts[-1]:
            if size > self._limits.reply_bytes + 10_000:
                raise Died(f"replied with more than {self._limits.reply_bytes:,} bytes")
            self._wait(False, deadline, late)
            try:
                part = self._connection.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Died("ended itself") from error
            if not part:
                raise Died("ended itself")
            parts.append(part)
            size += len(part)
            self._received += len(part)
            if self._received > 2 * (self._limits.reply_bytes + 10_000):
                raise Died(f"replied with more than {2 * self._limits.reply_bytes:,} bytes in all")
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Died("sent a reply that the grader cannot read") from error
        if not isinstance(message, dict) or not _bounded(message):
            raise Died("sent a reply that the grader cannot read")
        return message


def _bounded(message: dict) -> bool:
    """Whether it is neither deep nor of many parts."""
    level: list[Any] = [message]
    left = 4 * MOST_PARTS
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for value in level:
            below += value if isinstance(value, list) else value.values()
        left -= len(below)
        if left < 0:
            return False
        level = [value for value in below if isinstance(value, (list, dict))]
        if not level:
            return True
    return False


def value_of(message: dict, number: int) -> tuple[Any, str | None]:
    """(value, error text or None) of the reply to call `number`.

    Raises:
        Died: the message is no such reply.
    """
    try:
        if message.get("n") != number or ("ok" in message) == ("err" in message):
            raise Unsendable("another call's reply")
        if "err" in message:
            return None, str(message["err"])[:300]
        return decode(message["ok"]), None
    except (Unsendable, RecursionError, MemoryError) as error:
        raise Died("sent a reply that the grader cannot read") from error
