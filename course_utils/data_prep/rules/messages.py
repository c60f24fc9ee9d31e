"""Rules for messages: roles and their order, contents, and what a text may contain."""

from __future__ import annotations

import re
from typing import Any

from course_utils.data_prep import pictures
from course_utils.data_prep.findings import shorten
from course_utils.data_prep.rules.base import NAME, TYPE_NAMES, type_of
from course_utils.data_prep.rules.tools import ToolRules

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MESSAGE_KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "weight", "tool_calls", "function_call", "refusal", "audio"},
    "tool": {"role", "content", "tool_call_id", "name"},
    "function": {"role", "content", "name"},
}
MISPLACED = {"weight", "tool_calls"}  # on other roles these have their own findings
PARTS: dict[str, dict[str, type]] = {
    "user": {"text": str, "image_url": dict, "input_audio": dict, "file": dict},
    "assistant": {"text": str, "refusal": str},
}
# Control tokens of the chat formats in use: hosts refuse their own; a local chat template treats them as control tokens.
SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|endofprompt|fim_prefix|fim_middle|fim_suffix|begin_of_text|end_of_text|eot_id|"
    r"start_header_id|end_header_id|eom_id|python_tag|system|user|assistant|end|channel|message|start|return|call)\|>|"
    r"\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<｜[^｜>]{1,30}｜>"
)


class MessageRules(ToolRules):
    """Rules for the messages of a row of any shape."""

    def messages(self, messages: list, path: str, tools: set | None) -> None:
        """Check each message, and how the messages follow each other."""
        called: dict[str, str] = {}  # id of a call → its path
        waiting: dict[str, str] = {}  # the same, for calls that are not answered yet
        before = None
        for index, message in enumerate(messages):
            where = f"{path}[{index}]"
            if not isinstance(message, dict):
                self.add(where, "field_type", f"must be an object, but is {type_of(message)}")
                before = None
                continue
            role = message.get("role")
            if "role" not in message:
                self.add(where, "role_missing", f"the message has no role, only the keys {shorten(message)}", index=index)
                continue
            if role not in ROLES:
                self.add(f"{where}.role", "role_unknown", f"the role is {shorten(role)}")
                continue
            if role != "tool" and waiting:
                for call, origin in waiting.items():
                    self.add(origin, "tool_answer_missing", f"the call {shorten(call)} has no answer before the next turn")
                waiting = {}
            self.message(message, role, where)
            if role == "assistant":
                new = self.tool_calls(message, where, tools, called)
                waiting.update(new)
                called.update(new)
            elif "tool_calls" in message:
                self.add(f"{where}.tool_calls", "tool_calls_role", f"a {role} message calls tools")
            if role == "tool":
                self.tool_answer(message, where, called, waiting)
            self.order(role, before, index, where)
            before = role

    def order(self, role: str, before: str | None, index: int, where: str) -> None:
        """Report a message that should not follow the one before it."""
        if role in ("system", "developer") and index and before not in ("system", "developer"):
            self.add(where, "system_not_first", f"a {role} message comes after other messages")
        elif role == before and role in ("user", "assistant"):
            self.add(where, "role_order", f"two {role} messages follow each other")
        elif role == "assistant" and (index == 0 or before in ("system", "developer")):
            self.add(where, "role_order", "the conversation starts with the assistant")
        elif role == "user" and before == "tool":
            self.add(where, "role_order", "the user speaks before the assistant has used the tool's answer")

    def message(self, message: dict, role: str, where: str) -> None:
        """Report what is wrong with the fields of a message."""
        if self.target == "openai":
            self.extra(message, MESSAGE_KEYS[role] | MISPLACED, where)
        if "weight" in message:
            weight = message["weight"]
            if role != "assistant":
                self.add(f"{where}.weight", "weight_role", f"a {role} message has a weight")
            elif isinstance(weight, bool) or weight not in (0, 1):
                self.add(f"{where}.weight", "weight_invalid", f"the weight is {shorten(weight)}")
        if "name" in message and not (isinstance(message["name"], str) and NAME.fullmatch(message["name"])):
            self.add(f"{where}.name", "name_invalid", f"the name is {shorten(message['name'])}")
        if role == "assistant" and not isinstance(message.get("refusal"), str | None):
            self.add(f"{where}.refusal", "field_type", f"refusal must be text, but is {type_of(message['refusal'])}")
        if role == "function" and "name" not in message:
            self.add(where, "field_missing", "name is missing")
        if "function_call" in message:
            self.add(f"{where}.function_call", "functions_deprecated", "function_call is the old name of tool_calls")
        self.content(message, role, where)

    def content(self, message: dict, role: str, where: str) -> None:
        """Report what is wrong with the content of a message."""
        calls = role == "assistant" and (message.get("tool_calls") or message.get("function_call") or message.get("refusal"))
        content = message.get("content")
        path = f"{where}.content"
        if content is None:
            if not calls:
                code = "content_missing"
                self.add(path, code, "content is null" if "content" in message else "content is missing")
        elif isinstance(content, str):
            if not content.strip() and not (calls and not content):
                what = "empty" if not content else f"only whitespace ({shorten(content, 20)})"
                if role != "tool":
                    self.add(path, "content_empty", f"content is {what}")
            else:
                self.text(content, role, path)
        elif isinstance(content, list):
            if not content:
                self.add(path, "content_empty", "content is an empty list")
            for index, part in enumerate(content):
                self.part(part, role, f"{path}[{index}]")
        else:
            self.add(path, "content_type", f"content must be text, but is {type_of(content)}")

    def part(self, part: Any, role: str, path: str) -> None:
        """Report what is wrong with one part of a content."""
        types = PARTS.get(role, {"text": str})
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in types:
            self.add(
                path, "content_part", f"a part of a {role} message has the type {shorten(kind)}, not {' or '.join(types)}"
            )
        elif not isinstance(part.get(kind), types[kind]):
            self.add(
                f"{path}.{kind}", "content_part", f"the part must have a field {kind} that is {TYPE_NAMES[types[kind]]}"
            )
        elif kind == "image_url" and self.target == "openai":
            for field_name, code, what in pictures.faults(part[kind]):
                self.add(f"{path}.{kind}.{field_name}", code, what)
        elif kind == "text":
            if not part["text"].strip():
                self.add(path, "content_empty", "the text of the part is empty")
            else:
                self.text(part["text"], role, path)

    def text(self, text: str, role: str, path: str) -> None:
        """Report what is wrong with a text."""
        if match := SPECIAL.search(text):
            self.add(
                path,
                "special_token",
                f"the control token {match.group()} at character {match.start() + 1}",
                token=match.group(),
            )
        if role == "assistant" and text != text.strip():
            end = "starts" if text[0].isspace() else "ends"
            self.add(path, "edge_whitespace", f"the answer {end} with whitespace")
