"""What in a row somebody wrote as text, and what only looks like it: pictures, addresses of pages, ids, the structure of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# Keys whose values nobody wrote as text, unless they are a call's arguments.
NOT_WRITTEN = {
    "role", "type", "name", "from", "tools", "functions", "image_url", "input_audio", "file", "image", "images", "video",
    "videos", "audio", "audios", "url", "urls", "bytes", "b64_json",
}  # fmt: skip
# An id names a thing; what names a person or says that it is a person's number does not count as one.
ID = re.compile(r"(?:.*(?:_id|Id|ID)|id|uuid|guid|hash|sha\d*|md5|checksum)")
OF_A_PERSON = re.compile(r"national|tax|passport|social|citizen|identity|person|e?mail|login", re.IGNORECASE)
# Base64 is longer than an IBAN (34 characters), and no local part of an e-mail address.
PROTECTED = re.compile(
    r"""
    data:[\w.+-]+/[\w.+-]+[^,\s]*,[^\s"'<>)\]]*(?:\r?\n[A-Za-z0-9+/]{40,}+={0,2})*(?:\r?\n[A-Za-z0-9+/]+={0,2}(?=\s|$|["')]))?
    | \b(?:https?|ftp|wss?)://(?:[^\s<>"'`()\[\]{}|\\]|\([^\s<>"'`()]*\))+
    | (?<![\w.+/=@-])[A-Za-z0-9+/_-]{40,}+(?:\r?\n[A-Za-z0-9+/]{40,}+)*(?:\r?\n[A-Za-z0-9+/]{1,39}(?:={1,2}|$))?={0,2}(?![@]|[.][\w.-]*@)
    | \b[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}\b
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
BLOT = "\0"  # belongs to no word and is no space, so nothing personal reaches over it
JSON_STRING = re.compile(r'("(?:[^"\\]|\\.)*+")(\s*:)?')  # the colon makes it a key


@dataclass
class Piece:
    """A piece of text within a row.

    Attributes:
        place: the field, such as "messages[1].content".
        text: as a person reads it (what JSON escapes is not escaped here).
        preceding: what was said before it, or the name of its field in JSON.
    """

    place: str
    text: str
    preceding: str = ""


def blotted(text: str) -> str:
    """The text with what nobody wrote blotted out, of the same length."""
    if len(text) < 36 and "://" not in text and "data:" not in text:  # the shortest of the others is a UUID
        return text
    return PROTECTED.sub(lambda match: BLOT * len(match.group()), text)


def rewrite(row: dict, change: Callable[[Piece], str]) -> None:
    """Put what `change` makes of it in the place of each piece of text, in the order in which they are read."""
    preceding = ""
    for holder, key, place in _texts(row):
        text = holder[key]
        holder[key] = _rewritten(text, place, preceding, change)
        preceding = text


def _rewritten(text: str, place: str, preceding: str, change: Callable[[Piece], str]) -> str:
    """A text that is a JSON object or list keeps all but what stands in its strings, byte for byte."""
    if not _is_json(text):
        return change(Piece(place, text, preceding))
    pieces: list[str] = []
    key, position, end = "", 0, 0
    for match in JSON_STRING.finditer(text):
        written, colon = match.groups()
        if "}" in text[end : match.start()]:
            key = ""  # of an object that has ended
        end = match.end()
        if colon:
            key = json.loads(written, strict=False)
        elif not is_id(key):
            string = json.loads(written, strict=False)
            changed = change(Piece(place, string, key))
            if changed != string:
                pieces += [text[position : match.start()], json.dumps(changed, ensure_ascii=written.isascii())]
                position = end
    return "".join([*pieces, text[position:]])


def is_id(key: str) -> bool:
    """Whether what stands under this key is an id of a thing."""
    return bool(ID.fullmatch(key)) and not OF_A_PERSON.search(key)


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _texts(row: dict) -> Iterator[tuple[Any, Any, str]]:
    """Every text of a row that someone wrote, in order: (holder, key, place)."""
    stack: list[tuple[Any, Any, Any, str, bool]] = [(None, None, row, "", False)]
    while stack:
        holder, key, value, place, argument = stack.pop()
        if isinstance(value, str):
            yield holder, key, place
        elif isinstance(value, dict):
            inner = [
                (value, k, v, f"{place}.{k}" if place else str(k), argument or k == "arguments")
                for k, v in value.items()
                if not is_id(k) and (argument or k not in NOT_WRITTEN)
            ]
            stack += reversed(inner)
        elif isinstance(value, list):
            stack += reversed([(value, i, v, f"{place}[{i}]", argument) for i, v in enumerate(value)])
