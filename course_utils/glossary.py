"""The words of the field, each in one sentence.

Who has called a language model's API but never trained one can read every definition. The words are in
`data/glossary.jsonl`. In a lesson's source, `{{term:logits}}` or `{{term:logits|raw scores}}` marks the place where a word
is explained, and `{{words}}` on a line of its own becomes the table of all words marked in that lesson; the builder writes
both out (`publishing/builder.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from html import escape

from course_utils import assets
from course_utils.errors import CourseError

FILE = "data/glossary.jsonl"
HEADING = "Words of this lesson"
MARKER = re.compile(r"\{\{term:([^{}|]+)(?:\|([^{}]+))?\}\}")
TABLE = re.compile(r"^\{\{words\}\}[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Term:
    """One word of the field.

    Attributes:
        name: as the table lists it: "log-probability".
        meaning: one sentence.
        lesson: two digits of the lesson where it is first explained.
        forms: how else it is written: plurals, abbreviations, other spellings. A hyphen stands for a space too.
    """

    name: str
    meaning: str
    lesson: str
    forms: tuple[str, ...] = ()


@cache
def terms() -> dict[str, Term]:
    """Return all terms by name, in alphabetical order."""
    collected = []
    for line in assets.path(FILE).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        collected.append(Term(row["name"], row["meaning"], row["lesson"], tuple(row.get("forms", ()))))
    return {term.name: term for term in sorted(collected, key=_alphabetically)}


def find(name: str) -> Term:
    """Return the term with this name or form; capitals, hyphens and spaces do not matter.

    Raises:
        CourseError: the glossary has no such term; the message names the nearest.
    """
    try:
        return _by_form()[_plain(name)]
    except KeyError:
        from difflib import get_close_matches

        near = get_close_matches(_plain(name), _by_form(), n=1, cutoff=0.6)
        hint = f"did you mean {_by_form()[near[0]].name!r}? If not, " if near else ""
        raise CourseError(f"the glossary has no term {name.strip()!r}; {hint}add a line to {FILE}") from None


def table(listed: Iterable[Term]) -> str:
    """Return a table of terms and their meanings in Markdown, in alphabetical order, without a heading."""
    in_order = sorted(listed, key=_alphabetically)
    rows = (f"| **{_in_cell(term.name)}** | {_in_cell(term.meaning)} |" for term in in_order)
    return "\n".join(("| word | what it means |", "| :-- | :-- |", *rows))


def write_out(texts: Iterable[str]) -> list[str]:
    """A lesson's Markdown cells with the markers and the table of words written out; without markers they stay as they are.

    Raises:
        CourseError: an unknown term, a marker in a heading (headings are read by programs), markers without `{{words}}` to
            which their links lead, or `{{words}}` without markers.
    """
    texts = list(texts)
    explained = list({find(match[1]): None for text in texts for match in MARKER.finditer(text)})
    tables = sum(len(TABLE.findall(text)) for text in texts)
    for text in texts:
        if heading := re.search(r"^#{1,6} .*\{\{term:.*$", text, re.MULTILINE):
            raise CourseError(f"{heading[0]!r}: mark a term in the sentence that explains it, not in a heading")
        rest = MARKER.sub("", text)
        if "{{term" in rest:
            wrong = rest[rest.index("{{term") :][:40]
            raise CourseError(f"{wrong!r}: write a marker as {{{{term:name}}}} or {{{{term:name|words}}}}")
    if tables != bool(explained):
        raise CourseError("{{words}} goes once, on its own line, in a lesson that marks terms, and nowhere else")
    summary = f"<summary>{len(explained)} words, each in a sentence</summary>"
    listed = f"## {HEADING}\n\n<details>\n{summary}\n\n{table(explained)}\n\n</details>"
    return [TABLE.sub(lambda _: listed, MARKER.sub(_link, text)) for text in texts]


@cache
def _by_form() -> dict[str, Term]:
    return {_plain(form): term for term in terms().values() for form in (term.name, *term.forms)}


def _plain(form: str) -> str:
    return re.sub(r"[\s\-\u2011]+", " ", form.strip()).lower()


def _alphabetically(term: Term) -> tuple[str, str]:
    return term.name.lower(), term.name


def _link(marker: re.Match[str]) -> str:
    """What a marker becomes: the word, linked to the table, with its definition as the tip that a pointer shows."""
    tip = escape(find(marker[1]).meaning, quote=True)
    for character in "|`$*_\\":  # which Markdown or a table around it would read
        tip = tip.replace(character, f"&#{ord(character)};")
    # In italics, as books set a word that they explain; by colour alone not everybody would see the link.
    return f'*[{(marker[2] or marker[1]).strip()}](#{HEADING.replace(" ", "-")} "{tip}")*'


def _in_cell(text: str) -> str:
    return escape(text, quote=False).replace("|", "&#124;").replace("$", "&#36;")
