"""Files as text: any encoding, compressed or not; and the rows within one object.

No character is lost, and a guessed encoding is reported.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, cast

from course_utils.data_prep.findings import Finding, shorten
from course_utils.errors import CourseError

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SAMPLE_BYTES = 1 << 20  # how much is read to guess an encoding
BROKEN_LINES = 3  # fewer lines that are not UTF-8 are faults of these lines, not the file's encoding
# Text of another encoding, decoded as cp1252, has signs within words, and three letters beyond ASCII in a row.
# The letters that Turkish becomes are otherwise only in Icelandic, which has accents that Turkish lacks.
NOT_WESTERN = re.compile(r"(?<=[^\W\d_])[¹²³¿º½¼¾¤¦¨¯¸](?=[^\W\d_])|[^\x00-\x7f\s“”„‘’‚«»–—…•]{3,}")
TURKISH, ACCENTED = re.compile(r"[ðþýÐÞÝ]"), re.compile(r"[áéóú]")
FEW_SIGNS = 0.2  # share of the characters beyond ASCII; text that was read wrongly once before has some
OTHER_ENCODINGS = "cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 koi8_r cp932 euc_jp gb18030 big5 cp949".split()


def is_packed(path: Path) -> bool:
    """Return whether the file's name says that it is compressed with gzip."""
    return path.suffix.lower() == ".gz"


def suffix_of(path: Path) -> str:
    """Return the ending that says which format the file has; for a compressed file, the one before .gz."""
    return Path(path.stem).suffix.lower() if is_packed(path) else path.suffix.lower()


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading its bytes, decompressed if it is compressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if is_packed(path) else path.open("rb")


def open_text(path: Path, lines: bool = False) -> tuple[io.TextIOWrapper | None, list[Finding]]:
    """Open a file as text, without its byte order mark and with its own line ends.

    The encoding is UTF-8, what a mark or the zeros of UTF-16 show, or a guess. The whole file has been decoded once, so that
    reading doesn't fail later.

    Args:
        path: path of the file.
        lines: whether each line is a row. Then a file is open in any case, single lines that can't be decoded have
            surrogates in them, and a line ends only with a line feed, or with a carriage return if there is no line feed.

    Returns:
        The open file, or None if its encoding cannot be determined; and findings that say what is unusual.
    """
    with open_bytes(path) as file:
        head = file.read(4096)
    encoding, skip, findings = _shown_by(head)
    problem = _undecodable(path, encoding, skip)
    if problem and not findings and (guessed := _guess_encoding(path, lines)):
        encoding, problem, line = guessed[0], None, guessed[1] if lines else 1
        name = "Windows-1252 or Latin-1" if encoding == "cp1252" else encoding
        message = f"the file is not UTF-8; it looks like {name}, and is read as that{_examples(path, encoding)}"
        findings = [Finding(line, "", "encoding", message)]
    if problem and not lines:
        return None, [problem]
    newline = "" if not lines else "\r" if b"\r" in head and b"\n" not in head else "\n"
    opened = open_bytes(path)
    opened.read(skip)
    errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass" if "utf" in encoding else "strict"
    return io.TextIOWrapper(opened, encoding, errors if lines else "strict", newline=newline), findings


def _shown_by(head: bytes) -> tuple[str, int, list[Finding]]:
    """The encoding that a file's beginning shows, the number of bytes of its mark, and what is unusual about it."""
    for bom, encoding in BOMS:
        if head.startswith(bom) and encoding == "utf-8":
            return encoding, len(bom), [Finding(1, "", "byte_order_mark", "the file starts with a UTF-8 byte order mark")]
        if head.startswith(bom):
            return encoding, len(bom), [Finding(1, "", "encoding", f"the file is {encoding.upper()}")]
    # Every second byte of ASCII text is zero in UTF-16.
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(zeros) > 1 and zeros.count(0) > 0.6 * len(zeros):
            return encoding, 0, [Finding(1, "", "encoding", f"the file looks like {encoding.upper()}")]
    return "utf-8", 0, []


def _undecodable(path: Path, encoding: str, skip: int) -> Finding | None:
    """The first place where the file does not decode in this encoding; None if there is none."""
    decoder, position = codecs.getincrementaldecoder(encoding)(), skip
    with open_bytes(path) as file:
        file.read(skip)
        while True:
            piece = file.read(1 << 16)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                location = f"byte {error.object[error.start]:#04x} near position {position + error.start + 1:,}"
                return Finding(1, "", "not_utf8", f"{location} is not {encoding.upper()}")
            if not piece:
                return None
            position += len(piece)


def _guess_encoding(path: Path, lines: bool) -> tuple[str, int] | None:
    """The encoding of a file that is not UTF-8, and the first line that shows it.

    None if it mixes two encodings, if only single ones of its lines are not UTF-8, or if no guess is good enough.
    """
    sample, broken, intact = b"", [], 0
    with open_bytes(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(SAMPLE_BYTES), b""), 1):
            if line.isascii():
                continue
            sample += line if len(sample) < SAMPLE_BYTES else b""
            try:
                line.decode("utf-8")
                intact += 1
            except UnicodeDecodeError:
                broken.append(number)
    as_utf8 = sample.decode("utf-8", "replace")
    if sum(character > "\x7f" for character in as_utf8) > 2 * as_utf8.count("\ufffd"):
        return None  # mostly UTF-8
    if lines and (intact or len(broken) < BROKEN_LINES):
        return None
    encoding = _likely_encoding(sample)
    return (encoding, broken[0]) if encoding and _undecodable(path, encoding, 0) is None else None


def _examples(path: Path, encoding: str) -> str:
    """The two most frequent words that depend on the encoding, as a clause; frequent ones are hardly personal."""
    with open_bytes(path) as file:
        text = file.read(SAMPLE_BYTES).decode(encoding, "ignore")
    words = Counter(word for word in re.findall(r"[^\W\d_]{3,}", text) if not word.isascii())
    shown = " and ".join(shorten(word, 30) for word, _ in words.most_common(2))
    return f", for example {shown}; if that is wrong, name it with --encoding" if shown else ""


def _likely_encoding(sample: bytes) -> str | None:
    try:
        text = sample.decode("cp1252")
        letters = [character for character in text if character.isalpha()]
        beyond = [character for character in text if character > "\x7f"]
        odd = sum(len(match) for match in NOT_WESTERN.findall(text))
        if not ACCENTED.search(text):
            odd += len(TURKISH.findall(text))
        if odd <= FEW_SIGNS * len(beyond) and sum(letter > "\x7f" for letter in letters) < 0.3 * len(letters):
            return "cp1252"  # or Latin-1, which differs only in characters that do not occur in text
    except UnicodeDecodeError:
        pass
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    best = from_bytes(sample, cp_isolation=OTHER_ENCODINGS).best()
    return best.encoding if best else None


# Keys that only a row has, not an object that contains rows.
ROW_KEYS = {"messages", "conversations", "conversation", "prompt", "completion", "chosen", "instruction", "preferred_output"}
# Fields that hold text or a list in each row; the list is of messages or tools, so in a single row its elements are objects.
TEXT_OR_LIST = {"prompt", "completion", "chosen", "rejected", "instruction", "output", "tools", "preferred_output",
                "non_preferred_output"}  # fmt: skip


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


def without_nulls(value: Any, keep: Collection[str] = ()) -> Any:
    """Return a JSON value without the fields that are null, except those called as in `keep`."""
    if isinstance(value, dict):
        return {key: without_nulls(inner, keep) for key, inner in value.items() if inner is not None or key in keep}
    return [without_nulls(item, keep) for item in value] if isinstance(value, list) else value


def json_or_none(text: str) -> Any:
    """Return the value of a JSON text; None if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
