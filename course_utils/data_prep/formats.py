"""The shapes that fine-tuning data come in: how to recognise each, and convert one into another.

| shape | a row | used by |
| --- | --- | --- |
| messages | {"messages": [{"role", "content"}, …], "tools"?, "parallel_tool_calls"?} | OpenAI, TRL, most trainers |
| sharegpt | {"conversations": [{"from": "human" or "gpt", "value"}, …], "system"?} | FastChat, many public sets |
| alpaca | {"instruction", "input"?, "output", "system"?} | Stanford Alpaca |
| prompt_completion | {"prompt", "completion"}, both text or both messages | TRL; OpenAI's old completions |
| preference | {"prompt"?, "chosen", "rejected"}, all text or all messages | TRL, most preference sets |
| openai_preference | {"input": {"messages"}, "preferred_output", "non_preferred_output"} | OpenAI's DPO |
| kto | {"prompt"?, "completion", "label": true or false}, all text or all messages | TRL's KTO |

Rankings from LLaMA-Factory (chosen and rejected next to conversations or an instruction) and from UltraFeedback (both sides
repeat the prompt) count as preferences, and are converted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from course_utils.data_prep.reading import json_or_none
from course_utils.data_prep.variants import SPEAKERS, label_of, number_calls, variants
from course_utils.errors import CourseError

KIND_OF = {
    "messages": "chat",
    "sharegpt": "chat",
    "alpaca": "chat",
    "prompt_completion": "prompt_completion",
    "preference": "preference",
    "openai_preference": "preference",
    "kto": "unpaired_preference",
}
# Shapes that no trainer accepts as they are.
CONVERTIBLE = {"sharegpt", "alpaca"}
# Shapes that rows can be converted to.
SHAPES = tuple(shape for shape in KIND_OF if shape not in CONVERTIBLE)
# The fields of each shape. Any other field of a row is carried along; whoever reads the result may accept or refuse it.
FIELDS: dict[str, set[str]] = {
    "messages": {"messages"},
    "sharegpt": {"conversations", "conversation", "system"},
    "alpaca": {"instruction", "input", "output", "system", "history"},
    "prompt_completion": {"prompt", "completion"},
    "preference": {"prompt", "chosen", "rejected"},
    "openai_preference": {"input", "preferred_output", "non_preferred_output"},
    "kto": {"prompt", "completion", "label"},
}
# What a turn calls its speaker and its text: ShareGPT's keys first, then those of ticket systems.
SPEAKER_KEYS, TEXT_KEYS = ("from", "role", "author", "speaker", "sender"), ("value", "content", "body", "text", "message")


def shape_of(row: object) -> str | None:
    """Return the shape of a row, judged by its keys; None if it has no known shape."""
    if not isinstance(row, dict):
        return None
    keys = {key for key, value in row.items() if value is not None}
    if keys & {"preferred_output", "non_preferred_output"}:
        return "openai_preference"
    if {"chosen", "rejected"} <= keys:
        return "preference"
    if "kto_tag" in keys or ("completion" in keys and label_of(row.get("label")) is not None) or _is_labelled_chat(row):
        return "kto"
    if "messages" in row:
        return "messages"
    if any(_is_list(row.get(key)) for key in ("conversations", "conversation")):
        return "sharegpt"
    if {"instruction", "output"} <= keys:
        return "alpaca"
    if {"prompt", "completion"} <= set(row):
        return "prompt_completion"
    return "preference" if {"chosen", "rejected"} <= set(row) else None


def is_foreign(row: dict) -> bool:
    """Return whether a preference or a labelled answer has a layout that only its own trainer accepts.

    `convert` reads it.
    """
    if _is_labelled_chat(row):
        return True
    if any(row.get(key) is not None for key in ("conversations", "conversation", "instruction", "kto_tag")):
        return True
    sides = {type(row.get("chosen")), type(row.get("rejected"))}
    return dict in sides or (isinstance(row.get("prompt"), str) and sides == {list})


def _is_labelled_chat(row: dict) -> bool:
    """Whether a conversation says of its last answer that it is good or bad, as LLaMA-Factory's sets for KTO do.

    Only true and false are such labels: a text or a number beside a conversation may name its class.
    """
    return "completion" not in row and isinstance(row.get("label"), bool) and _is_list(row.get("messages"))


def _is_list(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[{"))


def convert(row: dict, to: str) -> dict:
    """Return the same example in another shape.

    A conversation of several turns is split at its last answer into prompt and completion.

    Args:
        row: the example, in any known shape.
        to: one of `SHAPES`.

    Raises:
        CourseError: the target is unknown, or the row cannot be converted; the message says why.
    """
    if to not in SHAPES:
        raise CourseError(f"unknown shape {to!r}; choose among {', '.join(SHAPES)}")
    shape = shape_of(row)
    if shape is None:
        raise CourseError(f"a row with the keys {', '.join(map(str, row))} has no known shape")
    row, _ = variants(row)
    foreign = shape in ("preference", "kto") and is_foreign(row)
    if shape == to and not foreign:
        return copy.deepcopy(row)
    preferences = {"preference", "openai_preference"}
    if (shape in preferences) != (to in preferences):
        raise CourseError(f"{shape} can't become {to}: one has two answers to a prompt, the other has one")
    if (shape == "kto") != (to == "kto"):
        raise CourseError(f"{shape} can't become {to}: without its label, a bad answer would be taken for a good one")
    if shape == "kto":
        return _to_kto(row)
    if shape in preferences:
        row = _from_foreign(row) if foreign else row
        shape_fields = {*FIELDS[shape], "tools", "parallel_tool_calls"}
        converted = _to_preference(row) if to == "preference" and shape != to else row
        converted = _to_openai_preference(row) if to != "preference" and shape != to else converted
        return {**copy.deepcopy({k: v for k, v in row.items() if k not in shape_fields}), **converted}
    chat = _to_messages(row, shape)
    return chat if to == "messages" else _to_completion(chat)


def prompt_of(row: dict) -> str:
    """Return what the user says in all turns, joined; it serves to compare prompts."""
    return _joined(row, lambda role: role == "user")


def answer_of(row: dict) -> str:
    """Return what the assistant says in all turns, joined."""
    return _joined(row, lambda role: role == "assistant")


def as_chat(row: dict, chosen_only: bool = False) -> dict:
    """Return a row of any kind as a conversation, to be compared, split and assessed; it is not meant for training.

    Args:
        row: a valid row; a chat row is returned as it is.
        chosen_only: of a preference, leave out the rejected answer, which otherwise follows the chosen one.
    """
    if "messages" in row:
        return row
    if isinstance(row.get("input"), dict):
        row = _to_preference(row)
    messages = _as_messages(row.get("prompt") or [], "user")
    for key in ("completion", "chosen", *(() if chosen_only else ("rejected",))):
        messages += _as_messages(row[key], "assistant") if key in row else []
    return {"messages": messages, **{key: row[key] for key in ("tools", "label") if key in row}}


def customer_of(row: dict) -> str | None:
    """Return the name in a user's message, or None if there is none.

    It is the only field of a chat row that can identify the customer.
    """
    return next((m["name"] for m in row.get("messages", []) if m.get("role") == "user" and m.get("name")), None)


def written_in(answer: str) -> list[str]:
    """Return the texts in an answer.

    They are the free-text values of a JSON record, or all of the answer if it is prose. Broken JSON has none.
    """
    value = json_or_none(answer)
    if not isinstance(value, dict | list):
        return [] if answer.lstrip().startswith(("{", "[")) else [answer]
    texts: list[str] = []
    stack: list[object] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str) and " " in item:
            texts.append(item)
        elif isinstance(item, dict | list):
            stack.extend(item.values() if isinstance(item, dict) else item)
    return texts


def text_content(content: object) -> str:
    """Return the text of a message's content, which may be a text, a list of parts, or null."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    return ""


def _joined(row: dict, includes: Callable[[str], bool]) -> str:
    pieces = []
    for message in row["messages"]:
        if includes(message["role"]):
            pieces.append(text_content(message.get("content")))
            pieces += [
                str(call["function"].get("arguments", ""))
                for call in message.get("tool_calls") or []
                if isinstance(call, dict) and isinstance(call.get("function"), dict)
            ]
    return "\n".join(piece for piece in pieces if piece)


def _to_messages(row: dict, shape: str) -> dict:
    return {"messages": MESSAGES_OF[shape](row), **copy.deepcopy({k: v for k, v in row.items() if k not in FIELDS[shape]})}


def _from_foreign(row: dict) -> dict:
    """Prompt, chosen and rejected from LLaMA-Factory's and UltraFeedback's layouts; other fields are kept."""
    row = copy.deepcopy(row)
    sides = {key: row.pop(key) for key in ("chosen", "rejected")}
    prompt = row.pop("prompt", None)
    if shared := [key for key in ("conversations", "conversation") if row.get(key)]:
        prompt = _turns_of_sharegpt(row)
        used_fields = {*shared, "system"}
    elif row.get("instruction"):
        prompt, used_fields = _turns_of_alpaca(row), FIELDS["alpaca"] - {"output"}
    else:
        used_fields = set()
    for key, side in sides.items():
        if isinstance(side, dict):
            side = [_message_of_turn(side, key)]
        sides[key] = _as_messages(side, "assistant")
    if isinstance(prompt, str):
        begin = shared_beginning(*sides.values())
        user_texts = [m.get("content") for m in sides["chosen"][:begin] if m.get("role") == "user"]
        if begin and prompt in user_texts:
            prompt = sides["chosen"][:begin]
            sides = {key: side[begin:] for key, side in sides.items()}
    pair = {"prompt": _as_messages(prompt, "user"), **sides}
    return {**{k: v for k, v in row.items() if k not in used_fields}, **pair}


def _to_kto(row: dict) -> dict:
    """Prompt, completion and label from LLaMA-Factory's tagged or labelled conversations."""
    row = copy.deepcopy(row)
    label = row.pop("label") if _is_labelled_chat(row) else label_of(row.pop("kto_tag", None))
    if label is None:
        raise CourseError("kto_tag must be true or false")
    if "prompt" in row and "completion" in row:
        return {**row, "label": label}
    shared = any(isinstance(row.get(key), list) for key in ("conversations", "conversation"))
    shape = "sharegpt" if shared else "messages" if "messages" in row else "alpaca"
    return {**_to_completion(_to_messages(row, shape)), "label": label}


def _as_messages(part: object, role: str) -> list[dict]:
    if isinstance(part, str):
        return [{"role": role, "content": part}]
    if isinstance(part, list):
        return copy.deepcopy(part)
    raise CourseError(f"the {role}'s part must be text or a list of messages")


def _turns_of_alpaca(row: dict) -> list[dict]:
    """System, history, instruction and input of an Alpaca row as messages, without its answer."""
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for index, pair in enumerate(row.get("history") or []):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise CourseError(f"history[{index}]: must be a question and an answer")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    prompt = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
    return [*messages, {"role": "user", "content": prompt}]


def _turns_of_sharegpt(row: dict) -> list[dict]:
    """The turns of a ShareGPT row as messages; LLaMA-Factory's calls and observations as tool calls and tool answers."""
    turns: list = next((row[key] for key in ("conversations", "conversation") if isinstance(row.get(key), list)), [])
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for index, turn in enumerate(turns):
        messages.append(_message_of_turn(turn, f"conversations[{index}]"))
    return number_calls({"messages": messages})["messages"]


def _message_of_turn(turn: object, path: str) -> dict:
    """One turn as a message; other fields of the turn are kept."""
    keys = turn if isinstance(turn, dict) else {}
    speaker_key, text_key = (next((k for k in names if k in keys), names[0]) for names in (SPEAKER_KEYS, TEXT_KEYS))
    speaker, content = keys.get(speaker_key), keys.get(text_key)
    if not isinstance(turn, dict) or not isinstance(speaker, str):
        raise CourseError(f"{path}: unknown speaker {speaker!r}")
    further = {k: v for k, v in turn.items() if k not in ("from", "role", "value", "content", speaker_key, text_key)}
    if speaker.lower() == "function_call":
        try:
            calls: Any = json.loads(content) if isinstance(content, str) else content
            calls = list(map(_written_call, calls if isinstance(calls, list) else [calls]))
        except (ValueError, KeyError, TypeError) as error:
            raise CourseError(f"{path}: a call must be JSON with name and arguments") from error
        return {"role": "assistant", "content": None, "tool_calls": calls, **further}
    if speaker.lower() not in SPEAKERS:
        raise CourseError(f"{path}: unknown speaker {speaker!r}")
    return {"role": SPEAKERS[speaker.lower()], "content": content, **further}


def _written_call(call: dict) -> dict:
    arguments = call["arguments"]
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "function": {"name": call["name"], "arguments": arguments}}


def shared_beginning(one: list, other: list) -> int:
    """Return how many messages two conversations have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


# Shape of a conversation → its messages.
MESSAGES_OF: dict[str, Callable[[dict], list[dict]]] = {
    "messages": lambda row: copy.deepcopy(row["messages"]),
    "sharegpt": lambda row: _turns_of_sharegpt(row),
    "alpaca": lambda row: [*_turns_of_alpaca(row), {"role": "assistant", "content": row["output"]}],
    "prompt_completion": lambda row: [*_as_messages(row["prompt"], "user"), *_as_messages(row["completion"], "assistant")],
}


def _to_completion(chat: dict) -> dict:
    messages = chat["messages"]
    if not messages or messages[-1].get("role") != "assistant":
        raise CourseError("the conversation does not end with an answer")
    return {"prompt": messages[:-1], "completion": messages[-1:], **{k: v for k, v in chat.items() if k != "messages"}}


def _to_preference(row: dict) -> dict:
    return {
        "prompt": copy.deepcopy(row["input"]["messages"]),
        "chosen": copy.deepcopy(row["preferred_output"]),
        "rejected": copy.deepcopy(row["non_preferred_output"]),
        **({"tools": copy.deepcopy(row["input"]["tools"])} if row["input"].get("tools") else {}),
        **({"parallel_tool_calls": False} if row["input"].get("parallel_tool_calls") is False else {}),
    }


def _to_openai_preference(row: dict) -> dict:
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None:  # then the prompt is what both sides begin with
        if isinstance(chosen, str) or isinstance(rejected, str):
            raise CourseError("text without a prompt: it can't be told where the prompt ends")
        shared = shared_beginning(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            raise CourseError("chosen and rejected have no common beginning that could be the prompt")
    outputs = {
        "preferred_output": _as_messages(chosen, "assistant"),
        "non_preferred_output": _as_messages(rejected, "assistant"),
    }
    for key, side in outputs.items():
        if len(side) != 1:
            raise CourseError(f"{key} has {len(side)} messages; OpenAI accepts exactly one")
    return {
        "input": {
            "messages": _as_messages(prompt, "user"),
            "tools": row.get("tools", []),
            "parallel_tool_calls": row.get("parallel_tool_calls", True),
        },
        **outputs,
    }


def dumps(row: dict) -> str:
    """Return a row as one line of a JSONL file.

    It has no line breaks, and lone surrogates are escaped so that UTF-8 can encode them.
    """
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
