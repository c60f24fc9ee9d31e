"""Rows with one thing wrong each, and the code that says so: (name, line, code). The line is bytes, or an object to be dumped."""

import copy
import json


def good() -> dict:
    return {
        "messages": [
            {"role": "system", "content": "Triage this customer message."},
            {"role": "user", "content": "Where is my parcel? Order TB-12345, due on Monday."},
            {"role": "assistant", "content": '{"category": "delivery"}'},
        ]
    }


def tool_row() -> dict:
    call = {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": '{"order": "TB-12345"}'}}
    parameters = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
    return {
        "messages": [
            {"role": "user", "content": "Where is it?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "shipped"},
            {"role": "assistant", "content": "It is on its way."},
        ],
        "tools": [{"type": "function", "function": {"name": "find_order", "parameters": parameters}}],
        "parallel_tool_calls": False,
    }


def preference() -> dict:
    side = lambda text: [{"role": "assistant", "content": text}]
    return {
        "input": {"messages": [{"role": "user", "content": "Hello"}], "tools": [], "parallel_tool_calls": True},
        "preferred_output": side("Hello, how can I help?"),
        "non_preferred_output": side("What?"),
    }


def changed(row: dict, *steps) -> dict:
    """A copy with a value set at a path, or taken out with `GONE`: changed(row, ("messages", 0, "role"), "bot")."""
    row = copy.deepcopy(row)
    for path, value in zip(steps[::2], steps[1::2]):
        place = row
        for key in path[:-1]:
            place = place[key]
        if value is GONE:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    return row


GONE = object()
U, A = ("messages", 1), ("messages", 2)
CALL = ("messages", 1, "tool_calls", 0)
text = json.dumps(good())


IMAGE: dict = {"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}


def _image(url) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def _calling(name="find_order", arguments='{"order": "TB-12345"}', **more) -> dict:
    """A hosted preference whose preferred output calls a tool."""
    row = preference()
    row["input"]["tools"] = tool_row()["tools"]
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}} | more
    row["preferred_output"] = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    return row


def _set(path, value, row=good):
    return changed(row(), path, value)


CHAT = [
    # JSON
    ("cut in the middle", text[:60].encode(), "not_json"),
    ("last brace missing", text[:-1].encode(), "not_json"),
    ("comma after the row", (text + ",").encode(), "not_json"),
    ("comma after the last element", text.replace("}]}", "},]}").encode(), "not_json"),
    ("comma missing", text.replace("}, {", "} {", 1).encode(), "not_json"),
    ("colon missing", text.replace('"messages":', '"messages"', 1).encode(), "not_json"),
    ("key without quotes", text.replace('"messages"', "messages", 1).encode(), "not_json"),
    ("python dictionary", str(good()).encode(), "not_json"),
    ("python None", json.dumps(_set((*A, "content"), None)).replace("null", "None").encode(), "not_json"),
    ("python True", b'{"messages": [], "parallel_tool_calls": True}', "not_json"),
    ("typographic quotes", text.replace('"role"', "“role”", 1).encode(), "not_json"),
    ("comment", (text + " # good").encode(), "not_json"),
    ("comment before", ("// " + text).encode(), "not_json"),
    ("list bracket alone", b"[", "not_json"),
    ("plain text", b"User: hello\tAssistant: hi", "not_json"),
    ("yaml", b"messages: [role: user]", "not_json"),
    ("xml", b"<row><user>hi</user></row>", "not_json"),
    ("bad escape", text.replace("Where", "\\where", 1).encode(), "not_json"),
    ("cut escape", text.replace("Where", "\\u12", 1).encode(), "not_json"),
    ("raw tab", text.replace("Where is", "Where\tis", 1).encode(), "not_json"),
    ("raw NUL", text.replace("Where is", "Where\0is", 1).encode(), "not_json"),
    ("number with leading zero", b'{"messages": [], "n": 007}', "not_json"),
    ("two objects", f"{text} {text}".encode(), "several_objects"),
    ("two objects without a blank", f"{text}{text}".encode(), "several_objects"),
    ("a list", f"[{text}]".encode(), "not_object"),
    ("a string", json.dumps(text).encode(), "not_object"),
    ("a number", b"42", "not_object"),
    ("null", b"null", "not_object"),
    ("true", b"true", "not_object"),
    ("nested a thousand deep", b'{"messages": ' + b"[" * 1000 + b"]" * 1000 + b"}", "too_deep"),
    ("nested a million deep", b"[" * 1_000_000, "too_deep"),
    ("objects nested deep", b'{"a":' * 5000 + b"1" + b"}" * 5000, "too_deep"),
    ("key twice", text[:-1].encode() + b', "messages": []}', "duplicate_key"),
    ("key twice in a message", text.replace('"role": "user"', '"role": "user", "role": "user"', 1).encode(), "duplicate_key"),
    ("NaN", b'{"messages": [], "x": NaN}', "not_finite"),
    ("Infinity", b'{"messages": [], "x": -Infinity}', "not_finite"),
    ("1e999", b'{"messages": [], "x": 1e999}', "not_finite"),
    ("endless number", b'{"messages": [], "x": ' + b"9" * 10_000 + b"}", "number_too_long"),
    ("lone high surrogate", text.replace("Where", "\\ud83d", 1).encode(), "lone_surrogate"),
    ("lone low surrogate", text.replace("Where", "\\udc00", 1).encode(), "lone_surrogate"),
    ("surrogate in a key", b'{"messages": [], "\\ud800": 1}', "lone_surrogate"),
    ("escaped NUL", text.replace("Where", "\\u0000", 1).encode(), "control_character"),
    ("escaped bell", text.replace("Where", "\\u0007", 1).encode(), "control_character"),
    ("escaped backspace", text.replace("Where", "\\b", 1).encode(), "control_character"),
    ("delete character", text.replace("Where", "\x7f", 1).encode(), "control_character"),
    ("latin-1", text.replace("Where", "Où", 1).encode("latin-1"), "not_utf8"),
    ("cut UTF-8", text.replace("Where", "é", 1).encode().replace(b"\xc3\xa9", b"\xc3"), "not_utf8"),
    ("surrogate in UTF-8", text.encode().replace(b"Where", b"\xed\xa0\x80"), "not_utf8"),
    ("replacement character", text.replace("Where", "\ufffd", 1).encode(), "replacement_character"),
    ("zero-width space", text.replace("Where", "\u200bWhere", 1).encode(), "invisible_character"),
    ("line separator", text.replace("Where", "\u2028", 1).encode(), "invisible_character"),
    ("override of direction", text.replace("Where", "\u202e", 1).encode(), "invisible_character"),
    ("byte order mark inside", text.replace("Where", "\ufeff", 1).encode(), "invisible_character"),
    ("blank line", b"  \t ", "blank_line"),
    ("longer than is read", b'{"messages": "' + b"a" * 20_000_001 + b'"}', "line_too_long"),
    # the row
    ("unknown shape", {"question": "Where?", "reply": "There."}, "unknown_shape"),
    ("empty object", {}, "unknown_shape"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}, "other_shape"),
    ("alpaca", {"instruction": "Say hi", "input": "", "output": "hi"}, "other_shape"),
    ("prompt and completion", {"prompt": "hi", "completion": "ho"}, "other_shape"),
    ("preference", {"prompt": "hi", "chosen": "ho", "rejected": "no"}, "wrong_kind"),
    ("hosted preference", preference(), "wrong_kind"),
    ("extra key", _set(("id",), 7), "extra_key"),
    ("weight on the row", _set(("weight",), 1), "field_in_use"),
    ("extra key in a message", _set((*U, "timestamp"), "2026"), "extra_key"),
    ("messages null", {"messages": None}, "field_type"),
    ("messages a string", {"messages": "hi"}, "field_type"),
    ("messages an object", {"messages": {"role": "user"}}, "field_type"),
    ("messages empty", {"messages": []}, "messages_empty"),
    ("message a string", _set(U, "hi"), "field_type"),
    ("message null", _set(U, None), "field_type"),
    ("message a list", _set(U, ["user", "hi"]), "field_type"),
    ("only a system message", {"messages": [{"role": "system", "content": "x"}]}, "no_assistant"),
    ("no answer", changed(good(), A, GONE), "no_assistant"),
    ("no question", changed(good(), U, GONE), "prompt_missing"),
    ("answer before the question", {"messages": good()["messages"][:0:-1]}, "prompt_missing"),
    ("role missing", _set((*U, "role"), GONE), "role_missing"),
    ("role null", _set((*U, "role"), None), "role_unknown"),
    ("role a number", _set((*U, "role"), 1), "role_unknown"),
    ("role a list", _set((*U, "role"), ["user"]), "role_unknown"),
    ("role human", _set((*U, "role"), "human"), "role_name"),
    ("role User", _set((*U, "role"), "User"), "role_name"),
    ("role with a blank", _set((*A, "role"), "assistant "), "role_name"),
    ("role model", _set((*A, "role"), "model"), "role_name"),
    ("content missing", _set((*U, "content"), GONE), "content_missing"),
    ("content null", _set((*U, "content"), None), "content_missing"),
    ("answer null", _set((*A, "content"), None), "content_missing"),
    ("content a number", _set((*U, "content"), 12345), "content_type"),
    ("content true", _set((*U, "content"), True), "content_type"),
    ("content an object", _set((*A, "content"), {"category": "delivery"}), "content_type"),
    ("content empty", _set((*U, "content"), ""), "content_empty"),
    ("answer empty", _set((*A, "content"), ""), "content_empty"),
    ("answer blank", _set((*A, "content"), " \n\t"), "content_empty"),
    ("answer of no-break spaces", _set((*A, "content"), "\u00a0\u00a0"), "content_empty"),
    ("system empty", _set(("messages", 0, "content"), ""), "content_empty"),
    ("no parts", _set((*U, "content"), []), "content_empty"),
    ("part a string", _set((*U, "content"), ["hi"]), "content_part"),
    ("part without type", _set((*U, "content"), [{"text": "hi"}]), "content_part"),
    ("part of unknown type", _set((*U, "content"), [{"type": "video", "text": "hi"}]), "content_part"),
    ("part without text", _set((*U, "content"), [{"type": "text"}]), "content_part"),
    ("part with a number", _set((*U, "content"), [{"type": "text", "text": 7}]), "content_part"),
    ("part empty", _set((*U, "content"), [{"type": "text", "text": " "}]), "content_empty"),
    ("image of the assistant", _set((*A, "content"), [{"type": "image_url", "image_url": {"url": "x"}}]), "content_part"),
    ("image as a string", _set((*U, "content"), [{"type": "image_url", "image_url": "x"}]), "content_part"),
    ("image without url", _set((*U, "content"), [IMAGE | {"image_url": {"detail": "low"}}]), "content_part"),
    ("image's url a number", _set((*U, "content"), [_image(7)]), "content_part"),
    ("refusal a number", _set((*A, "refusal"), 5), "field_type"),
    ("answer starts with a blank", _set((*A, "content"), " yes"), "edge_whitespace"),
    ("answer ends with a line", _set((*A, "content"), "yes\n"), "edge_whitespace"),
    ("im_end in the answer", _set((*A, "content"), "yes<|im_end|>"), "special_token"),
    ("fim_suffix in the message", _set((*U, "content"), "a <|fim_suffix|> b"), "special_token"),
    ("INST", _set((*U, "content"), "[INST] hi [/INST]"), "special_token"),
    ("end of turn", _set((*A, "content"), "ok<end_of_turn>"), "special_token"),
    ("name with blanks", _set((*U, "name"), "Jana K."), "name_invalid"),
    ("name empty", _set((*U, "name"), ""), "name_invalid"),
    ("name too long", _set((*U, "name"), "a" * 65), "name_invalid"),
    ("name a number", _set((*U, "name"), 5), "name_invalid"),
    ("weight 2", _set((*A, "weight"), 2), "weight_invalid"),
    ("weight a half", _set((*A, "weight"), 0.5), "weight_invalid"),
    ("weight true", _set((*A, "weight"), True), "weight_invalid"),
    ("weight a string", _set((*A, "weight"), "1"), "weight_invalid"),
    ("weight null", _set((*A, "weight"), None), "null_field"),
    ("weight of the user", _set((*U, "weight"), 1), "weight_role"),
    ("nothing is trained", _set((*A, "weight"), 0), "nothing_trained"),
    ("two questions", {"messages": [good()["messages"][1], *good()["messages"][1:]]}, "role_order"),
    ("two answers", {"messages": [*good()["messages"], good()["messages"][2]]}, "role_order"),
    ("ends with a question", {"messages": [*good()["messages"], good()["messages"][1]]}, "last_not_assistant"),
    ("system in the middle", {"messages": [*good()["messages"][1:], *good()["messages"]]}, "system_not_first"),
    # tools
    ("tools an object", _set(("tools",), {}, tool_row), "tools_invalid"),
    ("tool without function", _set(("tools", 0), {"type": "function"}, tool_row), "tools_invalid"),
    ("tool without type", changed(tool_row(), ("tools", 0, "type"), GONE), "tools_invalid"),
    ("tool name with a blank", _set(("tools", 0, "function", "name"), "find order", tool_row), "name_invalid"),
    ("tool twice", _set(("tools",), tool_row()["tools"] * 2, tool_row), "tools_duplicate"),
    ("parameters a string", _set(("tools", 0, "function", "parameters"), "order", tool_row), "tools_invalid"),
    ("parameters of another type", _set(("tools", 0, "function", "parameters", "type"), "array", tool_row), "tools_invalid"),
    ("tools missing", changed(tool_row(), ("tools",), GONE), "tool_unknown"),
    ("parallel a string", _set(("parallel_tool_calls",), "false", tool_row), "field_type"),
    ("calls an object", _set(CALL[:3], {}, tool_row), "tool_calls_invalid"),
    ("calls empty", _set(CALL[:3], [], tool_row), "tool_calls_invalid"),
    ("call without function", _set(CALL, {"id": "call_1", "type": "function"}, tool_row), "tool_calls_invalid"),
    ("call without type", changed(tool_row(), (*CALL, "type"), GONE), "call_without_id"),
    ("call without id", changed(tool_row(), (*CALL, "id"), GONE), "call_without_id"),
    ("call id empty", _set((*CALL, "id"), "", tool_row), "tool_call_id"),
    ("call of an unknown function", _set((*CALL, "function", "name"), "cancel", tool_row), "tool_unknown"),
    ("arguments an object", _set((*CALL, "function", "arguments"), {"order": 1}, tool_row), "arguments_type"),
    ("arguments missing", changed(tool_row(), (*CALL, "function", "arguments"), GONE), "tool_calls_invalid"),
    ("arguments no JSON", _set((*CALL, "function", "arguments"), "{order: 1}", tool_row), "arguments_not_json"),
    ("arguments empty", _set((*CALL, "function", "arguments"), "", tool_row), "arguments_not_json"),
    ("arguments a list", _set((*CALL, "function", "arguments"), "[1]", tool_row), "arguments_not_json"),
    ("the user calls", _set(("messages", 0, "tool_calls"), tool_row()["messages"][1]["tool_calls"], tool_row), "tool_calls_role"),
    ("answer of an unknown call", _set(("messages", 2, "tool_call_id"), "call_9", tool_row), "tool_answer_unknown"),
    ("answer without id", changed(tool_row(), ("messages", 2, "tool_call_id"), GONE), "call_without_id"),
    ("answer id a number", _set(("messages", 2, "tool_call_id"), 1, tool_row), "field_type"),
    ("answer missing", changed(tool_row(), ("messages", 2), GONE), "tool_answer_missing"),
    ("answered twice", changed(tool_row(), ("messages",), [*tool_row()["messages"][:3], *tool_row()["messages"][2:]]), "tool_answer_unknown"),
    ("old functions", _set(("functions",), [], good), "functions_deprecated"),
]  # fmt: skip

PREFERENCE = [
    ("chat in a preference file", good(), "wrong_kind"),
    ("input missing", changed(preference(), ("input",), GONE), "field_missing"),
    ("preferred missing", changed(preference(), ("preferred_output",), GONE), "field_missing"),
    ("input a list", _set(("input",), [], preference), "field_type"),
    ("input without messages", _set(("input",), {"tools": []}, preference), "field_type"),
    ("input empty", _set(("input", "messages"), [], preference), "messages_empty"),
    ("extra key", _set(("score",), 1, preference), "extra_key"),
    ("two outputs", _set(("preferred_output",), preference()["preferred_output"] * 2, preference), "preference_output"),
    ("no output", _set(("preferred_output",), [], preference), "preference_output"),
    ("output a string", _set(("preferred_output",), "Hello", preference), "preference_output"),
    ("output of the user", _set(("preferred_output", 0, "role"), "user", preference), "preference_output"),
    ("output empty", _set(("non_preferred_output", 0, "content"), "", preference), "content_empty"),
    ("call in an output: no JSON", _calling(arguments="{order: 1}"), "arguments_not_json"),
    ("call in an output: an object", _calling(arguments={"order": 1}), "arguments_type"),
    ("call in an output: unknown", _calling(name="cancel"), "tool_unknown"),
    ("call in an output: no type", _calling(type=None), "tool_calls_invalid"),
    ("call in an output: no id", _calling(id=""), "tool_call_id"),
    ("calls in an output empty", _set(("non_preferred_output", 0, "tool_calls"), [], preference), "tool_calls_invalid"),
    ("a picture in the prompt", _set(("input", "messages", 0, "content"), [IMAGE], preference), "preference_text_only"),
    ("several turns", _set(("input", "messages"), [*preference()["input"]["messages"], *preference()["preferred_output"],
        {"role": "user", "content": "And now?"}], preference), "preference_turns"),
    ("both the same calls", changed(_calling(), ("non_preferred_output",), _calling()["preferred_output"]), "preference_same"),
    ("both the same", _set(("non_preferred_output",), preference()["preferred_output"], preference), "preference_same"),
    ("prompt ends with the answer", _set(("input", "messages"), preference()["preferred_output"], preference), "preference_prompt"),
]  # fmt: skip
# For TRL, which takes this shape as it is.
PREFERENCE_TRL = [
    ("rejected missing", {"prompt": "hi", "chosen": "ho"}, "field_missing"),
    ("chosen empty", {"prompt": "hi", "chosen": "", "rejected": "no"}, "field_empty"),
    ("chosen a number", {"prompt": "hi", "chosen": 1, "rejected": 2}, "field_type"),
    ("text and messages", {"prompt": "hi", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "no"}, "mixed_shapes"),
    ("the same", {"prompt": "hi", "chosen": "ho", "rejected": "ho "}, "preference_same"),
    ("prompt repeated", {"prompt": "hi", "chosen": "hi ho", "rejected": "hi no"}, "preference_repeats_prompt"),
    ("messages empty", {"prompt": [], "chosen": [], "rejected": []}, "field_empty"),
    ("chosen ends with the user", {"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "user", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "c"}]}, "preference_output"),
]  # fmt: skip
COMPLETION = [
    ("completion missing", {"prompt": "hi"}, "field_missing"),
    ("prompt missing", {"completion": "hi"}, "field_missing"),
    ("completion null", {"prompt": "hi", "completion": None}, "field_type"),
    ("completion empty", {"prompt": "hi", "completion": " "}, "field_empty"),
    ("prompt empty", {"prompt": "", "completion": "x"}, "field_empty"),
    ("prompt ends with a blank", {"prompt": "Answer: ", "completion": "x"}, "edge_whitespace"),
    ("mixed", {"prompt": "hi", "completion": [{"role": "assistant", "content": "a"}]}, "mixed_shapes"),
    ("extra key", {"prompt": "hi", "completion": "x", "id": 1}, "extra_key"),
]  # fmt: skip


def line_of(row) -> bytes:
    return row if isinstance(row, bytes) else json.dumps(row).encode("utf-8", "surrogatepass")
