"""Mend what can be mended without losing anything; everything else is for a person to decide."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from course_utils.data_prep import formats
from course_utils.data_prep.findings import ERROR, Finding
from course_utils.data_prep.reading import CONTROL, INVISIBLE
from course_utils.data_prep.validation import CHAT_KEYS, MESSAGE_KEYS
from course_utils.errors import CourseError

# Faults that are gone once the file is written anew: of bytes and lines, not of rows.
OF_BYTES = {"byte_order_mark", "encoding", "line_ending", "blank_line"}
TARGET_SHAPE = {"chat": "messages", "preference": "openai_preference", "prompt_completion": "prompt_completion"}
# Zero-width joiners belong to emoji and several scripts; marks of direction and the rest carry nothing.
CARRIES_NOTHING = {"\u200b", "\ufeff", "\u2060", "\u200e", "\u200f"}


def mend(row: object, findings: list[Finding], kind: str = "chat") -> tuple[dict | None, list[str]]:
    """A row without the faults that can be mended, and the codes of those that were.

    Args:
        row: the parsed row.
        findings: what `validation.check` found in it.
        kind: what the row should be.

    Returns:
        The mended row and the codes; None in its place where a fault remains that only a person can mend.
    """
    codes = [finding.code for finding in findings]
    if any(f.severity == ERROR and not f.fixable for f in findings) or not isinstance(row, dict):
        return None, []
    row = copy.deepcopy(row)
    done: list[str] = []
    if "other_shape" in codes:
        try:
            row = formats.convert(row, TARGET_SHAPE[kind])
        except (CourseError, KeyError, TypeError, AttributeError):
            return None, []
        done.append("other_shape")
    for code, work in WORK.items():
        if code in codes:
            row = work(row)
            done.append(code)
    return row, done + [code for code in codes if code in OF_BYTES]


def _strip_controls(row: dict) -> dict:
    return _map_strings(row, lambda text: CONTROL.sub("", text))


def _strip_invisible(row: dict) -> dict:
    return _map_strings(
        row,
        lambda text: INVISIBLE.sub(lambda m: "" if m.group() in CARRIES_NOTHING or m.group() < "\xa0" else m.group(), text),
    )


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    return value


def _messages(row: dict) -> Iterator[dict[str, Any]]:
    """Every message of a row, wherever it stands."""
    lists = [row.get("messages"), row.get("preferred_output"), row.get("non_preferred_output")]
    lists += [row[key] for key in ("prompt", "completion", "chosen", "rejected") if isinstance(row.get(key), list)]
    lists += [row["input"].get("messages")] if isinstance(row.get("input"), dict) else []
    for messages in lists:
        yield from (message for message in messages or [] if isinstance(message, dict))


def _drop_extra(row: dict) -> dict:
    if "messages" in row:
        row = {key: value for key, value in row.items() if key in CHAT_KEYS}
    for message in _messages(row):
        for key in set(message) - MESSAGE_KEYS.get(message.get("role", ""), set(message)):
            del message[key]
    return row


def _drop_weights(row: dict) -> dict:
    for message in _messages(row):
        if message.get("role") != "assistant":
            message.pop("weight", None)
    return row


def _strip_answers(row: dict) -> dict:
    for message in _messages(row):
        if message.get("role") == "assistant" and isinstance(message.get("content"), str):
            message["content"] = message["content"].strip()
    return row


def _write_arguments(row: dict) -> dict:
    for message in _messages(row):
        for call in message.get("tool_calls") or []:
            arguments = call["function"]["arguments"]
            if not isinstance(arguments, str):
                call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return row


WORK: dict[str, Callable[[dict], dict]] = {
    "control_character": _strip_controls,
    "invisible_character": _strip_invisible,
    "extra_key": _drop_extra,
    "weight_role": _drop_weights,
    "edge_whitespace": _strip_answers,
    "arguments_type": _write_arguments,
}
