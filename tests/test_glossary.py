"""The glossary: its definitions, and what a build makes of an author's markers."""

import pytest

from course_utils import assets, glossary, lessons
from course_utils.errors import CourseError
from course_utils.glossary import Term
from course_utils.publishing import builder

TERMS = glossary.terms()
LESSON = """\
# %% [markdown]
# # A lesson
#
# The model gives every token a score, the {{term:logits|raw scores}}. A {{term: Log probability }} is
# what a {{term:softmax}} makes of them.

# %%
print(1)

# %% [markdown]
# {{words}}
"""


def markdown(source):
    return [cell.source for cell in builder.learner_edition("02", source).cells if cell.cell_type == "markdown"]


def test_the_terms_are_told_apart():
    rows = assets.path(glossary.FILE).read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(TERMS) >= 50
    assert list(TERMS) == sorted(TERMS, key=str.lower)
    forms = [form for term in TERMS.values() for form in {glossary._plain(f) for f in (term.name, *term.forms)}]
    assert [form for form in forms if forms.count(form) > 1] == []
    for term in TERMS.values():
        assert term.lesson in lessons.NOTEBOOKS, term.name


def test_a_tip_can_show_every_definition():
    assert [term.name for term in TERMS.values() if set(term.meaning) & set('"$`|_{}<>\n')] == []


def test_a_term_is_found_in_all_its_forms():
    assert glossary.find("Log probabilities").name == "log-probability"
    assert glossary.find("supervised\n fine-tuning") is TERMS["SFT"]
    assert glossary.find("optimiser").meaning == TERMS["optimizer"].meaning
    with pytest.raises(CourseError, match="no term 'logitz'; did you mean 'logits'"):
        glossary.find("logitz")
    with pytest.raises(CourseError, match="no term 'xyzzy'; add a line to data/glossary.jsonl"):
        glossary.find("xyzzy")


def test_a_marker_becomes_the_word_with_its_definition():
    text, words = markdown(LESSON)
    assert f'[raw scores](#Words-of-this-lesson "{TERMS["logits"].meaning}")' in text
    assert f'[Log probability](#Words-of-this-lesson "{TERMS["log-probability"].meaning}")' in text
    assert words.startswith("## Words of this lesson\n\n<details>\n<summary>3 words") and words.endswith("|\n\n</details>")
    rows = [line for line in words.splitlines() if line.startswith("| **")]
    assert [row.split("**")[1] for row in rows] == ["log-probability", "logits", "softmax"]
    assert "{{" not in text + words


def test_what_markdown_would_read_is_escaped(monkeypatch):
    odd = Term("odd", 'Says "it\'s" <b>5 $</b> & more: `a|b`, c_d, *e*.', "01")
    monkeypatch.setattr(glossary, "_by_form", lambda: {"odd": odd})
    monkeypatch.setattr(glossary, "terms", lambda: {"odd": odd})
    text, words = glossary.write_out(["An {{term:odd}} one.", "{{words}}"])
    tip = text.removeprefix('An *[odd](#Words-of-this-lesson "').removesuffix('")* one.')
    assert not set(tip) & set('"<>$`|*_')
    import html

    assert html.unescape(tip) == odd.meaning
    row = next(line for line in words.splitlines() if line.startswith("| **"))
    assert row.count("|") == 3 and "<b>" not in row


def test_a_changed_definition_makes_a_notebook_stale(monkeypatch):
    first = builder.instructor_edition("02", LESSON).metadata["course"]["source_sha256"]
    assert builder.instructor_edition("02", LESSON).metadata["course"]["source_sha256"] == first
    changed = Term("softmax", "Something else.", "02")
    found = glossary._by_form() | {"softmax": changed}
    monkeypatch.setattr(glossary, "_by_form", lambda: found)
    assert builder.instructor_edition("02", LESSON).metadata["course"]["source_sha256"] != first


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (LESSON.replace("softmax", "softmaks"), "02_lora: the glossary has no term 'softmaks'; did you mean 'softmax'"),
        (LESSON.replace("# {{words}}", "# end"), "goes once"),
        (LESSON + "#\n# {{words}}\n", "goes once"),
        ("# %% [markdown]\n# {{words}}\n", "goes once"),
        (LESSON.replace("# # A lesson", "# # A {{term:token}} lesson"), "not in a heading"),
        (LESSON.replace("{{term:softmax}}", "{{term:softmax|}}"), "write a marker as"),
    ],
)
def test_a_build_stops_at_a_marker_that_leads_nowhere(source, message):
    assert source != LESSON
    with pytest.raises(CourseError, match=message):
        builder.instructor_edition("02", source)


def test_a_lesson_without_markers_stays_as_it_is():
    texts = ["# A lesson", "A token, {{badges}} and `{term}`.\n\n| a | b |"]
    assert glossary.write_out(texts) == texts
