"""Rows from a file of any size, one at a time, whatever is in it: any encoding, compressed or not.

What is in a file hardly ever raises an error: a line that is not a row is returned with the reason. Memory is bounded by
the longest line that is allowed, but a JSON list or object is read whole. No character is lost, and a guessed encoding is
reported.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from course_utils.data_prep.findings import Finding, shorten
from course_utils.errors import CourseError

MAX_LINE = 20_000_000  # bytes; an example of 65,536 tokens, the hosts' limit, has about 300,000
MAX_DEPTH = 64
DELIMITERS = ",;\t|"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "gzip data",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"SQLi": "SQLite",
}

# Escapes and characters that may be faults; only if a row has one are its strings searched.
SUSPECT = re.compile(
    rb"\\u(?:00[01]|007f|00[89]|200[b-f]|202[8-9a-e]|206|fe[0-9]|fff|d[89a-f])|\\[bf]"
    rb"|\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xef\xbf\xbd",
    re.IGNORECASE,
)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
INVISIBLE = re.compile("[\x80-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
SURROGATE = re.compile("[\ud800-\udfff]")
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


@dataclass
class Row:
    """One line of a file.

    Attributes:
        line: number of the line, from 1.
        value: the parsed row; None if it could not be parsed.
        findings: what is wrong with its bytes and its JSON.
        raw: the original line without its line end; only its first 1,000 bytes if it was longer than `MAX_LINE`.
    """

    line: int
    value: Any
    findings: list[Finding] = field(default_factory=list)
    raw: bytes = b""


def read(path: str | Path, columns: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Yield the rows of a JSONL, JSON, CSV, TSV or Parquet file in order; the file may be compressed with gzip (.gz).

    Args:
        path: path of the file.
        columns: fields to rename, old name → new name.

    Raises:
        CourseError: the file does not exist, cannot be read or is damaged, its ending is not one of `SUFFIXES`, a field
            cannot be renamed, or it is not clear where the rows are (several lists).
    """
    path = Path(path)
    if path.is_dir():
        raise CourseError(f"{path} is a folder; name a file")
    if not path.exists():
        raise CourseError(f"there is no file {path}")
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise CourseError(f"{path.name}: only files that end in {', '.join(SUFFIXES)} can be read")
    try:
        reader = {".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}.get(
            suffix, _read_jsonl
        )
        yield from _renamed(reader(path), columns) if columns else reader(path)
    except (EOFError, zlib.error) as error:
        raise CourseError(f"cannot read {path}: the compressed file is cut off or damaged; compress it again") from error
    except OSError as error:
        raise CourseError(f"cannot read {path}: {error.strerror or error}") from error


def _renamed(rows: Iterator[Row], columns: Mapping[str, str]) -> Iterator[Row]:
    """Rows with renamed fields; the first row must have every field that is to be renamed."""
    checked = False
    for row in rows:
        if isinstance(row.value, dict):
            for old, new in columns.items():
                if old not in row.value and not checked:
                    names = ", ".join(map(str, row.value))
                    raise CourseError(f"there is no field {old!r} to rename; the fields are {names}")
                if new in row.value and old in row.value and new not in columns:
                    raise CourseError(f"line {row.line}: {old!r} can't be renamed, because {new!r} exists already")
            row.value = {columns.get(key, key): value for key, value in row.value.items()}
            checked = True
        yield row


def parse(text: str, line: int = 0, raw: bytes | None = None) -> tuple[Any, list[Finding]]:
    """Return the value of a JSON text, and what is wrong with it; the value is None if the text cannot be parsed.

    Args:
        text: the text.
        line: number of its line, for the findings.
        raw: its original bytes, if they are known.
    """
    duplicates: list[str] = []
    constants: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            duplicates.extend((Counter(key for key, _ in pairs) - Counter(built.keys())).elements())
        return built

    try:
        value = json.loads(text, object_pairs_hook=build, parse_constant=lambda name: constants.append(name))
    except RecursionError:
        return None, [Finding(line, "", "too_deep", f"nested deeper than {MAX_DEPTH} levels")]
    except json.JSONDecodeError as error:
        return None, [_explain(text, error, line)]
    except ValueError:  # Python limits the number of digits
        return None, [Finding(line, "", "number_too_long", "a number with thousands of digits")]
    findings = [
        Finding(line, "", "duplicate_key", f"the key {shorten(key)} occurs twice in one object") for key in duplicates
    ]
    findings += [Finding(line, "", "not_finite", f"{name} is not a JSON value") for name in constants]
    # The number of brackets is an upper bound of the depth, and quicker to compute.
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(value):
        return None, [Finding(line, "", "too_deep", f"nested deeper than {MAX_DEPTH} levels")]
    if SUSPECT.search(raw if raw is not None else text.encode("utf-8", "surrogatepass")):
        findings += _strings(value, line)
    if "e" in text or "E" in text:
        findings += [
            Finding(line, path, "not_finite", "the number is too large: it is read as infinity")
            for path, leaf in _walk(value)
            if isinstance(leaf, float) and leaf in (float("inf"), float("-inf"))
        ]
    return value, findings


def _read_jsonl(path: Path) -> Iterator[Row]:
    with open_bytes(path) as packed:
        head = packed.read(4096)
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:2]
    yield from _read_json(path) if start in (b"{\n", b"{\r") or start[:1] == b"[" else _read_lines(path)


def _read_lines(path: Path) -> Iterator[Row]:
    with open_bytes(path) as packed:
        head = packed.read(4096)
    kind = next((name for magic, name in ARCHIVES.items() if head.startswith(magic)), None)
    if kind:
        yield Row(0, None, [Finding(0, "", "binary", f"this is {kind}")])
        return
    file, first = open_text(path, lines=True)
    assert file is not None, "a file of lines is open in any case"
    with file:
        endings = b"\r" in head and b"\n" not in head
        if endings:
            first = [*first, Finding(1, "", "line_ending", "lines end with only a carriage return")]
        for number, (line, length) in enumerate(_lines(file, "\r" if endings else "\n"), 1):
            findings, raw = first if number == 1 else [], line.encode("utf-8", file.errors or "strict")
            if length > MAX_LINE:
                findings = [*findings, Finding(number, "", "line_too_long", f"{length:,} characters; {MAX_LINE:,} are read")]
                yield Row(number, None, findings, raw[:1000])
                continue
            if line.endswith("\r"):
                line, raw = line.rstrip("\r"), raw.rstrip(b"\r")
                if not endings:
                    endings = True
                    message = "lines end with carriage return and line feed"
                    findings = [*findings, Finding(number, "", "line_ending", message)]
            if not raw.strip():
                yield Row(number, None, [*findings, Finding(number, "", "blank_line", "the line is blank")], raw)
                continue
            if not line.isascii() and (broken := SURROGATE.search(line)):
                position = len(line[: broken.start()].encode()) + 1
                message = f"byte {raw[position - 1]:#04x} at position {position} is not UTF-8"
                message = "there is half a character in it" if file.errors == "surrogatepass" else message
                yield Row(number, None, [*findings, Finding(number, "", "not_utf8", message)], raw)
                continue
            value, parse_findings = parse(line, number, raw)
            yield Row(number, value, [*findings, *parse_findings], raw)


def _lines(file: io.TextIOWrapper, end: str) -> Iterator[tuple[str, int]]:
    """Lines without their ends, and their length; only the beginning of a line that is too long."""
    try:
        while line := file.readline(MAX_LINE + 1):
            length = len(line)
            if length > MAX_LINE and not line.endswith(end):
                line = line[:1000]
                while more := file.readline(1 << 20):
                    length += len(more)
                    if more.endswith(end):
                        break
            yield line.removesuffix(end), length
    except UnicodeDecodeError:  # the file is cut off inside a character of two bytes or more
        yield "\udcff", 1


def _explain(text: str, error: json.JSONDecodeError, line: int) -> Finding:
    """Why a line is not JSON, described as the mistake that was probably made."""
    stripped = text.strip()
    at = error.pos
    code, position = "not_json", f"at character {at + 1}"
    before = text[:at].rstrip()[-1:]
    if error.msg == "Extra data":
        remainder = text[at:].lstrip()
        if remainder.startswith(("{", "[")):
            code, why = "several_objects", "there is more than one JSON value on the line"
        elif remainder.startswith(","):
            why = "a comma after the row; JSONL has none between rows"
        else:
            why = f"text after the row: {shorten(remainder, 30)}"
    elif stripped in ("[", "]", "],", "[{", "}]"):
        why = "this is a line of a JSON list; JSONL has one object per line and no brackets around them"
    elif re.match(r"\{\s*'", stripped):
        why = "single quotes: this is a printed Python dictionary, not JSON"
    elif re.match(r"(None|True|False)\b", text[at:]):
        why = f"{text[at:].split(',')[0].split('}')[0].strip()} is Python; JSON writes null, true, false"
    elif error.msg.startswith("Invalid control character"):
        why = f"a raw control character {shorten(text[at : at + 1])} inside a string (a line break or tab must be escaped)"
    elif error.msg.startswith("Invalid \\"):
        why = f"a backslash before a character that can't be escaped: {shorten(text[at : at + 6], 20)}"
    elif (before == "," and text[at:].lstrip()[:1] in ("}", "]")) or error.msg.startswith("Illegal trailing comma"):
        why = "a comma after the last element"
    elif text[at:].startswith(("//", "/*", "#")):
        why = "a comment; JSON has none"
    elif error.msg.startswith("Unterminated string") or at >= len(text.rstrip()):
        why = "the row ends in the middle: it is cut off, or has a line break inside a string"
    elif any(quote in text[max(0, at - 1) : at + 2] for quote in "“”„‘’"):
        why = "typographic quotes; JSON needs straight double quotes"
    elif not stripped.startswith(("{", "[")):
        why = f"the line starts with {shorten(stripped[:12], 20)}, which does not begin a JSON object"
    else:
        why = error.msg[0].lower() + error.msg[1:]
    return Finding(line, "", code, f"{why} ({position})")


def _walk(value: object) -> Iterator[tuple[str, object]]:
    """(path, leaf) of all leaves and of all keys of objects, without recursion."""
    stack = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict):
            for key, inner in item.items():
                name = shorten(key, 40).strip("'")
                stack.append((f"{path}.{name}" if path else name, inner))
                yield path, key
        elif isinstance(item, list):
            stack.extend((f"{path}[{index}]", inner) for index, inner in enumerate(item))
        else:
            yield path, item


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        ]
        if not level:
            return False
    return True


def _strings(value: object, line: int) -> list[Finding]:
    findings = []
    for path, leaf in _walk(value):
        if not isinstance(leaf, str):
            continue
        for pattern, code in (
            (SURROGATE, "lone_surrogate"),
            (CONTROL, "control_character"),
            (INVISIBLE, "invisible_character"),
        ):
            if match := pattern.search(leaf):
                findings.append(Finding(line, path, code, f"U+{ord(match.group()):04X} at character {match.start() + 1}"))
        if "\ufffd" in leaf:
            findings.append(
                Finding(line, path, "replacement_character", "U+FFFD, which takes the place of a lost character")
            )
    return findings


def _read_json(path: Path) -> Iterator[Row]:
    """Rows of a JSON file.

    They are the elements of a list, objects one after the other, or what a single object contains. A file with one object
    per line is read as JSONL, and so is a file of lines that begins with a broken one.
    """
    of_lines = suffix_of(path) in (".jsonl", ".ndjson")
    file, first = open_text(path)
    if file is None:
        yield from _read_lines(path) if of_lines else [Row(1, None, first)]
        return
    with file:
        text = next((line for line in iter(lambda: file.readline(MAX_LINE), "") if line.strip()), "")
        an_object_a_line = text.lstrip().startswith("{") and json_or_none(text) is not None and bool(file.read(1))
        text = "" if an_object_a_line else text + file.read()
    start = re.match(r"\s*(\[?)[\s,]*", text)
    assert start is not None  # it may be empty
    listed = bool(start[1])
    if (listed and not of_lines) or (text.startswith("{", start.end()) and _value_ends(text, start.end())):
        yield from _values(text, start.end(), listed, of_lines, first)
    else:
        yield from _read_lines(path)


def _value_ends(text: str, start: int) -> int:
    """Where the JSON value ends that begins at `start`; 0 if there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return 0


def _values(text: str, at: int, listed: bool, of_lines: bool, first: list[Finding]) -> Iterator[Row]:
    """Elements of a list or objects that follow each other, and a last row about what is no value."""
    number = 0
    while end := _value_ends(text, at):
        number, raw = number + 1, text[at:end]
        value, findings = parse(raw, number)
        at = re.compile(r"[\s,]*").match(text, end).end()  # type: ignore[union-attr]  # it may be empty
        alone = number == 1 and not listed and at == len(text)
        if alone and (within := rows_within(value)):
            yield from _rows_within(*within, [*first, *(f for f in findings if f.code == "duplicate_key")])
            return
        if len(raw) > MAX_LINE:
            value, findings = None, [Finding(number, "", "line_too_long", f"over {MAX_LINE:,} bytes")]
        if number == 1 and (of_lines if listed else "\n" in raw or not alone):
            usual = "the rows are elements of a list; JSONL has no list around them"
            findings.append(Finding(1, "", "several_lines", usual if listed else "an object extends over several lines"))
        yield Row(number, value, [*first, *findings], _bytes(raw[: MAX_LINE if value is not None else 1000]))
        first = []
    remainder, closed = text[at:], listed and text.startswith("]", at)
    if closed:
        remainder = remainder[1:].strip()
        findings = [_explain(remainder, json.JSONDecodeError("Extra data", remainder, 0), number + 1)]
    elif listed and not remainder:
        findings = [Finding(number, "", "not_json", "the list is not closed: the file is cut off")]
    else:
        findings = parse(remainder, number + 1)[1]
    if remainder or (listed and not closed):
        yield Row(number + 1, None, [*first, *findings], _bytes(remainder[:1000]))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _rows_within(values: list[Any], where: str, first: list[Finding]) -> Iterator[Row]:
    wrapped = Finding(1, "", "wrapped", where)
    for number, value in enumerate(values, 1):
        text = json.dumps(value, ensure_ascii=False)
        value, findings = parse(text, number)
        yield Row(number, value, [*([*first, wrapped] if number == 1 else []), *findings], _bytes(text))


def _read_csv(path: Path) -> Iterator[Row]:
    """Rows of a CSV or TSV file, each with the line where it begins; the value is None if it does not fit the header."""
    file, first = open_text(path)
    if file is None:
        yield Row(1, None, first)
        return
    csv.field_size_limit(MAX_LINE)
    with file:
        start = file.tell()
        settings = _settings(file, suffix_of(path))
        before = int(file.tell() != start)  # the line that names the separator
        reader = csv.reader(file, **settings)
        header: list[str] = []
        twice: str | None = None  # a name that two columns have; a row can't hold the values of both
        while True:
            number = before + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(number, None, [Finding(number, "", "not_json", f"not CSV: {error}")])
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                twice = next((name for name in header if header.count(name) > 1), None)
                continue
            raw = json.dumps(cells, ensure_ascii=False).encode("utf-8")
            if len(cells) == len(header):
                value: dict | None = dict(zip(header, cells))
                lost = [Finding(number, twice, "duplicate_key", f"two columns are called {twice}")] if twice else []
                findings = [*lost, *_strings(value, number)]
            elif any(cells):
                value, findings = None, [Finding(number, "", "not_object", f"{len(cells)} cells for {len(header)} columns")]
            else:
                value, findings = None, [Finding(number, "", "blank_line", "the line is blank")]
            yield Row(number, value, [*first, *findings], raw)
            first = []


def _settings(file: Any, suffix: str) -> dict[str, Any]:
    """The settings for the CSV reader, from the beginning of the file, which is left at its header."""
    start = file.tell()
    header = file.readline()
    if header.lower().startswith("sep=") and len(header.strip()) == 5:  # Excel writes this
        return {"delimiter": header[4]}
    file.seek(start)
    sample = file.read(SAMPLE_BYTES)
    file.seek(start)
    delimiter = max("\t,;|" if suffix == ".tsv" else DELIMITERS, key=header.count)  # of equally frequent ones, the first
    escaped = '\\"' in sample and '""' not in sample
    return {
        "delimiter": delimiter, "skipinitialspace": f"{delimiter} " in header,
        "doublequote": not escaped, "escapechar": "\\" if escaped else None,
    }  # fmt: skip


def _read_parquet(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, without the fields that are null only because other rows have them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            for value in batch.to_pylist():
                number += 1
                text = json.dumps(without_nulls(value), ensure_ascii=False, default=str)
                yield Row(number, *parse(text, number), _bytes(text))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        yield Row(0, None, [Finding(0, "", "binary", f"not a Parquet file: {str(error).splitlines()[0][:120]}")])


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
        CourseError: the object contains several lists of rows.
    """
    if (columns := _columns_in(value)) is not None:
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


def _columns_in(value: Any) -> dict[str, list[Any]] | None:
    """Field → values of all rows, if an object is a table written column by column; None if it is not.

    `datasets` writes a list for each field, and pandas' `to_json()` an object with row numbers.
    """
    if not isinstance(value, dict) or not value:
        return None
    columns = [
        list(cells.values()) if isinstance(cells, dict) and all(map(str.isdecimal, cells)) else cells
        for cells in value.values()
    ]
    if not all(isinstance(cells, list) and cells for cells in columns) or len(set(map(len, columns))) > 1:
        return None
    table = dict(zip(value, columns))
    if ROW_KEYS & value.keys():
        return table if all(_is_column(name, cells) for name, cells in table.items()) else None
    # Without a known field, a list of texts may be anything; several lists of the same length are hardly anything else.
    return table if len(columns) > 1 and not any(isinstance(cell, dict) for cells in columns for cell in cells) else None


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
