"""Reading and writing the tables that grade books and spreadsheets exchange."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from course_utils.errors import CourseError


def read_table(file: Path) -> tuple[list[list[str]], str]:
    """Return the rows of a CSV file, with its header first, and its separator: a comma, a semicolon or a tab.

    Raises:
        CourseError: the file cannot be read or has no rows.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines(keepends=True)
        separator = max(",;\t", key=lines[0].count) if lines else ","  # a comma if there is none
        rows = [row for row in csv.reader(lines, delimiter=separator) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CourseError(
            f"cannot read {file}: {error}; save it as CSV in UTF-8 (Excel: 'CSV UTF-8'), with a header"
        ) from error
    if not rows:
        raise CourseError(f"{file} is empty; expected a CSV file with a header")
    return rows, separator


def csv_text(rows: list[list], separator: str = ",") -> str:
    """Return rows as CSV text; nothing in them is changed."""
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_number(text: str, point: str = ".") -> float | None:
    """Return a number as people and platforms write it ("12.5", "1,000", "1 000,5"), or None if the text is none.

    Args:
        text: the text.
        point: the sign for decimals where the text leaves it open, as "1,000" does: "." or ",".
    """
    comma = "," if point == "." else "."
    plain = re.sub(r"(?<=\d)[\s’'](?=\d{3}(?!\d))", "", text.strip())
    if re.fullmatch(rf"\d{{1,3}}(?:{re.escape(comma)}\d{{3}})+(?:{re.escape(point)}\d+)?", plain):
        return float(plain.replace(comma, "").replace(point, "."))
    if re.fullmatch(rf"\d{{1,3}}(?:{re.escape(point)}\d{{3}})+{re.escape(comma)}\d+", plain):
        return float(plain.replace(point, "").replace(comma, "."))
    return float(plain.replace(",", ".")) if re.fullmatch(r"\d+(?:[.,]\d+)?", plain) else None
