"""The course's data sets: sizes, labels, the gap between training and test."""

import json
import re
from collections import Counter

import jsonschema
import pytest

from course_utils.data_prep import TASKS, load_task
from course_utils.errors import CourseError

TICKETS = load_task("support_tickets")


def words(row):
    return re.findall(r"\w+", row["message"].lower())


def phrases(rows, n):
    return {tuple(w[i : i + n]) for w in map(words, rows) for i in range(len(w) - n + 1)}


def test_sizes():
    assert len(TICKETS.train) >= 300
    assert len(TICKETS.validation) >= 60
    assert len(TICKETS.test) == 100


def test_every_label_occurs_in_every_split():
    for split, rows in TICKETS.rows.items():
        for field in ("category", "escalation"):
            found = Counter(row["record"][field] for row in rows)
            assert set(found) == set(TICKETS.schema["properties"][field]["enum"]), (split, field)


def test_the_test_set_names_products_that_training_never_shows():
    def products(*splits):
        return {row["record"]["product"].lower() for s in splits for row in TICKETS.rows[s] if row["record"]["product"]}

    shown = " ".join(row["message"].lower() for row in TICKETS.rows["train"])
    assert not products("test") & products("train", "validation")
    spoken = [p for p in products("test") if re.search(rf"\b{re.escape(p)}\b", shown)]
    assert spoken == []


def test_the_test_set_shares_no_phrasing_with_training():
    shared = phrases(TICKETS.rows["test"], 6) & phrases(TICKETS.rows["train"] + TICKETS.rows["validation"], 6)
    assert shared == set()


def test_records_keep_the_guides_rules():
    for rows in TICKETS.rows.values():
        for row in rows:
            record = row["record"]
            assert record["product"] is None or record["product"] in row["message"], row["id"]
            assert 4 <= len(record["summary"].split()) <= 12, row["id"]
            assert record["summary"][0].isupper(), row["id"]
            assert not record["summary"].endswith("."), row["id"]
            if record["order_id"]:
                digits = re.sub(r"\D", "", row["message"])
                assert record["order_id"].removeprefix("TB-") in digits, row["id"]


def test_right_answers_are_valid_and_read_back():
    for split in ("train", "validation", "test"):
        for conversation, record in zip(getattr(TICKETS, split), TICKETS.references(split)):
            assert json.loads(conversation[-1]["content"]) == record
    scores = TICKETS.evaluate([conversation[-1]["content"] for conversation in TICKETS.test])
    assert scores.valid.value == scores.enumerations.value == 1.0


def test_the_system_message_says_nothing_of_the_format():
    properties = TICKETS.schema["properties"]
    labels = [label for value in properties.values() for label in value.get("enum", ())]
    said = TASKS["support_tickets"].lower()
    assert not [word for word in ("json", "field", "format", *properties, *labels) if word in said]


def test_rows_fit_the_schema_and_have_an_id_of_their_own():
    validator = jsonschema.validators.validator_for(TICKETS.schema)(TICKETS.schema)
    for split, rows in TICKETS.rows.items():
        assert len({row["id"] for row in rows}) == len(rows), split
        assert [row["id"] for row in rows if not row["message"].strip() or not validator.is_valid(row["record"])] == []


def test_unknown_data_sets_are_named():
    with pytest.raises(CourseError, match="unknown data set 'tickets'; the course has support_tickets"):
        load_task("tickets")


def test_a_task_can_ask_for_some_fields_only():
    fields = ["escalation", "category"]
    task = load_task("support_tickets", fields)
    assert task.references()[0] == {field: TICKETS.references()[0][field] for field in fields}
    assert list(json.loads(task.train[0][-1]["content"])) == fields
    right = [conversation[-1]["content"] for conversation in task.test]
    assert task.evaluate(right).valid.value == 1
    assert TICKETS.evaluate(right).valid.value == 0  # the whole schema asks for more


@pytest.mark.parametrize("fields", [["mood"], []])
def test_fields_that_there_are_not_are_refused(fields):
    with pytest.raises(CourseError, match="choose among"):
        load_task("support_tickets", fields)
