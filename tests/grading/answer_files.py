"""Reads `corpus/`: what students handed in, one text file each, in folders by exercise.

A file is what jupytext's percent format makes of the cells that a student changed or added, below a few lines about it:

    # exercises: frame-4             those answered
    # unusual: what is special about it
    # refused: words                 if grading cannot accept it, words of the message that says why and what to do
    # stored: crlf                   how the file was stored; see `honest_notebooks.stored`
    # package: seaborn               one that the student's machine has
    # lesson: class LoRALinear       the cells of the lesson with these texts have been run; others have not

    # %%
    the source of a cell that stands where the first exercise's answer cell stood

A `# %%` line may say more of its cell: `at` and a place ("imports": after the lesson's first cell of imports; "end"; or an
exercise's id), and one of these words:

    [markdown]     it is text, each line behind "# "
    check          it is the exercise's check cell; with other source if any follows
    stub           it is the lesson's answer cell as it was
    fails          it ended in an error
    interrupted    the student stopped it; it is not run for the check
    given          it is not in the notebook: cells of the lesson that are not run for the check define this
    crlf           its lines end as on Windows

Files in `corpus/bad` say what must become of the answer: `outcomes` and `points` that are in order, and `says`, a pattern
for the message. Where a line above the cells lists several things, " | " stands between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

CORPUS = Path(__file__).with_name("corpus")
WORDS = {"[markdown]", "check", "stub", "fails", "interrupted", "given", "crlf"}


class Cell(NamedTuple):
    """A cell; `word` is one of `WORDS` or empty, `at` is empty for where the first exercise's answer cell stood."""

    word: str
    at: str
    source: str

    @property
    def is_code(self) -> bool:
        """Whether it is code that was run."""
        return self.word in ("", "fails", "crlf")


class AnswerFile(NamedTuple):
    """What one student handed in; `about` has the lines above the first cell."""

    name: str
    about: dict[str, str]
    cells: tuple[Cell, ...]

    def several(self, key: str) -> list[str]:
        """What a line above the cells lists."""
        return self.about[key].split(" | ") if key in self.about else []

    @property
    def ids(self) -> list[str]:
        """The exercises answered."""
        return self.several("exercises")


def read(folder: str) -> list[AnswerFile]:
    """The files of a folder of the corpus, by exercise and name."""
    return [_parsed(file) for file in sorted((CORPUS / folder).glob("**/*.py.txt"))]


def _parsed(file: Path) -> AnswerFile:
    head, *parts = ("\n" + file.read_text(encoding="utf-8")).split("\n# %%")
    about = dict(line.removeprefix("# ").split(": ", 1) for line in head.strip().splitlines())
    cells = []
    for part in parts:
        line, _, source = part.partition("\n")
        words, _, at = line.partition(" at ")
        word, source = words.strip(), source.strip("\n")
        assert not word or word in WORDS, f"{file}: a cell cannot be {word!r}"
        if word == "[markdown]":
            source = "\n".join(text.removeprefix("#").removeprefix(" ") for text in source.splitlines())
        if word == "crlf":
            source = source.replace("\n", "\r\n")
        cells.append(Cell(word, at.strip(), source))
    return AnswerFile(file.name.removesuffix(".py.txt"), about, tuple(cells))
