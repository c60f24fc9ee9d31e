"""Lesson 01: the functions of its program, as they stand there."""

import ast
import json
import re
from functools import cache

import jupytext
import numpy as np
import pandas as pd
import pytest
from support import lesson_code

from benchmarks import shop_scores
from course_utils import assets, costs
from course_utils.data_prep import load_catalogue
from course_utils.evidence import lesson_01
from course_utils.lessons import source_file

CELLS = [cell.source for cell in jupytext.read(source_file("01_decision_framework")).cells if cell.cell_type == "code"]
SHOP = load_catalogue()


@cache
def functions():
    return lesson_code("01", price=costs.price_of("qwen3-8b"), MODEL="any", FREE="answer")


def rows_of(name):
    return [json.loads(line) for line in lesson_01.data_file(name).read_text(encoding="utf-8").splitlines()]


def case_of(question):
    return {"question": question["question"], "answer": SHOP.record(question), "accepted": question["accepted"]}


def recorded_answers():
    """(question, reply) of recorded runs: all wrong answers, and the first ten of each way."""
    by_id = {q["id"]: q for q in SHOP.questions}
    pairs = [(by_id[row["question"]], row["answer"]) for row in assets.read_record("wrong-answers")["answers"]]
    for name, run in assets.read_record("laptop-questions")["runs"].items():
        if "choice" not in name and "answers" in run:
            pairs += list(zip(SHOP.questions, run["answers"]))
    return pairs + [(q, json.dumps(SHOP.record(q), ensure_ascii=False)) for q in SHOP.questions]


def test_the_programs_mark_is_the_catalogues():
    """Never kinder, and on nearly all recorded answers the same; the catalogue also accepts facts inside short phrases."""
    is_right, same = functions()["is_right"], []
    for question, reply in recorded_answers():
        _, behaves, knows = shop_scores.evaluate(SHOP, [reply], [question]).rows[0]
        mine = is_right(reply, case_of(question))
        assert not mine or (behaves and knows), reply
        same.append(mine == (behaves and knows))
    assert len(same) > 130 and np.mean(same) > 0.97


@pytest.mark.parametrize(
    "reply", ["", "{}", "[1]", "null", '{"topic": "product", "product": null, "answer": 19}', "19 days"]
)
def test_what_is_no_record_is_wrong_and_stops_nothing(reply):
    assert functions()["is_right"](reply, case_of(SHOP.questions[0])) is False


def test_an_answer_may_be_a_text_or_a_record_of_other_fields():
    is_right = functions()["is_right"]
    assert is_right("It takes 19 days.", {"answer": "19 days"}) and not is_right("It takes 119 days.", {"answer": "19 days"})
    case = {"answer": {"queue": "boats", "urgent": True, "answer": "at lock 4"}}
    assert is_right(json.dumps(case["answer"]), case)
    assert not is_right(json.dumps(case["answer"] | {"urgent": False}), case)
    assert not is_right(json.dumps(case["answer"] | {"more": 1}), case)


@pytest.mark.parametrize(
    ("text", "fact", "found"),
    [
        ("every 16 days", "6 days", False),
        ("It is 1.5 litres", "5", False),
        ("It costs £7.35.", "£7.35", True),
        ("6 Days", "6 days", True),
        ("12.80", "12", False),
    ],
)
def test_a_fact_counts_only_as_a_whole(text, fact, found):
    assert functions()["contains"](text, fact) is found


def test_the_search_puts_the_nearest_first():
    search = functions()["make_search"](["my parcel is late", "the kettle leaks", "the invoice is wrong"])
    assert search("my kettle leaks again", 2).tolist().index(1) == 0 and len(search("parcel", 3)) == 3


def test_the_report_compares_case_by_case():
    def answers(right):
        return pd.DataFrame({"reply": "", "right": [bool(r) for r in right], "in": 100, "out": 10})

    table = functions()["report"]({"first": answers([1, 0, 0, 1] * 10), "second": answers([1, 1, 0, 1] * 10)})
    assert table.loc["first", "right, %"] == "50 (35 to 65)"  # Wilson's interval
    assert table.loc["first", "more than the first, points"] == ""
    gain, low, high = map(int, re.findall(r"[+-]\d+", table.loc["second", "more than the first, points"]))
    assert gain == 25 and 8 <= low < 20 < 30 < high <= 42
    price = costs.price_of("qwen3-8b")
    assert float(table.loc["first", "$ per 1,000 requests"]) == pytest.approx(
        (100 * price.input + 10 * price.output) / 1000, abs=5e-4
    )


def test_no_difference_in_few_cases_is_no_certainty():
    """Where neither way is ever right, an interval of nothing would say that they are equal."""
    none = pd.Series([False] * 12)
    gain, low, high = functions()["compare"](none, none)
    assert gain == 0 and low < -0.1 and high > 0.1


def test_the_ten_wrong_answers_are_wrong_and_break_at_each_link():
    rows = rows_of("wrong_answers")
    cures = next(cell for cell in CELLS if "cures = {" in cell)
    names = [key.value for node in ast.walk(ast.parse(cures)) if isinstance(node, ast.Dict) for key in node.keys]
    causes = [functions()["cause"](row) for row in rows]
    assert len(rows) == 10 and set(causes) == set(names)
    by_text = {q["question"]: q for q in SHOP.questions}
    titles = {p["id"]: p["title"] for p in SHOP.versions[1]}
    for row in rows:
        question = by_text[row["question"]]
        assert row["expected"] == SHOP.record(question) and row["needed"] == titles[question["passage"]]
        assert not functions()["is_right"](row["reply"], case_of(question))


def test_thirty_replies_marked_by_hand_belong_to_the_shop():
    rows = rows_of("judged")
    facts = {q["question"]: q["answer"] for q in SHOP.questions}
    assert len(rows) == 30 and 5 < sum(row["right"] for row in rows) < 25
    assert all(facts[row["question"]] == row["expected"] for row in rows)
