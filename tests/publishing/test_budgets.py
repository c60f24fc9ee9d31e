"""What a lesson asks of its reader: a made-up lesson with known counts, and the program."""

import pytest

from benchmarks import budgets


def text(source):
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def code(source, **metadata):
    return {"cell_type": "code", "source": source, "metadata": metadata}


LESSON = [
    text("# A title of five words\n\nTwo lines, and 3 % of a\nnumber."),
    text("<details><summary>A fold</summary>\n\nhas seven words in all.\n\n| a | table |\n\n</details>\n\nMore."),
    code("import numpy as np"),
    code('lesson.table()\nlesson_05.draw(lesson.rows(), evidence.lesson_05.rows())\nevidence.card("P3")\nmy_lesson.call()'),
    code("# EXERCISE: x\nlesson.not_counted()", nbgrader={"solution": True}),
    code('check("x")', nbgrader={"solution": False}),
]


def test_a_made_up_lesson():
    assert budgets.count_cells(LESSON) == {
        "open words": 5 + 7 + 1,
        "folded words": 7,
        "code cells": 4,
        "lesson's own helpers": 4,
        "claim cards": 1,
        "exercises": 1,
    }


@pytest.mark.parametrize(
    "none",
    [
        "| a table | row |\n| --- | --- |",
        "```python\ncode = here\n```",
        "~~~\ncode\n~~~",
        "$a + b$",
        "$$\nloss = x\n$$",
        '<div class="x">',
        "<!-- a comment\nof two lines -->",
        "[](https://example.org/some/words)",
        "<https://example.org/words>",
        "- · %",
    ],
)
def test_what_is_no_word(none):
    assert budgets.count_words(none) == 0
    assert budgets.count_words(f"Before\n\n{none}\n\nand 1 after.") == 4


def test_the_text_of_a_link_counts_and_its_tip_does_not():
    assert budgets.count_words('[raw scores](#Words "The scores (of 2), before") end') == 3


def test_it_fails_only_if_it_is_strict_and_a_lesson_is_over(monkeypatch, capsys):
    counts = dict(budgets.BUDGETS)
    monkeypatch.setattr(budgets, "count_cells", lambda cells: counts)
    assert budgets.main(["--strict", "2"]) == 0
    counts["exercises"] += 1
    assert budgets.main(["02"]) == 0
    assert budgets.main(["--strict", "02"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert (
        shown[-2].startswith("02_lora") and shown[-2].endswith(f"{counts['exercises']}*") and shown[-1].startswith("at most")
    )
