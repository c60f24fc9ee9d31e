"""The grader's end of the connection to a question's process: JSON lines, read with limits on time and size.

A sandbox may send anything. Bytes are read as they arrive, so neither an endless line nor a flood of data can block the
grader or fill its memory; anything other than the reply to the current call ends the question. The cost of reading a reply
is proportional to its length, because its depth, its number of parts and the total of all replies are limited too.

An answer is charged the processor time that it uses, and the time that it sleeps. It is not charged the time in which it
could have gone on but other programs had the processor or the disk: on a busy machine the clock says little about an answer.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from course_utils.exercises.values import MOST_PARTS, Unsendable, decode

MOST_DEPTH = 200  # nested lists and objects; Python's own functions fail at a few hundred levels more
LOOK_SECONDS = 0.25  # poll interval for a process that has not replied; the first poll is not charged


@dataclass(frozen=True)
class Limits:
    """The resources that an answer may use. Seconds are those in which it computes or sleeps.

    Attributes:
        call_seconds: limit for one call of the answer.
        cell_seconds: limit for running the answer cell.
        question_seconds: limit for the cell and all calls together.
        patience: each of these times may take this many times as long by the clock; after that, the machine is too busy for
            grading.
        reply_bytes: maximum size of one value as JSON; all replies together may have twice as many bytes.
        memory_bytes: maximum address space of the question's process.
        file_bytes: maximum size of one file in its scratch folder.
    """

    call_seconds: float = 8.0
    cell_seconds: float = 8.0
    question_seconds: float = 20.0
    patience: float = 10.0
    reply_bytes: int = 2_000_000
    memory_bytes: int = 4_000_000_000
    file_bytes: int = 50_000_000


class Died(Exception):
    """The question's process no longer replies.

    `str()` gives the reason as the end of a sentence, such as "timed out after 8 s".
    """


class Starved(Exception):
    """The question's process got so little of the machine's time that nothing can be said about the answer."""


Look = Callable[[], tuple[float, bool] | None]


class _Allowance:
    """The seconds that the process may still use for one message."""

    def __init__(self, seconds: float, patience: float, timeout_message: str, look: Look | None) -> None:
        self._remaining, self._patience_ends = seconds, time.monotonic() + seconds * patience
        self._timeout_message, self._look = timeout_message, look
        self._looked_at, self.charged = time.monotonic(), 0.0
        self._used: float | None = None

    def charge(self, ready: Callable[[], object]) -> float:
        """Charge the time since the last charge; returns the seconds to wait for a reply until the next one.

        Args:
            ready: whether the grader can go on: then it is the process that waits, and its sleep is not charged.

        Raises:
            Died: the allowance is used up.
            Starved: it is not, but far more time has passed.
        """
        now = time.monotonic()
        elapsed = now - self._looked_at
        if self._look is None or elapsed >= LOOK_SECONDS:
            self._looked_at = now
            usage = self._look() if self._look else None
            charge = elapsed
            if usage is not None:
                used, sleeps = usage
                computed = 0.0 if self._used is None else used - self._used
                self._used, charge = used, max(computed, elapsed if sleeps and not ready() else 0.0)
            self.charged += charge
            self._remaining -= charge
        if self._remaining < 1e-6:  # what rounding may leave
            raise Died(self._timeout_message)
        if now > self._patience_ends:
            raise Starved("the machine is too busy: the answer had hardly any processor time; grade it again later")
        return min(self._remaining, LOOK_SECONDS)


class Channel:
    """The connection to one question's process."""

    def __init__(self, connection: socket.socket, limits: Limits, look: Look | None = None) -> None:
        """Take over a connection.

        Args:
            connection: a connected stream socket.
            limits: the limits for the question.
            look: returns the processor time that the process has used and whether it sleeps, or None if the system does not
                say. Without it, or with None, time passes by the clock.
        """
        self._connection, self._limits, self._look, self._buffer = connection, limits, look, b""
        connection.setblocking(False)
        self._question_seconds = limits.question_seconds
        self._received = 0

    def ask(self, message: dict, seconds: float) -> dict:
        """Send a message, and return the reply.

        Args:
            message: what to send, as plain JSON.
            seconds: time that the process may use until it replies.

        Raises:
            Died: there is no reply within `seconds` or the question's remaining time, the reply is too long, or it is not a
                JSON object.
            Starved: the machine is too busy to tell.
        """
        timeout_message = f"timed out after {seconds:g} s"
        if seconds > self._question_seconds:
            seconds = self._question_seconds
            timeout_message = f"timed out: more than {self._limits.question_seconds:g} s in all"
        allowance = _Allowance(seconds, self._limits.patience, timeout_message, self._look)
        try:
            self._send(json.dumps(message).encode() + b"\n", allowance)
            return self._receive(allowance)
        finally:
            self._question_seconds -= allowance.charged

    def first(self, seconds: float) -> dict:
        """Return the message that the process sends unasked at its start.

        Args:
            seconds: how long to wait, by the clock.

        Raises:
            Died: for the same reasons as `ask`.
        """
        return self._receive(_Allowance(seconds, 1.0, f"timed out after {seconds:g} s", None))

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()

    def _wait(self, writing: bool, allowance: _Allowance) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLOUT if writing else select.POLLIN)
        while not poll.poll(allowance.charge(lambda: poll.poll(0)) * 1000):
            pass

    def _send(self, data: bytes, allowance: _Allowance) -> None:
        view = memoryview(data)
        while view:
            self._wait(True, allowance)
            try:
                view = view[self._connection.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Died("ended itself") from error

    def _receive(self, allowance: _Allowance) -> dict:
        parts, size = [self._buffer], len(self._buffer)
        while b"\n" not in parts[-1]:
            if size > self._limits.reply_bytes + 10_000:
                raise Died(f"replied with more than {self._limits.reply_bytes:,} bytes")
            self._wait(False, allowance)
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
    """Return what the reply to a call contains: (value, None), or (None, text of the error that the call raised).

    Args:
        message: the reply.
        number: number of the call.

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
