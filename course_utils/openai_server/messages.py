"""Messages as the API takes them, and as a chat template does: one role and one text each.

Training files and chat requests go through the same function, so that a model is asked in the form in which it was trained.

The small models' template has no place for tools. They stand in the system's message, calls and their answers are text in
tags, in the words of the template of Qwen2.5 (the A100 tier's model): for that model it is what its own template writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from course_utils.errors import CourseError
from course_utils.openai_server.grammar import END, MARK, head

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def flatten(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Roles and contents that every chat template knows; `weight` is kept.

    A developer is the system under its new name. Answers of tools that follow each other become one message of the user's.

    Args:
        messages: as the API has them.
        tools: of the request or the training row, {"type": "function", "function": {...}} each.

    Raises:
        CourseError: an image or audio, which a text model can't read.
    """
    made: list[dict[str, Any]] = []
    before = ""
    for number, message in enumerate(messages):
        role = message["role"]
        text = _text(message.get("content"), number)
        if not text and message.get("refusal"):
            text = message["refusal"]
        text = "\n".join([*([text] if text else []), *map(_call, _calls(message))])
        if role in ("tool", "function"):
            text = f"<tool_response>\n{text}\n</tool_response>"
            if before in ("tool", "function"):
                made[-1]["content"] += f"\n{text}"
                continue
        before = role
        weight = {"weight": message["weight"]} if "weight" in message else {}
        made.append({"role": ROLES[role], "content": text, **weight})
    return _with_tools(made, tools) if tools else made


def described(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function as it stands in a prompt: what the model is to know, and nothing of how it is enforced."""
    kept = {key: function[key] for key in ("name", "description", "parameters") if function.get(key) is not None}
    return {"type": "function", "function": kept}


def declared(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tools of a training row, or its `functions`, as they were called before."""
    return list(row.get("tools") or [{"type": "function", "function": function} for function in row.get("functions") or []])


def _with_tools(messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    text = TOOLS.format("\n".join(_dumps(described(tool["function"])) for tool in tools))
    if messages and messages[0]["role"] == "system":
        first = messages[0]
        return [{**first, "content": f"{first['content']}\n\n{text}".lstrip()}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    old = message.get("function_call")
    calls = message.get("tool_calls") or ([{"function": old}] if old else [])
    return [call.get("function") or {} for call in calls]


def _call(function: Mapping[str, Any]) -> str:
    """A call as the model is to write it; `choices` reads it back."""
    return f"{MARK}{head(str(function.get('name')))}{_dumps(_arguments(function.get('arguments')))}}}{END}"


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
    except (TypeError, ValueError, RecursionError):
        return text


def _dumps(value: Any) -> str:
    """JSON on one line; half a character, which JSON can write and UTF-8 can't, stays escaped."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
