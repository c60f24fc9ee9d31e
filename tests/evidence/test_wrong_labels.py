"""The dated record of wrong labels: found by a classifier that was not trained on the row, against the planted truth."""

import json

import pytest
from data_prep.scoring import DetectionScore

from benchmarks import wrong_labels
from course_utils import data_prep
from course_utils.data_prep import formats, quality, truth


@pytest.fixture(scope="module")
def export():
    return truth.load_raw_export()


@pytest.fixture(scope="module")
def prepared(export):
    task = data_prep.load_task("support_tickets")
    test = [{"messages": conversation} for conversation in task.test]
    steps = ["validate", "quality", "deduplicate", "contamination"]
    return data_prep.prepare(export.path, steps=steps, drop=quality.RULES, language="en", test=test, schema=task.schema)


@pytest.fixture(scope="module")
def checked(prepared):
    return wrong_labels.check_labels(prepared.rows, "category", group=prepared.owners)


def score(export, prepared, suspects):
    return DetectionScore.of(wrong_labels.planted(export, prepared.lines), suspects)


def test_most_wrong_labels_are_among_the_first_sixty(export, prepared, checked):
    """Measured: 37 of 40 and 23 false alarms among sixty; 39 of 40 among all 110 suspects."""
    first = score(export, prepared, checked.suspects[:60])
    assert first.recall.value >= 0.8 and first.precision.value >= 0.5
    everywhere = score(export, prepared, checked.suspects)
    assert everywhere.recall.value >= 0.925 and len(checked.suspects) <= 0.25 * len(prepared.rows)


def test_the_truth_knows_the_right_label_of_every_wrong_one(export, prepared):
    right = truth.right_categories(export, prepared.lines)
    assert sorted(right) == wrong_labels.planted(export, prepared.lines)
    assert all(label != wrong_labels.label_of(prepared.rows[index], "category") for index, label in right.items())


def test_decisions_change_and_drop_rows_and_touch_nothing_else(prepared):
    rows = prepared.rows[:4]
    before = json.dumps(rows)
    new = wrong_labels.repaired(rows, "category", {1: "account", 2: None})
    assert json.dumps(rows) == before and len(new) == 3
    assert [new[0], new[2]] == [rows[0], rows[3]]
    old, changed = (json.loads(formats.answer_of(row)) for row in (rows[1], new[1]))
    assert changed == old | {"category": "account"}


def test_two_wrong_near_copies_of_one_customer_are_both_suspects():
    """With folds by row, each of the two wrong rows is excused by the other."""

    def row(text, label, name):
        answer = json.dumps({"category": label})
        return {"messages": [{"role": "user", "content": text, "name": name}, {"role": "assistant", "content": answer}]}

    rows = [row(f"the parcel number {i} is late and has not come", "delivery", f"a{i}") for i in range(12)]
    rows += [row(f"my invoice {i} is too high, refund the money", "billing", f"b{i}") for i in range(12)]
    strange = "zebra quagga okapi gnu"
    rows += [row(f"the parcel {strange} is {how}", "billing", "twice") for how in ("late", "so late")]
    by_customer = wrong_labels.check_labels(rows, "category")
    by_row = wrong_labels.check_labels(rows, "category", group=[None] * len(rows))
    assert {24, 25} <= set(by_customer.suspects)
    assert by_customer.probability[24:].max() < by_row.probability[24:].max()
