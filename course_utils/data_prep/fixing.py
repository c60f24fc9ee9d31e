"""Fix what can be fixed without losing anything that would be learned; a person has to decide about everything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from course_utils.data_prep import formats
from course_utils.data_prep.findings import ERROR, Finding
from course_utils.data_prep.reading import CONTROL, INVISIBLE
from course_utils.data_prep.rules import CHAT_KEYS, END, MESSAGE_KEYS, PREFERENCE_KEYS
from course_utils.data_prep.variants import messages_of, variants
from course_utils.errors import CourseError

# Faults of bytes and lines rather than of rows: they are gone as soon as the file is written again.
GONE_WHEN_REWRITTEN = {"byte_order_mark", "encoding", "line_ending", "blank_line", "wrapped", "several_lines"}
TARGET_SHAPE = {
    "chat": "messages",
    "preference": "openai_preference",
    "prompt_completion": "prompt_completion",
    "unpaired_preference": "kto",
}
# Fields that a row of the shape may have.
ALLOWED_KEYS = {"messages": CHAT_KEYS, "openai_preference": PREFERENCE_KEYS, "prompt_completion": {"prompt", "completion"}}
# These carry no meaning. Zero-width joiners are not among them: emoji and several scripts need them.
REMOVABLE = {"\u200b", "\ufeff", "\u2060", "\u200e", "\u200f"}


def fix(row: object, findings: list[Finding], kind: str = "chat", target: str = "openai") -> tuple[dict | None, list[str]]:
    """Repair what can be repaired in a row without losing anything that would be learned.

    Args:
        row: the parsed row.
        findings: what `validation.check` has found in it.
        kind: what the row should be, one of `validation.ROW_KINDS`.
        target: who will read it: "openai" or "trl".

    Returns:
        The repaired row, and the codes of the faults that were repaired. The row is None if it has a fault that only a
        person can repair.
    """
    codes = [finding.code for finding in findings]
    if not findings or not isinstance(row, dict) or any(f.severity == ERROR and not f.fixable for f in findings):
        return None, []
    row = copy.deepcopy(row)
    fixed_codes: list[str] = []
    row, variant_codes = variants(row)
    fixed_codes += [code for code in variant_codes if code in codes]
    if "other_shape" in codes:
        try:
            shape = "preference" if (kind, target) == ("preference", "trl") else TARGET_SHAPE[kind]
            row = formats.convert(row, shape)
        except (CourseError, KeyError, TypeError, AttributeError):
            return None, []
        fixed_codes.append("other_shape")
    for code, fix_row in FIXES.items():
        if code in codes:
            changed = fix_row(copy.deepcopy(row))
            if changed != row:  # some of the characters that are warned about have to stay
                fixed_codes.append(code)
            row = changed
    return row, fixed_codes + [code for code in codes if code in GONE_WHEN_REWRITTEN]


def _without_invisible(text: str) -> str:
    return INVISIBLE.sub(lambda m: "" if m.group() in REMOVABLE or m.group() < "\xa0" else m.group(), text)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    return value


def _drop_extra(row: dict) -> dict:
    allowed = ALLOWED_KEYS.get(formats.shape_of(row) or "", set(row))
    row = {key: value for key, value in row.items() if key in allowed}
    if isinstance(row.get("input"), dict):
        row["input"] = {key: value for key, value in row["input"].items() if key in CHAT_KEYS}
    for message in messages_of(row):
        for key in set(message) - MESSAGE_KEYS.get(message.get("role", ""), set(message)):
            del message[key]
    return row


def _drop_weights(row: dict) -> dict:
    for message in messages_of(row):
        if message.get("role") != "assistant":
            message.pop("weight", None)
    return row


def _strip_answers(row: dict) -> dict:
    for message in messages_of(row):
        if message.get("role") == "assistant" and isinstance(message.get("content"), str):
            message["content"] = message["content"].strip()
    return row


def _strip_ends(row: dict) -> dict:
    answers = ("completion", "chosen", "rejected")
    return {key: END.sub("", value) if key in answers and isinstance(value, str) else value for key, value in row.items()}


def _write_arguments(row: dict) -> dict:
    for message in messages_of(row):
        for call in message.get("tool_calls") or []:
            arguments = call["function"]["arguments"]
            if not isinstance(arguments, str):
                call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return row


FIXES: dict[str, Callable[[dict], dict]] = {
    "control_character": lambda row: _map_strings(row, lambda text: CONTROL.sub("", text)),
    "invisible_character": lambda row: _map_strings(row, _without_invisible),
    "extra_key": _drop_extra,
    "weight_role": _drop_weights,
    "end_token": _strip_ends,
    "edge_whitespace": _strip_answers,
    "last_not_assistant": lambda row: (
        row
        | {"messages": [m for i, m in enumerate(row["messages"]) if {n["role"] for n in row["messages"][i:]} != {"user"}]}
    ),
    "arguments_type": _write_arguments,
}
