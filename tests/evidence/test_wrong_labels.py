"""The dated record of wrong labels: found by a classifier that was not trained on the row, against the planted truth."""

import json

import numpy as np
import pytest
from data_prep.scoring import DetectionScore

from benchmarks import wrong_labels
from course_utils import data_prep
from course_utils.data_prep import formats, quality, truth
from course_utils.exercises.lesson_05 import classifier


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


def test_all_forty_wrong_labels_are_still_there_after_the_rules(export, prepared):
    assert len(wrong_labels.planted(export, prepared.lines)) == 40


def test_most_wrong_labels_are_among_the_first_sixty(export, prepared, checked):
    """Measured: 37 of 40 and 23 false alarms among sixty; 39 of 40 among all 110 suspects."""
    first = score(export, prepared, checked.suspects[:60])
    assert first.recall.value >= 0.8 and first.precision.value >= 0.5
    everywhere = score(export, prepared, checked.suspects)
    assert everywhere.recall.value >= 0.925 and len(checked.suspects) <= 0.25 * len(prepared.rows)


def test_the_ranking_is_far_better_than_chance(export, prepared, checked):
    from sklearn.metrics import roc_auc_score

    wrong = np.isin(np.arange(len(prepared.rows)), wrong_labels.planted(export, prepared.lines))
    assert roc_auc_score(wrong, -checked.probability) > 0.93


def test_the_published_rule_accuses_fewer_and_more_of_them_rightly(export, prepared, checked):
    rule = score(export, prepared, checked.by_published_rule)
    all_suspects = score(export, prepared, checked.suspects)
    assert rule.precision.value > 1.5 * all_suspects.precision.value
    assert 0.3 < rule.recall.value < all_suspects.recall.value
    assert set(checked.by_published_rule) <= set(checked.suspects) | set(range(len(checked.given)))


def test_no_row_is_judged_by_what_was_trained_on_it(prepared):
    """With its own row in training the classifier repeats nearly every label, right or wrong."""
    texts = [wrong_labels.evidence_in(row, "category") for row in prepared.rows]
    given = [wrong_labels.label_of(row, "category") for row in prepared.rows]
    seen = np.mean(classifier().fit(texts, given).predict(texts) == given)
    out_of_fold = wrong_labels.check_labels(prepared.rows, "category")
    assert seen > 0.95 > np.mean([a == b for a, b in zip(out_of_fold.given, out_of_fold.suggested)])


def test_the_label_itself_is_not_read(prepared):
    row = prepared.rows[0]
    other = wrong_labels.repaired([row], "category", {0: "account"})[0]
    assert wrong_labels.evidence_in(row, "category") == wrong_labels.evidence_in(other, "category")


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


def test_no_customer_vouches_for_their_own_label(prepared):
    """The rows of one customer are in one fold, so that near-copies of a row never trained the classifier that judges it."""
    owners = wrong_labels.one_owner_each(prepared.owners)
    assert len(set(owners)) < len(owners) - 100  # many customers wrote more than once
    labels = [wrong_labels.label_of(row, "category") for row in prepared.rows]
    parts = wrong_labels.folds_of(owners, labels, 5, 0)
    assert sorted(i for _, held_out in parts for i in held_out) == list(range(len(owners)))
    for train, held_out in parts:
        assert not {owners[i] for i in train} & {owners[i] for i in held_out}


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


def test_the_names_in_the_rows_and_the_owners_beside_them_give_the_same_folds(prepared):
    """Redaction takes the names out of the rows; `Prepared.owners` keeps them for the check."""
    by_name = wrong_labels.check_labels(prepared.rows, "category")
    assert by_name.suspects == wrong_labels.check_labels(prepared.rows, "category", group=prepared.owners).suspects
    assert len(prepared.owners) == len(prepared.rows)
