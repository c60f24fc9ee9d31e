"""The catalogue of lesson 01: each answer stands in one passage, updates change what they say they change."""

import json
import re
from itertools import combinations

import pytest

from course_utils import assets


def rows(name):
    lines = assets.path(f"data/catalogue/{name}").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def passages():
    return {row["id"]: row for row in rows("passages.jsonl")}


@pytest.fixture(scope="module")
def questions():
    return rows("questions.jsonl")


def holds(text, span):
    """Whether a span stands in a text as whole tokens: "£12" is not in "£12.80", nor "6 days" in "16 days"."""
    return re.search(r"(?<![\w£])(?<!\d[.,:-])" + re.escape(span) + r"(?![\w-])(?![.,:]\d)", text or "") is not None


def words(text):
    return re.findall(r"[a-z0-9£]+(?:['’.,:-][a-z0-9]+)*", text.lower())


def test_counts_are_those_of_the_card(passages, questions):
    assert (len(passages), sum(p["text_v2"] is not None for p in passages.values())) == (72, 30)
    assert len(questions) == len({q["id"] for q in questions}) == len({q["question"] for q in questions}) == 100
    assert sum(q["answer_v2"] is not None for q in questions) == 38
    assert sum(q["paraphrase"] for q in questions) == 44
    assert len({q["passage"] for q in questions}) == 68
    for passage in passages.values():
        for text in (passage["text"], passage["text_v2"]):
            assert text is None or 35 <= len(text.split()) <= 75, passage["id"]


def test_an_answer_stands_in_its_passage_and_in_no_other(passages, questions):
    for question in questions:
        for answer, version in ((question["answer"], "text"), (question["answer_v2"], "text_v2")):
            if answer is None:
                continue
            having = {p["id"] for p in passages.values() if holds(p["text"], answer) or holds(p["text_v2"], answer)}
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


def test_passages_are_no_template(passages):
    def runs(text, size=6):
        found = words(text)
        return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}

    seen = {id: runs(p["text"]) for id, p in passages.items()}
    assert [pair for pair in combinations(seen, 2) if seen[pair[0]] & seen[pair[1]]] == []


def test_training_questions_are_other_wordings_of_the_same_facts(questions):
    tests = {q["id"]: q for q in questions}
    training = rows("training_questions.jsonl")
    assert len(training) == len({row["question"] for row in training}) == 300
    for id in tests:
        assert sum(row["question_id"] == id for row in training) == 3
    for row in training:
        test = tests[row["question_id"]]
        one, other = set(words(row["question"])), set(words(test["question"]))
        assert len(one & other) / len(one | other) < 0.5, row
        assert not holds(row["question"], test["answer"]), row
