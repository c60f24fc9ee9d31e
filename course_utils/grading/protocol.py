"""The grader's end of the connection to a question's process: JSON lines, read with a deadline and a size limit.

A sandbox may send anything. Bytes are read as they arrive, so neither an endless line nor a flood of data can block the
grader or fill its memory; anything other than the reply to the current call ends the question. The cost of reading a reply
is proportional to its length, because its depth, its number of parts and the total of all replies are limited too.
"""

from __future__ import annotations

import json
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from course_utils.grading.coding import MOST_PARTS, Unsendable, decode

MOST_DEPTH = 200  # nested lists and objects; Python's own functions fail at a few hundred levels more


@dataclass(frozen=True)
class Limits:
    """The resources that an answer may use.

    Attributes:
        call_seconds: for one call of the answer.
        cell_seconds: for running the answer cell.
        question_seconds: for the cell and all calls together.
        reply_bytes: size of one value as JSON; all replies together may have twice as many.
        memory_bytes: address space of the question's process.
        file_bytes: size of one file in its scratch folder.
    """

    call_seconds: float = 8.0
    cell_seconds: float = 8.0
    question_seconds: float = 20.0
    reply_bytes: int = 2_000_000
    memory_bytes: int = 4_000_000_000
    file_bytes: int = 50_000_000


class Died(Exception):
    """The question's process no longer replies; `str()` ends a sentence with the reason, such as "timed out after 8 s"."""


class Channel:
    """Connection to one question's process."""

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        """`connection`: a connected stream socket, which the channel then owns."""
        self._connection, self._limits, self._buffer = connection, limits, b""
        connection.setblocking(False)
        self._question_deadline = time.monotonic() + limits.question_seconds
        self._received = 0

    def ask(self, message: dict, seconds: float) -> dict:
        """Send a message and return the next one.

        Raises:
            Died: no reply within `seconds` or the question's remaining time, a reply that is too long, or one that is not a
                JSON object.
        """
        now = time.monotonic()
        question_time_is_up = now + seconds > self._question_deadline
        deadline = min(now + seconds, self._question_deadline)
        timeout_message = (
            f"timed out: more than {self._limits.question_seconds:g} s in all"
            if question_time_is_up
            else f"timed out after {seconds:g} s"
        )
        self._send(json.dumps(message).encode() + b"\n", deadline, timeout_message)
        return self._receive(deadline, timeout_message)

    def first(self, seconds: float) -> dict:
        """Return the message that the process sends unasked at its start; raises the same errors as `ask`."""
        return self._receive(time.monotonic() + seconds, f"timed out after {seconds:g} s")

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()

    def _wait(self, writing: bool, deadline: float, timeout_message: str) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLOUT if writing else select.POLLIN)
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            raise Died(timeout_message)

    def _send(self, data: bytes, deadline: float, timeout_message: str) -> None:
        view = memoryview(data)
        while view:
            self._wait(True, deadline, timeout_message)
            try:
                view = view[self._connection.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Died("ended itself") from error

    def _receive(self, deadline: float, timeout_message: str) -> dict:
        parts, size = [self._buffer], len(self._buffer)
        while b"\n" not in parts[-1]:
            if size > self._limits.reply_bytes + 10_000:
                raise Died(f"replied with more than {self._limits.reply_bytes:,} bytes")
            self._wait(False, deadline, timeout_message)
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
    """Whether a message is within the limits on depth and number of parts."""
    level: list[Any] = [message]
    remaining_parts = 4 * MOST_PARTS
    for _ in range(MOST_DEPTH):
        next_level: list[Any] = []
        for value in level:
            next_level += value if isinstance(value, list) else value.values()
        remaining_parts -= len(next_level)
        if remaining_parts < 0:
            return False
        level = [value for value in next_level if isinstance(value, (list, dict))]
        if not level:
            return True
    return False


def value_of(message: dict, number: int) -> tuple[Any, str | None]:
    """(value, error text or None) from the reply to call `number`.

    Raises:
        Died: the message is not a reply to that call.
    """
    try:
        if message.get("n") != number or ("ok" in message) == ("err" in message):
            raise Unsendable("another call's reply")
        if "err" in message:
            return None, str(message["err"])[:300]
        return decode(message["ok"]), None
    except (Unsendable, RecursionError, MemoryError) as error:
        raise Died("sent a reply that the grader cannot read") from error
