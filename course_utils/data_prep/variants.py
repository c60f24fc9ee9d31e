"""The same row written differently: nulls for absent fields, lists as text, calls without ids, other trainers' layouts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from course_utils.data_prep import reading
from course_utils.errors import CourseError

TRUE, FALSE = {"true", "1", "yes", "good"}, {"false", "0", "no", "bad"}
# Fields that decide what is learned, or from what; without them a row teaches something else.
MEANINGFUL = {
    "label", "kto_tag", "images", "image", "videos", "video", "audios", "audio", "history", "weight",
    "reasoning_content", "reasoning", "thinking",
}  # fmt: skip
UNSUPPORTED = {"label_type", "part_value"}  # variants that no trainer accepts
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


def write_parts(row: dict) -> dict:
    """Return a row of LLaMA-Factory's layout with parts ({"type", "value"}) in the usual one.

    Reasoning becomes a field of its message, calls become tool calls, and the two conversations of a preference become its
    prompt and two answers.
    """
    if isinstance(row.get("chosen_messages"), list) and isinstance(row.get("rejected_messages"), list):
        chosen, rejected = row.pop("chosen_messages"), row.pop("rejected_messages")
        start = shared_beginning(chosen, rejected)
        row |= {"prompt": chosen[:start], "chosen": chosen[start:], "rejected": rejected[start:]}
    for message in messages_of(row):
        if not _has_values(message):
            continue
        weight = message.pop("loss_weight", None)
        if message.get("role") == "assistant" and weight == 0:
            message["weight"] = 0
        values: dict[str, list] = {}
        for part in message["content"]:
            values.setdefault(str(part["type"]), []).append(part["value"])
        texts: str | list = "\n".join(map(str, values.get("text", [])))
        if pictures := values.get("image_url"):
            texts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures] + [
                {"type": "text", "text": texts}
            ]
        calls = [reading.json_or_none(call) if isinstance(call, str) else call for call in values.get("tool_call", [])]
        if not values.keys() <= {"text", "image_url", "reasoning", "tool_call"} or not all(map(_is_call, calls)):
            continue  # what is left as it is will be reported
        message["content"] = texts or None
        if calls:
            message["tool_calls"] = list(map(_written_call, calls))
        if reasoning := values.get("reasoning"):
            message["reasoning_content"] = "\n".join(map(str, reasoning))
    return row


def _is_call(call: object) -> bool:
    return isinstance(call, dict) and {"name", "arguments"} <= call.keys()


def _has_values(message: dict) -> bool:
    parts = message.get("content")
    return (
        isinstance(parts, list) and bool(parts) and all(isinstance(p, dict) and {"type", "value"} <= p.keys() for p in parts)
    )


def parse_label(row: dict) -> dict:
    """Return a row whose label is true or false."""
    if "completion" in row and (label := label_of(row.get("label"))) is not None:
        row["label"] = label
    return row


# code → the function that fixes it, and the message about it
VARIANTS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "null_field": (without_nulls, "null is written for an absent value"),
    "part_value": (write_parts, "the parts of messages are in another trainer's layout"),
    "list_as_text": (parse_lists, "a list is written as text, or a function has no type"),
    "call_without_id": (number_calls, "a call has no id or type, or its answer does not name it"),
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
    if "chosen_messages" in row:
        return False
    return all(
        message.get("role") != "tool"
        and not _has_values(message)
        and "tool_calls" not in message
        and None not in map(message.get, message)
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


# Layouts


def turns_of_alpaca(row: dict) -> list[dict]:
    """Return system, history, instruction and input of an Alpaca row as messages, without its answer.

    Raises:
        CourseError: the history is not a list of pairs.
    """
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for index, pair in enumerate(row.get("history") or []):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise CourseError(f"history[{index}]: must be a question and an answer")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    prompt = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
    return [*messages, {"role": "user", "content": prompt}]


def turns_of_sharegpt(row: dict, roles: dict[str, str]) -> list[dict]:
    """Return the turns of a ShareGPT row as messages.

    LLaMA-Factory's calls and observations become tool calls and tool answers.

    Raises:
        CourseError: a speaker is unknown, or a call is not JSON with a name and arguments.
    """
    turns: list = next((row[key] for key in ("conversations", "conversation") if isinstance(row.get(key), list)), [])
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for index, turn in enumerate(turns):
        messages.append(message_of_turn(turn, roles, f"conversations[{index}]"))
    return number_calls({"messages": messages})["messages"]


def message_of_turn(turn: object, roles: dict[str, str], path: str) -> dict:
    """Return one turn as a message; other fields of the turn are kept.

    Raises:
        CourseError: for the same reasons as `turns_of_sharegpt`.
    """
    speaker = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
    if not isinstance(turn, dict) or not isinstance(speaker, str):
        raise CourseError(f"{path}: unknown speaker {speaker!r}")
    further = {k: v for k, v in turn.items() if k not in ("from", "role", "value", "content")}
    content = turn.get("value", turn.get("content"))
    if speaker.lower() == "function_call":
        try:
            calls: Any = json.loads(content) if isinstance(content, str) else content
            calls = list(map(_written_call, calls if isinstance(calls, list) else [calls]))
        except (ValueError, KeyError, TypeError) as error:
            raise CourseError(f"{path}: a call must be JSON with name and arguments") from error
        return {"role": "assistant", "content": None, "tool_calls": calls, **further}
    if speaker.lower() not in roles:
        raise CourseError(f"{path}: unknown speaker {speaker!r}")
    return {"role": roles[speaker.lower()], "content": content, **further}


def _written_call(call: dict) -> dict:
    arguments = call["arguments"]
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "function": {"name": call["name"], "arguments": arguments}}


def shared_beginning(one: list, other: list) -> int:
    """Return how many messages two conversations have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def best_path(tree: dict) -> list[dict]:
    """Return the best-ranked path of an OASST tree as messages.

    Of the replies to each message, it has the one that people ranked first.

    Raises:
        CourseError: the tree has no answer, or an unknown speaker.
    """
    node: dict | None = tree["prompt"]
    messages: list[dict] = []
    while node:
        role = {"prompter": "user", "assistant": "assistant"}.get(str(node.get("role")))
        if role is None or not isinstance(node.get("text"), str):
            raise CourseError(f"unknown speaker {node.get('role')!r} in the tree")
        messages.append({"role": role, "content": node["text"]})
        replies = [reply for reply in node.get("replies") or [] if isinstance(reply, dict) and not reply.get("deleted")]
        if role == "assistant":  # a question that nobody answered is a dead end
            replies = [reply for reply in replies if reply.get("replies")]
        node = min(replies, key=_rank, default=None)
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise CourseError("the tree has no answer")
    return messages


def _rank(reply: dict) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int) else float("inf")  # nobody ranked it
