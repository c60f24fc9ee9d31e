"""The same row in other words: nulls for what is absent, lists as text, calls without ids, other trainers' layouts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from course_utils.errors import CourseError

TRUE, FALSE = {"true", "1", "yes", "good"}, {"false", "0", "no", "bad"}
# Fields that say what is to be learned, or from what: without them a row teaches something else.
MEANINGFUL = {
    "label", "kto_tag", "images", "image", "videos", "video", "audios", "audio", "history", "weight",
    "reasoning_content", "reasoning", "thinking",
}  # fmt: skip
NEVER_TAKEN = {"label_type"}  # among the variants, what no trainer takes
LISTS = ("messages", "prompt", "completion", "chosen", "rejected", "preferred_output", "non_preferred_output")
ANSWERS = ("messages", "conversations", "conversation", "output", "completion", "chosen", "rejected", "preferred_output")
AS_TEXT = ("messages", "conversations", "tools", "functions", "chosen", "rejected", "prompt", "completion")


def label_of(value: object) -> bool | None:
    """Whether an answer is called good or bad, as JSON, a number or a CSV's text; None if it is no such label."""
    text = str(value).strip().casefold()
    return True if text in TRUE else False if text in FALSE else None


def is_meaningful(key: str, value: object) -> bool:
    """Whether a row without this field would teach something else."""
    if key == "label":  # a column of that name may as well say what a row is about
        return label_of(value) is not None
    return key in MEANINGFUL and value not in (None, "", [], {})


def without_nulls(row: dict) -> dict:
    """A row without the nulls that `datasets` and Parquet put where other rows have a field."""
    answered = any(row.get(key) is not None for key in ANSWERS)
    row = {key: value for key, value in row.items() if value is not None or (key in ANSWERS and not answered)}
    declared = {}
    if isinstance(row.get("tools"), list):
        row["tools"] = _without_nulls(row["tools"])
        declared = dict(map(_named, row["tools"]))
    for message in messages_of(row):
        for key in [key for key, value in message.items() if value is None and key not in ("role", "content")]:
            del message[key]
        for function in map(_function, _list(message.get("tool_calls"))):
            arguments = function.get("arguments")
            properties = _properties(declared.get(str(function.get("name"))))
            if isinstance(arguments, dict) and properties is not None:
                # A null that the function declares may be meant; one that it does not know is another function's.
                for key in [key for key, value in arguments.items() if value is None and key not in properties]:
                    del arguments[key]
    return row


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _function(call: object) -> dict:
    function = call.get("function") if isinstance(call, dict) else None
    return function if isinstance(function, dict) else {}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None or k in ("default", "const")}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _named(tool: object) -> tuple[str, object]:
    function = _function(tool) or tool
    return (str(function.get("name")), function) if isinstance(function, dict) else ("", None)


def _properties(function: object) -> dict | None:
    parameters = function.get("parameters") if isinstance(function, dict) else None
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return properties if isinstance(properties, dict) else None


def lists_read(row: dict) -> dict:
    """A row whose messages and tools, where a column had room for text alone, are lists; bare functions become tools."""
    for key in AS_TEXT:
        value = row.get(key)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                parsed = json.loads(value)
            except (ValueError, RecursionError):
                continue
            if isinstance(parsed, list) and all(isinstance(item, dict) for item in parsed) and (parsed or key == "tools"):
                row[key] = parsed
    if isinstance(row.get("tools"), list):
        row["tools"] = [
            {"type": "function", "function": tool} if isinstance(tool, dict) and "name" in tool and "function" not in tool
            else tool for tool in row["tools"]
        ]  # fmt: skip
    return row


def calls_numbered(row: dict) -> dict:
    """A row whose calls have ids and whose tool messages name them; TRL's have none, and answer in their order."""
    for key in LISTS:
        waiting: list[tuple[str, str]] = []  # name and id of calls without an answer
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


def label_read(row: dict) -> dict:
    """A row whose label is true or false."""
    if "completion" in row and (label := label_of(row.get("label"))) is not None:
        row["label"] = label
    return row


# code → what mends it, and what to say of it
VARIANTS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "null_field": (without_nulls, "null stands for what is absent"),
    "list_as_text": (lists_read, "a list stands as text, or a function without its type"),
    "call_without_id": (calls_numbered, "a call has no id or type, or its answer does not name it"),
    "label_type": (label_read, "the label is no true or false"),
}


def variants(row: dict) -> tuple[dict, list[str]]:
    """The row as it is meant, and the codes of what was other in it; the row itself is not changed."""
    codes: list[str] = []
    if _is_usual(row):
        return row, codes
    for code, (work, _) in VARIANTS.items():
        changed = work(copy.deepcopy(row))
        if not _same(changed, row):
            codes.append(code)
            row = changed
    return row, codes


def _is_usual(row: dict) -> bool:
    """Whether a look at the keys shows that none of the variants is there: so it is with most rows, and copies take time."""
    if row.keys() & {"tools", "functions", "label"}:
        return False
    for key, value in row.items():
        if value is None or (key in AS_TEXT and isinstance(value, str) and value.lstrip().startswith("[")):
            return False
    return all(
        message.get("role") != "tool" and "tool_calls" not in message and None not in map(message.get, message)
        for message in messages_of(row)
    )


def _same(one: object, other: object) -> bool:
    """Equal, and true is not 1."""
    return one == other and repr(one) == repr(other)


def messages_of(row: dict) -> Iterator[dict[str, Any]]:
    """Every message of a row, wherever it stands."""
    lists = [row[key] for key in LISTS if isinstance(row.get(key), list)]
    inner = row.get("input")
    if isinstance(inner, dict) and isinstance(inner.get("messages"), list):
        lists.append(inner["messages"])
    for messages in lists:
        yield from (message for message in messages if isinstance(message, dict))


# Layouts


def turns_of_alpaca(row: dict) -> list[dict]:
    """System, history, instruction and input of an Alpaca row as messages, without its answer.

    Raises:
        CourseError: a history that is no list of pairs.
    """
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for index, pair in enumerate(row.get("history") or []):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise CourseError(f"history[{index}]: a question and an answer are wanted")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    prompt = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
    return [*messages, {"role": "user", "content": prompt}]


def turns_of_sharegpt(row: dict, roles: dict[str, str]) -> list[dict]:
    """The turns of a ShareGPT row as messages, LLaMA-Factory's calls and observations as calls and answers of tools.

    Raises:
        CourseError: an unknown speaker, or a call that is no JSON with a name and arguments.
    """
    turns: list = next((row[key] for key in ("conversations", "conversation") if isinstance(row.get(key), list)), [])
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for index, turn in enumerate(turns):
        messages.append(message_of_turn(turn, roles, f"conversations[{index}]"))
    return calls_numbered({"messages": messages})["messages"]


def message_of_turn(turn: object, roles: dict[str, str], place: str) -> dict:
    """One turn as a message; what else stands in the turn stays in it.

    Raises:
        CourseError: as `turns_of_sharegpt`.
    """
    speaker = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
    if not isinstance(turn, dict) or not isinstance(speaker, str):
        raise CourseError(f"{place}: unknown speaker {speaker!r}")
    further = {k: v for k, v in turn.items() if k not in ("from", "role", "value", "content")}
    said = turn.get("value", turn.get("content"))
    if speaker.lower() == "function_call":
        try:
            calls: Any = json.loads(said) if isinstance(said, str) else said
            calls = [
                {"type": "function", "function": {"name": c["name"], "arguments": _dumped(c["arguments"])}}
                for c in (calls if isinstance(calls, list) else [calls])
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise CourseError(f"{place}: a call is JSON with name and arguments") from error
        return {"role": "assistant", "content": None, "tool_calls": calls, **further}
    if speaker.lower() not in roles:
        raise CourseError(f"{place}: unknown speaker {speaker!r}")
    return {"role": roles[speaker.lower()], "content": said, **further}


def _dumped(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def best_path(tree: dict) -> list[dict]:
    """The best-ranked path of an OASST tree as messages: of each message's replies the one people ranked first.

    Raises:
        CourseError: nobody has answered.
    """
    node: dict | None = tree["prompt"]
    messages: list[dict] = []
    while node:
        role = {"prompter": "user", "assistant": "assistant"}.get(str(node.get("role")))
        if role is None or not isinstance(node.get("text"), str):
            raise CourseError(f"unknown speaker {node.get('role')!r} in the tree")
        messages.append({"role": role, "content": node["text"]})
        replies = [reply for reply in node.get("replies") or [] if isinstance(reply, dict) and not reply.get("deleted")]
        if role == "assistant":  # a question that nobody answered leads nowhere
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
