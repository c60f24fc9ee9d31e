"""The judge of lesson 05's record: what is read from it, and the rows read by hand that it is compared with."""

import json

import pytest

from benchmarks import judging
from course_utils import assets
from course_utils.data_prep import formats, truth


@pytest.mark.model
def test_the_shared_rubric_is_read_once_and_changes_nothing(tiny):
    system = {"role": "system", "content": judging.ONE_WORD_RUBRIC}
    asked = [[system, {"role": "user", "content": text}] for text in ("where is my kettle", "two words", "it leaks")]
    together = judging.next_word(*tiny, asked, ("yes", "no"))
    apart = [judging.next_word(*tiny, [conversation], ("yes", "no"))[0] for conversation in asked]
    assert [yes for yes, _ in together] == pytest.approx([yes for yes, _ in apart], abs=1e-5)
    assert all(0 < yes < 1 and yes + no == pytest.approx(1) for yes, no in together)


def test_the_fifty_rows_read_by_hand_are_in_the_export_and_say_why():
    from sklearn.metrics import cohen_kappa_score

    export = truth.load_raw_export()
    text = assets.path("data/raw_support_export/read_by_hand.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == len({row["line"] for row in rows}) == 50
    assert all(bool(row["why"]) is not row["keep"] for row in rows)
    assert all(json.loads(formats.answer_of(export.rows()[row["line"]])) for row in rows)
    planted = [not export.faults(row["line"]) & {"wrong_label", "other_answer"} for row in rows]
    assert cohen_kappa_score([row["keep"] for row in rows], planted) > 0.8
