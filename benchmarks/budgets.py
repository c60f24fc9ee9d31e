"""Counts what each lesson asks of its reader, words, cells and exercises, beside the bounds.

    python benchmarks/budgets.py [02 ...] [--strict]

With --strict it exits with status 1 if a lesson is over one of them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from course_utils.lessons import NOTEBOOKS, find
from course_utils.publishing import builder

# What is counted → the most that a lesson may have.
BUDGETS = {
    "open words": 3800,
    "folded words": 500,
    "code cells": 50,
    "lesson's own helpers": 12,
    "claim cards": 3,
    "exercises": 5,
}

_FENCE = re.compile(r"^(```+|~~~+).*?(?:^\1|\Z)", re.DOTALL | re.MULTILINE)
_FORMULA = re.compile(r"\$\$.+?\$\$|(?<![\\\w$])\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d)", re.DOTALL)
_TABLE_ROW = re.compile(r"^[ \t]*\|.*$", re.MULTILINE)
_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
_LINK_TARGET = re.compile(r'(!?\[[^\[\]]*\])\((?:[^()"]|"[^"]*"|\([^()"]*\))*\)|<?https?://\S+')
_FOLD = re.compile(r"<details\b.*?</details>", re.DOTALL)
_HELPER_CALL = re.compile(r"\b(?:lesson|lesson_\d\d)\.\w+\(")
_CARD = re.compile(r"\bevidence\.card\(")


@dataclass(frozen=True)
class LessonCounts:
    """What one lesson has of each thing that has a budget.

    Attributes:
        name: full name of the lesson: "02_lora".
        counts: the keys of `BUDGETS` → how many.
    """

    name: str
    counts: Mapping[str, int]

    @property
    def over(self) -> list[str]:
        """Return the keys of the budgets that the lesson exceeds."""
        return [what for what, most in BUDGETS.items() if self.counts[what] > most]


def count_lesson(section: str) -> LessonCounts:
    """Count in the source of a lesson, given as "02", "2" or "02_lora", with its exercises in their places.

    Raises:
        CourseError: there is no such lesson, or its source cannot be built.
    """
    name = find(section).name
    return LessonCounts(name, count_cells(builder.learner_edition(name).cells))


def count_words(markdown: str) -> int:
    """Return how many words and numbers Markdown has, without tables, formulas, code blocks, tags and targets of links."""
    for pattern in (_FENCE, _FORMULA, _TABLE_ROW, _TAG):
        markdown = pattern.sub(" ", markdown)
    return sum(any(map(str.isalnum, word)) for word in _LINK_TARGET.sub(r"\1", markdown).split())


def count_cells(cells: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many of each of the keys of `BUDGETS` a notebook's cells have.

    Open words are those of Markdown cells outside folds (`<details>`), folded words those within them; `count_words` says
    what is a word. Calls of helpers and claim cards are those in the lesson's own cells, not in its exercises.
    """
    cells = list(cells)
    prose = [cell["source"] for cell in cells if cell["cell_type"] == "markdown"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    own_code = "\n".join(cell["source"] for cell in code if "nbgrader" not in cell["metadata"])
    return {
        "open words": sum(count_words(_FOLD.sub(" ", text)) for text in prose),
        "folded words": sum(count_words(fold) for text in prose for fold in _FOLD.findall(text)),
        "code cells": len(code),
        "lesson's own helpers": len(_HELPER_CALL.findall(own_code)),
        "claim cards": len(_CARD.findall(own_code)),
        "exercises": sum(cell["metadata"].get("nbgrader", {}).get("solution", False) for cell in code),
    }


def table(lessons: Iterable[LessonCounts]) -> str:
    """Return the counts as lines of text, a lesson a line, with the budgets below; a count over its budget has a star."""
    rows = [("lesson", *BUDGETS)]
    rows += [(one.name, *(f"{one.counts[what]}{'*' if what in one.over else ' '}" for what in BUDGETS)) for one in lessons]
    rows.append(("at most (* over)", *(f"{most} " for most in BUDGETS.values())))
    return "\n".join(name.ljust(22) + "".join(cell.rjust(22) for cell in cells) for name, *cells in rows)


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lessons", nargs="*")
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args(arguments)
    counted = [count_lesson(lesson) for lesson in options.lessons or NOTEBOOKS]
    print(table(counted))
    return int(options.strict and any(lesson.over for lesson in counted))


if __name__ == "__main__":
    sys.exit(main())
