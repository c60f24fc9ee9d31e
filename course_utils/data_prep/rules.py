"""Rules of the hosted API and of TRL for rows of any shape: their messages, contents, tools and calls."""

from __future__ import annotations

import json
import re
from typing import Any, TypeGuard

from course_utils.data_prep import formats
from course_utils.data_prep.findings import ERROR, Finding, shorten
from course_utils.data_prep.reading import json_or_none
from course_utils.data_prep.variants import is_meaningful

CHAT_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
PREFERENCE_KEYS = {"input", "preferred_output", "non_preferred_output"}
# Kind → keys of which a row of this kind has at least one.
PARTS_OF = {
    "chat": {"messages"},
    "preference": {"chosen", "rejected", *PREFERENCE_KEYS},
    "unpaired_preference": {"completion"},
    "prompt_completion": {"prompt", "completion"},
}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
TYPE_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}
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


class Rules:
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

    def _extra(self, item: dict, allowed: set, path: str) -> None:
        for key in (key for key in item if key not in allowed):
            shown = shorten(key, 40)
            name = shown.strip("'")
            where = f"{path}.{name}" if path else name
            if is_meaningful(key, item[key]):
                self.add(where, "field_in_use", f"OpenAI's format has no place for {key}")
            else:
                self.add(where, "extra_key", f"the key {shown} is not one of {', '.join(sorted(allowed))}", key=name)

    def row(self, row: object, kind: str) -> None:
        """Report what is wrong with a row that should be of this kind."""
        if not isinstance(row, dict):
            self.add("", "not_object", f"the row is {type_of(row)}, not an object")
            return
        shape = formats.shape_of(row)
        if shape is None or formats.KIND_OF[shape] != kind or shape in formats.CONVERTIBLE:
            # A row that is of this kind and lacks a key has that fault rather than an unknown shape.
            partly = PARTS_OF[kind] & set(row) and (kind, shape) != ("prompt_completion", "kto")
            if not partly and shape is None:
                turns = [
                    key for key, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)
                ]
                hint = f"; if {turns[0]!r} has the turns: --map {turns[0]}=conversations" if turns else ""
                self.add("", "unknown_shape", f"no known shape has the keys {shorten(row)}{hint}")
                return
            if not partly and shape:
                same = (formats.KIND_OF[shape] == "preference") == (kind == "preference")
                code = "other_shape" if same else "wrong_kind"
                self.add("", code, f"the row has the shape {shape}, but should be a {kind} row")
                return
        {
            "chat": self._chat,
            "preference": self._preference,
            "prompt_completion": self._completion,
            "unpaired_preference": self._labelled,
        }[kind](row)

    def _chat(self, row: dict) -> None:
        if self.target == "openai":
            self._extra(row, CHAT_KEYS, "")
        names = self._tools(row)
        if "functions" in row:
            self.add("functions", "functions_deprecated", "functions is the old name of tools")
        if "parallel_tool_calls" in row and not isinstance(row["parallel_tool_calls"], bool):
            self.add(
                "parallel_tool_calls", "field_type", f"must be true or false, but is {shorten(row['parallel_tool_calls'])}"
            )
        messages = row.get("messages")
        if not isinstance(messages, list):
            self.add("messages", "field_type", f"must be a list, but is {type_of(messages)}")
            return
        if not messages:
            self.add("messages", "messages_empty", "the list is empty")
            return
        self._messages(messages, "messages", names)
        roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
        if any(role not in ROLES for role in roles):
            return  # without all roles, nothing more can be said about the order
        if "assistant" not in roles:
            self.add("messages", "no_assistant", "there is no assistant message")
        elif not any(role in ("user", "tool", "function") for role in roles[: len(roles) - roles[::-1].index("assistant")]):
            self.add("messages", "prompt_missing", "there is no user message before the answer")
        if "assistant" in roles:
            answers = [message for message in messages if isinstance(message, dict) and message.get("role") == "assistant"]
            if all(message.get("weight") == 0 and message.get("weight") is not False for message in answers):
                self.add("messages", "nothing_trained", "every assistant message has weight 0")
            if roles[-1] != "assistant":
                self.add(f"messages[{len(roles) - 1}]", "last_not_assistant", f"the last message is the {roles[-1]}'s")

    def _preference(self, row: dict) -> None:
        if formats.shape_of(row) == "preference" and formats.is_foreign(row):
            self.add("", "other_shape", "chosen and rejected are in another trainer's layout")
            return
        if PREFERENCE_KEYS & set(row):
            self._hosted_preference(row)
            return
        for key in ("prompt", "chosen", "rejected"):
            # Two conversations may have their prompt as a common beginning; in two texts, where it ends can't be determined.
            if key not in row and (key != "prompt" or (self.target == "openai" and not isinstance(row.get("chosen"), list))):
                self.add(key, "field_missing", f"{key} is missing")
        if self.target == "openai" and not self.findings:
            self.add("", "other_shape", "OpenAI expects input, preferred_output and non_preferred_output")
        parts = {key: row[key] for key in ("prompt", "chosen", "rejected") if key in row}
        if {str, list} <= {type(part) for part in parts.values()}:
            self.add("", "mixed_shapes", "prompt, chosen and rejected must all be text or all be messages")
            return
        for key, part in parts.items():
            self._side(part, key)
        if self.errors:
            return
        chosen, rejected, prompt = parts["chosen"], parts["rejected"], parts.get("prompt")  # a missing side is an error
        if text_of(chosen).strip() == text_of(rejected).strip():
            self.add("rejected", "preference_same", "chosen and rejected are the same")
        elif prompt and all(text_of(side).startswith(text_of(prompt)) for side in (chosen, rejected)):
            self.add("chosen", "preference_repeats_prompt", "chosen and rejected start with the prompt")

    def _side(self, part: object, key: str) -> None:
        if isinstance(part, str):
            if not part.strip():
                self.add(key, "field_empty", f"{key} is {'empty' if not part else 'only whitespace'}")
            else:
                if key != "prompt" and (match := END.search(part)):
                    self.add(key, "end_token", f"the text ends with {match.group().strip()}")
                    part = part[: match.start()]
                self._text(part, "user" if key == "prompt" else "assistant", key)
        elif isinstance(part, list):
            if not part:
                self.add(key, "field_empty", f"{key} is an empty list")
                return
            self._messages(part, key, None)
            self.findings = [f for f in self.findings if not (f.code == "role_order" and f.field == f"{key}[0]")]
            last = part[-1].get("role") if isinstance(part[-1], dict) else None
            if key == "prompt" and last not in ("user", "tool", "function"):
                self.add(key, "preference_prompt", f"the last message of the prompt is {_owner(last)}")
            elif key != "prompt" and last != "assistant":
                self.add(key, "preference_output", f"the last message of {key} is {_owner(last)}, not the assistant's")
        else:
            self.add(key, "field_type", f"{key} must be text or a list of messages, but is {type_of(part)}")

    def _hosted_preference(self, row: dict) -> None:
        """Check OpenAI's shape: one turn, only text, one assistant message on each side."""
        self._extra(row, PREFERENCE_KEYS, "")
        names: set | None = None
        for key in sorted(PREFERENCE_KEYS - set(row)):
            self.add(key, "field_missing", f"{key} is missing")
        if "input" in row:
            prompt = row["input"]
            if not isinstance(prompt, dict) or not isinstance(prompt.get("messages"), list):
                self.add("input", "field_type", "input must be an object with a list of messages")
            elif not prompt["messages"]:
                self.add("input.messages", "messages_empty", "the list is empty")
            else:
                self._extra(prompt, CHAT_KEYS, "input")
                names = self._tools(prompt)
                self._messages(prompt["messages"], "input.messages", names)
                self._one_turn_of_text(prompt["messages"])
                last = prompt["messages"][-1]
                if isinstance(last, dict) and last.get("role") in ("assistant", "system", "developer"):
                    self.add(
                        "input.messages", "preference_prompt", f"the last message of the prompt is the {last['role']}'s"
                    )
        sides = []
        for key in ("preferred_output", "non_preferred_output"):
            if key not in row:
                continue
            side = row[key]
            if not isinstance(side, list) or len(side) != 1:
                what = f"{len(side)} messages" if isinstance(side, list) else type_of(side)
                self.add(key, "preference_output", f"{key} must be one assistant message, but is {what}")
                continue
            message = side[0]
            if not isinstance(message, dict) or message.get("role") != "assistant":
                self.add(f"{key}[0]", "preference_output", "the message is not the assistant's")
                continue
            self._message(message, "assistant", f"{key}[0]")
            self._tool_calls(message, f"{key}[0]", names, {})
            sides.append(text_of([without_ids(message)]).strip())
        if len(sides) == 2 and sides[0] and sides[0] == sides[1]:
            self.add("non_preferred_output", "preference_same", "both outputs are the same")

    def _one_turn_of_text(self, messages: list) -> None:
        """Check for what OpenAI's guide asks: preference tuning takes conversations of one turn, and only text."""
        roles = [message.get("role") for message in messages if isinstance(message, dict)]
        if roles.count("user") > 1 and "assistant" in roles:
            self.add("input.messages", "preference_turns", f"there are {roles.count('user')} user messages")
        for index, message in enumerate(messages):
            content = message.get("content") if isinstance(message, dict) else None
            kinds = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
            if other := [kind for kind in kinds if kind in PARTS["user"] and kind != "text"]:
                self.add(f"input.messages[{index}].content", "preference_text_only", f"there is a part of type {other[0]}")

    def _completion(self, row: dict) -> None:
        for key in ("prompt", "completion"):
            if key not in row:
                self.add(key, "field_missing", f"{key} is missing")
            else:
                self._side(row[key], key)
        if self.target == "openai":
            self._extra(row, {"prompt", "completion"}, "")
        if isinstance(row.get("prompt"), str) != isinstance(row.get("completion"), str) and not self.errors:
            self.add("", "mixed_shapes", "prompt and completion must both be text or both be messages")
        prompt, completion = row.get("prompt"), row.get("completion")
        # A trap in text rows: with a space at the end of the prompt, the tokens in training differ from those at inference.
        if isinstance(prompt, str) and prompt.strip() and prompt[-1:].isspace() and prompt[-1] != "\n":
            self.add("prompt", "edge_whitespace", "the prompt ends with a space, which becomes a token of its own")
        if isinstance(completion, str) and completion.startswith(" "):
            # The old convention of the completions API: the leading space belongs to the first word's token.
            self.findings = [f for f in self.findings if not (f.field == "completion" and f.code == "edge_whitespace")]

    def _labelled(self, row: dict) -> None:
        if formats.is_foreign(row):
            self.add("", "other_shape", "the conversation is tagged in another trainer's layout")
            return
        for key in ("prompt", "completion"):
            if key in row:
                self._side(row[key], key)
            elif key == "completion":
                self.add(key, "field_missing", "completion is missing")
        if not isinstance(row.get("label"), bool):
            self.add("label", "field_type", f"label must be true or false, but is {shorten(row.get('label'))}")

    def _messages(self, messages: list, path: str, tools: set | None) -> None:
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
            self._message(message, role, where)
            if role == "assistant":
                new = self._tool_calls(message, where, tools, called)
                waiting.update(new)
                called.update(new)
            elif "tool_calls" in message:
                self.add(f"{where}.tool_calls", "tool_calls_role", f"a {role} message calls tools")
            if role == "tool":
                self._tool_answer(message, where, called, waiting)
            self._order(role, before, index, where)
            before = role

    def _order(self, role: str, before: str | None, index: int, where: str) -> None:
        if role in ("system", "developer") and index and before not in ("system", "developer"):
            self.add(where, "system_not_first", f"a {role} message comes after other messages")
        elif role == before and role in ("user", "assistant"):
            self.add(where, "role_order", f"two {role} messages follow each other")
        elif role == "assistant" and (index == 0 or before in ("system", "developer")):
            self.add(where, "role_order", "the conversation starts with the assistant")
        elif role == "user" and before == "tool":
            self.add(where, "role_order", "the user speaks before the assistant has used the tool's answer")

    def _message(self, message: dict, role: str, where: str) -> None:
        if self.target == "openai":
            self._extra(message, MESSAGE_KEYS[role] | MISPLACED, where)
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
        self._content(message, role, where)

    def _content(self, message: dict, role: str, where: str) -> None:
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
                self._text(content, role, path)
        elif isinstance(content, list):
            if not content:
                self.add(path, "content_empty", "content is an empty list")
            for index, part in enumerate(content):
                self._part(part, role, f"{path}[{index}]")
        else:
            self.add(path, "content_type", f"content must be text, but is {type_of(content)}")

    def _part(self, part: Any, role: str, path: str) -> None:
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
        elif kind == "image_url" and not isinstance(part[kind].get("url"), str):
            self.add(f"{path}.{kind}.url", "content_part", f"url is {shorten(part[kind].get('url'))}, not text")
        elif kind == "text":
            if not part["text"].strip():
                self.add(path, "content_empty", "the text of the part is empty")
            else:
                self._text(part["text"], role, path)

    def _text(self, text: str, role: str, path: str) -> None:
        if match := SPECIAL.search(text):
            fault = f"the control token {match.group()} at character {match.start() + 1}"
            self.add(path, "special_token", fault, token=match.group())
        if role == "assistant" and text != text.strip():
            end = "starts" if text[0].isspace() else "ends"
            self.add(path, "edge_whitespace", f"the answer {end} with whitespace")

    def _tools(self, row: dict) -> set | None:
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
                self._parameters(function, f"{path}.function")
        return names if readable else None

    def _parameters(self, function: dict, path: str) -> None:
        parameters = function.get("parameters")
        if parameters is None or self.target == "trl":  # its templates print whatever is there
            return
        where = f"{path}.parameters"
        if not isinstance(parameters, dict):
            self.add(where, "tools_invalid", f"parameters must be a JSON Schema, but is {type_of(parameters)}")
        elif parameters.get("type", "object") != "object":
            self.add(f"{where}.type", "tools_invalid", f"must be 'object', but is {shorten(parameters.get('type'))}")

    def _tool_calls(self, message: dict, where: str, tools: set | None, called: dict) -> dict[str, str]:
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
            self._arguments(function, f"{call_path}.function.arguments")
        return ids

    def _arguments(self, function: dict, path: str) -> None:
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

    def _tool_answer(self, message: dict, where: str, called: dict, waiting: dict) -> None:
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


def type_of(value: object) -> str:
    """Return the JSON type of a value, in words for a message."""
    return "null" if value is None else TYPE_NAMES.get(type(value), "a number")


def _owner(role: object) -> str:
    return f"the {role}'s" if isinstance(role, str) else "of an unknown role"


def text_of(part: str | list[dict]) -> str:
    """Return all text of a side: the string itself, or the contents and calls of its messages."""
    if isinstance(part, str):
        return part
    pieces: list[str] = []
    for message in part:
        calls = json.dumps(message["tool_calls"], ensure_ascii=False) if message.get("tool_calls") else ""
        pieces += [formats.text_content(message.get("content")), calls]
    return "\n".join(filter(None, pieces))


def without_ids(message: dict) -> dict:
    """Return a message without the ids of its calls, which differ even if the calls are the same."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return message | {"tool_calls": [{**call, "id": ""} if isinstance(call, dict) else call for call in calls]}
