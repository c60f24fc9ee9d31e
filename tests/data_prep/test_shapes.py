"""Files as people have them: what `check-data --fix` makes of each, and that no field of theirs vanishes without a word."""

import json

import pytest

from course_utils.data_prep import convert, prepare, shape_of, validate
from course_utils.data_prep.validation import guess_kind

QUESTION = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "It is Paris."}
BAD = {"role": "assistant", "content": "It is Rome."}
CHAT = {"messages": [QUESTION, ANSWER]}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
TOOL_MESSAGES = [
    {"role": "user", "content": "Is it raining?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": "dry"},
    {"role": "assistant", "content": "It is dry."},
]


def file_of(tmp_path, *rows, name="file.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made_of(tmp_path, row, target="openai", **settings):
    """What becomes of ten copies of a row: `Prepared`, none of them dropped as a duplicate or split off."""
    path = file_of(tmp_path, *[row] * 10)
    return prepare(path, guess_kind(path), steps=("validate",), target=target, **settings)


def only(done):
    assert len(done.rows) == 10, done
    return done.rows[0]


# Labelled answers


KTO = {"prompt": "Capital of France?", "completion": "Rome.", "label": False}


@pytest.mark.parametrize("target", ["openai", "trl"])
@pytest.mark.parametrize(
    "row",
    [
        KTO,
        {**KTO, "label": 0},
        {**KTO, "label": "False"},
        {"prompt": [QUESTION], "completion": [BAD], "label": False},
        {"completion": [QUESTION, BAD], "label": False},
        {**KTO, "id": 7},
    ],
)
def test_a_bad_answer_keeps_its_label(tmp_path, row, target):
    done = made_of(tmp_path, row, target)
    assert done.settings.kind == "unpaired_preference"
    assert only(done)["label"] is False
    assert set(done.rows[0]) == set(row)
    report = validate(file_of(tmp_path, *[row] * 10), target=target)
    assert ("not_hosted" in report.counts) == (target == "openai")


@pytest.mark.parametrize("kind", ["chat", "prompt_completion", "preference"])
def test_labelled_answers_are_taken_for_nothing_else(tmp_path, kind):
    assert validate(file_of(tmp_path, *[KTO] * 10), kind).bad_rows == 10


def test_a_column_called_label_that_is_none_is_named(tmp_path):
    done = made_of(tmp_path, {"prompt": "a", "completion": "b", "label": "sports"})
    assert done.rows == [] or "label" in str(done)


def test_llamafactorys_tag_is_a_label(tmp_path):
    row = {"conversations": [{"from": "human", "value": "Capital?"}, {"from": "gpt", "value": "Rome."}], "kto_tag": "false"}
    made = only(made_of(tmp_path, row))
    assert made == {
        "prompt": [{"role": "user", "content": "Capital?"}],
        "completion": [{"role": "assistant", "content": "Rome."}],
        "label": False,
    }


# Fields


@pytest.mark.parametrize("field", ["id", "source", "metadata", "score"])
@pytest.mark.parametrize(
    "row",
    [
        CHAT,
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        {"instruction": "Say hi", "output": "hi"},
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [BAD]},
    ],
)
def test_a_field_that_has_no_place_is_named_with_its_count_or_kept(tmp_path, row, field):
    done = made_of(tmp_path, {**row, field: "x"})
    assert field not in only(done)
    assert done.left_out == {field: 10}
    assert f"{field} (10 rows)" in str(done)
    kept = made_of(tmp_path, {**row, field: "x"}, "trl")
    assert only(kept)[field] == "x"


@pytest.mark.parametrize("field", ["images", "reasoning_content", "weight", "history", "label"])
def test_a_field_that_says_what_is_learned_is_never_left_out(tmp_path, field):
    value = [["a", "b"]] if field == "history" else 0 if field in ("weight", "label") else ["a.png"]
    for row in (CHAT, {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}):
        with pytest.raises(Exception, match=r"field_in_use +10"):
            made_of(tmp_path, {**row, field: value})
        report = validate(file_of(tmp_path, *[{**CHAT, field: value}] * 10))
        assert report.counts["field_in_use"] == 10
        assert report.findings[0].field == field
        assert only(made_of(tmp_path, {**row, field: value}, "trl"))[field] == value


def test_a_message_keeps_its_reasoning_or_the_row_is_refused(tmp_path):
    row = {"messages": [QUESTION, {**ANSWER, "reasoning_content": "Think."}]}
    with pytest.raises(Exception, match="field_in_use"):
        made_of(tmp_path, row)
    assert only(made_of(tmp_path, row, "trl")) == row
    turns = {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Ho", "weight": 0},
            {"from": "human", "value": "A"},
            {"from": "gpt", "value": "B"},
        ]
    }
    assert only(made_of(tmp_path, turns))["messages"][1]["weight"] == 0


def test_tools_functions_and_parallel_calls_stay(tmp_path):
    row = {
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
        "tools": json.dumps([FUNCTION]),
        "parallel_tool_calls": False,
    }
    assert only(made_of(tmp_path, row)) == {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
        "tools": [TOOL],
        "parallel_tool_calls": False,
    }
    assert only(made_of(tmp_path, {**CHAT, "functions": [FUNCTION]}))["functions"] == [FUNCTION]


def test_alpacas_history_becomes_turns(tmp_path):
    row = {"system": "Be brief.", "history": [["Hi", "Hello"]], "instruction": "Bye", "input": "", "output": "See you"}
    said = [(m["role"], m["content"]) for m in only(made_of(tmp_path, row))["messages"]]
    assert said == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Bye"),
        ("assistant", "See you"),
    ]


# Layouts


def test_nulls_as_datasets_writes_them(tmp_path):
    nulls = {"tool_calls": None, "name": None, "weight": None, "tool_call_id": None}
    row = {
        "messages": [{**QUESTION, **nulls}, {**ANSWER, **nulls}],
        "tools": None,
        "parallel_tool_calls": None,
        "conversations": None,
    }
    assert only(made_of(tmp_path, row)) == CHAT
    assert validate(file_of(tmp_path, *[row] * 10), target="trl").ok


def test_trls_tools(tmp_path):
    for tools in ([TOOL], json.dumps([TOOL]), [FUNCTION]):
        row = {"messages": TOOL_MESSAGES, "tools": tools}
        assert validate(file_of(tmp_path, *[row] * 10), target="trl").counts.keys() <= {"tool_call_id", "field_missing"}
        made = only(made_of(tmp_path, row))
        call = made["messages"][1]["tool_calls"][0]
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
        assert made["messages"][2]["tool_call_id"] == call["id"]
        assert made["tools"] == [TOOL]


def test_a_null_of_another_functions_argument_goes_and_a_declared_one_stays(tmp_path):
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": None, "order": None}}}
    row = {"messages": [TOOL_MESSAGES[0], {"role": "assistant", "tool_calls": [call]}, *TOOL_MESSAGES[2:]], "tools": [TOOL]}
    made = only(made_of(tmp_path, row))
    assert json.loads(made["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"city": None}


def test_llamafactorys_calls(tmp_path):
    row = {
        "conversations": [
            {"from": "human", "value": "Raining?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Paris"}}'},
            {"from": "observation", "value": "dry"},
            {"from": "gpt", "value": "Dry."},
        ],
        "tools": json.dumps([FUNCTION]),
    }
    messages = only(made_of(tmp_path, row))["messages"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"]


RANKINGS = [
    {"prompt": QUESTION["content"], "chosen": [QUESTION, ANSWER], "rejected": [QUESTION, BAD]},
    {
        "prompt": QUESTION["content"],
        "chosen": [QUESTION, ANSWER],
        "rejected": [QUESTION, BAD],
        "messages": [QUESTION, ANSWER],
        "score_chosen": 8.0,
        "score_rejected": 2.0,
        "prompt_id": "x",
    },
    {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [BAD]},
    {"prompt": QUESTION["content"], "chosen": ANSWER["content"], "rejected": BAD["content"]},
    {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, BAD]},
    {
        "conversations": [{"from": "human", "value": QUESTION["content"]}],
        "chosen": {"from": "gpt", "value": ANSWER["content"]},
        "rejected": {"from": "gpt", "value": BAD["content"]},
    },
    {"instruction": QUESTION["content"], "input": "", "chosen": ANSWER["content"], "rejected": BAD["content"]},
]


@pytest.mark.parametrize(
    "row", RANKINGS, ids=["binarized", "ultrafeedback", "explicit", "text", "implicit", "sharegpt", "alpaca"]
)
def test_rankings_become_preferences(tmp_path, row):
    done = made_of(tmp_path, row)
    assert only(done) == {
        "input": {"messages": [QUESTION], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [ANSWER],
        "non_preferred_output": [BAD],
    }
    assert set(done.left_out) == set(row) - {"prompt", "chosen", "rejected", "conversations", "instruction", "input"}
    again = file_of(tmp_path, *made_of(tmp_path, row, "trl").rows)
    assert validate(again, target="trl").ok
    assert guess_kind(again) == "preference"
    first = json.loads(again.read_text().splitlines()[0])
    assert {"chosen", "rejected"} <= set(first)
    assert not isinstance(first["chosen"], dict)


def test_system_and_history_of_a_ranking_are_in_the_prompt(tmp_path):
    row = {"system": "Be brief.", "history": [["Hi", "Hello"]], "instruction": "Bye", "chosen": "See you", "rejected": "No"}
    said = [m["content"] for m in only(made_of(tmp_path, row))["input"]["messages"]]
    assert said == ["Be brief.", "Hi", "Hello", "Bye"]


def test_a_conversation_with_a_label_is_no_example_to_imitate(tmp_path):
    """LLaMA-Factory's sets for KTO: taken for chats, their bad answers would be learned."""
    turns = [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "Rome."}]
    rows = [{"messages": turns, "label": good} for good in (True, False)]
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert guess_kind(file) == "unpaired_preference"
    done = prepare(file, "unpaired_preference", target="trl", steps={"validate"})
    assert [row["label"] for row in done.rows] == [True, False]
    assert done.rows[1]["prompt"] == turns[:1]
    assert done.rows[1]["completion"] == turns[1:]
    # a class beside a conversation is no verdict on it
    assert shape_of({"messages": turns, "label": "geography"}) == "messages"


def test_shapes_of_what_people_have():
    assert shape_of(KTO) == "kto"
    assert all(shape_of(row) == "preference" for row in RANKINGS)
    assert convert(KTO, "kto") == KTO
