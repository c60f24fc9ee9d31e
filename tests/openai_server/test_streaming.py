"""A streamed answer, put together again, is the answer in one piece (at temperature 0, or with a seed): text and calls."""

import pytest

from openai_server.test_tools import NAMED, TOOLS, check_calls

SCHEMA = {"type": "object", "properties": {"level": {"enum": ["low", "high"]}}, "required": ["level"]}
ASKED = {"messages": [{"role": "user", "content": "Say something, größer: 日本"}], "temperature": 0, "max_tokens": 40}
TEXT = {
    "plain": {},
    "long": {"max_tokens": 300},
    "two choices": {"n": 2, "temperature": 1, "seed": 5},
    "log-probabilities": {"logprobs": True, "top_logprobs": 2},
    "a stop": {"stop": ["e", "\ufffd"]},
    "a schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "max_tokens": 60,
    },
    "one token": {"max_tokens": 1},
}
WITH_TOOLS = {"tools": TOOLS, "temperature": 1, "seed": 1, "max_tokens": 300}
CALLS = {
    "required": {"tool_choice": "required", "parallel_tool_calls": False},
    "several calls": {"tool_choice": "required", "logit_bias": {"198": 8}, "max_tokens": 200},
    "named": {"tool_choice": NAMED},
    "auto": {"max_tokens": 40},
    "none": {"tool_choice": "none", "max_tokens": 20},
    "cut": {"tool_choice": "required", "max_tokens": 20},
    "two choices of calls": {"tool_choice": "required", "n": 2, "parallel_tool_calls": False},
    "log-probabilities of a call": {"tool_choice": NAMED, "logprobs": True, "top_logprobs": 2},
    "a stop in a call": {"tool_choice": NAMED, "stop": ["\n", '"']},
}
REQUESTS = TEXT | {name: WITH_TOOLS | more for name, more in CALLS.items()}


def tokens(choice) -> list[dict]:
    return [token.model_dump() for token in choice.logprobs.content] if choice.logprobs else []


def ask(client, request) -> tuple[dict[int, dict], object]:
    """The answer in one piece: index → text, calls, reason and log-probabilities; and the usage."""
    found = client.chat.completions.create(**request)
    choices = {}
    for choice in found.choices:
        calls = choice.message.tool_calls or []
        made = [(call.function.name, call.function.arguments) for call in calls]
        text, reason = choice.message.content or "", choice.finish_reason
        choices[choice.index] = {"text": text, "calls": made, "reason": reason, "logprobs": tokens(choice)}
        if reason == "tool_calls":
            check_calls(calls)
    return choices, found.usage


def ask_streaming(client, request) -> tuple[dict[int, dict], object]:
    """The same from the pieces of a stream."""
    whole, usage = {}, None
    for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            so_far = whole.setdefault(choice.index, {"text": "", "calls": [], "reason": None, "logprobs": []})
            so_far["text"] += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                assert call.index == len(so_far["calls"]) and call.id.startswith("call_") and call.type == "function"
                so_far["calls"].append((call.function.name, call.function.arguments))
            so_far["reason"] = choice.finish_reason or so_far["reason"]
            so_far["logprobs"] += tokens(choice)
    return whole, usage


@pytest.mark.model
@pytest.mark.parametrize(("what", "model"), [*((what, "base") for what in REQUESTS), ("plain", "tuned")])
def test_a_stream_joined_is_the_plain_answer(request, client, what, model):
    name = "tiny" if model == "base" else request.getfixturevalue("tuned").fine_tuned_model
    asked = ASKED | REQUESTS[what] | {"model": name}
    plain, usage = ask(client, asked)
    assert ask_streaming(client, asked) == (plain, usage)
    assert len(plain) == asked.get("n", 1) and all(found["reason"] for found in plain.values())
    calls, first = plain[0]["calls"], "".join(token["token"] for token in plain[0]["logprobs"])
    assert what != "several calls" or len(calls) > 1
    assert what != "none" or not calls
    assert what != "log-probabilities of a call" or "get" in first
    assert (plain[0]["reason"] == "tool_calls") or what in (*TEXT, "auto", "none", "cut", "several calls")
