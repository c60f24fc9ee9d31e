"""Predictions, tables, answers and tokens: what they say as text, what their HTML holds, and what they refuse."""

import json
import re
import sys

import pytest

from course_utils import show
from course_utils.errors import CourseError
from course_utils.evaluation import proportion
from course_utils.show.tables import Table
from course_utils.show.widgets import VIEW

NASTY = "<script>alert(1)</script>"


# -- predictions


def test_a_run_without_a_reader_says_what_was_measured_and_nothing_else():
    assert str(show.predict("How many?", unit="answers").reveal(7)) == "Measured: 7 answers."


@pytest.mark.parametrize("said", ["40", "40 %", " 40,0 ", 40])
def test_a_guess_stands_beside_the_measured_value(said):
    guess = show.predict("How many?", unit="answers")
    guess.is_(said)
    assert str(guess.reveal(0)) == "You said 40 answers; measured: 0 answers."


def test_what_is_no_number_is_no_guess():
    guess = show.predict("How many?")
    guess.is_("a lot")
    assert guess.guess is None


def test_a_guess_typed_into_the_field_counts():
    guess = show.predict("How many?", unit="answers")
    guess.controls["guess"].value = "12"
    assert guess.guess == 12
    assert VIEW in guess._repr_mimebundle_()


def test_a_choice():
    guess = show.predict("Which?", choices=["rank", "learning rate"])
    guess.controls["guess"].value = "rank"
    assert str(guess.reveal("learning rate")) == "You said rank; measured: learning rate."
    guess.is_("neither")
    assert guess.guess is None


def test_without_ipywidgets_there_is_a_plain_question(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    guess = show.predict("How many?", unit="answers")
    assert guess.controls == {}
    assert set(guess._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert str(guess) == "Your guess first. How many? (a number of answers)"


# -- tables


def test_values_as_people_write_them():
    table = Table(
        {"ours": {"share": proportion([1] * 76 + [0] * 24), "count": 41_943_040, "loss": 0.0123, "none": None}},
        "",
        "what",
        "",
    )
    assert str(table).splitlines()[1].split("  ")[1:] == ["76 % (67-83)", "41,943,040", "0.01", "–"]


def test_no_header_cell_is_empty_and_every_one_has_its_scope():
    html = Table({"a": {"loss": 1.5}}, "Losses", "model", "")._repr_html_()
    assert "<th></th>" not in html and html.count("<th ") == html.count('scope="')
    assert "<caption" in html and "overflow-x:auto" in html


def test_nothing_of_a_table_is_markup():
    html = Table({NASTY: {NASTY: NASTY}}, NASTY, NASTY, "")._repr_html_()
    assert NASTY not in html and "&lt;script&gt;" in html


# -- answers


RIGHT = {"category": "refund", "order_id": None}


def test_fields_are_marked_right_and_wrong():
    cards = show.answers(["Money back!"], {"after": [json.dumps({"category": "refund", "order_id": "1"})]}, [RIGHT])
    assert cards.fields("after", 0) == [("category", "refund", True), ("order_id", "1", False)]
    assert "(wrong: order_id)" in str(cards)
    html = cards._repr_html_()
    assert "✓ category" in html and "✗ order_id" in html  # not by colour alone


@pytest.mark.parametrize("text", ["Dear customer", "[1]", '"text"', "{" * 5000])
def test_what_is_no_record_is_said_to_be_none(text):
    cards = show.answers(["Money back!"], {"before": [text]}, [RIGHT])
    assert cards.fields("before", 0) is None
    assert "not a record" in cards._repr_html_()


def test_nothing_of_an_answer_is_markup():
    assert NASTY not in show.answers([NASTY], {NASTY: [NASTY]})._repr_html_()


def test_lists_of_different_length_are_refused():
    with pytest.raises(CourseError, match="after: 2 answers to 1 messages"):
        show.answers(["a"], {"after": ["x", "y"]})


# -- tokens


class Letters:
    def decode(self, ids):
        return chr(ids[0])


def test_tokens_with_loss_are_told_apart_by_more_than_colour():
    shown = show.conversation(Letters(), [ord(c) for c in "ab\n c"], [-100, ord("b"), -100, -100, ord("c")])
    assert shown.scored == [False, True, False, False, True]
    assert shown.tokens[2:4] == ["⏎", "␣"]
    assert "font-weight:600" in shown._repr_html_() and "no loss (3 tokens)" in shown._repr_html_()
    assert str(shown).startswith("a[b]")


def test_ids_and_labels_of_different_length_are_refused():
    with pytest.raises(CourseError, match="2 token ids and 1 labels"):
        show.conversation(Letters(), [97, 98], [97])


def test_folder_sizes(tmp_path):
    (tmp_path / "small").write_bytes(b"x" * 10_000)
    (tmp_path / "large").write_bytes(b"x" * 2_000_000)
    (tmp_path / "config").write_bytes(b"x" * 9_000)  # not worth a line
    lines = str(show.folder_sizes(tmp_path)).splitlines()
    assert lines[1].endswith("2.00") and lines[2].endswith("0.01") and "config" not in str(lines)


def test_a_column_has_the_decimals_that_its_numbers_need():
    table = Table({"a": {"GB": 2.2, "share": 0.25, "tokens": 1500.4}, "b": {"GB": 14.1, "share": 3.0, "tokens": 800.0}})
    assert [line.split()[1:] for line in str(table).splitlines()[1:]] == [["2.2", "0.25", "1,500"], ["14.1", "3.00", "800"]]


def test_a_number_that_is_not_zero_is_not_written_as_zero():
    text = str(Table({"a": {"gap": 3e-8, "probability": 0.0000244}, "b": {"gap": 0.0, "probability": 61.87}}))
    assert "3e-08" in text and "0.0000244" in text and "0.00" in text


def test_tables_without_a_caption_have_names_of_their_own():
    names = [re.search(r'aria-label="([^"]+)"', Table({"x": {c: 1}})._repr_html_())[1] for c in ("MB", "GB")]
    assert names[0] != names[1]
