"""Files opened as text in any encoding, compressed or not: no character is lost, and a guessed encoding is reported."""

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
SAMPLE_BYTES = 1 << 20  # how much is read to guess an encoding
BROKEN_LINES = 3  # fewer lines that are not UTF-8 are faults of these lines, not the file's encoding
# Non-ASCII characters of Western European text in cp1252. Text in another encoding, decoded as cp1252, gives other
# characters.
WESTERN = re.compile(r"[À-ÖØ-öø-ÿŒœŠšŽžŸ“”„‘’‚–—…•€£§°«»¿¡·ªº²³½©®™´ \u00ad]")
OTHER_ENCODINGS = [
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
    """Return whether the file's name says that it is compressed with gzip."""
    return path.suffix.lower() == ".gz"


def suffix_of(path: Path) -> str:
    """Return the ending that says which format the file has; for a compressed file, the one before .gz."""
    return Path(path.stem).suffix.lower() if is_packed(path) else path.suffix.lower()


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading its bytes, decompressed if it is compressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if is_packed(path) else path.open("rb")


def open_text(path: Path) -> tuple[io.TextIOWrapper | None, list[Finding]]:
    """Open a file as text, without its byte order mark and with its own line ends.

    Reading never fails with a decoding error later, because the whole file has been decoded once.

    Returns:
        The open file, or None if its encoding cannot be determined; and findings that say what is unusual.
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
    if guessed := _guess_encoding(path):
        return _checked(path, guessed, 0, [other_encoding(1, guessed)])
    return None, [problem]


def encoding_of_lines(path: Path) -> str | None:
    """Return the encoding of a file of lines that is not in UTF-8.

    It is taken for the file's encoding if at least `BROKEN_LINES` lines are not UTF-8, and all others are ASCII.

    Returns:
        None if only single lines are not UTF-8, or if no guess is good enough.
    """
    broken = 0
    with open_bytes(path) as file:
        while line := file.readline(SAMPLE_BYTES):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                broken += 1
            else:
                return None
    guessed = _guess_encoding(path) if broken >= BROKEN_LINES else None
    return guessed if guessed and _undecodable(path, guessed, 0) is None else None


def other_encoding(line: int, encoding: str) -> Finding:
    """Return the finding that a file is not in UTF-8 but in another encoding."""
    name = "Windows-1252 or Latin-1" if encoding == "cp1252" else encoding
    return Finding(line, "", "encoding", f"the file is not UTF-8; it looks like {name}, and is read as that")


def without_mark(head: bytes) -> str | None:
    """Return the encoding of UTF-16 without a byte order mark, or None if the text is in another encoding.

    In UTF-16, every second byte of ASCII text is zero.
    """
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
    """The first place where the file does not decode in this encoding; None if there is none."""
    decoder, position = codecs.getincrementaldecoder(encoding)(), skip
    for piece in _pieces(path, skip):
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            location = f"byte {error.object[error.start]:#04x} near position {position + error.start + 1:,}"
            return Finding(1, "", "not_utf8", f"{location} is not {encoding.upper()}")
        position += len(piece)
    return None


def _pieces(path: Path, skip: int) -> Iterator[bytes]:
    with open_bytes(path) as file:
        file.read(skip)
        while piece := file.read(SAMPLE_BYTES):
            yield piece
    yield b""


def _guess_encoding(path: Path) -> str | None:
    """The encoding of a file that is not UTF-8; None if it mixes two encodings, or if no guess is good enough."""
    sample = _sample(path)
    as_utf8 = sample.decode("utf-8", "replace")
    if sum(character > "\x7f" for character in as_utf8) > 2 * as_utf8.count("\ufffd"):
        return None  # mostly UTF-8
    try:
        text = sample.decode("cp1252")
        non_ascii = [character for character in text if character > "\x7f"]
        letters = [character for character in text if character.isalpha()]
        if sum(letter > "\x7f" for letter in letters) < 0.3 * len(letters) and all(
            WESTERN.match(character) for character in non_ascii
        ):
            return "cp1252"  # or Latin-1, which differs only in characters that do not occur in text
    except UnicodeDecodeError:
        pass
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    best = from_bytes(sample, cp_isolation=OTHER_ENCODINGS).best()
    return best.encoding if best else None


def _sample(path: Path) -> bytes:
    """Lines that are not ASCII, up to `SAMPLE_BYTES` bytes."""
    lines, size = [], 0
    with open_bytes(path) as file:
        while size < SAMPLE_BYTES and (line := file.readline(SAMPLE_BYTES)):
            if not line.isascii():
                lines.append(line)
                size += len(line)
    return b"".join(lines)
