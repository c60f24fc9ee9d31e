"""Messages as the API takes them, and as a chat template does: one role and one text each.

Training files and chat requests go through the same function, so that a model is asked in the form in which it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from course_utils.errors import CourseError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}


def flatten(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Roles and contents that every chat template knows; `weight` is kept.

    A developer is the system under its new name. Tool calls and their answers become text in the tags that open models use
    for them, since the small models' templates have no place of their own for tools.

    Raises:
        CourseError: an image or audio, which a text model can't read, or a message without anything.
    """
    made = []
    for number, message in enumerate(messages):
        text = _text(message.get("content"), number)
        calls = message.get("tool_calls") or ([{"function": c}] if (c := message.get("function_call")) else [])
        for call in calls:
            function = call.get("function") or {}
            described = {"name": function.get("name"), "arguments": _arguments(function.get("arguments"))}
            text += f"<tool_call>{json.dumps(described, ensure_ascii=False)}</tool_call>"
        if message["role"] in ("tool", "function"):
            text = f"<tool_response>{text}</tool_response>"
        if not text and message.get("refusal"):
            text = message["refusal"]
        weight = {"weight": message["weight"]} if "weight" in message else {}
        made.append({"role": ROLES[message["role"]], "content": text, **weight})
    return made


def _text(content: Any, number: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for part in content:
        if part.get("type") not in ("text", "refusal"):
            raise CourseError(f"message {number} has a part of type {part.get('type')!r}; this model reads text only")
        parts.append(part.get("text") or part.get("refusal") or "")
    return "".join(parts)


def _arguments(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
