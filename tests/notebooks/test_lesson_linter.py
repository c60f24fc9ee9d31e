"""The linter of lessons: each rule on small notebooks that break it and that keep it, and figures for the real ones."""

import json

import pytest

from course_utils import cli, glossary, lessons
from course_utils.errors import CourseError
from course_utils.publishing import lesson_linter
from course_utils.publishing.lesson_linter import lint_notebook, words_of

PICTURE = {"text/html": '<img src="data:," alt="A line that falls.">', "text/plain": "Figure"}


def text(source):
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def code(source, *outputs, **metadata):
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "metadata": metadata}


def printed(words):
    return {"output_type": "stream", "name": "stdout", "text": words}


def shown(data):
    return {"output_type": "execute_result", "data": {"text/plain": data} if isinstance(data, str) else data}


def report(*cells, source=""):
    return lint_notebook("00_made_up", {"cells": list(cells)}, source)


def found(rule, *cells, source=""):
    """Places of a rule, as (cell, line)."""
    return [(place.cell, place.line) for place in report(*cells, source=source).places if place.rule == rule]


def test_words_are_prose_alone():
    assert words_of("Two words.") == ["Two", "words"]
    assert words_of("It's a well-known model, 3 % **bold**") == ["It's", "a", "well-known", "model", "bold"]
    for none in (
        "| a table | row |\n| --- | --- |",
        "```python\ncode = here\n```",
        "~~~\ncode\n~~~",
        "$a + b$",
        "$$\nloss = x\n$$",
        '<div class="x">',
        "<!-- a comment\nof two lines -->",
        "[](https://example.org/some/words)",
        "<https://example.org/words>",
        "12 345 6.7",
    ):
        assert words_of(none) == [], none
    assert words_of('[raw scores](#Words "The scores (of 2), before") end') == ["raw", "scores", "end"]
    assert words_of("<b>bold</b> and $x$ here") == ["bold", "and", "here"]


def test_words_per_line_of_code():
    made = report(text("one two three four five six"), code("a = 1\n\nb = 2\n"), text("seven eight"))
    assert (made.words, made.code_lines, made.words_per_line) == (8, 2, 4.0)
    assert report(text("one")).words_per_line == float("inf")


def test_exercises_checks_and_the_install_cell_are_not_the_lessons_code():
    long = "assert " + 120 * "x"
    others = (code(long, nbgrader={"solution": True}), code(long, printed("7"), tags=["install"]))
    made = report(*others, text("# end"))
    assert (made.code_lines, made.longest_cell, made.places) == (0, 0, ())
    assert len(report(code(long, tags=["dpo"])).places) == 2


def test_long_lines():
    assert found("long lines", code("a = 1\n" + 101 * "x" + "\n" + 100 * "y")) == [(0, 2)]


def test_long_cells():
    cell = "\n\n".join(f"x = {number}" for number in range(16))
    made = report(text("t"), code(cell))
    assert made.longest_cell == 16 and [(p.rule, p.cell, p.text) for p in made.places] == [("long cells", 1, "16 lines")]
    assert found("long cells", code("\n\n".join(15 * ["x"]))) == []


@pytest.mark.parametrize(
    "value",
    [
        "Claim(id='L1', text='…')",
        "rate was Settings(learning_rate=0.1) today",
        "<course_utils.Thing object at 0x7f3a>",
        "<function f at 0x7f3a>",
        "{'valid': 0.91, 'exact': 0.5}",
        "{1: 0.5}",
        "[0.1, 0.25, 1.5e-05]",
        "(0.1, -0.2, 0.3)",
        "tensor([1, 2])",
        "np.float64(0.5)",
    ],
)
def test_raw_reprs(value):
    assert found("raw reprs", code("x", shown(value))) == [(0, 0)]
    assert found("raw reprs", code("x", printed(f"first\n{value}\n"))) == [(0, 0)]
    assert found("raw reprs", code("x", shown({"text/html": "<b>1</b>", "text/plain": value}))) == []


@pytest.mark.parametrize(
    "value",
    ["91.0 % [86.2, 94.4]", '{"topic": "product", "price": 1.5}', "a = 1 (b = 2)", "Adam (2014)", "[0.5, 1.5]", "f(x)"],
)
def test_what_is_no_repr(value):
    assert found("raw reprs", code("x", shown(value)), code("x", printed(value))) == []


def test_formulas_printed_lines_and_figures():
    made = report(
        text("$a$ and $$b$$, `$c$` for $5 or $6"),
        code("x", printed("one\n\ntwo\n"), shown(PICTURE), {"output_type": "stream", "name": "stderr", "text": "no"}),
        code("x", {"output_type": "display_data", "data": {"text/html": ["<svg>", "</svg>"]}}, nbgrader={}),
        text("![a drawing](a.png) [![Open in Colab](https://colab.research.google.com/x.svg)](https://c)"),
    )
    assert (made.formulas, made.printed_lines, made.figures) == (2, 2, 3)


def test_undefined_terms_are_looked_for_in_the_source():
    source = "# %% [markdown]\n# A title\n#\n# The logits.\n"
    assert found("undefined terms", source=source) == [(0, 4)]
    assert found("undefined terms", source=source.replace("logits", "{{term:logits}}")) == []


@pytest.mark.parametrize("output", [printed("7"), shown("7"), shown(PICTURE), shown({"text/html": "<table></table>"})])
def test_an_experiment_needs_a_sentence(output):
    experiment, bare = code("x = 1\nx", output), [(0, 0)]
    assert found("bare experiments", experiment, text("It is seven.")) == []
    assert found("bare experiments", experiment, code("y"), text("It is seven.")) == bare
    assert found("bare experiments", experiment, text("## 2 · Next\n\nNow this.")) == bare
    assert found("bare experiments", experiment, text("| a | b |"), text("It is seven.")) == []
    assert found("bare experiments", experiment, text("| a | b |"), code("y")) == bare
    assert found("bare experiments", experiment) == []  # the end of the notebook


def test_what_shows_nothing_is_no_experiment():
    quiet = ({"output_type": "display_data", "data": {"text/html": "<progress value=1>"}}, printed("\n"))
    assert found("bare experiments", code("x", *quiet), code("y")) == []
    assert found("bare experiments", code("x", printed("7"), nbgrader={}), code("y")) == []


def test_scaffolding_in_sight():
    source = "import a  # noqa: F401\nx = {}  # fmt: skip\nassert x == 1\ny = 1  # type: ignore[x]\nif x: assert y\n"
    assert [place for _, place in found("scaffolding", code(source))] == [1, 2, 3, 4, 5]
    assert found("scaffolding", code('"""\nassert this\n# noqa\n"""\nasserted = 1  # a note on fmt')) == []
    assert found("scaffolding", code("%time f(\nassert x\n# noqa")) == [(0, 2), (0, 3)]  # cannot be read as Python


def test_long_alternative_texts():
    def picture(alt):
        return code("x", shown({"text/html": f'<img src="x" alt="{alt}">'}))

    assert found("long alts", picture(300 * "a"), picture(301 * "a")) == [(1, 0)]
    assert found("long alts", picture(100 * "&quot;")) == []  # 100 characters, however they are written
    assert found("long alts", text(f"![{301 * 'a'}](x.png)")) == [(0, 0)]


def test_limits():
    fine = report(text("one two three four five six seven"), code("a = 1", printed("1")), text("eight"))
    assert fine.broken() == []
    assert report(text("one two three four five six"), code("a = 1")).broken() == ["6.0 words per line of code, at least 7"]
    for rule in lesson_linter.LIMITS:
        place = lesson_linter.Place(rule, 0, 0, "")
        made = lesson_linter.Report("x", 70, 10, 1, 0, 0, 0, (place,))
        assert made.broken() == [f"1 {rule}, at most 0"]
    assert lesson_linter.Report("x", 70, 10, 1, 0, 0, 0, (lesson_linter.Place("long alts", 0, 0, ""),)).broken() == []


@pytest.mark.parametrize("section", lessons.LESSONS)
def test_figures_of_the_real_lessons_are_sane(section):
    made = lesson_linter.lint(section)
    assert made.name.startswith(section)
    assert 2 < made.words_per_line < 40 and 100 < made.code_lines < 1000
    assert 3 <= made.figures < 60 and made.longest_cell < 80
    notebook = json.loads(lessons.learner_file(made.name).read_text(encoding="utf-8"))
    source = lessons.source_file(made.name).read_text(encoding="utf-8").splitlines()
    for place in made.places:
        if place.rule == "undefined terms":
            assert place.text in glossary.terms() and source[place.line - 1].startswith("#")
        else:
            cell = notebook["cells"][place.cell]
            assert place.line <= len("".join(cell["source"]).splitlines())


def test_the_command(capsys, monkeypatch):
    assert cli.main(["lint-lessons"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(lessons.NAMES)
    assert cli.main(["lint-lessons", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told[0]["name"] == "02_lora" and told[0]["words_per_line"] > 2 and set(told[0]["counts"]) > {"raw reprs"}
    poor = report(text("one two"), code("assert 1", printed("7")), code("x"))
    monkeypatch.setattr(lesson_linter, "lint", lambda lesson: poor)
    assert cli.main(["lint-lessons", "02"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert cli.main(["lint-lessons", "--strict", "02"]) == 1
    assert "limit broken: 1.0 words per line of code, at least 7" in capsys.readouterr().out
    assert cli.main(["lint-lessons", "--strict", "--json", "02"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["broken"]
    cli.main(["lint-lessons", "--where", "02"])
    assert "  scaffolding: cell 1, line 1: assert 1\n" in capsys.readouterr().out
    monkeypatch.setattr(lesson_linter, "lint", lambda lesson: report(text("8 words: " + 8 * "word "), code("x")))
    assert cli.main(["lint-lessons", "--strict", "02"]) == 0


def test_a_lesson_that_is_not_built_or_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(lesson_linter, "learner_file", lambda name: tmp_path / f"{name}.ipynb")
    with pytest.raises(CourseError, match=r"run `course build 02_lora`"):
        lesson_linter.lint("02")
    with pytest.raises(CourseError, match="unknown lesson"):
        lesson_linter.lint("09")
