"""JSON values from a file, one at a time: elements of a list, objects that follow each other, rows inside an object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils.data_prep.findings import Finding, shorten
from course_utils.data_prep.opening import open_text
from course_utils.errors import CourseError

MAX_VALUE = 20_000_000  # characters
MAX_WRAPPER = 2_000_000_000  # characters in an object that contains all the rows
PIECE = 1 << 20
# Keys that only a row has, not an object that contains rows.
ROW_KEYS = {"messages", "conversations", "conversation", "prompt", "completion", "chosen", "instruction", "preferred_output"}
# Fields that hold text or a list in each row; the list is of messages or tools, so in a single row its elements are objects.
TEXT_OR_LIST = {"prompt", "completion", "chosen", "rejected", "instruction", "output", "tools", "preferred_output",
                "non_preferred_output"}  # fmt: skip


class Cut(Exception):
    """From some place on, the text is not JSON.

    The error has the remaining text, the decoder's error, and the number of values before it.
    """

    def __init__(self, text: str, error: Exception, number: int) -> None:
        super().__init__(str(error))
        self.text, self.error, self.number = text, error, number


def texts(path: Path, limit: int = MAX_VALUE) -> Iterator[tuple[str, list[Finding]]]:
    """Yield the text of each value; the first one comes with the findings about the file.

    Raises:
        Cut: something that is not a value follows, or a value does not end.
    """
    decoder = json.JSONDecoder()
    file, first = open_text(path)
    assert file is not None, "the caller has checked that the file can be decoded"
    with file:
        buffer, number, ended = file.read(PIECE).lstrip(), 0, False
        listed = buffer.startswith("[")
        buffer = buffer[1:] if listed else buffer
        while True:
            buffer = buffer.lstrip(" \t\r\n,")
            if listed and buffer.startswith("]"):
                remainder = buffer[1:].lstrip()
                if remainder:
                    raise Cut(remainder, json.JSONDecodeError("Extra data", remainder, 0), number)
                return
            if not buffer and ended and not listed:
                return
            try:
                _, end = decoder.raw_decode(buffer)
                # A number or a word at the end of the buffer may continue in the next piece.
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
    """Find the rows inside an object that is not a row itself: a list of rows under a key, or a column for each field.

    Returns:
        The rows, and where they are, as words for a message; None if there are none.

    Raises:
        CourseError: the object contains several lists of rows, or columns of different lengths.
    """
    if (columns := columns_in(value)) is not None:
        if len({len(cells) for cells in columns.values()}) > 1:
            lengths = ", ".join(f"{name} ({len(cells):,})" for name, cells in columns.items())
            raise CourseError(
                f"the file has a column for each field, but the columns differ in length: {lengths}; export it again"
            )
        # As in a Parquet file, a column has null for a row that lacks the field.
        rows = [{name: cell for name, cell in zip(columns, cells) if cell is not None} for cells in zip(*columns.values())]
        return rows, "the rows are written as columns, one for each field"
    if not isinstance(value, dict) or ROW_KEYS & set(value):
        return None
    lists = {key: inner for key, inner in value.items() if isinstance(inner, list) and inner and _of_rows(inner)}
    lists = {"rows": lists["rows"]} if "rows" in lists else lists  # the Hugging Face viewer puts features next to them
    if not lists:
        nested = [inner for inner in value.values() if isinstance(inner, dict)]
        return rows_within(nested[0]) if len(nested) == 1 else None
    if len(lists) > 1:
        listing = ", ".join(f"{key} ({len(inner):,} rows)" for key, inner in lists.items())
        raise CourseError(f"the file contains several lists of rows: {listing}; write each to its own file")
    ((key, rows),) = lists.items()
    rows = [row["row"] if set(row) >= {"row", "row_idx"} or set(row) == {"row"} else row for row in rows]
    return rows, f"the rows are inside an object, under {shorten(key, 40)}"


def columns_in(value: Any) -> dict[str, list[Any]] | None:
    """Return field → values of all rows, if an object is a table written column by column; None if it is not.

    `datasets` writes a list for each field, and pandas' `to_json()` an object with row numbers; its orientation "split" puts
    the names apart. The columns may differ in length.
    """
    if not isinstance(value, dict) or not value:
        return None
    if value.keys() <= {"columns", "index", "data"} and _is_split(value):
        return {name: [row[i] for row in value["data"]] for i, name in enumerate(value["columns"])}
    columns = list(value.values())
    if all(isinstance(cells, dict) and all(key.isdecimal() for key in cells) for cells in columns):
        if any(cells.keys() != columns[0].keys() for cells in columns):
            return None
        value = {name: list(cells.values()) for name, cells in value.items()}
        columns = list(value.values())
    if not all(isinstance(cells, list) and cells for cells in columns):
        return None
    if ROW_KEYS & value.keys():
        return value if all(_is_column(name, cells) for name, cells in value.items()) else None
    # Without a known field, a list of texts may be anything; several lists of the same length are hardly anything else.
    alike = len(columns) > 1 and len({len(cells) for cells in columns}) == 1
    return value if alike and not any(isinstance(cell, dict) for cells in columns for cell in cells) else None


def _is_split(value: dict) -> bool:
    names, rows = value.get("columns"), value.get("data")
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    )


def _is_column(name: str, cells: list[Any]) -> bool:
    """Whether a list has a value for each row, rather than the messages of a single row."""
    if name in ("messages", "conversations", "conversation"):
        # A list of messages, which a column of text may hold as text; a message written as a list is a fault of its row.
        return all(
            _of_rows(cell) if isinstance(cell, list) else isinstance(cell, str) and cell.lstrip().startswith("[")
            for cell in cells
        )
    if name in TEXT_OR_LIST:
        return all(isinstance(cell, str | list | None) for cell in cells)
    return True


def _of_rows(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)
