"""Cards sorted by the reader, beside a rule."""

import pytest

from course_utils import show
from course_utils.errors import CourseError

CARDS = [
    {"question": "How often?", "answer": "<b>19</b>"},
    {"question": "How much?", "answer": "£7"},
    {"question": "Why?", "answer": "–"},
]
RIGHT = ["format", "retrieval", "format"]


@pytest.fixture
def sorting():
    return show.sort(CARDS, ("retrieval", "format"))


def test_a_run_without_a_reader_shows_the_rule_alone(sorting):
    table = sorting.reveal(RIGHT)
    assert table.rows == {"retrieval": {"by the rule": 1, "cards": "2"}, "format": {"by the rule": 2, "cards": "1, 3"}}
    assert table.caption == "3 cards by the rule"


def test_the_readers_answers_are_compared(sorting):
    sorting.controls[1].value = "format"
    sorting.is_(2, "format")
    assert sorting.answers == {1: "format", 2: "format"}
    table = sorting.reveal(RIGHT)
    assert "agree on 1 of 2" in table.caption and "look again at 2" in table.caption
    assert table.rows["format"]["yours"] == 2
    sorting.controls[1].value = None
    assert sorting.answers == {2: "format"}


def test_text_and_html_say_the_same_and_escape(sorting):
    html = sorting._repr_mimebundle_()["text/html"]
    assert "&lt;b&gt;19&lt;/b&gt;" in html and html.count('aria-label="card') == 3
    assert "1. question: How often?; answer: <b>19</b>" in str(sorting)


@pytest.mark.parametrize(("number", "bucket"), [(0, "format"), (4, "format"), (1, "colour")])
def test_there_are_only_these_cards_and_buckets(sorting, number, bucket):
    with pytest.raises(CourseError):
        sorting.is_(number, bucket)


def test_each_card_needs_its_bucket(sorting):
    with pytest.raises(CourseError, match="2 buckets for 3 cards"):
        sorting.reveal(["format", "format"])
