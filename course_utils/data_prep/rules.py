"""Rules for the shapes of rows: conversations, preferences, prompts with completions, labelled answers."""

from __future__ import annotations

import json

from course_utils.data_prep import formats
from course_utils.data_prep.findings import shorten
from course_utils.data_prep.message_rules import END, MAX_PICTURES, PARTS, ROLES, MessageRules, count_pictures, type_of

CHAT_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
PREFERENCE_KEYS = {"input", "preferred_output", "non_preferred_output"}


class ChatRules(MessageRules):
    """Rules for conversations."""

    def chat(self, row: dict) -> None:
        """Report what is wrong with a conversation."""
        if self.target == "openai":
            self.extra(row, CHAT_KEYS, "")
        names = self.tools(row)
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
        self.messages(messages, "messages", names)
        if self.target == "openai" and (number := count_pictures(messages)) > MAX_PICTURES:
            self.add("messages", "too_many_images", f"{number} pictures")
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


class PreferenceRules(MessageRules):
    """Rules for two answers to the same prompt, one of which is better."""

    def preference(self, row: dict) -> None:
        """Report what is wrong with a pair."""
        if formats.shape_of(row) == "preference" and formats.is_foreign(row):
            self.add("", "other_shape", "chosen and rejected are in another trainer's layout")
            return
        if PREFERENCE_KEYS & set(row):
            self.hosted_preference(row)
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
            self.side(part, key)
        if self.errors:
            return
        chosen, rejected, prompt = parts["chosen"], parts["rejected"], parts.get("prompt")  # a missing side is an error
        if text_of(chosen).strip() == text_of(rejected).strip():
            self.add("rejected", "preference_same", "chosen and rejected are the same")
        elif prompt and all(text_of(side).startswith(text_of(prompt)) for side in (chosen, rejected)):
            self.add("chosen", "preference_repeats_prompt", "chosen and rejected start with the prompt")

    def side(self, part: object, key: str) -> None:
        """Check a prompt, chosen, rejected or completion, which may be text or messages."""
        if isinstance(part, str):
            if not part.strip():
                self.add(key, "field_empty", f"{key} is {'empty' if not part else 'only whitespace'}")
            else:
                if key != "prompt" and (match := END.search(part)):
                    self.add(key, "end_token", f"the text ends with {match.group().strip()}")
                    part = part[: match.start()]
                self.text(part, "user" if key == "prompt" else "assistant", key)
        elif isinstance(part, list):
            if not part:
                self.add(key, "field_empty", f"{key} is an empty list")
                return
            self.messages(part, key, None)
            self.findings = [f for f in self.findings if not (f.code == "role_order" and f.field == f"{key}[0]")]
            last = part[-1].get("role") if isinstance(part[-1], dict) else None
            if key == "prompt" and last not in ("user", "tool", "function"):
                self.add(key, "preference_prompt", f"the last message of the prompt is {_owner(last)}")
            elif key != "prompt" and last != "assistant":
                self.add(key, "preference_output", f"the last message of {key} is {_owner(last)}, not the assistant's")
        else:
            self.add(key, "field_type", f"{key} must be text or a list of messages, but is {type_of(part)}")

    def hosted_preference(self, row: dict) -> None:
        """Check OpenAI's shape: one turn, only text, one assistant message on each side."""
        self.extra(row, PREFERENCE_KEYS, "")
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
                self.extra(prompt, CHAT_KEYS, "input")
                names = self.tools(prompt)
                self.messages(prompt["messages"], "input.messages", names)
                self.one_turn_of_text(prompt["messages"])
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
            self.message(message, "assistant", f"{key}[0]")
            self.tool_calls(message, f"{key}[0]", names, {})
            sides.append(text_of([without_ids(message)]).strip())
        if len(sides) == 2 and sides[0] and sides[0] == sides[1]:
            self.add("non_preferred_output", "preference_same", "both outputs are the same")

    def one_turn_of_text(self, messages: list) -> None:
        """Check for what OpenAI's guide asks: preference tuning takes conversations of one turn, and only text."""
        roles = [message.get("role") for message in messages if isinstance(message, dict)]
        if roles.count("user") > 1 and "assistant" in roles:
            self.add("input.messages", "preference_turns", f"there are {roles.count('user')} user messages")
        for index, message in enumerate(messages):
            content = message.get("content") if isinstance(message, dict) else None
            kinds = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
            if other := [kind for kind in kinds if kind in PARTS["user"] and kind != "text"]:
                self.add(f"input.messages[{index}].content", "preference_text_only", f"there is a part of type {other[0]}")


class CompletionRules(PreferenceRules):
    """Rules for a prompt and its completion, with or without a label."""

    def completion(self, row: dict) -> None:
        """Report what is wrong with a prompt and its completion."""
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
        # A trap in text rows: with a space at the end of the prompt, the tokens in training differ from those at inference.
        if isinstance(prompt, str) and prompt.strip() and prompt[-1:].isspace() and prompt[-1] != "\n":
            self.add("prompt", "edge_whitespace", "the prompt ends with a space, which becomes a token of its own")
        if isinstance(completion, str) and completion.startswith(" "):
            # The old convention of the completions API: the leading space belongs to the first word's token.
            self.findings = [f for f in self.findings if not (f.field == "completion" and f.code == "edge_whitespace")]

    def labelled(self, row: dict) -> None:
        """Check prompt, completion and a label that says whether it is good: TRL's KTO uses them, no hosted job does."""
        if formats.is_foreign(row):
            self.add("", "other_shape", "the conversation is tagged in another trainer's layout")
            return
        for key in ("prompt", "completion"):
            if key in row:
                self.side(row[key], key)
            elif key == "completion":
                self.add(key, "field_missing", "completion is missing")
        if not isinstance(row.get("label"), bool):
            self.add("label", "field_type", f"label must be true or false, but is {shorten(row.get('label'))}")


class Rules(ChatRules, CompletionRules):
    """All rules, for rows of any kind."""

    def row(self, row: object, kind: str) -> None:
        """Report what is wrong with a row that should be of this kind."""
        if not isinstance(row, dict):
            self.add("", "not_object", f"the row is {type_of(row)}, not an object")
            return
        shape = formats.shape_of(row)
        if shape is None or formats.KIND_OF[shape] != kind or shape in formats.CONVERTIBLE:
            if self._partly(row, kind):
                pass
            elif shape is None:
                self.add("", "unknown_shape", f"no known shape has the keys {shorten(row)}")
                return
            else:
                same = (formats.KIND_OF[shape] == "preference") == (kind == "preference")
                code = "other_shape" if same else "wrong_kind"
                self.add("", code, f"the row has the shape {shape}, but should be a {kind} row")
                return
        {
            "chat": self.chat,
            "preference": self.preference,
            "prompt_completion": self.completion,
            "unpaired_preference": self.labelled,
        }[kind](row)

    def _partly(self, row: dict, kind: str) -> bool:
        """Whether a row is of this kind but lacks a key, so that the key is reported rather than an unknown shape."""
        if kind == "chat":
            return "messages" in row
        if kind == "preference":
            return len({"chosen", "rejected", *PREFERENCE_KEYS} & set(row)) > 0
        if kind == "unpaired_preference":
            return "completion" in row
        return len({"prompt", "completion"} & set(row)) > 0 and formats.shape_of(row) != "kto"


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
