"""Items of the Responses API's input as chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from course_utils.openai_server.errors import invalid

ROLES = ("user", "assistant", "system", "developer")
TEXTS = ("input_text", "output_text", "text")
# Keys that an item may have; ids and states of what comes back from an earlier answer say nothing new.
MESSAGE = {"type", "role", "content", "id", "status", "phase"}
CALL = {"type", "call_id", "name", "arguments", "id", "status"}
OUTPUT = {"type", "call_id", "output", "id", "status"}
PART = {"type", "text", "refusal", "annotations", "logprobs"}


def to_messages(given: str | Sequence[Mapping[str, Any]], before: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with new items at its end.

    Calls that follow each other, or an assistant's text, are one message, as the model writes them.

    Args:
        given: a text of the user's, or items.
        before: chat messages of the response that is answered.

    Raises:
        ApiError: an item that can't be read, naming its place.
    """
    made = list(before)
    if isinstance(given, str):
        made.append({"role": "user", "content": given})
    else:
        for number, item in enumerate(given):
            _add(made, item, f"input[{number}]")
    _check_calls(made)
    return made


def _add(made: list[dict[str, Any]], item: Mapping[str, Any], place: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        _only(item, MESSAGE, place)
        role = item.get("role")
        if role not in ROLES:
            _refuse(f"{place}.role", f"Invalid value: {str(role)[:80]!r}. Supported values are: {', '.join(ROLES)}.")
        made.append({"role": role, "content": _text(item.get("content"), f"{place}.content")})
    elif kind == "function_call":
        _only(item, CALL, place)
        name, arguments, call_id = (_string(item, key, place) for key in ("name", "arguments", "call_id"))
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        if made and made[-1]["role"] == "assistant":  # a new message: those of earlier responses are not changed
            last = made.pop()
            made.append({**last, "tool_calls": [*(last.get("tool_calls") or ()), call]})
        else:
            made.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        _only(item, OUTPUT, place)
        text = _text(item.get("output"), f"{place}.output")
        made.append({"role": "tool", "tool_call_id": _string(item, "call_id", place), "content": text})
    else:
        _refuse(
            f"{place}.type",
            f"Invalid value: {str(kind)[:80]!r}. This model takes items of type 'message', 'function_call' and "
            "'function_call_output'.",
        )


def _text(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        _refuse(place, f"Invalid type for '{place}': expected a text or an array of parts.")
    texts = []
    for number, part in enumerate(content):
        here = f"{place}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in (*TEXTS, "refusal"):
            _refuse(f"{here}.type", f"Invalid value: {str(kind)[:80]!r}. This model reads text only.")
        _only(part, PART, here)
        texts.append(_string(part, "refusal" if kind == "refusal" else "text", here))
    return "".join(texts)


def _string(item: Mapping[str, Any], key: str, place: str) -> str:
    value = item.get(key)
    if value is None:
        raise invalid(f"{place}.{key}", f"Missing required parameter: '{place}.{key}'.", "missing_required_parameter")
    if not isinstance(value, str):
        _refuse(f"{place}.{key}", f"Invalid type for '{place}.{key}': expected a string.")
    return value


def _only(item: Mapping[str, Any], known: set[str], place: str) -> None:
    for key, value in item.items():
        if key not in known and value is not None:
            where = f"{place}.{key[:80]}"
            raise invalid(where, f"Unrecognized request argument supplied: {where}", "unknown_parameter")


def _check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    """Every output belongs to a call, and every call has its output."""
    called: set[str] = set()
    waiting: dict[str, None] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            called.add(call["id"])
            waiting[call["id"]] = None
        if message["role"] == "tool":
            if message["tool_call_id"] not in called:
                _refuse("input", f"No tool call found for function call output with call_id {message['tool_call_id']}.")
            waiting.pop(message["tool_call_id"], None)
    if waiting:
        _refuse("input", f"No tool output found for function call {next(iter(waiting))}.")


def _refuse(param: str, message: str) -> NoReturn:
    raise invalid(param, message, "invalid_value")
