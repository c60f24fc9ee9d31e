"""The words of the field, each in one sentence, and whether a lesson explains the ones that it uses.

Who has called a language model's API but never trained one can read every definition. The words are in `glossary.jsonl`
beside this file. In a lesson's source, `{{term:logits}}` or `{{term:logits|raw scores}}` marks the place where a word is
explained, and `{{words}}` on a line of its own becomes the table of all words marked in that lesson; the builder writes both
out (`publishing/builder.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from course_utils.errors import CourseError

FILE = Path(__file__).with_name("glossary.jsonl")
HEADING = "Words of this lesson"
MARKER = re.compile(r"\{\{term:([^{}|]+)(?:\|([^{}]+))?\}\}")
TABLE = re.compile(r"^\{\{words\}\}[ \t]*$", re.MULTILINE)
ASSUMES = re.compile(r"<!--\s*assumes:(.*?)-->", re.DOTALL)


@dataclass(frozen=True)
class Term:
    """One word of the field.

    Attributes:
        name: as the table lists it: "log-probability".
        meaning: one sentence.
        lesson: two digits of the lesson where it is first explained.
        forms: how else it is written: plurals, abbreviations, other spellings. A hyphen stands for a space too.
        everyday: those of name and forms that people also use in another sense, such as "step"; `find` knows them, and
            `used_before_explained` does not look for them.
        unless: phrases in which a form is not this term, such as "return policy".
        see: names of related terms.
    """

    name: str
    meaning: str
    lesson: str
    forms: tuple[str, ...] = ()
    everyday: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    see: tuple[str, ...] = ()

    @property
    def synonyms(self) -> tuple[str, ...]:
        """Its other names, which somebody may search for: forms that are more than a plural or another spelling."""
        begin = self.name[:4].lower()
        return tuple(form for form in self.forms if form not in self.everyday and form[:4].lower() != begin)


class Words(list[Term]):
    """Terms as a table of two columns: HTML in a notebook, lines of text elsewhere."""

    def markdown(self) -> str:
        """Return the table in Markdown, without a heading."""
        rows = (f"| **{_in_cell(term.name)}** | {_in_cell(term.meaning)} |" for term in self)
        return "\n".join(("| word | what it means |", "| :-- | :-- |", *rows))

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:left">'  # Jupyter's own style would align it to the right
        head = "".join(f'<th scope="col" style="text-align:left">{title}</th>' for title in ("Word", "What it means"))
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{escape(t.name)}</th>{cell}{escape(t.meaning)}</td></tr>'
            for t in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        return "\n".join(f"{term.name}: {term.meaning}" for term in self)


class Use(NamedTuple):
    """A word that a reader meets before it is explained.

    Attributes:
        term: its name in the glossary.
        cell: number of the cell in the source, counted from 0 as the builder counts.
        line: line of the source file, counted from 1.
    """

    term: str
    cell: int
    line: int


@cache
def terms() -> dict[str, Term]:
    """Return all terms by name, in alphabetical order."""
    collected = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        lists = {field: tuple(row.get(field, ())) for field in ("forms", "everyday", "unless", "see")}
        collected.append(Term(row["name"], row["meaning"], row["lesson"], **lists))
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
        raise CourseError(
            f"the glossary has no term {name.strip()!r}; {hint}add a line to course_utils/{FILE.name}"
        ) from None


def define(name: str) -> str:
    """Return what a term means, in one sentence; `name` may be any of its forms.

    Raises:
        CourseError: the glossary has no such term.
    """
    return find(name).meaning


def words(names: Iterable[str] | None = None) -> Words:
    """Return terms as a table in alphabetical order, each once.

    Args:
        names: names of the terms, in any of their forms; None for all terms.

    Raises:
        CourseError: the glossary has no such term.
    """
    chosen = set(terms().values()) if names is None else {find(name) for name in names}
    return Words(term for term in terms().values() if term in chosen)


def marked(texts: Iterable[str]) -> list[Term]:
    """Return the terms that Markdown texts mark as explained, in order, each once.

    Raises:
        CourseError: the glossary has no such term.
    """
    return list({find(match[1]): None for text in texts for match in MARKER.finditer(text)})


def write_out(texts: Iterable[str]) -> list[str]:
    """A lesson's Markdown cells with the markers and the table of words written out; without markers they stay as they are.

    Raises:
        CourseError: an unknown term, a marker in a heading (headings are read by programs), markers without `{{words}}` to
            which their links lead, or `{{words}}` without markers.
    """
    texts = list(texts)
    explained = marked(texts)
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
    table = words(term.name for term in explained).markdown()
    listed = f"## {HEADING}\n\n<details>\n<summary>{_count(explained)}</summary>\n\n{table}"
    return [TABLE.sub(lambda _: f"{listed}\n\n</details>", MARKER.sub(_link, text)) for text in texts]


def used_before_explained(source: str, explained_elsewhere: Iterable[str] = ()) -> list[Use]:
    """Terms in a lesson's prose that stand before their `{{term:…}}` marker or have none, each at its first place.

    Prose is what Markdown cells say in sentences, lists and tables; headings, code, formulas, HTML tags, comments and links
    are passed over. Where one term is part of another ("gradient" in "gradient checkpointing"), the longer one counts.

    Args:
        source: text of the lesson's source, in jupytext's percent format. A Markdown comment `<!-- assumes: token, JSON -->`
            names terms that a reader is expected to bring along.
        explained_elsewhere: terms to pass over as well. That an earlier lesson explains them is no reason: people open the
            lesson they need.

    Raises:
        CourseError: a marker, a comment or `explained_elsewhere` names a term that the glossary does not have.
    """
    cells = list(_markdown_cells(source))
    assumed = [
        name for cell in cells for match in ASSUMES.finditer(cell.text) for name in match[1].split(",") if name.strip()
    ]
    explained = {find(name) for name in (*explained_elsewhere, *assumed)}
    uses: list[Use] = []
    for cell in cells:
        met = [(match.start(), find(match[1]), True) for match in MARKER.finditer(cell.text)]
        met += [(place, term, False) for place, term in _uses(prose(cell.text))]
        for place, term, explains in sorted(met, key=lambda entry: entry[0]):
            if term not in explained and not explains:
                uses.append(Use(term.name, cell.number, cell.line + cell.text.count("\n", 0, place)))
            explained.add(term)
    return uses


# What a reader does not read as a sentence, in the order in which it is taken out: each may contain what follows.
_NO_PROSE = re.compile(
    r"(?P<fence>^(?P<ticks>```+|~~~+).*?(?:^(?P=ticks)|\Z))|(?P<comment><!--.*?-->)|(?P<marker>\{\{.*?\}\})"
    r"|(?P<code>(?P<tick>`+)(?!`).*?(?<!`)(?P=tick)(?!`))|(?P<formula>\$\$.*?\$\$|(?<![\\\w$])\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d))"
    r"|(?P<link>!?\[[^\[\]]*\]\((?:[^()\"]|\"[^\"]*\"|\([^()\"]*\))*\))"
    r"|(?P<address><?https?://\S+)|(?P<tag></?[a-zA-Z][^<>]*>)|(?P<heading>^\#{1,6} .*?$)",
    re.DOTALL | re.MULTILINE,
)


def prose(text: str) -> str:
    """Blank out everything in Markdown that is not prose, at the same length, so that places in the text stay true.

    Headings, code, formulas, comments, markers, links with their texts, addresses and HTML tags go; tables and lists stay.
    """
    return _NO_PROSE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


class _Cell(NamedTuple):
    number: int
    line: int
    text: str


def _markdown_cells(source: str) -> Iterator[_Cell]:
    """Markdown cells of a source in percent format: number from 0, line on which the text begins, text without `# `."""
    lines = source.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("# %%")]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(lines)])):
        if "[markdown]" in lines[start]:
            yield _Cell(number, start + 2, "\n".join(re.sub(r"^# ?", "", line) for line in lines[start + 1 : end]))


def _uses(text: str) -> Iterator[tuple[int, Term]]:
    """Where the glossary's terms stand in prose, in order; everyday words and phrases of another sense left out."""
    for match in _pattern().finditer(text):
        term = _looked_for().get(_spaced(match[0])) or _looked_for().get(_plain(match[0]))
        if term is not None:
            yield match.start(), term


@cache
def _looked_for() -> dict[str, Term | None]:
    """Form → its term, or None for a phrase in which it is no term; forms with capitals keep them."""
    term_of_form: dict[str, Term | None] = {}
    for term in terms().values():
        term_of_form |= {_spaced(form): term for form in (term.name, *term.forms) if form not in term.everyday}
        term_of_form |= {_spaced(phrase): None for phrase in term.unless}
    return term_of_form


@cache
def _pattern() -> re.Pattern[str]:
    """The forms looked for, longest first; lower-case ones in any capitals, a space or hyphen as either or as a new line."""
    longest_first = sorted(_looked_for(), key=len, reverse=True)
    parts = (
        ("(?i:{})" if form.islower() else "{}").format(re.escape(form).replace(r"\ ", r"[\s\-\u2011]+"))
        for form in longest_first
    )
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")


@cache
def _by_form() -> dict[str, Term]:
    return {_plain(form): term for term in terms().values() for form in (term.name, *term.forms)}


def _spaced(form: str) -> str:
    return re.sub(r"[\s\-\u2011]+", " ", form.strip())


def _plain(form: str) -> str:
    return _spaced(form).lower()


def _alphabetically(term: Term) -> tuple[str, str]:
    return term.name.lower(), term.name


def _link(marker: re.Match[str]) -> str:
    """What a marker becomes: the word, linked to the table, with its definition as the tip that a pointer shows."""
    tip = escape(define(marker[1]), quote=True)
    for character in "|`$*_\\":  # which Markdown or a table around it would read
        tip = tip.replace(character, f"&#{ord(character)};")
    # In italics, as books set a word that they explain; by colour alone not everybody would see the link.
    return f'*[{(marker[2] or marker[1]).strip()}](#{HEADING.replace(" ", "-")} "{tip}")*'


def _in_cell(text: str) -> str:
    return escape(text, quote=False).replace("|", "&#124;").replace("$", "&#36;")


def _count(explained: list[Term]) -> str:
    if len(explained) == 1:
        return "One word, in a sentence"
    return f"{len(explained)} words, each in a sentence"
