"""Shapes told apart, and turned into each other without loss."""

import json

import pytest
from data_prep import malformed

from course_utils.data_prep import convert, formats, reading, shape_of
from course_utils.data_prep.findings import Finding
from course_utils.data_prep.fixing import fix
from course_utils.data_prep.reading import Row
from course_utils.data_prep.validation import check, validate
from course_utils.errors import CourseError

EXAMPLES = {
    "messages": malformed.good(),
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
    "alpaca": {"instruction": "Say hi.", "input": "In French", "output": "Salut"},
    "prompt_completion": {"prompt": "hi", "completion": "ho"},
    "preference": {"prompt": "hi", "chosen": "ho", "rejected": "no"},
    "openai_preference": malformed.preference(),
}


def test_shapes_are_told_apart():
    for shape, row in EXAMPLES.items():
        assert shape_of(row) == shape
    for other in (None, 1, [], {}, {"prompt": "x"}, {"conversations": "x"}):
        assert shape_of(other) is None


def test_the_list_of_turns_is_taken_whichever_of_two_names_it_has():
    row = {"conversations": None, "conversation": EXAMPLES["sharegpt"]["conversations"]}
    assert convert(row, "messages") == convert(EXAMPLES["sharegpt"], "messages")


def test_there_and_back():
    row = malformed.good()
    assert convert(convert(row, "prompt_completion"), "messages") == row
    row = malformed.preference()
    assert convert(convert(row, "preference"), "openai_preference") == row


@pytest.mark.parametrize("shape", ["messages", "sharegpt", "alpaca", "prompt_completion"])
def test_what_comes_out_is_valid(shape):
    made = convert(EXAMPLES[shape], "messages")
    assert [f for _, findings in check([Row(1, made)], "chat") for f in findings] == []
    made = convert(EXAMPLES["preference"], "openai_preference")
    assert [f for _, findings in check([Row(1, made)], "preference") for f in findings] == []


def test_the_row_itself_is_not_changed():
    row = malformed.good()
    convert(row, "prompt_completion")["prompt"][0]["content"] = "changed"
    assert row == malformed.good()


@pytest.mark.parametrize(
    ("row", "to", "words"),
    [
        (malformed.good(), "csv", "unknown shape"),
        ({"x": 1}, "messages", "has no known shape"),
        (malformed.good(), "preference", "one has two answers"),
        (malformed.good(), "alpaca", "unknown shape"),
        ({"conversations": [{"from": "martian", "value": "x"}]}, "messages", "unknown speaker"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt_completion", "does not end with an answer"),
        ({"chosen": "a", "rejected": "b"}, "openai_preference", "can't be told"),
        ({"prompt": "a", "completion": "b", "label": False}, "messages", "without its label"),
    ],
)
def test_what_has_no_room_is_refused(row, to, words):
    with pytest.raises(CourseError, match=words):
        convert(row, to)


FIXED = (
    "other_shape",
    "extra_key",
    "weight_role",
    "edge_whitespace",
    "last_not_assistant",
    "control_character",
    "invisible_character",
    "arguments_type",
)
FIXABLE = [(name, row, code) for name, row, code in malformed.CHAT if code in FIXED]


def test_there_is_a_row_for_all_that_can_be_fixed():
    assert {code for _, _, code in FIXABLE} == set(FIXED)


@pytest.mark.parametrize(("row", "code"), [pytest.param(row, code, id=name) for name, row, code in FIXABLE])
def test_what_can_be_fixed_is_right_afterwards(tmp_path, row, code):
    path = tmp_path / "file.jsonl"
    path.write_bytes(malformed.line_of(row))
    (given, findings), = check(reading.read(path), "chat")  # fmt: skip
    fixed, codes = fix(given.value, findings)
    assert (code in codes) == (fixed != given.value)  # what has to stay is not called fixed
    assert code in codes or code == "invisible_character"
    again = [f for _, fs in check([Row(1, fixed)], "chat") for f in fs]
    # A mark of direction or a line separator stays: some languages need it. That is a warning.
    assert [f.code for f in again if f.severity == "error"] == []


@pytest.mark.parametrize("code", ["not_json", "role_missing", "content_empty", "arguments_not_json", "duplicate_key"])
def test_what_cannot_be_fixed_is_left_to_people(code):
    assert fix(malformed.good(), [Finding(1, "", code, "x")]) == (None, [])


def test_texts_of_a_row():
    row = malformed.tool_row()
    assert formats.prompt_of(row) == "Where is it?"
    assert formats.answer_of(row) == '{"order": "TB-12345"}\nIt is on its way.'


def test_a_thread_of_a_ticket_system_is_read_as_turns(tmp_path):
    thread = [
        {"author": "customer", "body": "Where is my lamp?"},
        {"author": "agent", "body": "It left on Monday.", "at": 7},
    ]
    chat = convert({"ticket": 1, "conversations": thread}, "messages")
    assert [(m["role"], m["content"]) for m in chat["messages"]] == [
        ("user", "Where is my lamp?"),
        ("assistant", "It left on Monday."),
    ]
    path = tmp_path / "export.jsonl"
    path.write_text(json.dumps({"ticket": 1, "thread": thread}), encoding="utf-8")
    assert "--map thread=conversations" in str(validate(path).findings[0])
    assert "unknown_shape" not in {f.code for f in validate(path, columns={"thread": "conversations"}).findings}
