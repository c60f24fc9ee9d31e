"""The catalogue of lesson 01: each answer stands in one passage, updates change what they say they change."""

import json
import re

import jsonschema
import pytest

from benchmarks import shop_prompts, shop_scores
from benchmarks.shop_scores import holds
from course_utils import assets
from course_utils.data_prep.catalogue import INSTRUCTIONS, SCHEMA, SYSTEM, TOPICS, load_catalogue, write
from course_utils.errors import CourseError


def rows(name):
    lines = assets.path(f"data/catalogue/{name}").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def passages():
    return {row["id"]: row for row in rows("passages.jsonl")}


@pytest.fixture(scope="module")
def questions():
    return rows("questions.jsonl")


def card():
    return assets.path("data/catalogue/CARD.md").read_text(encoding="utf-8")


def words(text):
    return re.findall(r"[a-z0-9£]+(?:['’.,:-][a-z0-9]+)*", text.lower())


def test_counts_are_those_of_the_card(passages, questions):
    assert (len(passages), sum(p["text_v2"] is not None for p in passages.values())) == (72, 30)
    assert len(questions) == len({q["id"] for q in questions}) == len({q["question"] for q in questions}) == 100
    assert sum(q["answer_v2"] is not None for q in questions) == 38
    assert sum(q["paraphrase"] for q in questions) == 44
    assert len({q["passage"] for q in questions}) == 68
    lengths = [len(text.split()) for p in passages.values() for text in (p["text"], p["text_v2"]) if text]
    assert f"({min(lengths)} to {max(lengths)} words)" in card()


def test_an_answer_stands_in_its_passage_and_in_no_other(passages, questions):
    for question in questions:
        for answer, version in ((question["answer"], "text"), (question["answer_v2"], "text_v2")):
            if answer is None:
                continue
            having = {p["id"] for p in passages.values() if holds(p["text"], answer) or holds(p["text_v2"] or "", answer)}
            assert having == {question["passage"]}, (question["id"], answer)
            assert holds(passages[question["passage"]][version], answer), question["id"]
            assert not holds(question["question"], answer), question["id"]


def test_an_update_changes_the_facts_it_says_and_no_others(passages, questions):
    for question in questions:
        new = passages[question["passage"]]["text_v2"]
        if question["answer_v2"] is not None:
            assert question["answer_v2"] != question["answer"] and not holds(new, question["answer"]), question["id"]
        else:
            assert question["accepted_v2"] == []
            assert new is None or holds(new, question["answer"]), question["id"]


def test_training_questions_are_other_wordings_of_the_same_facts(questions):
    tests = {q["id"]: q for q in questions}
    training = rows("training_questions.jsonl")
    assert len(training) == len({row["question"] for row in training}) == 300
    for id in tests:
        assert sum(row["question_id"] == id for row in training) == 3
    alike = []
    for row in training:
        test = tests[row["question_id"]]
        one, other = set(words(row["question"])), set(words(test["question"]))
        alike.append(len(one & other) / len(one | other))
        assert not holds(row["question"], test["answer"]), row

    assert max(alike) < 0.5 and f"at most {max(alike):.2f}" in card()


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


def test_right_records_are_right_in_their_own_version_only(catalogue):
    records = {v: [write(catalogue.record(q, v)) for q in catalogue.questions] for v in (1, 2)}
    for version in (1, 2):
        quality = shop_scores.evaluate(catalogue, records[version], version=version)
        assert quality.both.value == quality.valid.value == quality.behaviour.value == 1
        assert (quality.stale is None) == (version == 1)
    old = shop_scores.evaluate(catalogue, records[1], version=2)
    assert (old.knowledge.value, old.stale.value, old.stale.n, old.behaviour.value) == (0.62, 1, 38, 1)
    assert shop_scores.evaluate(catalogue, records[2], version=2).stale.value == 0
    assert shop_scores.evaluate(catalogue, records[2], version=1).knowledge.value == 0.62


def test_the_two_sides_are_scored_apart(catalogue):
    question = catalogue.questions[0]
    right = catalogue.record(question)
    assert right == {"topic": "product", "product": "Corvane", "answer": "19 days"}
    cases = {
        write(right): (True, True, True),
        write(right | {"answer": "every 19 days"}): (True, True, True),
        write(right | {"product": "corvane"}): (True, True, True),
        write(right | {"answer": "20 days"}): (True, True, False),
        write(right | {"answer": "119 days"}): (True, True, False),
        write(right | {"topic": "service"}): (True, False, True),
        write(right | {"product": None}): (True, False, True),
        write(right | {"topic": "kettles"}): (False, False, True),  # the fact stands in the text
        "Descale it every 19 days.": (False, False, True),
        "About 19 times.": (False, False, False),  # a bare number proves nothing in prose
        write(right) + " I hope this helps!": (False, False, True),
        "": (False, False, False),
    }
    for answer, expected in cases.items():
        assert shop_scores.evaluate(catalogue, [answer], [question]).rows == (expected,), answer


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("frame", ["It is {}.", "**{}**", "{}!", "You asked; the answer: {}, I believe."])
def test_every_fact_can_be_stated_in_prose(catalogue, version, frame):
    missed = [
        q["id"]
        for q in catalogue.questions
        if not shop_scores.knows(catalogue, frame.format(catalogue.record(q, version)["answer"]), q, version)
    ]
    assert missed == []


def test_an_answer_that_names_the_old_fact_and_the_new_one_states_neither(catalogue):
    question = catalogue.questions[0]
    for said in ("19 days or 33 days", "33 days (it was 19 days)"):
        assert not shop_scores.knows(catalogue, said, question, 1) and not shop_scores.knows(catalogue, said, question, 2)
    found = shop_scores.evaluate(catalogue, ["33 days, formerly 19 days"], [question], version=2)
    assert found.stale.value == 0 and found.knowledge.value == 0
    with pytest.raises(CourseError, match="version=3: the catalogue has versions 1 and 2"):
        shop_scores.knows(catalogue, "19 days", question, 3)


def test_a_record_with_half_a_passage_in_it_is_not_of_the_form(catalogue):
    question = catalogue.questions[0]
    copied = catalogue.record(question) | {"answer": catalogue.versions[1][0]["text"]}
    assert shop_scores.evaluate(catalogue, [write(copied)], [question]).rows == ((False, False, True),)


def test_the_same_question_twice_counts_twice(catalogue):
    question = catalogue.questions[0]
    found = shop_scores.evaluate(catalogue, ["19 days", "no idea"], [question, question])
    assert (found.knowledge.value, found.knowledge.n) == (0.5, 2)
    training = shop_scores.evaluate(
        catalogue, ["-"] * len(catalogue.training), catalogue.training
    )  # rows without a fact of their own
    assert training.knowledge.n == 300


@pytest.mark.parametrize(
    ("text", "span", "there"),
    [
        ("every 19\u00a0days", "19 days", True),
        ("DM\u2011W7", "DM-W7", True),
        ("it costs £ 7.35 today", "£7.35", True),
        ("it costs £12.80", "£12", False),
        ("after 16 days", "6 days", False),
        ("after twenty-six days", "six days", False),
        ("after twenty six days", "six days", False),
        ("5\u20139 days", "9 days", False),
        ("1/6 days or .6 days", "6 days", False),
        ("1 450 pebbles", "450 pebbles", False),
        ("£58 billion", "£58", False),
        ("on 6 days", "6 days", True),
        ("anything", " ", False),
    ],
)
def test_a_span_is_found_whole_or_not_at_all(text, span, there):
    assert holds(text, span) == there


def test_a_record_says_what_the_message_names(catalogue):
    assert {catalogue.record(row)["topic"] for row in catalogue.training} == set(TOPICS)
    for row in [*catalogue.questions, *catalogue.training]:
        record = catalogue.record(row)
        assert set(record) == set(SCHEMA["properties"])
        assert record["product"] is None or record["product"].lower() in row["question"].lower()
        assert (record["product"] is None) or record["topic"] == "product"
    unnamed = [
        row
        for row in catalogue.training
        if catalogue.record(row)["topic"] == "product" and not catalogue.record(row)["product"]
    ]
    assert len(unnamed) == 6


def test_a_prompt_has_passages_shots_and_instructions_where_they_are_asked_for(catalogue):
    passage, question = catalogue.versions[1][0], catalogue.questions[0]
    bare = catalogue.prompt("Q?")
    assert bare == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Q?"}]
    told = catalogue.prompt("Q?", instructions=True)
    assert told == [{"role": "system", "content": SYSTEM + INSTRUCTIONS}, bare[1]]
    for passages in ([], [passage]):
        full = catalogue.prompt("Q?", passages, few_shot=True)
        assert [message["role"] for message in full] == ["system", *["user", "assistant"] * 3, "user"]
        assert full[0]["content"] == SYSTEM + INSTRUCTIONS and all(topic in INSTRUCTIONS for topic in TOPICS)
        assert (passage["text"] in full[-1]["content"]) == bool(passages)
        assert (catalogue.shots[0]["passage"]["text"] in full[1]["content"]) == bool(passages)
    assert full[-1]["content"].endswith("Customer: Q?")
    fact = shop_prompts.prompt_for_fact("Q?", passage)
    assert passage["text"] in fact[-1]["content"] and "JSON" not in fact[0]["content"]
    assert shop_prompts.example(catalogue, question, [passage]) == [
        *catalogue.prompt(question["question"], [passage]),
        {"role": "assistant", "content": write(catalogue.record(question))},
    ]


def test_the_examples_of_the_prompt_are_right_and_not_of_the_catalogue(catalogue):
    for question, record, passage in (shot.values() for shot in catalogue.shots):
        jsonschema.validate(record, SCHEMA)
        assert holds(passage["text"], record["answer"]) and not holds(question, record["answer"])
        assert not any(holds(p["text"], record["answer"]) for v in (1, 2) for p in catalogue.versions[v])
        assert passage["id"] not in {p["id"] for p in catalogue.versions[1]}


@pytest.mark.parametrize("answers", [[], ["one"]])
def test_missing_answers_are_named(catalogue, answers):
    with pytest.raises(CourseError, match=f"{len(answers)} answers for 100 questions"):
        shop_scores.evaluate(catalogue, answers)
