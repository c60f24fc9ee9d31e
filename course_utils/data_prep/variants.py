"""The same row written differently: nulls for absent fields, lists as text, calls without ids."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from course_utils.data_prep import reading

TRUE, FALSE = {"true", "1", "yes", "good"}, {"false", "0", "no", "bad"}
# Fields that decide what is learned, or from what; without them a row teaches something else.
MEANINGFUL = {
    "label", "kto_tag", "images", "image", "videos", "video", "audios", "audio", "history", "weight",
    "reasoning_content", "reasoning", "thinking",
}  # fmt: skip
USUAL_ROLES = ("system", "user", "assistant", "developer")
# What conversations and ticket systems call who speaks → the usual role
SPEAKERS = {
    **{role: role for role in (*USUAL_ROLES, "tool")},
    **dict.fromkeys("human customer client requester visitor kunde cliente".split(), "user"),
    **dict.fromkeys("gpt chatgpt bing bard model agent operator support bot ai".split(), "assistant"),
    "observation": "tool",
}
LISTS = ("messages", "prompt", "completion", "chosen", "rejected", "preferred_output", "non_preferred_output")
ANSWERS = ("messages", "conversations", "conversation", "output", "completion", "chosen", "rejected", "preferred_output")
MAYBE_TEXT = ("messages", "conversations", "tools", "functions", "chosen", "rejected", "prompt", "completion")


def label_of(value: object) -> bool | None:
    """Return True for a label that means good, False for one that means bad, else None.

    The label may be JSON's, a number, or a text from a CSV file.
    """
    text = str(value).strip().casefold()
    return True if text in TRUE else False if text in FALSE else None


def is_meaningful(key: str, value: object) -> bool:
    """Return whether a row would teach something else without this field."""
    if key == "label":  # a column with this name may also say what a row is about
        return label_of(value) is not None
    return key in MEANINGFUL and value not in (None, "", [], {})


def without_nulls(row: dict) -> dict:
    """Return a row without the nulls that `datasets` and Parquet write for fields that only other rows have."""
    answered = any(row.get(key) is not None for key in ANSWERS)
    row = {key: value for key, value in row.items() if value is not None or (key in ANSWERS and not answered)}
    declared = {}
    if isinstance(row.get("tools"), list):
        row["tools"] = reading.without_nulls(row["tools"], keep=("default", "const"))
        declared = dict(map(_named, row["tools"]))
    for message in messages_of(row):
        for key in [key for key, value in message.items() if value is None and key not in ("role", "content")]:
            del message[key]
        for function in map(_function, _list(message.get("tool_calls"))):
            arguments = function.get("arguments")
            properties = _properties(declared.get(str(function.get("name"))))
            if isinstance(arguments, dict) and properties is not None:
                # A null in a parameter that the function declares may be intended; any other belongs to another function.
                for key in [key for key, value in arguments.items() if value is None and key not in properties]:
                    del arguments[key]
    return row


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _function(call: object) -> dict:
    function = call.get("function") if isinstance(call, dict) else None
    return function if isinstance(function, dict) else {}


def _named(tool: object) -> tuple[str, object]:
    function = _function(tool) or tool
    return (str(function.get("name")), function) if isinstance(function, dict) else ("", None)


def _properties(function: object) -> dict | None:
    parameters = function.get("parameters") if isinstance(function, dict) else None
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return properties if isinstance(properties, dict) else None


def parse_lists(row: dict) -> dict:
    """Return a row whose messages and tools are lists, even if a text column held them as text.

    Bare functions become tools.
    """
    for key in MAYBE_TEXT:
        value = row.get(key)
        if isinstance(value, str) and value.lstrip().startswith("["):
            parsed = reading.json_or_none(value)
            if isinstance(parsed, list) and all(isinstance(item, dict) for item in parsed) and (parsed or key == "tools"):
                row[key] = parsed
    if isinstance(row.get("tools"), list):
        row["tools"] = [
            {"type": "function", "function": tool} if isinstance(tool, dict) and "name" in tool and "function" not in tool
            else tool for tool in row["tools"]
        ]  # fmt: skip
    return row


def number_calls(row: dict) -> dict:
    """Return a row whose calls have ids, which its tool messages name; TRL's calls have none, and are answered in order."""
    for key in LISTS:
        waiting: list[tuple[str, str]] = []  # name and id of the calls that have no answer yet
        number = 0
        for message in _list(row.get(key)):
            if not isinstance(message, dict):
                return row
            for call in _list(message.get("tool_calls")):
                if not _function(call):
                    return row
                number += 1
                call.setdefault("type", "function")
                waiting.append((str(call["function"].get("name")), call.setdefault("id", f"call_{number}")))
            if message.get("role") == "tool":
                if "tool_call_id" not in message:
                    named = [call for call in waiting if call[0] == message.get("name")] or waiting[:1]
                    if not named:
                        return row
                    message["tool_call_id"] = named[0][1]
                waiting = [call for call in waiting if call[1] != message["tool_call_id"]]
    return row


def parse_label(row: dict) -> dict:
    """Return a row whose label is true or false."""
    if "completion" in row and (label := label_of(row.get("label"))) is not None:
        row["label"] = label
    return row


def usual_roles(row: dict) -> dict:
    """Return a row whose speakers have the usual names: a ticket system's "Customer" is the user."""
    for message in messages_of(row):
        if isinstance(role := message.get("role"), str) and role.strip().lower() in SPEAKERS:
            message["role"] = SPEAKERS[role.strip().lower()]
    return row


# code → the function that fixes it, and the message about it
VARIANTS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "null_field": (without_nulls, "null is written for an absent value"),
    "list_as_text": (parse_lists, "a list is written as text, or a function has no type"),
    "call_without_id": (number_calls, "a call has no id or type, or its answer does not name it"),
    "role_name": (usual_roles, "the role has another name: user and assistant are meant"),
    "label_type": (parse_label, "the label is not true or false"),
}


def variants(row: dict) -> tuple[dict, list[str]]:
    """Return the row in its usual form, and the codes of the variants that were normalised; the argument is not changed."""
    codes: list[str] = []
    if _is_usual(row):
        return row, codes
    for code, (normalise, _) in VARIANTS.items():
        changed = normalise(copy.deepcopy(row))
        if not _same(changed, row):
            codes.append(code)
            row = changed
    return row, codes


def _is_usual(row: dict) -> bool:
    """Whether the keys alone show that no variant is present. This is so for most rows, and saves copying them."""
    if row.keys() & {"tools", "functions", "label"}:
        return False
    for key, value in row.items():
        if value is None or (key in MAYBE_TEXT and isinstance(value, str) and value.lstrip().startswith("[")):
            return False
    return all(
        message.get("role") in USUAL_ROLES and "tool_calls" not in message and None not in map(message.get, message)
        for message in messages_of(row)
    )


def _same(one: object, other: object) -> bool:
    """Whether two values are equal, where true is not 1."""
    return one == other and repr(one) == repr(other)


def messages_of(row: dict) -> Iterator[dict[str, Any]]:
    """Yield every message of a row, in whichever field it is."""
    lists = [row[key] for key in LISTS if isinstance(row.get(key), list)]
    inner = row.get("input")
    if isinstance(inner, dict) and isinstance(inner.get("messages"), list):
        lists.append(inner["messages"])
    for messages in lists:
        yield from (message for message in messages if isinstance(message, dict))
