"""JSON values out of a file, one at a time: elements of a list, objects one after the other, rows within an object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils.data_prep.findings import Finding
from course_utils.data_prep.opening import open_text
from course_utils.errors import CourseError

MAX_VALUE = 20_000_000  # characters; of an object with rows in it as many times more
WRAPPER = 2_000_000_000
PIECE = 1 << 20
# What only rows have.
A_ROWS = {"messages", "conversations", "conversation", "prompt", "completion", "chosen", "instruction", "preferred_output"}


class Cut(Exception):
    """The text is no JSON from here on: what is left, and the decoder's error."""

    def __init__(self, text: str, error: Exception, number: int) -> None:
        super().__init__(str(error))
        self.text, self.error, self.number = text, error, number


def texts(path: Path, limit: int = MAX_VALUE) -> Iterator[tuple[str, list[Finding]]]:
    """The text of each value, and what is unusual of the file with the first.

    Raises:
        Cut: where no value begins, or one does not end.
    """
    decoder = json.JSONDecoder()
    file, first = open_text(path)
    assert file is not None, "the caller has looked"
    with file:
        buffer, number, ended = file.read(PIECE).lstrip(), 0, False
        listed = buffer.startswith("[")
        buffer = buffer[1:] if listed else buffer
        while True:
            buffer = buffer.lstrip(" \t\r\n,")
            if listed and buffer.startswith("]"):
                rest = buffer[1:].lstrip()
                if rest:
                    raise Cut(rest, json.JSONDecodeError("Extra data", rest, 0), number)
                return
            if not buffer and ended and not listed:
                return
            try:
                _, end = decoder.raw_decode(buffer)
                # A number or a word at the buffer's end may go on in the next piece.
                whole = ended or end < len(buffer)
            except (json.JSONDecodeError, RecursionError, ValueError) as error:
                whole = False
                if ended or len(buffer) > limit:
                    raise Cut(buffer, error, number) from error
            if not whole:
                more = file.read(max(PIECE, len(buffer)))
                ended = not more
                buffer += more
                continue
            number += 1
            yield buffer[:end], first
            first = []
            buffer = buffer[end:]


def rows_within(value: Any) -> tuple[list[Any], str] | None:
    """The rows of an object that is no row itself but holds a list of them, and what it calls the list.

    Raises:
        CourseError: it holds several such lists.
    """
    if not isinstance(value, dict) or A_ROWS & set(value):
        return None
    lists = {key: inner for key, inner in value.items() if isinstance(inner, list) and inner and _of_rows(inner)}
    lists = {"rows": lists["rows"]} if "rows" in lists else lists  # of the hub's viewer, beside its features
    if not lists:
        held = [inner for inner in value.values() if isinstance(inner, dict)]
        return rows_within(held[0]) if len(held) == 1 else None
    if len(lists) > 1:
        there = ", ".join(f"{key} ({len(inner):,} rows)" for key, inner in lists.items())
        raise CourseError(f"the file holds several lists of rows: {there}; write each to a file of its own")
    ((key, rows),) = lists.items()
    return [row["row"] if set(row) >= {"row", "row_idx"} or set(row) == {"row"} else row for row in rows], key


def _of_rows(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)
