"""Files opened as text, whatever their encoding, packed or not: no character is lost, and none is guessed in silence."""

from __future__ import annotations

import codecs
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from course_utils.data_prep.findings import Finding

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SAMPLE = 1 << 20  # bytes by which an encoding is told
# What stands in Western European text beside ASCII. Other encodings, read as this one, give other characters.
WESTERN = re.compile(r"[À-ÖØ-öø-ÿŒœŠšŽžŸ“”„‘’‚–—…•€£§°«»¿¡·ªº²³½©®™´ \u00ad]")
OTHERS = [
    "cp1250",
    "cp1251",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "koi8_r",
    "cp932",
    "euc_jp",
    "gb18030",
    "big5",
    "cp949",
]


def is_packed(path: Path) -> bool:
    """Whether the file's name says that it is packed with gzip."""
    return path.suffix.lower() == ".gz"


def suffix_of(path: Path) -> str:
    """The ending that tells the format, also of a packed file."""
    return Path(path.stem).suffix.lower() if is_packed(path) else path.suffix.lower()


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked."""
    return cast(BinaryIO, gzip.open(path, "rb")) if is_packed(path) else path.open("rb")


def open_text(path: Path) -> tuple[io.TextIOWrapper | None, list[Finding]]:
    """A file as text without its byte order mark, line ends as they are; None where its encoding can't be told.

    The findings say what is unusual. What is opened decodes without errors: the whole file has been tried.
    """
    with open_bytes(path) as file:
        head = file.read(4096)
    for bom, encoding in BOMS:
        if head.startswith(bom):
            code, name = (
                ("byte_order_mark", "UTF-8 with a byte order mark") if encoding == "utf-8" else ("encoding", encoding)
            )
            return _checked(path, encoding, len(bom), [Finding(1, "", code, f"the file is {name.upper()}")])
    if wide := without_mark(head):
        return _checked(path, wide, 0, [Finding(1, "", "encoding", f"the file looks like {wide.upper()}")])
    problem = _undecodable(path, "utf-8", 0)
    if problem is None:
        return _text(path, "utf-8", 0), []
    if told := _told(path):
        return _checked(path, told, 0, [Finding(1, "", "encoding", f"the file is no UTF-8 and looks like {told}")])
    return None, [problem]


def without_mark(head: bytes) -> str | None:
    """UTF-16 without a mark: every second byte of ASCII text is zero."""
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(zeros) > 1 and zeros.count(0) > 0.6 * len(zeros):
            return encoding
    return None


def _checked(path: Path, encoding: str, skip: int, findings: list[Finding]) -> tuple[io.TextIOWrapper | None, list[Finding]]:
    problem = _undecodable(path, encoding, skip)
    return (None, [problem]) if problem else (_text(path, encoding, skip), findings)


def _text(path: Path, encoding: str, skip: int) -> io.TextIOWrapper:
    file = open_bytes(path)
    file.read(skip)
    return io.TextIOWrapper(file, encoding=encoding, newline="")


def _undecodable(path: Path, encoding: str, skip: int) -> Finding | None:
    """Where the file is not in this encoding."""
    decoder, position = codecs.getincrementaldecoder(encoding)(), skip
    for piece in _pieces(path, skip):
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            place = f"byte {error.object[error.start]:#04x} near position {position + error.start + 1:,}"
            return Finding(1, "", "not_utf8", f"{place} is not {encoding.upper()}")
        position += len(piece)
    return None


def _pieces(path: Path, skip: int) -> Iterator[bytes]:
    with open_bytes(path) as file:
        file.read(skip)
        while piece := file.read(SAMPLE):
            yield piece
    yield b""


def _told(path: Path) -> str | None:
    """The encoding of a file that is no UTF-8; None if it has two of them, or can't be told."""
    sample = _sample(path)
    tried = sample.decode("utf-8", "replace")
    if sum(character > "\x7f" for character in tried) > 2 * tried.count("\ufffd"):
        return None  # UTF-8 for the most part
    try:
        text = sample.decode("cp1252")
        beyond = [character for character in text if character > "\x7f"]
        letters = [character for character in text if character.isalpha()]
        if sum(letter > "\x7f" for letter in letters) < 0.3 * len(letters) and all(
            WESTERN.match(character) for character in beyond
        ):
            return "cp1252"  # Latin-1 too: they differ in characters that text does not have
    except UnicodeDecodeError:
        pass
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    best = from_bytes(sample, cp_isolation=OTHERS).best()
    return best.encoding if best else None


def _sample(path: Path) -> bytes:
    """Lines that are not ASCII, up to `SAMPLE` bytes."""
    lines, size = [], 0
    with open_bytes(path) as file:
        while size < SAMPLE and (line := file.readline(SAMPLE)):
            if not line.isascii():
                lines.append(line)
                size += len(line)
    return b"".join(lines)
