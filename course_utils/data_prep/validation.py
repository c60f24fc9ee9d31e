"""Is this a file one can train on? Every rule of the hosted API and of TRL, and what both of them miss.

Rules and messages of the hosted API: OpenAI's fine-tuning guide and specification of August 2026, and errors that users
reported; of TRL: `trl.data_utils` and the dataset formats of its documentation. What they miss: a host finds out hours
later, or never, that no assistant message is trained on, that a tool call's arguments are no JSON, or that answers start
with a blank.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.data_prep import formats, reading
from course_utils.data_prep.findings import ERROR, WARNING, Finding, shorten
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("chat", "preference", "prompt_completion")
TARGETS = ("openai", "trl")
MAX_TOKENS = 65_536  # of an example; OpenAI cuts the end off
MAX_BYTES = 512_000_000  # of a file sent in one piece to OpenAI
MIN_ROWS = 10
KEPT = 1_000  # findings that a report keeps; all are counted

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
CHAT_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
PREFERENCE_KEYS = {"input", "preferred_output", "non_preferred_output"}
MESSAGE_KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "weight", "tool_calls", "function_call", "refusal", "audio"},
    "tool": {"role", "content", "tool_call_id", "name"},
    "function": {"role", "content", "name"},
}
MISPLACED = {"weight", "tool_calls"}  # on other roles they have findings of their own
PARTS: dict[str, dict[str, type]] = {
    "user": {"text": str, "image_url": dict, "input_audio": dict, "file": dict},
    "assistant": {"text": str, "refusal": str},
}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# Control tokens of the chat formats in use: the hosts refuse their own, a local chat template takes them at face value.
SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|endofprompt|fim_prefix|fim_middle|fim_suffix|begin_of_text|end_of_text|eot_id|"
    r"start_header_id|end_header_id|eom_id|python_tag|system|user|assistant|end|channel|message|start|return|call)\|>|"
    r"\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<｜[^｜>]{1,30}｜>"
)


@dataclass
class Report:
    """What `validate` found.

    Attributes:
        path: the file.
        kind: what its rows were taken for.
        rows: rows that could be read.
        bad_rows: lines with at least one error.
        counts: code → findings, all of them.
        findings: the first `KEPT` of them.
        tokens: of all rows together; None without a tokenizer.
        api_message: how OpenAI's job would have failed, in its documented words; None if it would not, or words are unknown.
    """

    path: str
    kind: str
    target: str
    rows: int = 0
    bad_rows: int = 0
    counts: Counter = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    tokens: int | None = None
    api_message: str | None = None
    errors: int = 0
    warnings: int = 0

    @property
    def ok(self) -> bool:
        """No errors."""
        return not self.errors

    def add(self, finding: Finding) -> None:
        """Count a finding; keep it while there is room."""
        self.counts[finding.code] += 1
        if finding.severity == ERROR:
            self.errors += 1
        else:
            self.warnings += 1
        if len(self.findings) < KEPT:
            self.findings.append(finding)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path,
            "kind": self.kind,
            "target": self.target,
            "ok": self.ok,
            "rows": self.rows,
            "bad_rows": self.bad_rows,
            "errors": self.errors,
            "warnings": self.warnings,
            "tokens": self.tokens,
            "api_message": self.api_message,
            "counts": dict(self.counts.most_common()),
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        head = f"{Path(self.path).name}: {self.rows:,} {self.kind} rows, {self.errors:,} errors, {self.warnings:,} warnings"
        return "\n".join([head, *(f"  {f.severity:<7} {f}" for f in self.findings[:20]), *self._rest()])

    def _rest(self) -> list[str]:
        rest = self.errors + self.warnings - 20
        return [f"  and {rest:,} more: {dict(self.counts.most_common())}"] if rest > 0 else []


def validate(
    path: str | Path,
    kind: str | None = None,
    target: str = "openai",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Report:
    """Check a training file, whatever is in it.

    Args:
        path: JSONL, JSON, CSV or Parquet.
        kind: "chat", "preference" or "prompt_completion"; what most of the first 50 rows look like, if None.
        target: "openai", or "trl" for a trainer of one's own.
        tokenizer: with a chat template; counts tokens exactly. Without one a row is too long only when it is so by any
            count.
        max_tokens: the most tokens an example may have.

    Raises:
        CourseError: no such file, unreadable, or an unknown kind or target. Never for what is in the file.
    """
    if kind is not None and kind not in KINDS:
        raise CourseError(f"unknown kind {kind!r}; choose among {', '.join(KINDS)}")
    if target not in TARGETS:
        raise CourseError(f"unknown target {target!r}; choose among {', '.join(TARGETS)}")
    path = Path(path)
    kind = kind or guess_kind(path)
    report = Report(str(path), kind, target, tokens=0 if tokenizer is not None else None)
    for row, findings in check(reading.read(path), kind, target, tokenizer, max_tokens, report):
        report.rows += row.value is not None
        report.bad_rows += any(finding.severity == ERROR for finding in findings)
        for finding in findings:
            report.add(finding)
        if report.api_message is None and target == "openai":
            report.api_message = _api_message(row, report.rows, findings, kind)
    for finding in _check_file(path, report):
        report.add(finding)
    if target == "openai" and report.rows < MIN_ROWS and report.api_message is None:
        report.api_message = f"Training file has {report.rows} example(s), but must have at least {MIN_ROWS} examples"
    return report


def guess_kind(path: str | Path) -> str:
    """What most of the first 50 readable rows are; "chat" if none can be told."""
    seen: Counter = Counter()
    for row, _ in zip(reading.read(path), range(50)):
        shape = formats.shape_of(row.value)
        if shape:
            seen[formats.KIND_OF[shape]] += 1
    return seen.most_common(1)[0][0] if seen else "chat"


def check(
    rows: Iterable[reading.Row],
    kind: str,
    target: str = "openai",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_tokens: int = MAX_TOKENS,
    report: Report | None = None,
) -> Iterator[tuple[reading.Row, list[Finding]]]:
    """Each row with all that is wrong with it; the first findings are those of its bytes and its JSON."""
    for row in rows:
        findings = list(row.findings)
        if row.value is not None or not any(
            finding.severity == ERROR or finding.code == "blank_line" for finding in findings
        ):
            checker = _Checker(row.line, target)
            checker.row(row.value, kind)
            # Half a character can't be tokenized; a byte order mark is no reason not to count.
            broken = any(f.severity == ERROR and f.code not in ("byte_order_mark", "encoding") for f in row.findings)
            if not checker.errors and not broken:
                tokens = _tokens(row, kind, tokenizer, max_tokens, checker)
                if report is not None and report.tokens is not None:
                    report.tokens += tokens or 0
            findings += checker.findings
        yield row, findings


class _Checker:
    """Rules of one row."""

    def __init__(self, line: int, target: str) -> None:
        self.line, self.target = line, target
        self.findings: list[Finding] = []

    @property
    def errors(self) -> bool:
        return any(finding.severity == ERROR for finding in self.findings)

    def add(self, place: str, code: str, message: str) -> None:
        self.findings.append(Finding(self.line, place, code, message))

    def row(self, row: object, kind: str) -> None:
        if not isinstance(row, dict):
            self.add("", "not_object", f"the row is {_type(row)}, not an object")
            return
        shape = formats.shape_of(row)
        if shape is None or formats.KIND_OF[shape] != kind or shape in formats.CONVERTIBLE:
            if self._partly(row, kind):
                pass
            elif shape is None:
                self.add("", "unknown_shape", f"the keys {shorten(row)} are of no known shape")
                return
            else:
                same = (formats.KIND_OF[shape] == "preference") == (kind == "preference")
                code = "other_shape" if same else "wrong_kind"
                self.add("", code, f"the row has the shape {shape}; {kind} rows are wanted")
                return
        {"chat": self.chat, "preference": self.preference, "prompt_completion": self.completion}[kind](row)

    def _partly(self, row: dict, kind: str) -> bool:
        """A row of this kind with a key missing, which is to be named rather than called a stranger."""
        if kind == "chat":
            return "messages" in row
        if kind == "preference":
            return len({"chosen", "rejected", *PREFERENCE_KEYS} & set(row)) > 0
        return len({"prompt", "completion"} & set(row)) > 0

    # Conversations

    def chat(self, row: dict) -> None:
        if self.target == "openai":
            self.extra(row, CHAT_KEYS, "")
        names = self.tools(row)
        if "functions" in row:
            self.add("functions", "functions_deprecated", "functions is the old name of tools")
        if "parallel_tool_calls" in row and not isinstance(row["parallel_tool_calls"], bool):
            self.add("parallel_tool_calls", "field_type", f"must be true or false, is {shorten(row['parallel_tool_calls'])}")
        messages = row.get("messages")
        if not isinstance(messages, list):
            self.add("messages", "field_type", f"must be a list, is {_type(messages)}")
            return
        if not messages:
            self.add("messages", "messages_empty", "the list is empty")
            return
        self.messages(messages, "messages", names)
        roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
        if any(role not in ROLES for role in roles):
            return  # who said what is not known, so nothing more can be said of the order
        if "assistant" not in roles:
            self.add("messages", "no_assistant", "no message of the assistant")
        elif not any(role in ("user", "tool", "function") for role in roles[: len(roles) - roles[::-1].index("assistant")]):
            self.add("messages", "prompt_missing", "no user message before the answer")
        if "assistant" in roles:
            answers = [message for message in messages if isinstance(message, dict) and message.get("role") == "assistant"]
            if all(message.get("weight") == 0 and message.get("weight") is not False for message in answers):
                self.add("messages", "nothing_trained", "every assistant message has weight 0")
            if roles[-1] != "assistant":
                self.add(f"messages[{len(roles) - 1}]", "last_not_assistant", f"the last message is the {roles[-1]}'s")

    def messages(self, messages: list, place: str, tools: set | None) -> None:
        """Each message, then how they follow each other."""
        called: dict[str, str] = {}  # id of a call → its place
        waiting: dict[str, str] = {}  # not answered yet
        before = None
        for index, message in enumerate(messages):
            where = f"{place}[{index}]"
            if not isinstance(message, dict):
                self.add(where, "field_type", f"must be an object, is {_type(message)}")
                before = None
                continue
            role = message.get("role")
            if "role" not in message:
                self.add(where, "role_missing", f"the message has the keys {shorten(message)} and no role")
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
                self.add(f"{where}.tool_calls", "tool_calls_role", f"a message of the {role} calls tools")
            if role == "tool":
                self.tool_answer(message, where, called, waiting)
            self.order(role, before, index, where)
            before = role

    def order(self, role: str, before: str | None, index: int, where: str) -> None:
        if role in ("system", "developer") and index and before not in ("system", "developer"):
            self.add(where, "system_not_first", f"a {role} message stands after others")
        elif role == before and role in ("user", "assistant"):
            self.add(where, "role_order", f"two {role} messages follow each other")
        elif role == "assistant" and (index == 0 or before in ("system", "developer")):
            self.add(where, "role_order", "the conversation starts with the assistant")
        elif role == "user" and before == "tool":
            self.add(where, "role_order", "the user speaks before the assistant used the tool's answer")

    def message(self, message: dict, role: str, where: str) -> None:
        if self.target == "openai":
            self.extra(message, MESSAGE_KEYS[role] | MISPLACED, where)
        if "weight" in message:
            weight = message["weight"]
            if role != "assistant":
                self.add(f"{where}.weight", "weight_role", f"a message of the {role} has a weight")
            elif isinstance(weight, bool) or weight not in (0, 1):
                self.add(f"{where}.weight", "weight_invalid", f"the weight is {shorten(weight)}")
        if "name" in message and not (isinstance(message["name"], str) and NAME.fullmatch(message["name"])):
            self.add(f"{where}.name", "name_invalid", f"the name is {shorten(message['name'])}")
        if role == "function" and "name" not in message:
            self.add(where, "field_missing", "name is missing")
        if "function_call" in message:
            self.add(f"{where}.function_call", "functions_deprecated", "function_call is the old name of tool_calls")
        self.content(message, role, where)

    def content(self, message: dict, role: str, where: str) -> None:
        calls = role == "assistant" and (message.get("tool_calls") or message.get("function_call") or message.get("refusal"))
        content = message.get("content")
        place = f"{where}.content"
        if content is None:
            if not calls:
                code = "content_missing"
                self.add(place, code, "content is null" if "content" in message else "content is missing")
        elif isinstance(content, str):
            if not content.strip() and not (calls and not content):
                what = "empty" if not content else f"only white space ({shorten(content, 20)})"
                if role != "tool":
                    self.add(place, "content_empty", f"content is {what}")
            else:
                self.text(content, role, place)
        elif isinstance(content, list):
            if not content:
                self.add(place, "content_empty", "content is an empty list")
            for index, part in enumerate(content):
                self.part(part, role, f"{place}[{index}]")
        else:
            self.add(place, "content_type", f"content must be text, is {_type(content)}")

    def part(self, part: Any, role: str, place: str) -> None:
        known = PARTS.get(role, {"text": str})
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in known:
            self.add(place, "content_part", f"a part of the {role} has the type {shorten(kind)}; known: {', '.join(known)}")
        elif not isinstance(part.get(kind), known[kind]):
            self.add(f"{place}.{kind}", "content_part", f"the part has no {kind} that is {known[kind].__name__}")
        elif kind == "text":
            if not part["text"].strip():
                self.add(place, "content_empty", "the text of the part is empty")
            else:
                self.text(part["text"], role, place)

    def text(self, text: str, role: str, place: str) -> None:
        if match := SPECIAL.search(text):
            self.add(place, "special_token", f"the control token {match.group()} at character {match.start() + 1}")
        if role == "assistant" and text != text.strip():
            end = "starts" if text[0].isspace() else "ends"
            self.add(place, "edge_whitespace", f"the answer {end} with white space")

    # Tools

    def tools(self, row: dict) -> set | None:
        """Names of the declared functions; None where none are declared or the list can't be read."""
        tools = row.get("tools")
        if tools is None:
            return set() if "tools" not in row else None
        if not isinstance(tools, list):
            self.add("tools", "tools_invalid", f"tools must be a list, is {_type(tools)}")
            return None
        names: set[str] = set()
        readable = True
        for index, tool in enumerate(tools):
            place = f"tools[{index}]"
            function = tool.get("function") if isinstance(tool, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(function, dict):
                self.add(place, "tools_invalid", "a tool must have type function and an object function")
                readable = False
            elif not isinstance(name, str) or not NAME.fullmatch(name):
                self.add(f"{place}.function.name", "name_invalid", f"the function's name is {shorten(name)}")
                readable = False
            else:
                if name in names:
                    self.add(f"{place}.function.name", "tools_duplicate", f"{name} is declared twice")
                names.add(name)
                self.parameters(function, f"{place}.function")
        return names if readable else None

    def parameters(self, function: dict, place: str) -> None:
        parameters = function.get("parameters")
        if parameters is None:
            return
        if not isinstance(parameters, dict):
            self.add(f"{place}.parameters", "tools_invalid", f"parameters must be a JSON Schema, is {_type(parameters)}")
        elif parameters.get("type", "object") != "object":
            self.add(f"{place}.parameters.type", "tools_invalid", f"must be object, is {shorten(parameters.get('type'))}")
        elif not isinstance(parameters.get("properties", {}), dict):
            self.add(f"{place}.parameters.properties", "tools_invalid", "must be an object")
        elif "required" in parameters:
            required = parameters["required"]
            known = parameters.get("properties", {})
            if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
                self.add(f"{place}.parameters.required", "tools_invalid", "must be a list of names")
            elif missing := [name for name in required if name not in known]:
                self.add(
                    f"{place}.parameters.required", "tools_invalid", f"requires {shorten(missing[0])}, which is no property"
                )

    def tool_calls(self, message: dict, where: str, tools: set | None, called: dict) -> dict[str, str]:
        """Ids of the calls in a message → their places."""
        if "tool_calls" not in message or message["tool_calls"] is None:
            return {}
        calls, place = message["tool_calls"], f"{where}.tool_calls"
        if not isinstance(calls, list) or not calls:
            self.add(place, "tool_calls_invalid", f"must be a list with calls, is {_type(calls) if calls else 'empty'}")
            return {}
        ids: dict[str, str] = {}
        for index, call in enumerate(calls):
            spot = f"{place}[{index}]"
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                self.add(spot, "tool_calls_invalid", "the call has no object function")
                continue
            if call.get("type") != "function":
                self.add(
                    f"{spot}.type", "tool_calls_invalid", f"the type is {shorten(call.get('type'))}, must be 'function'"
                )
            identity = call.get("id")
            if not isinstance(identity, str) or not identity:
                self.add(f"{spot}.id", "tool_call_id", f"the call's id is {shorten(identity)}")
            elif identity in called or identity in ids:
                self.add(f"{spot}.id", "tool_call_id", f"the id {shorten(identity)} was used before")
            else:
                ids[identity] = spot
            name = function.get("name")
            if not isinstance(name, str) or not name:
                self.add(f"{spot}.function.name", "tool_calls_invalid", f"the function's name is {shorten(name)}")
            elif tools is not None and name not in tools:
                self.add(f"{spot}.function.name", "tool_unknown", f"{shorten(name)} is not declared in tools")
            self.arguments(function, f"{spot}.function.arguments")
        return ids

    def arguments(self, function: dict, place: str) -> None:
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            missing = "arguments" not in function
            # A trainer of one's own takes an object: chat templates print it as JSON.
            if missing or not (self.target == "trl" and isinstance(arguments, dict)):
                what = "arguments are missing" if missing else f"arguments must be text, are {_type(arguments)}"
                self.add(place, "tool_calls_invalid" if missing else "arguments_type", what)
            return
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            self.add(place, "arguments_not_json", f"the text is no JSON: {shorten(arguments, 40)}")
            return
        if not isinstance(value, dict):
            self.add(place, "arguments_not_json", f"the JSON in the text is {_type(value)}, not an object")

    def tool_answer(self, message: dict, where: str, called: dict, waiting: dict) -> None:
        identity = message.get("tool_call_id")
        if not isinstance(identity, str):
            code = "field_missing" if identity is None else "field_type"
            self.add(
                f"{where}.tool_call_id", code, f"tool_call_id is {'missing' if identity is None else shorten(identity)}"
            )
        elif identity not in called:
            self.add(f"{where}.tool_call_id", "tool_answer_unknown", f"no call before has the id {shorten(identity)}")
        elif identity not in waiting:
            self.add(f"{where}.tool_call_id", "tool_answer_unknown", f"the call {shorten(identity)} was answered already")
        else:
            del waiting[identity]

    # Preferences and completions

    def preference(self, row: dict) -> None:
        if PREFERENCE_KEYS & set(row):
            self.hosted_preference(row)
            return
        for key in ("prompt", "chosen", "rejected"):
            if key not in row and (key != "prompt" or self.target == "openai"):
                self.add(key, "field_missing", f"{key} is missing")
        if self.target == "openai" and not self.findings:
            self.add("", "other_shape", "OpenAI wants input, preferred_output and non_preferred_output")
        parts = {key: row[key] for key in ("prompt", "chosen", "rejected") if key in row}
        if {str, list} <= {type(part) for part in parts.values()}:
            self.add("", "mixed_shapes", "prompt, chosen and rejected must all be text or all be messages")
            return
        for key, part in parts.items():
            self.side(part, key)
        if self.errors:
            return
        chosen, rejected, prompt = parts["chosen"], parts["rejected"], parts.get("prompt")  # a missing side is an error
        if _text(chosen).strip() == _text(rejected).strip():
            self.add("rejected", "preference_same", "chosen and rejected are the same")
        elif prompt and all(_text(side).startswith(_text(prompt)) for side in (chosen, rejected)):
            self.add("chosen", "preference_repeats_prompt", "chosen and rejected start with the prompt")

    def side(self, part: object, key: str) -> None:
        """Prompt, chosen or rejected: text, or messages."""
        if isinstance(part, str):
            if not part.strip():
                self.add(key, "field_empty", f"{key} is {'empty' if not part else 'only white space'}")
            else:
                self.text(part, "user" if key == "prompt" else "assistant", key)
        elif isinstance(part, list):
            if not part:
                self.add(key, "field_empty", f"{key} is an empty list")
                return
            self.messages(part, key, None)
            self.findings = [f for f in self.findings if not (f.code == "role_order" and f.field == f"{key}[0]")]
            last = part[-1].get("role") if isinstance(part[-1], dict) else None
            if key == "prompt" and last not in ("user", "tool", "function"):
                self.add(key, "preference_prompt", f"the prompt ends with the {last}")
            elif key != "prompt" and last != "assistant":
                self.add(key, "preference_output", f"{key} ends with the {last}, not with the assistant")
        else:
            self.add(key, "field_type", f"{key} must be text or messages, is {_type(part)}")

    def hosted_preference(self, row: dict) -> None:
        """OpenAI's shape: one turn, text only, one assistant message a side."""
        self.extra(row, PREFERENCE_KEYS, "")
        for key in sorted(PREFERENCE_KEYS - set(row)):
            self.add(key, "field_missing", f"{key} is missing")
        if "input" in row:
            prompt = row["input"]
            if not isinstance(prompt, dict) or not isinstance(prompt.get("messages"), list):
                self.add("input", "field_type", "input must be an object with a list messages")
            elif not prompt["messages"]:
                self.add("input.messages", "messages_empty", "the list is empty")
            else:
                self.extra(prompt, CHAT_KEYS, "input")
                self.messages(prompt["messages"], "input.messages", self.tools(prompt))
                last = prompt["messages"][-1]
                if isinstance(last, dict) and last.get("role") in ("assistant", "system", "developer"):
                    self.add("input.messages", "preference_prompt", f"the prompt ends with the {last['role']}")
        sides = []
        for key in ("preferred_output", "non_preferred_output"):
            if key not in row:
                continue
            side = row[key]
            if not isinstance(side, list) or len(side) != 1:
                what = f"{len(side)} messages" if isinstance(side, list) else _type(side)
                self.add(key, "preference_output", f"{key} is {what}; one assistant message is wanted")
                continue
            message = side[0]
            if not isinstance(message, dict) or message.get("role") != "assistant":
                self.add(f"{key}[0]", "preference_output", "the message is not the assistant's")
                continue
            self.message(message, "assistant", f"{key}[0]")
            sides.append(message.get("content"))
        if (
            len(sides) == 2
            and isinstance(sides[0], str)
            and isinstance(sides[1], str)
            and sides[0].strip() == sides[1].strip()
        ):
            self.add("non_preferred_output", "preference_same", "both outputs are the same")

    def completion(self, row: dict) -> None:
        for key in ("prompt", "completion"):
            if key not in row:
                self.add(key, "field_missing", f"{key} is missing")
            else:
                self.side(row[key], key)
        if self.target == "openai":
            self.extra(row, {"prompt", "completion"}, "")
        if isinstance(row.get("prompt"), str) != isinstance(row.get("completion"), str) and not self.errors:
            self.add("", "mixed_shapes", "prompt and completion must both be text or both be messages")
        prompt, completion = row.get("prompt"), row.get("completion")
        # The trap of text rows: "…:" + "answer" and "…: " + "answer" are other tokens than at inference.
        if isinstance(prompt, str) and prompt.strip() and prompt[-1:].isspace() and prompt[-1] != "\n":
            self.add("prompt", "edge_whitespace", "the prompt ends with a blank, which is a token of its own")
        if isinstance(completion, str) and completion.startswith(" "):
            # The old convention of the completions API; the leading blank belongs to the first word's token.
            self.findings = [f for f in self.findings if not (f.field == "completion" and f.code == "edge_whitespace")]

    def extra(self, item: dict, known: set, place: str) -> None:
        for key in item:
            if key not in known:
                name = shorten(key, 40)
                self.add(place, "extra_key", f"the key {name} is not one of {', '.join(sorted(known))}")


def _tokens(
    row: reading.Row, kind: str, tokenizer: PreTrainedTokenizerBase | None, max_tokens: int, checker: _Checker
) -> int | None:
    """Tokens of a row; adds the finding if they are too many."""
    if tokenizer is None:
        # A token is never longer than some 16 bytes of text in any vocabulary in use, so this row is over by any count.
        if len(row.raw) > 16 * max_tokens:
            checker.add("", "too_many_tokens", f"{len(row.raw):,} bytes are over {max_tokens:,} tokens by any count")
        return None
    count = count_tokens(row.value, kind, tokenizer)
    if count > max_tokens:
        checker.add("", "too_many_tokens", f"{count:,} tokens, over the limit of {max_tokens:,}")
    return count


def count_tokens(row: dict, kind: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that training on a valid row processes: of the whole conversation, or of prompt and the longer side."""
    if kind == "chat":
        return _template_tokens(row["messages"], tokenizer)
    if kind == "prompt_completion":
        return _side_tokens(row["prompt"], tokenizer) + _side_tokens(row["completion"], tokenizer)
    prompt = row.get("prompt", row.get("input", {}).get("messages", "") if isinstance(row.get("input"), dict) else "")
    sides = [row[key] for key in ("chosen", "rejected", "preferred_output", "non_preferred_output") if key in row]
    return _side_tokens(prompt, tokenizer) + max(_side_tokens(side, tokenizer) for side in sides)


def _side_tokens(part: str | list[dict], tokenizer: PreTrainedTokenizerBase) -> int:
    return _template_tokens(part, tokenizer) if isinstance(part, list) else len(tokenizer(part)["input_ids"])


def _template_tokens(messages: list[dict], tokenizer: PreTrainedTokenizerBase) -> int:
    plain = [{"role": message["role"], "content": _text([message])} for message in messages]
    try:
        text = tokenizer.apply_chat_template(plain, tokenize=False)
    except Exception:  # a template may refuse roles or orders; what counts here is the length
        text = "\n".join(f"{message['role']}\n{message['content']}" for message in plain)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _text(part: str | list[dict]) -> str:
    """All text of a side: of a string itself, of messages their contents and calls."""
    if isinstance(part, str):
        return part
    pieces = []
    for message in part:
        content = message.get("content")
        if isinstance(content, str):
            pieces.append(content)
        elif isinstance(content, list):
            pieces += [piece.get("text", "") for piece in content if isinstance(piece, dict)]
        if message.get("tool_calls"):
            pieces.append(json.dumps(message["tool_calls"], ensure_ascii=False))
    return "\n".join(piece for piece in pieces if isinstance(piece, str))


def _type(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number")


def _check_file(path: Path, report: Report) -> Iterator[Finding]:
    if not report.rows and not report.errors:
        yield Finding(0, "", "empty_file", "no rows")
    if report.target != "openai":
        return
    if 0 < report.rows < MIN_ROWS:
        yield Finding(0, "", "too_few_rows", f"{report.rows} rows")
    if path.stat().st_size > MAX_BYTES:
        yield Finding(0, "", "file_too_large", f"{path.stat().st_size:,} bytes; {MAX_BYTES:,} are the limit")
    if path.suffix != ".jsonl":
        yield Finding(0, "", "file_name", f"the name ends in {path.suffix}")


# How a job fails at OpenAI: messages of its documentation and of failed jobs that users published. Examples count from 1.
def _api_message(row: reading.Row, number: int, findings: list[Finding], kind: str) -> str | None:
    start = "The job failed due to an invalid training file. Invalid file format."
    faulty = "The job failed due to a file format error in the training file. Invalid file format."
    for finding in findings:
        if finding.code == "role_missing":
            index = re.search(r"\[(\d+)\]", finding.field)
            assert index, finding
            return f"{start} Example {number}, message {int(index.group(1)) + 1} Discriminator 'role' is missing in value"
        if finding.code == "unknown_shape":
            file_format = "expected either prompt/completion pairs or chat messages."
            return f"The job failed due to an invalid training file. Unexpected file format, {file_format}"
        if finding.code == "extra_key" or finding.code == "weight_role":
            key = "weight" if finding.code == "weight_role" else re.search(r"the key '(.*?)'", finding.message)
            key = key if isinstance(key, str) else key.group(1) if key else "key"
            return f'{faulty} Example {number} contains an extra "{key}".'
        if finding.code == "special_token":
            token = re.search(r"token (\S+)", finding.message)
            assert token, finding
            return f"{faulty} Example {number} message contains an invalid token: {token.group(1)}."
        if finding.code == "wrong_kind" and kind == "preference":
            return (
                f"{start} Input file is in the fine-tune-chat format, but the specified fine-tuning job is not using "
                "'supervised' as the training method (provided method=dpo)."
            )
    return None


__all__ = ["ERROR", "KINDS", "TARGETS", "WARNING", "Report", "check", "count_tokens", "guess_kind", "validate"]
