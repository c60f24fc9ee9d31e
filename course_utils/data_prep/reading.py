"""Rows out of a file of any size, one at a time, whatever is in it.

Nothing here raises for what a file contains: a line that is no row is returned with the reason. Memory is bounded by the
longest line that is allowed.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from course_utils.data_prep.findings import Finding, shorten
from course_utils.errors import CourseError

MAX_LINE = 20_000_000  # bytes; 65,536 tokens, the hosts' limit for an example, are some 300,000
MAX_DEPTH = 64
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "gzip data",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"SQLi": "SQLite",
}

# Escapes and characters that make a row worth a walk through its strings.
SUSPECT = re.compile(
    rb"\\u(?:00[01]|007f|00[89]|200[b-f]|202[8-9a-e]|206|fe[0-9]|fff|d[89a-f])|\\[bf]"
    rb"|\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xef\xbf\xbd",
    re.IGNORECASE,
)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
INVISIBLE = re.compile("[\x80-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Row:
    """One line of a file.

    Attributes:
        line: from 1.
        value: the parsed row; None where there is none.
        findings: what is wrong with its bytes and its JSON.
        raw: the line as it stood, without its end; cut at 1,000 bytes where it was longer than `MAX_LINE`.
    """

    line: int
    value: Any
    findings: list[Finding] = field(default_factory=list)
    raw: bytes = b""


def read(path: str | Path) -> Iterator[Row]:
    """Rows of a JSONL, JSON, CSV, TSV or Parquet file, in order.

    Raises:
        CourseError: no such file, no permission, or an ending that is none of `SUFFIXES`.
    """
    path = Path(path)
    if path.is_dir():
        raise CourseError(f"{path} is a folder; name a file")
    if not path.exists():
        raise CourseError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CourseError(f"{path.name}: endings that can be read are {', '.join(SUFFIXES)}")
    try:
        reader = {".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}.get(
            suffix, _read_jsonl
        )
        yield from reader(path)
    except OSError as error:
        raise CourseError(f"cannot read {path}: {error.strerror or error}") from error


def parse(text: str, line: int = 0, raw: bytes | None = None) -> tuple[Any, list[Finding]]:
    """One JSON text and what is wrong with it; the value is None where it can't be read."""
    duplicates: list[str] = []
    constants: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            seen = set()
            for key, _ in pairs:
                if key in seen:
                    duplicates.append(key)
                seen.add(key)
        return built

    try:
        value = json.loads(text, object_pairs_hook=build, parse_constant=lambda name: constants.append(name))
    except RecursionError:
        return None, [Finding(line, "", "too_deep", f"nested deeper than {MAX_DEPTH} levels")]
    except json.JSONDecodeError as error:
        return None, [_explain(text, error, line)]
    except ValueError:  # the interpreter's own limit on digits
        return None, [Finding(line, "", "number_too_long", "a number with thousands of digits")]
    findings = [
        Finding(line, "", "duplicate_key", f"the key {shorten(key)} stands twice in one object") for key in duplicates
    ]
    findings += [Finding(line, "", "not_finite", f"{name} is no JSON value") for name in constants]
    # Brackets in the text bound the depth from above and cost less than a walk.
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(value):
        return None, [Finding(line, "", "too_deep", f"nested deeper than {MAX_DEPTH} levels")]
    if SUSPECT.search(raw if raw is not None else text.encode("utf-8", "surrogatepass")):
        findings += _strings(value, line)
    if "e" in text or "E" in text:
        findings += [
            Finding(line, place, "not_finite", "the number is too large: it is read as infinity")
            for place, leaf in _walk(value)
            if isinstance(leaf, float) and leaf in (float("inf"), float("-inf"))
        ]
    return value, findings


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(0)
        kind = next((name for magic, name in ARCHIVES.items() if head.startswith(magic)), None)
        if kind:
            yield Row(0, None, [Finding(0, "", "binary", f"this is {kind}")])
            return
        lines, first = _open_lines(file, head)
        endings = False
        for number, (raw, length) in enumerate(lines, 1):
            findings = first if number == 1 else []
            if length > MAX_LINE:
                findings = [*findings, Finding(number, "", "line_too_long", f"{length:,} bytes; {MAX_LINE:,} are read")]
                yield Row(number, None, findings, raw[:1000])
                continue
            if raw.endswith(b"\r"):
                raw = raw.rstrip(b"\r")
                if not endings:
                    endings = True
                    findings = [
                        *findings,
                        Finding(number, "", "line_ending", "lines end with carriage return and line feed"),
                    ]
            if not raw.strip():
                yield Row(number, None, [*findings, Finding(number, "", "blank_line", "the line is blank")], raw)
                continue
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                message = f"byte {raw[error.start]:#04x} at position {error.start + 1} is not UTF-8"
                yield Row(number, None, [*findings, Finding(number, "", "not_utf8", message)], raw)
                continue
            value, wrong = parse(text, number, raw)
            yield Row(number, value, [*findings, *wrong], raw)


def _open_lines(file: BinaryIO, head: bytes) -> tuple[Iterator[tuple[bytes, int]], list[Finding]]:
    """Lines as UTF-8 bytes with their length, and what is wrong with the encoding of the file."""
    for bom, encoding in BOMS:
        if head.startswith(bom):
            file.read(len(bom))
            if encoding == "utf-8":
                return _lines(file), [Finding(1, "", "byte_order_mark", "the file starts with a UTF-8 byte order mark")]
            return _transcoded(file, encoding), [Finding(1, "", "encoding", f"the file is {encoding.upper()}")]
    # Without a mark: in UTF-16 every second byte of ASCII text is zero.
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(zeros) > 1 and zeros.count(0) > 0.6 * len(zeros):
            return _transcoded(file, encoding), [Finding(1, "", "encoding", f"the file looks like {encoding.upper()}")]
    if b"\r" in head and b"\n" not in head:
        text = io.TextIOWrapper(file, encoding="latin-1", newline=None)  # bytes pass through latin-1 unchanged
        lines = ((line.rstrip("\n").encode("latin-1"), len(line)) for line in iter(lambda: text.readline(MAX_LINE), ""))
        return lines, [Finding(1, "", "line_ending", "lines end with a carriage return alone")]
    return _lines(file), []


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    while line := file.readline(MAX_LINE + 1):
        length = len(line)
        if length > MAX_LINE and not line.endswith(b"\n"):
            line = line[:1000]
            while more := file.readline(1 << 20):
                length += len(more)
                if more.endswith(b"\n"):
                    break
        yield line.removesuffix(b"\n"), length


def _transcoded(file: BinaryIO, encoding: str) -> Iterator[tuple[bytes, int]]:
    text = io.TextIOWrapper(file, encoding=encoding, errors="replace", newline="\n")
    while line := text.readline(MAX_LINE):
        yield line.removesuffix("\n").encode("utf-8", "replace"), len(line)


def _explain(text: str, error: json.JSONDecodeError, line: int) -> Finding:
    """Why a line is no JSON, in the words of the mistake that was made."""
    stripped = text.strip()
    at = error.pos
    code, place = "not_json", f"at character {at + 1}"
    before = text[:at].rstrip()[-1:]
    if error.msg == "Extra data":
        rest = text[at:].lstrip()
        if rest.startswith(("{", "[")):
            code, why = "several_objects", "more than one JSON value on the line"
        elif rest.startswith(","):
            why = "a comma after the row; JSONL has none between rows"
        else:
            why = f"text after the row: {shorten(rest, 30)}"
    elif stripped in ("[", "]", "],", "[{", "}]"):
        why = "the lines of a JSON list; JSONL has one object a line and no brackets around them"
    elif re.match(r"\{\s*'", stripped):
        why = "single quotes: this is a Python dictionary printed, not JSON"
    elif re.match(r"(None|True|False)\b", text[at:]):
        why = f"{text[at:].split(',')[0].split('}')[0].strip()} is Python; JSON writes null, true, false"
    elif error.msg.startswith("Invalid control character"):
        why = f"a raw control character {shorten(text[at : at + 1])} inside a string (a line break or tab must be escaped)"
    elif error.msg.startswith("Invalid \\"):
        why = f"a backslash that escapes nothing: {shorten(text[at : at + 6], 20)}"
    elif (before == "," and text[at:].lstrip()[:1] in ("}", "]")) or error.msg.startswith("Illegal trailing comma"):
        why = "a comma after the last element"
    elif text[at:].startswith(("//", "/*", "#")):
        why = "a comment; JSON has none"
    elif error.msg.startswith("Unterminated string") or at >= len(text.rstrip()):
        why = "the row ends in the middle: cut off, or a line break inside a string"
    elif any(quote in text[max(0, at - 1) : at + 2] for quote in "“”„‘’"):
        why = "typographic quotes; JSON needs straight double quotes"
    elif not stripped.startswith(("{", "[")):
        why = f"the line starts with {shorten(stripped[:12], 20)}, which begins no JSON object"
    else:
        why = error.msg[0].lower() + error.msg[1:]
    return Finding(line, "", code, f"{why} ({place})")


def _walk(value: object) -> Iterator[tuple[str, object]]:
    """Places and leaves, without recursion; keys of objects too."""
    stack = [("", value)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, dict):
            for key, inner in item.items():
                name = shorten(key, 40).strip("'")
                stack.append((f"{place}.{name}" if place else name, inner))
                yield place, key
        elif isinstance(item, list):
            stack.extend((f"{place}[{index}]", inner) for index, inner in enumerate(item))
        else:
            yield place, item


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
    for place, leaf in _walk(value):
        if not isinstance(leaf, str):
            continue
        for pattern, code in (
            (SURROGATE, "lone_surrogate"),
            (CONTROL, "control_character"),
            (INVISIBLE, "invisible_character"),
        ):
            if match := pattern.search(leaf):
                findings.append(Finding(line, place, code, f"U+{ord(match.group()):04X} at character {match.start() + 1}"))
        if "\ufffd" in leaf:
            findings.append(Finding(line, place, "replacement_character", "U+FFFD, which stands for a lost character"))
    return findings


def _read_json(path: Path) -> Iterator[Row]:
    """Elements of a list, one at a time; a file of one object a line is read as JSONL, one object alone as one row."""
    with path.open("rb") as file:
        head = file.read(4096).lstrip(codecs.BOM_UTF8)
    if not head.lstrip().startswith(b"["):
        yield from _read_jsonl(path)
        return
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        buffer, number, ended = file.read(1 << 20), 0, False
        buffer = buffer.lstrip()[1:]
        while True:
            buffer = buffer.lstrip(" \t\r\n,")
            if buffer.startswith("]"):
                return
            try:
                _, end = decoder.raw_decode(buffer)
                # A number or a word at the buffer's end may go on in the next piece.
                whole = ended or end < len(buffer)
            except (json.JSONDecodeError, RecursionError, ValueError) as error:
                whole, problem = False, error
                if ended or len(buffer) > MAX_LINE:
                    if not buffer and number:
                        finding = Finding(number, "", "not_json", "the list is not closed: cut off at its end")
                    elif len(buffer) > MAX_LINE:
                        finding = Finding(number + 1, "", "line_too_long", f"over {MAX_LINE:,} bytes; not read further")
                    elif isinstance(problem, json.JSONDecodeError):
                        finding = _explain(buffer, problem, number + 1)
                    else:
                        finding = Finding(number + 1, "", "too_deep", f"nested deeper than {MAX_DEPTH} levels")
                    yield Row(number + 1, None, [finding], buffer[:1000].encode("utf-8", "replace"))
                    return
            if not whole:
                more = file.read(max(1 << 20, len(buffer)))
                ended = not more
                buffer += more
                continue
            number += 1
            text = buffer[:end]
            value, findings = parse(text, number)
            yield Row(number, value, findings, text.encode("utf-8", "replace"))
            buffer = buffer[end:]


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        head = file.read(4096)
    encoding = next((e if e == "utf-8" else e[:6] for bom, e in BOMS if head.startswith(bom)), "utf-8")
    first = [] if encoding == "utf-8" else [Finding(1, "", "encoding", f"the file is {encoding.upper()}")]
    csv.field_size_limit(MAX_LINE)
    with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, errors="replace", newline="") as file:
        sample = file.read(8192)
        file.seek(0)
        try:
            dialect = csv.Sniffer().sniff(sample, delimiters=",;\t|")
        except csv.Error:
            dialect = csv.excel_tab if path.suffix.lower() == ".tsv" else csv.excel
        reader = csv.reader(file, dialect)
        header: list[str] = []
        number = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(
                    max(reader.line_num, 1), None, [Finding(max(reader.line_num, 1), "", "not_json", f"no CSV: {error}")]
                )
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) != len(header):
                    yield Row(1, None, [Finding(1, "", "duplicate_key", "two columns have the same name")])
                continue
            number += 1
            raw = json.dumps(cells, ensure_ascii=False).encode("utf-8", "replace")
            if len(cells) != len(header):
                message = f"{len(cells)} cells for {len(header)} columns"
                yield Row(number, None, [*first, Finding(number, "", "not_object", message)], raw)
            else:
                value = dict(zip(header, cells))
                yield Row(number, value, [*first, *_strings(value, number)], raw)
            first = []


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=256):
            for value in batch.to_pylist():
                number += 1
                value = {key: item for key, item in value.items() if item is not None}
                raw = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")
                value, findings = parse(raw.decode("utf-8"), number)
                yield Row(number, value, findings, raw)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        yield Row(0, None, [Finding(0, "", "binary", f"no Parquet file: {str(error).splitlines()[0][:120]}")])
