"""Converts items of the Responses API's input into chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from course_utils.openai_server.errors import invalid

ROLES = ("user", "assistant", "system", "developer")
TEXT_TYPES = ("input_text", "output_text", "text")
# Keys that an item may have. The ids and statuses of items sent back from an earlier answer are ignored.
MESSAGE_KEYS = {"type", "role", "content", "id", "status", "phase"}
CALL_KEYS = {"type", "call_id", "name", "arguments", "id", "status"}
OUTPUT_KEYS = {"type", "call_id", "output", "id", "status"}
PART_KEYS = {"type", "text", "refusal", "annotations", "logprobs"}


def to_messages(new_items: str | Sequence[Mapping[str, Any]], previous: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Append new items to the conversation.

    Consecutive calls, also after an assistant's text, become one message, as the model writes them.

    Args:
        new_items: a user's text, or items.
        previous: chat messages of the conversation so far.

    Raises:
        ApiError: an invalid item; the error has its path.
    """
    messages = list(previous)
    if isinstance(new_items, str):
        messages.append({"role": "user", "content": new_items})
    else:
        for number, item in enumerate(new_items):
            _add(messages, item, f"input[{number}]")
    _check_calls(messages)
    return messages


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], path: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        _check_keys(item, MESSAGE_KEYS, path)
        role = item.get("role")
        if role not in ROLES:
            _refuse(f"{path}.role", f"Invalid value: {str(role)[:80]!r}. Supported values are: {', '.join(ROLES)}.")
        messages.append({"role": role, "content": _text(item.get("content"), f"{path}.content")})
    elif kind == "function_call":
        _check_keys(item, CALL_KEYS, path)
        name, arguments, call_id = (_string(item, key, path) for key in ("name", "arguments", "call_id"))
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        if messages and messages[-1]["role"] == "assistant":
            last = messages.pop()  # replaced by a new message, so that those of earlier responses stay unchanged
            messages.append({**last, "tool_calls": [*(last.get("tool_calls") or ()), call]})
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        _check_keys(item, OUTPUT_KEYS, path)
        text = _text(item.get("output"), f"{path}.output")
        messages.append({"role": "tool", "tool_call_id": _string(item, "call_id", path), "content": text})
    else:
        _refuse(
            f"{path}.type",
            f"Invalid value: {str(kind)[:80]!r}. This model takes items of type 'message', 'function_call' and "
            "'function_call_output'.",
        )


def _text(content: Any, path: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        _refuse(path, f"Invalid type for '{path}': expected a text or an array of parts.")
    texts = []
    for number, part in enumerate(content):
        part_path = f"{path}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in (*TEXT_TYPES, "refusal"):
            _refuse(f"{part_path}.type", f"Invalid value: {str(kind)[:80]!r}. This model reads text only.")
        _check_keys(part, PART_KEYS, part_path)
        texts.append(_string(part, "refusal" if kind == "refusal" else "text", part_path))
    return "".join(texts)


def _string(item: Mapping[str, Any], key: str, path: str) -> str:
    value = item.get(key)
    if value is None:
        raise invalid(f"{path}.{key}", f"Missing required parameter: '{path}.{key}'.", "missing_required_parameter")
    if not isinstance(value, str):
        _refuse(f"{path}.{key}", f"Invalid type for '{path}.{key}': expected a string.")
    return value


def _check_keys(item: Mapping[str, Any], allowed_keys: set[str], path: str) -> None:
    for key, value in item.items():
        if key not in allowed_keys and value is not None:
            key_path = f"{path}.{key[:80]}"
            raise invalid(key_path, f"Unrecognized request argument supplied: {key_path}", "unknown_parameter")


def _check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that every output belongs to a call, and that every call has an output."""
    called: set[str] = set()
    unanswered: dict[str, None] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            called.add(call["id"])
            unanswered[call["id"]] = None
        if message["role"] == "tool":
            if message["tool_call_id"] not in called:
                _refuse("input", f"No tool call found for function call output with call_id {message['tool_call_id']}.")
            unanswered.pop(message["tool_call_id"], None)
    if unanswered:
        _refuse("input", f"No tool output found for function call {next(iter(unanswered))}.")


def _refuse(param: str, message: str) -> NoReturn:
    raise invalid(param, message, "invalid_value")
