"""Rows from tables: CSV with any usual delimiter, and Parquet."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils.data_prep.findings import Finding
from course_utils.data_prep.opening import open_text, suffix_of

MAX_CELL = 20_000_000  # characters
DELIMITERS = (",", ";", "\t", "|")


def read_csv(path: Path) -> Iterator[tuple[int, Any, list[Finding], bytes]]:
    """Yield number, row, findings and text of each row of a CSV or TSV file.

    The row is None if it does not fit the header.
    """
    file, first = open_text(path)
    if file is None:
        yield 1, None, first, b""
        return
    csv.field_size_limit(MAX_CELL)
    with file:
        settings = _settings(file, suffix_of(path))
        reader = csv.reader(file, **settings)
        header: list[str] = []
        twice: str | None = None  # a name that two columns have; a row can't hold the values of both
        number = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                line = max(reader.line_num, 1)
                yield line, None, [Finding(line, "", "not_json", f"not CSV: {error}")], b""
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                twice = next((name for name in header if header.count(name) > 1), None)
                continue
            number += 1
            raw = json.dumps(cells, ensure_ascii=False).encode("utf-8")
            if not any(cells) and len(cells) != len(header):
                yield number, None, [*first, Finding(number, "", "blank_line", "the line is blank")], raw
            elif len(cells) != len(header):
                message = f"{len(cells)} cells for {len(header)} columns"
                yield number, None, [*first, Finding(number, "", "not_object", message)], raw
            else:
                lost = [Finding(number, twice, "duplicate_key", f"two columns are called {twice}")] if twice else []
                yield number, dict(zip(header, cells)), [*first, *lost], raw
            first = []


def _settings(file: Any, suffix: str) -> dict[str, Any]:
    """The settings for the CSV reader that fit most rows at the beginning of the file, which is left at its header."""
    start = file.tell()
    named = file.readline().strip()
    if named.lower().startswith("sep=") and len(named) == 5:  # Excel writes this
        return {"delimiter": named[4]}
    file.seek(start)
    sample = list(itertools.islice(file, 200))
    file.seek(start)
    usual = "\t" if suffix == ".tsv" else ","
    others = [delimiter for delimiter in DELIMITERS if delimiter != usual]
    choices = [
        {"delimiter": delimiter, **further}
        for further in ({}, {"skipinitialspace": True}, {"escapechar": "\\", "doublequote": False})
        for delimiter in (usual, *others)
    ]
    return max(choices, key=lambda choice: _fit(sample, choice))  # of equally good ones, the first


def _fit(sample: list[str], settings: dict[str, Any]) -> tuple[float, int]:
    """The share of rows that have as many cells as the header, and the number of columns."""
    try:
        rows = [row for row in csv.reader(sample, **settings) if row]
    except csv.Error:
        return 0.0, 0
    columns = len(rows[0]) if rows else 0
    if columns < 2:
        return 0.0, 0
    if len(rows) > 2 and len(sample) == 200:
        rows = rows[:-1]  # the last one may be cut in the middle
    return sum(len(row) == columns for row in rows) / len(rows), columns


def read_parquet(path: Path) -> Iterator[tuple[int, Any, list[Finding], bytes]]:
    """Yield number, row, findings and text of each row of a Parquet file.

    Fields that are null only because other rows have them are left out.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            for value in batch.to_pylist():
                number += 1
                value = _without_nulls(value)
                yield number, value, [], json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        yield 0, None, [Finding(0, "", "binary", f"not a Parquet file: {str(error).splitlines()[0][:120]}")], b""


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
