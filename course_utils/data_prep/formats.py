"""The shapes in which fine-tuning data go around, told apart and turned into each other.

| shape | a row | from |
| --- | --- | --- |
| messages | {"messages": [{"role", "content"}, …], "tools"?, "parallel_tool_calls"?} | OpenAI, TRL, most trainers |
| sharegpt | {"conversations": [{"from": "human" or "gpt", "value"}, …], "system"?} | FastChat, many public sets |
| alpaca | {"instruction", "input"?, "output", "system"?} | Stanford Alpaca |
| prompt_completion | {"prompt", "completion"}, both text or both messages | TRL; OpenAI's old completions |
| preference | {"prompt"?, "chosen", "rejected"}, all text or all messages | TRL, most preference sets |
| openai_preference | {"input": {"messages"}, "preferred_output", "non_preferred_output"} | OpenAI's DPO |
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

from course_utils.errors import CourseError

KIND_OF = {
    "messages": "chat",
    "sharegpt": "chat",
    "alpaca": "chat",
    "prompt_completion": "prompt_completion",
    "preference": "preference",
    "openai_preference": "preference",
}
SHAPES = tuple(KIND_OF)
# Shapes that no trainer takes as they are.
CONVERTIBLE = {"sharegpt", "alpaca"}
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
    "system": "system", "tool": "tool", "observation": "tool",
}  # fmt: skip


def shape_of(row: object) -> str | None:
    """The shape of a row by its keys; None if it is none that is known."""
    if not isinstance(row, dict):
        return None
    keys = set(row)
    if "messages" in keys:
        return "messages"
    if keys & {"preferred_output", "non_preferred_output"}:
        return "openai_preference"
    if {"chosen", "rejected"} <= keys:
        return "preference"
    if isinstance(row.get("conversations"), list) or isinstance(row.get("conversation"), list):
        return "sharegpt"
    if {"instruction", "output"} <= keys:
        return "alpaca"
    if {"prompt", "completion"} <= keys:
        return "prompt_completion"
    return None


def convert(row: dict, to: str) -> dict:
    """The same example in another shape.

    A conversation of several turns becomes prompt and completion by its last answer. Shapes with less room refuse what they
    can't hold rather than drop it: Alpaca has one turn and no tools, ShareGPT no weights.

    Raises:
        CourseError: unknown target, or a row that can't be turned into it, with the reason.
    """
    if to not in KIND_OF:
        raise CourseError(f"unknown shape {to!r}; known are {', '.join(SHAPES)}")
    shape = shape_of(row)
    if shape is None:
        raise CourseError(f"a row with the keys {', '.join(map(str, row))} has no known shape")
    if shape == to:
        return copy.deepcopy(row)
    preferences = {"preference", "openai_preference"}
    if (shape in preferences) != (to in preferences):
        raise CourseError(f"{shape} can't become {to}: one has two answers to a prompt, the other has one")
    if shape in preferences:
        return _to_preference(row) if to == "preference" else _to_openai_preference(row)
    chat = _to_messages(row, shape)
    into: dict[str, Callable[[dict], dict]] = {
        "messages": lambda c: c,
        "sharegpt": _to_sharegpt,
        "alpaca": _to_alpaca,
        "prompt_completion": _to_completion,
    }
    return into[to](chat)


def prompt_of(row: dict) -> str:
    """What the user says, all turns together; for comparing prompts."""
    return _joined(row, lambda role: role == "user")


def answer_of(row: dict) -> str:
    """What the assistant says, all turns together."""
    return _joined(row, lambda role: role == "assistant")


def text_content(content: object) -> str:
    """The text of a message's content, be it text, parts or nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    return ""


def _joined(row: dict, wanted: Callable[[str], bool]) -> str:
    pieces = []
    for message in row["messages"]:
        if wanted(message["role"]):
            pieces.append(text_content(message.get("content")))
            pieces += [
                str(call["function"].get("arguments", ""))
                for call in message.get("tool_calls") or []
                if isinstance(call, dict) and isinstance(call.get("function"), dict)
            ]
    return "\n".join(piece for piece in pieces if piece)


def _to_messages(row: dict, shape: str) -> dict:
    if shape == "messages":
        return copy.deepcopy(row)
    if shape == "sharegpt":
        turns = next(row[key] for key in ("conversations", "conversation") if isinstance(row.get(key), list))
        messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        for index, turn in enumerate(turns):
            speaker = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
            if not isinstance(speaker, str) or speaker.lower() not in SHAREGPT_ROLES:
                raise CourseError(f"conversations[{index}]: unknown speaker {speaker!r}")
            messages.append({"role": SHAREGPT_ROLES[speaker.lower()], "content": turn.get("value", turn.get("content"))})
        return {"messages": messages}
    if shape == "alpaca":
        prompt = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
        messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        return {
            "messages": [*messages, {"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]
        }
    prompt, completion = row["prompt"], row["completion"]
    return {"messages": [*_as_messages(prompt, "user"), *_as_messages(completion, "assistant")]}


def _as_messages(part: object, role: str) -> list[dict]:
    if isinstance(part, str):
        return [{"role": role, "content": part}]
    if isinstance(part, list):
        return copy.deepcopy(part)
    raise CourseError(f"the {role}'s part must be text or messages")


def _to_completion(chat: dict) -> dict:
    messages = chat["messages"]
    if not messages or messages[-1].get("role") != "assistant":
        raise CourseError("the conversation does not end with an answer")
    return {"prompt": messages[:-1], "completion": messages[-1:], **{k: v for k, v in chat.items() if k != "messages"}}


def _to_sharegpt(chat: dict) -> dict:
    names = {"user": "human", "assistant": "gpt", "system": "system", "developer": "system", "tool": "tool"}
    turns = []
    for index, message in enumerate(chat["messages"]):
        if message.get("tool_calls") or message.get("weight") is not None or not isinstance(message.get("content"), str):
            raise CourseError(f"messages[{index}]: ShareGPT has no tool calls, weights or parts")
        turns.append({"from": names[message["role"]], "value": message["content"]})
    return {"conversations": turns}


def _to_alpaca(chat: dict) -> dict:
    messages = list(chat["messages"])
    system = messages.pop(0)["content"] if messages and messages[0]["role"] in ("system", "developer") else None
    if [message["role"] for message in messages] != ["user", "assistant"] or chat.get("tools"):
        raise CourseError("Alpaca has room for one question and one answer")
    user, assistant = (message.get("content") for message in messages)
    if not isinstance(user, str) or not isinstance(assistant, str):
        raise CourseError("Alpaca has room for text only")
    return {"instruction": user, "input": "", "output": assistant, **({"system": system} if system else {})}


def _to_preference(row: dict) -> dict:
    return {
        "prompt": copy.deepcopy(row["input"]["messages"]),
        "chosen": copy.deepcopy(row["preferred_output"]),
        "rejected": copy.deepcopy(row["non_preferred_output"]),
        **({"tools": copy.deepcopy(row["input"]["tools"])} if row["input"].get("tools") else {}),
    }


def _to_openai_preference(row: dict) -> dict:
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None:  # the prompt is what both sides begin with
        if isinstance(chosen, str) or isinstance(rejected, str):
            raise CourseError("text without a prompt: where it ends can't be told")
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            raise CourseError("chosen and rejected have no beginning in common that could be the prompt")
    outputs = {
        "preferred_output": _as_messages(chosen, "assistant"),
        "non_preferred_output": _as_messages(rejected, "assistant"),
    }
    for key, side in outputs.items():
        if len(side) != 1:
            raise CourseError(f"{key}: {len(side)} messages; OpenAI takes exactly one")
    return {
        "input": {"messages": _as_messages(prompt, "user"), "tools": row.get("tools", []), "parallel_tool_calls": True},
        **outputs,
    }


def dumps(row: dict) -> str:
    """A row as one line of a JSONL file: UTF-8, no lone surrogates, no line break."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
