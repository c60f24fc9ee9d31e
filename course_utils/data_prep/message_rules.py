"""Rules of the hosted API and of TRL for messages: roles and their order, contents, pictures, tools and their calls.

Limits of pictures are those of OpenAI's vision fine-tuning guide: 10 pictures per example, 10 MB each, as a web address or
as base64 data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from course_utils.data_prep.findings import ERROR, Finding, shorten
from course_utils.data_prep.opening import json_or_none
from course_utils.data_prep.variants import is_meaningful

MAX_PICTURES = 10  # per example
MAX_BYTES = 10_000_000
DETAILS = ("auto", "low", "high")
DATA = re.compile(r"data:image/(?:png|jpe?g|webp|gif);base64,(?P<data>[A-Za-z0-9+/]+={0,2})", re.IGNORECASE)


def picture_faults(picture: dict) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with a picture, the object in `image_url`, as (field, code, message)."""
    url = picture.get("url")
    if not isinstance(url, str):
        yield "url", "content_part", "url is missing" if "url" not in picture else f"url is {shorten(url)}, not text"
    elif url[:5].lower() == "data:":
        match = DATA.fullmatch(url)
        if not match or len(match["data"]) % 4:
            yield "url", "image_url", f"{shorten(url, 40)} is not base64 data of a PNG, JPEG, WEBP or GIF picture"
        elif len(match["data"]) // 4 * 3 - match["data"].count("=") > MAX_BYTES:
            yield "url", "image_too_large", f"{len(match['data']) // 4 * 3:,} bytes"
    elif not _on_the_web(url):
        yield "url", "image_url", f"{shorten(url, 40)} is not a web address"
    if picture.get("detail", "auto") not in DETAILS:
        yield "detail", "content_part", f"detail is {shorten(picture['detail'])}; known: {', '.join(DETAILS)}"


def _on_the_web(url: str) -> bool:
    try:
        address = urlsplit(url)
    except ValueError:
        return False
    return address.scheme in ("http", "https") and bool(address.hostname)


def count_pictures(messages: list) -> int:
    """Return the number of pictures in all messages."""
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    return sum(
        isinstance(part, dict) and part.get("type") == "image_url"
        for content in contents
        if isinstance(content, list)
        for part in content
    )


NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
TYPE_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}


class RowRules:
    """Collects what is wrong with one row.

    Attributes:
        line: the row's line in its file.
        target: who will read the row: "openai" or "trl".
        findings: what has been found so far.
    """

    def __init__(self, line: int, target: str) -> None:
        self.line, self.target = line, target
        self.findings: list[Finding] = []

    @property
    def errors(self) -> bool:
        """Whether one of the findings so far is an error."""
        return any(finding.severity == ERROR for finding in self.findings)

    def add(self, path: str, code: str, message: str, **details: Any) -> None:
        """Add a finding; `details` are for programs (see `Finding`)."""
        self.findings.append(Finding(self.line, path, code, message, details))

    def is_name(self, name: object) -> TypeGuard[str]:
        """Return whether somebody or a function may be called this; only the hosted API limits the characters."""
        return isinstance(name, str) and bool(name.strip() if self.target == "trl" else NAME.fullmatch(name))

    def extra(self, item: dict, allowed: set, path: str) -> None:
        """Report the fields of `item` that are not in `allowed`."""
        for key in item:
            if key not in allowed and is_meaningful(key, item[key]):
                self.add(f"{path}.{key}" if path else key, "field_in_use", f"OpenAI's format has no place for {key}")
            elif key not in allowed:
                shown = shorten(key, 40)
                name = shown.strip("'")
                message = f"the key {shown} is not one of {', '.join(sorted(allowed))}"
                self.add(f"{path}.{name}" if path else name, "extra_key", message, key=name)


def type_of(value: object) -> str:
    """Return the JSON type of a value, in words for a message."""
    return "null" if value is None else TYPE_NAMES.get(type(value), "a number")


class ToolRules(RowRules):
    """Rules for the functions that a row declares, the assistant's calls of them, and their answers."""

    def tools(self, row: dict) -> set | None:
        """Check the row's tools, and return the names of the declared functions.

        Returns:
            An empty set if the row has no tools; None if they cannot be read.
        """
        tools = row.get("tools")
        if tools is None:
            return set() if "tools" not in row else None
        if not isinstance(tools, list):
            self.add("tools", "tools_invalid", f"tools must be a list, but is {type_of(tools)}")
            return None
        names: set[str] = set()
        readable = True
        for index, tool in enumerate(tools):
            path = f"tools[{index}]"
            function = tool.get("function") if isinstance(tool, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(function, dict):
                self.add(path, "tools_invalid", 'a tool must have the type "function" and an object "function"')
                readable = False
            elif not self.is_name(name):
                self.add(f"{path}.function.name", "name_invalid", f"the function's name is {shorten(name)}")
                readable = False
            else:
                if name in names:
                    self.add(f"{path}.function.name", "tools_duplicate", f"{name} is declared twice")
                names.add(name)
                self.parameters(function, f"{path}.function")
        return names if readable else None

    def parameters(self, function: dict, path: str) -> None:
        """Report what is wrong with a function's schema."""
        parameters = function.get("parameters")
        if parameters is None or self.target == "trl":  # its templates print whatever is there
            return
        where, fault = f"{path}.parameters", ""
        if not isinstance(parameters, dict):
            fault = f"parameters must be a JSON Schema, but is {type_of(parameters)}"
        elif parameters.get("type", "object") != "object":
            where, fault = f"{where}.type", f"must be 'object', but is {shorten(parameters.get('type'))}"
        elif not isinstance(parameters.get("properties", {}), dict):
            where, fault = f"{where}.properties", "must be an object"
        elif "required" in parameters:
            where, required = f"{where}.required", parameters["required"]
            if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
                fault = "must be a list of names"
            elif missing := [name for name in required if name not in parameters.get("properties", {})]:
                fault = f"requires {shorten(missing[0])}, which is not in properties"
        if fault:
            self.add(where, "tools_invalid", fault)

    def tool_calls(self, message: dict, where: str, tools: set | None, called: dict) -> dict[str, str]:
        """Check the calls of a message, and return the id of each call → its path in the row."""
        if "tool_calls" not in message or message["tool_calls"] is None:
            return {}
        calls, path = message["tool_calls"], f"{where}.tool_calls"
        if not isinstance(calls, list) or not calls:
            self.add(path, "tool_calls_invalid", f"must be a list of calls, but is {type_of(calls) if calls else 'empty'}")
            return {}
        ids: dict[str, str] = {}
        for index, call in enumerate(calls):
            call_path = f"{path}[{index}]"
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                self.add(call_path, "tool_calls_invalid", 'the call has no object "function"')
                continue
            if call.get("type") != "function":
                fault = f"the type must be 'function', but is {shorten(call.get('type'))}"
                self.add(f"{call_path}.type", "tool_calls_invalid", fault)
            identity = call.get("id")
            if not isinstance(identity, str) or not identity:
                self.add(f"{call_path}.id", "tool_call_id", f"the call's id is {shorten(identity)}")
            elif identity in called or identity in ids:
                self.add(f"{call_path}.id", "tool_call_id", f"the id {shorten(identity)} was used before")
            else:
                ids[identity] = call_path
            name = function.get("name")
            if not isinstance(name, str) or not name:
                self.add(f"{call_path}.function.name", "tool_calls_invalid", f"the function's name is {shorten(name)}")
            elif tools is not None and name not in tools:
                self.add(f"{call_path}.function.name", "tool_unknown", f"{shorten(name)} is not declared in tools")
            self.arguments(function, f"{call_path}.function.arguments")
        return ids

    def arguments(self, function: dict, path: str) -> None:
        """Report what is wrong with a call's arguments."""
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            missing = "arguments" not in function
            # Your own trainer accepts an object, because chat templates print it as JSON.
            if missing or not (self.target == "trl" and isinstance(arguments, dict)):
                what = "arguments are missing" if missing else f"arguments must be text, but are {type_of(arguments)}"
                self.add(path, "tool_calls_invalid" if missing else "arguments_type", what)
            return
        value = json_or_none(arguments)
        if value is None and arguments.strip() != "null":
            self.add(path, "arguments_not_json", f"the text is not JSON: {shorten(arguments, 40)}")
        elif not isinstance(value, dict):
            self.add(path, "arguments_not_json", f"the JSON in the text is {type_of(value)}, not an object")

    def tool_answer(self, message: dict, where: str, called: dict, waiting: dict) -> None:
        """Report what is wrong with a tool's answer, and take its call from `waiting`."""
        identity, path = message.get("tool_call_id"), f"{where}.tool_call_id"
        if identity is None:
            self.add(path, "field_missing", "tool_call_id is missing")
        elif not isinstance(identity, str):
            self.add(path, "field_type", f"tool_call_id is {shorten(identity)}")
        elif identity not in called:
            self.add(path, "tool_answer_unknown", f"no earlier call has the id {shorten(identity)}")
        elif identity not in waiting:
            self.add(path, "tool_answer_unknown", f"the call {shorten(identity)} has already been answered")
        else:
            del waiting[identity]


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
# At the end of an answer: the trainer or the host adds its own.
END = re.compile(r"\s*(?:<\|(?:im_end|endoftext|end_of_text|eot_id|end|return)\|>|</s>)\s*$")


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
        if "name" in message and not self.is_name(message["name"]):
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
            for field_name, code, what in picture_faults(part[kind]):
                self.add(f"{path}.{kind}.{field_name}", code, what)
        elif kind == "text":
            if not part["text"].strip():
                self.add(path, "content_empty", "the text of the part is empty")
            else:
                self.text(part["text"], role, path)

    def text(self, text: str, role: str, path: str) -> None:
        """Report what is wrong with a text."""
        if match := SPECIAL.search(text):
            fault = f"the control token {match.group()} at character {match.start() + 1}"
            self.add(path, "special_token", fault, token=match.group())
        if role == "assistant" and text != text.strip():
            end = "starts" if text[0].isspace() else "ends"
            self.add(path, "edge_whitespace", f"the answer {end} with whitespace")
