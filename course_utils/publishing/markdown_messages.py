"""Markdown as messages: a text cut into what a translator translates and what stays as it is.

A message is a paragraph, a heading, an item of a list, a cell of a table, a line of HTML without the tags around it, or the
title of a directive. Its id is its own text on one line, so it does not change when the paragraph moves or is wrapped
elsewhere. Code, formulas that stand alone, comments, options and lines of a template's own stay. One way of cutting serves
lessons, exercises and the book's templates, so a sentence has the same id wherever it is used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

# Directives whose content is text; the content of others is code.
_TEXT_DIRECTIVES = {"div", "button-ref", "button-link", "admonition", "toctree", "note", "tip"}
_TITLED = {"grid-item-card", "admonition"}  # what stands behind the name is a title

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<ticks>`{3,}|~{3,})\s*(?:\{(?P<name>[\w-]+)\})?(?P<info>.*)$")
_COLONS = re.compile(r"^(?P<before>\s*:{3,}\{(?P<name>[\w-]+)\}\s*)(?P<title>.*)$")
_HEADING = re.compile(r"^(?P<before>#{1,6}\s+)(?P<text>.*)$")
_ITEM = re.compile(r"^(?P<before>\s*(?:[-*+]|\d+[.)])\s+)(?P<text>\S.*)$")
_OPTION = re.compile(r"^\s*(?::[\w-]+:.*|:{3,}\s*)$")
_CAPTION = re.compile(r"^(?P<before>\s*:caption:\s+)(?=\S)")  # the option that people read
_TEMPLATE = re.compile(r"^\s*(?:\{%.*%\}|\{#.*#\})\s*$")
_ALIGNMENT = re.compile(r"^\s*\|[\s|:-]+$")
_TAG = r"</?[a-zA-Z][^<>]*>"
_HTML = re.compile(rf"^(?P<before>\s*(?:{_TAG}\s*)+)(?P<text>.*?)(?P<after>(?:\s*{_TAG})*\s*)$")
_ENTRY = re.compile(r"^(?P<text>[^<]*?)(?P<after>\s+<[^<>]+>\s*)$")  # of a table of contents

# What a translation repeats as it is.
_KEPT = re.compile(
    r"(?P<term>\{\{term:[^{}|]+(?:\|[^{}]+)?\}\})|(?P<template>\{\{.*?\}\}|\{%.*?%\})"
    r"|(?P<code>(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))"
    r"|(?P<formula>\$\$.+?\$\$|(?<![\\\w$])\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d))"
    r"|\]\((?P<target>[^()\s]*(?:\([^()]*\)[^()\s]*)*)[^()]*\)|(?P<address>https?://[^\s)\]>]+)"
    rf"|(?P<tag>{_TAG})|(?P<value>\{{\w*(?:[.\[:!][^{{}}]*)?\}})"
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Part:
    """A piece of Markdown; `text` is a message if `is_message`, and stays as it is otherwise."""

    text: str
    is_message: bool = False


def messages(markdown: str) -> Iterator[str]:
    """Yield the messages of a text, in its order."""
    return (part.text for part in parts(markdown) if part.is_message)


def translated(markdown: str, translate: Callable[[str], str]) -> str:
    """Return a text with its messages translated; paragraphs come out on one line.

    A text in which nothing is translated comes back unchanged.
    """
    cut = list(parts(markdown))
    texts = [translate(part.text) if part.is_message else part.text for part in cut]
    return markdown if texts == [part.text for part in cut] else "".join(texts)


def kept(text: str) -> Counter[str]:
    """Count what a translation of a message must repeat: code, formulas, markers, targets of links, HTML, values, numbers.

    For a term's marker, the term is counted and not the words that the reader sees.
    """
    counts: Counter[str] = Counter()
    rest = []
    end = 0
    for match in _KEPT.finditer(text):
        rest.append(text[end : match.start()])
        end = match.end()
        if match["term"]:
            counts["{{term:" + match["term"][7:-2].partition("|")[0]] += 1
        elif match["target"] is not None:
            counts[f"]({match['target']})"] += 1
        else:
            counts[match[0]] += 1
    counts.update(_NUMBER.findall(" ".join([*rest, text[end:]])))
    return counts


def has_words(text: str) -> bool:
    """Whether there is something to translate beside code, formulas and markers."""
    return re.search(r"[^\W\d_]{2}", _KEPT.sub(lambda match: match[0] if match["term"] else " ", text)) is not None


def parts(markdown: str) -> Iterator[Part]:
    """Cut a text; the parts' texts in order are the text again, but for the line breaks within messages."""
    lines = markdown.splitlines(keepends=True)
    place, in_list = 0, False
    if lines and lines[0].strip() == "---":  # a page's settings, of which the description is read by people
        for line in lines[: (place := _end(lines, 1, "---"))]:
            key, colon, value = line.partition("description: ")
            yield Part(key + colon)
            yield from _message(value)
    while place < len(lines):
        line = lines[place]
        if not line.strip():
            yield Part(line)
            place += 1
            continue
        indent = len(line) - len(line.lstrip())
        in_list = _ITEM.match(line) is not None or (in_list and indent > 0)
        if match := _FENCE.match(line.rstrip("\n")):
            end = place + 1
            if match["info"].strip() or match["name"]:
                end = place + 1 if match["name"] in _TEXT_DIRECTIVES else _end(lines, place + 1, match["ticks"])
            elif not _inside_text(lines[:place]):
                end = _end(lines, place + 1, match["ticks"])
            yield Part("".join(lines[place:end]))
            place = end
        elif line.lstrip().startswith("<!--"):
            end = next((n + 1 for n in range(place, len(lines)) if "-->" in lines[n]), len(lines))
            yield Part("".join(lines[place:end]))
            place = end
        elif line.lstrip().startswith("$$"):
            end = place + 1
            if "$$" not in line.strip()[2:]:
                end = next((n + 1 for n in range(place + 1, len(lines)) if "$$" in lines[n]), len(lines))
            yield Part("".join(lines[place:end]))
            place = end
        elif match := _CAPTION.match(line):
            yield Part(match["before"])
            yield from _message(line[match.end() :])
            place += 1
        elif _TEMPLATE.match(line) or _OPTION.match(line) or _ALIGNMENT.match(line) or (indent >= 4 and not in_list):
            yield Part(line)
            place += 1
        elif match := _COLONS.match(line):
            yield Part(match["before"])
            yield from _message(match["title"] + "\n") if match["name"] in _TITLED else [Part(match["title"] + "\n")]
            place += 1
        elif match := _HEADING.match(line):
            yield Part(match["before"])
            yield from _message(line[match.end("before") :])
            place += 1
        elif line.lstrip().startswith("|"):
            yield from _row(line)
            place += 1
        elif match := _HTML.match(line):
            yield Part(match["before"])
            yield from _message(match["text"])
            yield Part(line[match.end("text") :])
            place += 1
        else:
            place = yield from _paragraph(lines, place)


def _paragraph(lines: list[str], place: int) -> Generator[Part, None, int]:
    """A paragraph, or an item of a list; the generator returns the line after it."""
    first = lines[place]
    if item := _ITEM.match(first):
        before, texts = item["before"], [first[item.end("before") :]]
    elif first.lstrip().startswith(">"):
        before = first[: first.index(">") + 1] + " "
        texts = [first.lstrip().removeprefix(">").lstrip()]
    else:
        before = first[: len(first) - len(first.lstrip())]
        texts = [first.lstrip()]
    indent = len(first) - len(first.lstrip())
    end = place + 1
    while end < len(lines) and _goes_on(lines[end], indent, item is not None):
        texts.append(lines[end].lstrip().removeprefix(">"))
        end += 1
    yield Part(before)
    if entry := _ENTRY.match(first) if len(texts) == 1 and "](" not in first and "`" not in first else None:
        yield from _message(entry["text"])
        yield Part(first[entry.end("text") :])
    else:
        yield from _message("".join(texts))
    return end


def _goes_on(line: str, indent: int, is_item: bool) -> bool:
    """Whether a line belongs to the paragraph above it."""
    text = line.lstrip()
    if not text or text.startswith(("|", "$$", "<!--", "```", "~~~", ":::")):
        return False
    if any(pattern.match(line) for pattern in (_ITEM, _HEADING, _TEMPLATE, _ENTRY)) or re.match(_TAG, text):
        return False
    return is_item or len(line) - len(text) <= indent  # what is indented further explains a term above it


def _message(text: str) -> Iterator[Part]:
    """A message if there is something to translate, with the white space around it left out."""
    core = text.strip()
    if not has_words(core):
        yield Part(text)
        return
    start = text.index(core[0])
    yield Part(text[:start])
    yield Part(" ".join(core.split()), is_message=True)
    yield Part(text[start + len(core) :])


def _row(line: str) -> Iterator[Part]:
    """The cells of a table's row; a bar within code or a formula, or behind a backslash, is none."""
    shielded = _KEPT.sub(lambda match: "x" * len(match[0]), line)
    start = 0
    for match in re.finditer(r"(?<!\\)\|", shielded):
        yield from _message(line[start : match.start()])
        yield Part("|")
        start = match.end()
    yield from _message(line[start:])


def _inside_text(lines: list[str]) -> bool:
    """Whether a bare fence closes a directive whose content is text."""
    opened: list[str] = []
    for line in lines:
        if fence := _FENCE.match(line.rstrip("\n")):
            if fence["name"] or fence["info"].strip():
                opened.append(fence["name"] or "")
            elif opened:
                opened.pop()
            else:
                opened.append("")
    return bool(opened) and opened[-1] in _TEXT_DIRECTIVES


def _end(lines: list[str], place: int, mark: str) -> int:
    """The line after the one that closes with a mark."""
    return next((n + 1 for n in range(place, len(lines)) if lines[n].strip().startswith(mark)), len(lines))
