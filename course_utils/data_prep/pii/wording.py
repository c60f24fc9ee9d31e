"""Which parts of a row somebody wrote as text, and which only look like it: pictures, web addresses, ids, JSON's structure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# Keys whose values nobody wrote as text, except inside the arguments of a call.
NOT_WRITTEN = {
    "role", "type", "name", "from", "tools", "functions", "image_url", "input_audio", "file", "image", "images", "video",
    "videos", "audio", "audios", "url", "urls", "bytes", "b64_json",
}  # fmt: skip
# An id identifies a thing; a key that identifies a person, or a person's number, does not count.
ID = re.compile(r"(?:.*(?:_id|Id|ID)|id|uuid|guid|hash|sha\d*|md5|checksum)")
OF_A_PERSON = re.compile(r"national|tax|passport|social|citizen|identity|person|e?mail|login", re.IGNORECASE)
# Base64 must be longer than an IBAN (34 characters), and must not be the local part of an e-mail address.
PROTECTED = re.compile(
    r"""
    data:[\w.+-]+/[\w.+-]+[^,\s]*,[^\s"'<>)\]]*(?:\r?\n[A-Za-z0-9+/]{40,}+={0,2})*(?:\r?\n[A-Za-z0-9+/]+={0,2}(?=\s|$|["')]))?
    | \b(?:https?|ftp|wss?)://(?:[^\s<>"'`()\[\]{}|\\]|\([^\s<>"'`()]*\))+
    | (?<![\w.+/=@-])[A-Za-z0-9+/_-]{40,}+(?:\r?\n[A-Za-z0-9+/]{40,}+)*(?:\r?\n[A-Za-z0-9+/]{1,39}(?:={1,2}|$))?={0,2}(?![@]|[.][\w.-]*@)
    | \b[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}\b
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
BLOT = "\0"  # is neither part of a word nor a space, so no pattern matches across it
JSON_STRING = re.compile(r'("(?:[^"\\]|\\.)*+")(\s*:)?')  # the colon makes it a key


@dataclass
class Piece:
    """A piece of text within a row.

    Attributes:
        path: its field, such as "messages[1].content".
        text: the text as a person reads it, without JSON's escapes.
        preceding: the text before it, or its key if it is in JSON.
    """

    path: str
    text: str
    preceding: str = ""


def blotted(text: str) -> str:
    """Return the text, at the same length, with everything blotted out that nobody wrote."""
    if len(text) < 36 and "://" not in text and "data:" not in text:  # the shortest other match is a UUID
        return text
    return PROTECTED.sub(lambda match: BLOT * len(match.group()), text)


def rewrite(row: dict, change: Callable[[Piece], str]) -> None:
    """Replace each piece of text in a row, in place and in reading order, by what `change` returns for it."""
    preceding = ""
    for container, key, path in _texts(row):
        text = container[key]
        container[key] = _rewritten(text, path, preceding, change)
        preceding = text


def _rewritten(text: str, path: str, preceding: str, change: Callable[[Piece], str]) -> str:
    """The changed text; in a JSON object or list only the contents of strings change, and all other bytes stay the same."""
    if not _is_json(text):
        return change(Piece(path, text, preceding))
    pieces: list[str] = []
    key, position, end = "", 0, 0
    for match in JSON_STRING.finditer(text):
        written, colon = match.groups()
        if "}" in text[end : match.start()]:
            key = ""  # it belonged to an object that has ended
        end = match.end()
        if colon:
            key = json.loads(written, strict=False)
        elif not is_id(key):
            string = json.loads(written, strict=False)
            changed = change(Piece(path, string, key))
            if changed != string:
                pieces += [text[position : match.start()], json.dumps(changed, ensure_ascii=written.isascii())]
                position = end
    return "".join([*pieces, text[position:]])


def is_id(key: str) -> bool:
    """Return whether the value of this key is the id of a thing."""
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
    """Every text in a row that someone wrote, in order, as (container, key, path)."""
    stack: list[tuple[Any, Any, Any, str, bool]] = [(None, None, row, "", False)]
    while stack:
        container, key, value, path, argument = stack.pop()
        if isinstance(value, str):
            yield container, key, path
        elif isinstance(value, dict):
            inner = [
                (value, k, v, f"{path}.{k}" if path else str(k), argument or k == "arguments")
                for k, v in value.items()
                if not is_id(k) and (argument or k not in NOT_WRITTEN)
            ]
            stack += reversed(inner)
        elif isinstance(value, list):
            stack += reversed([(value, i, v, f"{path}[{i}]", argument) for i, v in enumerate(value)])
