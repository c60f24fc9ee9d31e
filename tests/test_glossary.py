"""The glossary: its definitions, what a build makes of an author's markers, and words used before they are explained."""

import json

import pytest

from course_utils import glossary, lessons
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


def before(*cells, **options):
    """What is used before it is explained in a source of these Markdown cells, as names."""
    source = "\n".join("# %% [markdown]\n" + "\n".join(f"# {line}" for line in cell.splitlines()) + "\n" for cell in cells)
    return [use.term for use in glossary.used_before_explained(source, **options)]


def test_the_terms_are_told_apart_and_lead_to_each_other():
    rows = [json.loads(line) for line in glossary.FILE.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(TERMS) >= 50
    assert list(TERMS) == sorted(TERMS, key=str.lower)
    forms = [form for term in TERMS.values() for form in {glossary._plain(f) for f in (term.name, *term.forms)}]
    assert [form for form in forms if forms.count(form) > 1] == []
    for term in TERMS.values():
        assert term.lesson in lessons.LESSONS, term.name
        assert set(term.see) <= set(TERMS) - {term.name}, term.name
        assert set(term.everyday) <= {term.name, *term.forms}, term.name


@pytest.mark.parametrize("term", TERMS.values(), ids=list(TERMS))
def test_a_definition_is_one_plain_sentence(term):
    assert term.meaning[0].isupper() and term.meaning.endswith(".") and term.meaning.count(". ") == 0
    assert 6 <= len(term.meaning.split()) <= 40
    assert not set(term.meaning) & set('"$`|_{}<>\n'), "a tip can't show these"


def test_no_definition_needs_itself():
    """Neither its own word nor, through the words it uses, a circle; and none leans on more than two other terms."""
    needs = {term.name: {other.name for _, other in glossary._uses(glossary.prose(term.meaning))} for term in TERMS.values()}
    assert needs["micro-batch"] == {"parameter"} and needs["QLoRA"] == {"LoRA"}  # they are found

    def chain(name, above=()):
        assert name not in above, [*above, name]
        for other in needs[name]:
            chain(other, (*above, name))

    for name, others in needs.items():
        chain(name)
        assert len(others) <= 2, (name, others)


def test_a_term_is_found_in_all_its_forms():
    assert glossary.find("Log probabilities").name == "log-probability"
    assert glossary.find("supervised\n fine-tuning") is TERMS["SFT"]
    assert glossary.define("optimiser") == TERMS["optimizer"].meaning
    with pytest.raises(CourseError, match="no term 'logitz'; did you mean 'logits'"):
        glossary.define("logitz")
    with pytest.raises(CourseError, match="no term 'xyzzy'; add a line to course_utils/glossary.jsonl"):
        glossary.define("xyzzy")


def test_words_as_tables():
    table = glossary.words(["tokens", "Adam", "token"])
    assert [term.name for term in table] == ["Adam", "token"]
    assert table.markdown().splitlines()[2] == f"| **Adam** | {TERMS['Adam'].meaning} |"
    html = table._repr_html_()
    assert html.count("<tr>") == 3 and "model&#x27;s" in glossary.words(["weight"])._repr_html_()
    assert repr(table).splitlines()[0].startswith("Adam: The most used")
    assert len(glossary.words()) == len(TERMS)
    assert list(glossary.words(TERMS)) == list(TERMS.values())


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


def test_a_word_is_explained_at_its_marker():
    assert before("Logits are scores.") == ["logits"]
    assert before("The {{term:logits}} are scores.", "Each logit is one.") == []
    assert before("Each logit is one.", "The {{term:logits}} are scores.") == ["logits"]
    assert before("These logits, or {{term:logits}}") == ["logits"]
    assert before("By raw scores, the {{term:logits|raw scores}}, we mean logits.") == []


def test_place_of_a_use_is_its_cell_and_its_line_in_the_source():
    source = (
        "# %% [markdown]\n# # Title\n\n# %%\nlogits = 1  # logits\n\n# %% [markdown]\n# One.\n#\n# Two\n# logits, logits.\n"
    )
    assert glossary.used_before_explained(source) == [("logits", 2, 11)]


@pytest.mark.parametrize(
    "text",
    [
        "## The logits",
        "Call `logits(x)` or ``a ` logits``.",
        "```python\nlogits = 1\n```",
        "~~~\nlogits = 1\n~~~",
        "A {{term:softmax|sum of logits}}",
        "$logits + 1$ and $$\nlogits\n$$",
        "[logits and loss](https://example.org/logits) and ![logits](a.png)",
        "https://example.org/logits",
        '<img alt="logits" src="x">',
        "<!-- logits -->",
        "analogits or logitsy",
    ],
)
def test_what_is_no_prose_is_passed_over(text):
    assert before(text) == []
    assert before(text + "\n\nBut logits is.") == ["logits"]


def test_lists_and_tables_are_prose():
    assert before("- the logits") == ["logits"]
    assert before("| setting | why |\n| --- | --- |\n| epochs | 3 |") == ["epoch"]
    assert before("It costs $5 for logits and $6 more.") == ["logits"]


def test_the_longer_term_counts():
    assert before("Gradient checkpointing saves memory.") == ["gradient checkpointing"]
    assert before("The gradient\ncheckpointing saves memory.") == ["gradient checkpointing"]
    assert before("Gradient checkpointing of a gradient.") == ["gradient checkpointing", "gradient"]
    assert (
        before("A log probability.") == before("A log-probability.") == before("A log‑probability.") == ["log-probability"]
    )


def test_capitals_matter_where_the_term_has_some():
    assert before("The Epochs") == ["epoch"]
    assert before("A lora adapter") == ["adapter"]  # the longer form has capitals, and does not hide the shorter
    assert before("Sft and Lora and adam") == [] and before("SFT, LoRA, Adam") == ["SFT", "LoRA", "Adam"]


def test_everyday_words_are_passed_over():
    assert before("Our return policy, step by step, has the advantage of being short, and was chosen.") == []
    assert before("The policy is far from its reference; its advantage is a chosen reply, 40 training steps long.") == [
        "policy", "advantage", "chosen", "step"
    ]  # fmt: skip


def test_assumed_terms_are_passed_over():
    assert before("<!-- assumes: logits,\nJSON -->", "Logits in JSON, by softmax.") == ["softmax"]
    assert before("Logits in JSON.", explained_elsewhere=["logit"]) == ["JSON"]
    for options in ({"explained_elsewhere": ["xyzzy"]}, {}):
        with pytest.raises(CourseError, match="xyzzy"):
            before("<!-- assumes: xyzzy -->" if not options else "Nothing.", **options)


@pytest.mark.parametrize("name", lessons.NAMES)
def test_cells_are_counted_as_the_builders_reader_counts_them(name):
    import jupytext

    source = lessons.source_file(name).read_text(encoding="utf-8")
    ours = {cell.number: cell.text.strip() for cell in glossary._markdown_cells(source)}
    theirs = jupytext.reads(source, fmt="py:percent").cells
    assert ours == {number: cell.source.strip() for number, cell in enumerate(theirs) if cell.cell_type == "markdown"}
    for use in glossary.used_before_explained(source):
        line = source.splitlines()[use.line - 1].lower()
        assert any(glossary._plain(form).split()[0] in glossary._plain(line) for form in (use.term, *TERMS[use.term].forms))
