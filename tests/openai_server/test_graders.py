"""Graders: what the service refuses of them, and what it computes, by the official client."""

import openai
import pytest

from course_utils.openai_server import graders
from course_utils.openai_server.errors import ApiError

ROW = {"reference": {"category": "delivery", "escalation": "none"}, "word": "Parcel"}
ANSWER = '{"category": "delivery", "escalation": "money"}'


def check(field, **changes):
    return {
        "type": "string_check", "name": field, "operation": "eq", "input": f"{{{{sample.output_json.{field}}}}}",
        "reference": f"{{{{item.reference.{field}}}}}",
    } | changes  # fmt: skip


def both(formula="0.7 * category + 0.3 * escalation"):
    parts = {field: check(field) for field in ("category", "escalation")}
    return {"type": "multi", "name": "both", "graders": parts, "calculate_output": formula}


@pytest.mark.parametrize(
    ("grader", "answer", "reward"),
    [
        (check("category"), ANSWER, 1),
        (check("escalation"), ANSWER, 0),
        (check("category"), "no JSON at all", 0),
        (check("escalation", operation="ne"), ANSWER, 1),
        (check("category", input="{{sample.output_text}}", reference="Delivery", operation="like"), ANSWER, 0),
        (check("category", input="{{sample.output_text}}", reference="Delivery", operation="ilike"), ANSWER, 1),
        (both(), ANSWER, 0.7),
        (both("min(category, escalation) - 1 / 4"), ANSWER, -0.25),
        ({"type": "text_similarity", "name": "s", "input": "abcd", "reference": "abce", "evaluation_metric": "fuzzy_match"},
         ANSWER, 0.75),
        (both() | {"graders": check("category"), "calculate_output": "2 * category"}, ANSWER, 2),
    ],
)  # fmt: skip
def test_rewards(client, grader, answer, reward):
    found = client.fine_tuning.alpha.graders.run(grader=grader, model_sample=answer, item=ROW)
    assert found.reward == pytest.approx(reward) and found.metadata.name == grader["name"]
    assert client.fine_tuning.alpha.graders.validate(grader=grader).grader.type == grader["type"]


def test_the_parts_of_a_reward_are_told(client):
    found = client.fine_tuning.alpha.graders.run(grader=both(), model_sample=ANSWER, item=ROW)
    assert found.sub_rewards == {"category": 1.0, "escalation": 0.0}


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        (check("category", operation="equals"), "Invalid value: 'equals'"),
        (check("category", input="{{model.text}}"), "must be {{item.NAME}} or {{sample.NAME}}"),
        (check("category", input="{{sample.text}}"), "sample has no 'text'"),
        (both("category + danger"), "'danger', which no grader is named"),
        (both("category ** 9"), "its formula may use"),
        (both("__import__('os')"), "its formula may use"),
        (both("category +"), "is no formula"),
        ({"type": "python", "name": "p", "source": "def grade(sample):\n    return 1"}, "must define grade(sample, item)"),
        ({"type": "python", "name": "p", "source": "def grade(sample, item) return"}, "no Python"),
        ({"type": "judge", "name": "p"}, "Invalid value: 'judge'"),
        (both() | {"graders": {"a": both()}}, "Invalid value: 'multi'"),
        (both() | {"graders": {"a": check("category", operation="equals")}}, "Invalid value: 'equals'"),
        (both() | {"graders": check("category", operation="equals")}, "Invalid value: 'equals'"),
    ],
)
def test_what_could_not_be_used_is_refused(client, grader, said):
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.alpha.graders.validate(grader=grader)
    assert said in caught.value.body["message"]


def test_what_is_not_run_here_is_checked_and_said(client):
    program = {"type": "python", "name": "p", "source": "def grade(sample, item):\n    return 1.0"}
    assert client.fine_tuning.alpha.graders.validate(grader=program).grader.source == program["source"]
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.alpha.graders.run(grader=program, model_sample=ANSWER, item=ROW)
    assert caught.value.code == "grader_not_run"


def test_a_formula_that_cannot_be_computed_is_an_error_of_the_request():
    parsed = graders.Validate.model_validate({"grader": both("category / escalation")}).grader
    with pytest.raises(ApiError, match="could not be computed"):
        graders.run(parsed, ANSWER, ROW)
