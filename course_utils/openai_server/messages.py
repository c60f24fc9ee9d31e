"""Converts messages from the API's form into that of a chat template: one role and one text each.

Training files and chat requests go through the same function, so that a model is prompted in the form it was trained on.

The small models' template does not support tools. Here tools are described in the system message, and calls and their
results are text in tags, in the wording of the template of Qwen2.5: for that model the text is what its own template writes.
Granite's, the A100 tier's, has the same tags around calls and results and other words before the tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from course_utils.errors import CourseError
from course_utils.openai_server.constrained import CALL_END, CALL_START, call_header

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
    """Reduce messages to roles and contents that every chat template supports; `weight` is kept.

    "developer" is the newer name of "system". Consecutive tool results become one user message.

    Args:
        messages: messages in the API's form.
        tools: tools of the request or the training row, each {"type": "function", "function": {...}}.

    Raises:
        CourseError: an image or audio, which a text model can't read.
    """
    flattened: list[dict[str, Any]] = []
    previous_role = ""
    for number, message in enumerate(messages):
        role = message["role"]
        text = _text(message.get("content"), number)
        if not text and message.get("refusal"):
            text = message["refusal"]
        text = "\n".join([*([text] if text else []), *map(_call, _calls(message))])
        if role in ("tool", "function"):
            text = f"<tool_response>\n{text}\n</tool_response>"
            if previous_role in ("tool", "function"):
                flattened[-1]["content"] += f"\n{text}"
                continue
        previous_role = role
        weight = {"weight": message["weight"]} if "weight" in message else {}
        flattened.append({"role": ROLES[role], "content": text, **weight})
    return _with_tools(flattened, tools) if tools else flattened


def described(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function as it is described in a prompt: what the model has to know, without how it is enforced."""
    visible = {key: function[key] for key in ("name", "description", "parameters") if function.get(key) is not None}
    return {"type": "function", "function": visible}


def declared(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the tools of a training row, or its `functions`, the older name for them."""
    return list(row.get("tools") or [{"type": "function", "function": function} for function in row.get("functions") or []])


def _with_tools(messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    text = TOOLS.format("\n".join(_one_line_json(described(tool["function"])) for tool in tools))
    if messages and messages[0]["role"] == "system":
        first = messages[0]
        return [{**first, "content": f"{first['content']}\n\n{text}".lstrip()}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    deprecated_call = message.get("function_call")
    calls = message.get("tool_calls") or ([{"function": deprecated_call}] if deprecated_call else [])
    return [call.get("function") or {} for call in calls]


def _call(function: Mapping[str, Any]) -> str:
    """A call as the model has to write it; `choices` parses it."""
    arguments = _one_line_json(_arguments(function.get("arguments")))
    return f"{CALL_START}{call_header(str(function.get('name')))}{arguments}}}{CALL_END}"


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


def _one_line_json(value: Any) -> str:
    """JSON on one line; lone surrogates, which JSON can represent and UTF-8 can't, stay escaped."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
