"""A judge on this machine: what it is shown, and what is read from it."""

import json

import pytest

from course_utils import assets
from course_utils.data_prep import formats, judging, truth
from course_utils.errors import CourseError

pytestmark = pytest.mark.model


def test_the_shared_rubric_is_read_once_and_changes_nothing(tiny):
    model, tokenizer = tiny
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "{}"}]}
        for text in ("where is my kettle", "two words", "it leaks")
    ]
    together = judging.judge_here(rows, model, tokenizer)
    apart = [judging.judge_here([row], model, tokenizer)[0] for row in rows]
    assert together == pytest.approx(apart, abs=1e-5)
    assert all(0 < share < 1 for share in together)


def test_verdicts_that_begin_alike_are_refused(tiny):
    model, tokenizer = tiny
    with pytest.raises(CourseError, match="same token"):
        judging.next_word(model, tokenizer, [[{"role": "user", "content": "x"}]], ("yes", "yes please"))


def test_the_fifty_rows_read_by_hand_are_in_the_export_and_say_why():
    rows, export = [], truth.load_raw_export()
    text = assets.path("data/raw_support_export/read_by_hand.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == len({row["line"] for row in rows}) == 50
    assert all(bool(row["why"]) is not row["keep"] for row in rows)
    assert all(json.loads(formats.answer_of(export.rows()[row["line"]])) for row in rows)
    planted = [not export.faults(row["line"]) & {"wrong_label", "other_answer"} for row in rows]
    verdicts = [judging.Verdict(5 if row["keep"] else 1, "") for row in rows]
    assert judging.agreement_with_labels(verdicts, planted)["kappa"] > 0.8
