"""Counts in a lesson what a reader notices: words beside code, long lines, raw reprs, terms nobody explained.

It reads the learner's notebook as it is stored, with its outputs, and for undefined terms the lesson's source. It informs;
`LIMITS` are what a lesson keeps to that has been written for reading (`course lint-lessons --strict NN`).
"""

from __future__ import annotations

import html
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course_utils import glossary
from course_utils.errors import CourseError
from course_utils.lessons import find, learner_file, source_file

LINE, CELL, ALT = 100, 15, 300  # characters of a line of code, non-blank lines of a cell, characters of an alt text
WORDS = 7.0  # of prose, at least, for each line of code

# Rule → the most that a lesson may have. Words per line of code, where less is worse, are `WORDS`.
LIMITS = {
    "long lines": 0,
    "long cells": 0,
    "raw reprs": 0,
    "undefined terms": 0,
    "bare experiments": 0,
    "scaffolding": 0,
}


@dataclass(frozen=True)
class Place:
    """Something that a rule found.

    Attributes:
        rule: "long lines", "long cells", "raw reprs", "undefined terms", "bare experiments", "scaffolding" or "long alts".
        cell: number of the cell, counted from 0: in the notebook, for undefined terms in the source.
        line: line within the cell, for undefined terms of the source, counted from 1; 0 where the whole cell is meant.
        text: what is there, shortened.
    """

    rule: str
    cell: int
    line: int
    text: str

    def __str__(self) -> str:
        where = f"cell {self.cell}" + (f", line {self.line}" if self.line else "")
        if self.rule == "undefined terms":
            where = f"line {self.line} of the source"
        return f"{self.rule}: {where}: {self.text}"


@dataclass(frozen=True)
class Report:
    """What was counted in one notebook.

    Exercises with their checks and the cell that installs the course are no lesson's code and are not counted in it.

    Attributes:
        name: of the lesson: "02_lora".
        words: of prose, without tables, formulas, code, HTML tags and addresses of links.
        code_lines: lines of code that are not blank.
        longest_cell: its lines that are not blank.
        formulas: set off ($$) and in the text ($).
        printed_lines: on stdout, blank ones left out.
        figures: pictures in outputs and in the text.
        places: what the rules found, in the order of the notebook.
    """

    name: str
    words: int
    code_lines: int
    longest_cell: int
    formulas: int
    printed_lines: int
    figures: int
    places: tuple[Place, ...]

    @property
    def words_per_line(self) -> float:
        """Words of prose for each line of code; infinite without code."""
        return self.words / self.code_lines if self.code_lines else float("inf")

    def count(self, rule: str) -> int:
        """How often a rule found something."""
        return sum(place.rule == rule for place in self.places)

    def broken(self) -> list[str]:
        """The limits of a lesson written for reading that this one does not keep, one sentence each."""
        sentences = [
            f"{self.count(rule)} {rule}, at most {most}" for rule, most in LIMITS.items() if self.count(rule) > most
        ]
        if self.words_per_line < WORDS:
            sentences.insert(0, f"{self.words_per_line:.1f} words per line of code, at least {WORDS:g}")
        return sentences

    def as_dict(self) -> dict[str, Any]:
        """For programs: the attributes, and how often each rule found something."""
        counts = {rule: self.count(rule) for rule in (*LIMITS, "long alts")}
        ratio = round(self.words_per_line, 2) if self.code_lines else None
        return asdict(self) | {"words_per_line": ratio, "counts": counts, "broken": self.broken()}

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.words_per_line:.1f} words per line of code ({self.code_lines} lines, "
            f"{self.count('long lines')} over {LINE} characters; longest cell {self.longest_cell}), "
            f"{self.formulas} formulas, {self.figures} figures, {self.printed_lines} printed lines, "
            f"{self.count('raw reprs')} raw reprs, {self.count('undefined terms')} undefined terms, "
            f"{self.count('bare experiments')} experiments without a sentence, "
            f"{self.count('scaffolding')} assert/noqa/fmt, {self.count('long alts')} alt texts over {ALT}"
        )


def lint(section: str) -> Report:
    """Count in a stored lesson, given as "02", "2" or "02_lora".

    Raises:
        CourseError: there is no such lesson or it has not been built.
    """
    name = find(section).name
    return lint_notebook(name, _read(learner_file(name)), source_file(name).read_text(encoding="utf-8"))


def lint_notebook(name: str, notebook: Mapping[str, Any], source: str = "") -> Report:
    """Count in a notebook, given as what its JSON holds; undefined terms are looked for in `source`."""
    cells: list[Mapping[str, Any]] = list(notebook["cells"])
    texts = [_text(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    taught = [(number, cell) for number, cell in enumerate(cells) if _is_taught(cell)]
    code = [_lines(_text(cell["source"])) for _, cell in taught]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    places = [place for number, cell in taught for place in _in_code(number, _text(cell["source"]))]
    places += [place for number, cell in enumerate(cells) for place in _in_outputs(number, cell)]
    places += _bare_experiments(cells)
    places += _long_alts_of_text(cells)
    places += [Place("undefined terms", use.cell, use.line, use.term) for use in glossary.used_before_explained(source)]
    return Report(
        name=name,
        words=sum(len(words_of(text)) for text in texts),
        code_lines=sum(map(len, code)),
        longest_cell=max(map(len, code), default=0),
        formulas=sum(len(_FORMULA.findall(_without_code(text))) for text in texts),
        printed_lines=sum(len(_lines(_printed(output))) for output in outputs),
        figures=sum(len(_PICTURE.findall(_html(output))) for output in outputs)
        + sum(len(_MARKDOWN_PICTURE.findall(_without_code(text))) for text in texts),
        places=tuple(sorted(places, key=lambda place: (place.rule == "undefined terms", place.cell, place.line))),
    )


# --- Markdown

_FENCE = re.compile(r"^(```+|~~~+).*?(?:^\1|\Z)", re.DOTALL | re.MULTILINE)
_FORMULA = re.compile(r"\$\$.+?\$\$|(?<![\\\w$])\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d)", re.DOTALL)
_MARKDOWN_PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https://(?:colab\.research|mybinder))[^)]*\)|<(?:img|svg)\b")
_PICTURE = re.compile(r"<(?:img|svg|canvas)\b")
_TABLE_ROW = re.compile(r"^[ \t]*\|.*$", re.MULTILINE)
_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
_LINK_TARGET = re.compile(r'(!?\[[^\[\]]*\])\((?:[^()"]|"[^"]*"|\([^()"]*\))*\)|<?https?://\S+')
_WORD = re.compile(r"[^\W\d_][\w'’-]*")


def words_of(text: str) -> list[str]:
    """Words of Markdown as a reader counts them: no tables, formulas, code blocks, HTML tags and targets of links."""
    for pattern in (_FENCE, _FORMULA, _TABLE_ROW, _TAG):
        text = pattern.sub(" ", text)
    return _WORD.findall(_LINK_TARGET.sub(r"\1", text))


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", " ", _FENCE.sub(" ", text))


# --- code

_SCAFFOLDING = re.compile(r"#\s*(?:noqa|fmt\s*:|type:\s*ignore|pragma|ruff\s*:)")


def _is_taught(cell: Mapping[str, Any]) -> bool:
    """Whether it is code of the lesson: neither exercise nor check, and not the cell that installs the course."""
    metadata = cell.get("metadata", {})
    return cell["cell_type"] == "code" and "nbgrader" not in metadata and "install" not in metadata.get("tags", [])


def _in_code(number: int, source: str) -> Iterator[Place]:
    if (lines := len(_lines(source))) > CELL:
        yield Place("long cells", number, 0, f"{lines} lines")
    for place, line in enumerate(source.splitlines(), 1):
        if len(line) > LINE:
            yield Place("long lines", number, place, f"{len(line)} characters")
    for place, text in _scaffolding(source):
        yield Place("scaffolding", number, place, text)


def _scaffolding(source: str) -> Iterator[tuple[int, str]]:
    """Assertions and comments for tools, each with its line; neither words in strings nor in other comments."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):  # a magic, or half a statement
        for place, line in enumerate(source.splitlines(), 1):
            if re.match(r"\s*assert\b", line) or _SCAFFOLDING.search(line):
                yield place, _short(line)
        return
    for token in tokens:
        if (token.type == tokenize.NAME and token.string == "assert") or (
            token.type == tokenize.COMMENT and _SCAFFOLDING.search(token.string)
        ):
            yield token.start[0], _short(token.line)


# --- outputs

_REPR = re.compile(
    r"\b[A-Z]\w*\(\w+=(?!=)"  # a dataclass's
    r"|<[\w.]+(?: [\w.]+)* at 0x[0-9a-f]+>"
    r"|\{(?:'[^'\n]*'|\d+): "  # a dict's: JSON has double quotes
    r"|[\[(]-?\d+\.\d+(?:e[-+]?\d+)?(?:, -?\d+\.\d+(?:e[-+]?\d+)?){2,}"  # three floats: two are an interval
    r"|\b(?:tensor|array)\(\[|\bnp\.float\d+\("
)


def _text(value: str | Sequence[str]) -> str:
    """Text of a notebook, which stores it as one string or as lines."""
    return value if isinstance(value, str) else "".join(value)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _html(output: Mapping[str, Any]) -> str:
    return _text(output.get("data", {}).get("text/html", ""))


def _printed(output: Mapping[str, Any]) -> str:
    return _text(output["text"]) if output.get("output_type") == "stream" and output.get("name") == "stdout" else ""


def _plain_result(output: Mapping[str, Any]) -> str:
    """A result that a reader sees as text, because there is nothing better to show."""
    data = output.get("data", {})
    better = ("text/html", "text/markdown", "text/latex", "image/svg+xml", "image/png")
    return "" if any(kind in data for kind in better) else _text(data.get("text/plain", ""))


def _in_outputs(number: int, cell: Mapping[str, Any]) -> Iterator[Place]:
    for output in cell.get("outputs", []):
        for line in (_plain_result(output) + "\n" + _printed(output)).splitlines():
            match = _REPR.search(line)
            if match:
                yield Place("raw reprs", number, 0, _short(line[match.start() :]))
        for alt in re.findall(r'\balt="([^"]*)"', _html(output)):
            yield from _long_alt(number, html.unescape(alt))


def _long_alts_of_text(cells: Sequence[Mapping[str, Any]]) -> Iterator[Place]:
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            for match in _MARKDOWN_PICTURE.finditer(_without_code(_text(cell["source"]))):
                yield from _long_alt(number, match[1] or "")


def _long_alt(number: int, alt: str) -> Iterator[Place]:
    if len(alt) > ALT:
        yield Place("long alts", number, 0, f"{len(alt)} characters: {_short(alt)}")


def _shows_something(cell: Mapping[str, Any]) -> bool:
    """Whether a cell has a figure, a table, or a printed or plain result, which a reader wants explained."""
    return any(
        _PICTURE.search(_html(output))
        or "<table" in _html(output)
        or _printed(output).strip()
        or _plain_result(output).strip()
        for output in cell.get("outputs", [])
    )


def _bare_experiments(cells: Sequence[Mapping[str, Any]]) -> Iterator[Place]:
    """Cells that show something and are followed by code or by a heading before anybody has said what it means."""
    for number, cell in enumerate(cells):
        if not _is_taught(cell) or not _shows_something(cell):
            continue
        for follower in cells[number + 1 :]:
            text = _text(follower["source"]).strip()
            if follower["cell_type"] == "markdown" and text and not text.startswith("#"):
                if words_of(text):
                    break
            elif text:
                yield Place("bare experiments", number, 0, _short(_text(cell["source"]).strip().splitlines()[0]))
                break


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 70 else text[:69] + "…"


def _read(file: Path) -> Mapping[str, Any]:
    try:
        notebook: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CourseError(f"there is no {file}; run `course build {file.stem}`") from None
    return notebook
