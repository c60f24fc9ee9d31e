"""A streamed answer, put together again, is the answer in one piece (at temperature 0, or with a seed)."""

import pytest

SCHEMA = {"type": "object", "properties": {"level": {"enum": ["low", "high"]}}, "required": ["level"]}
REQUESTS = {
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


def ask(client, model, more) -> dict[int, dict]:
    """Index → text, reason and log-probabilities."""
    request = {"model": model, "messages": [{"role": "user", "content": "Say something, größer: 日本"}], "temperature": 0}
    found = client.chat.completions.create(**(request | {"max_tokens": 40} | more))
    return {
        choice.index: {
            "text": choice.message.content,
            "reason": choice.finish_reason,
            "logprobs": [token.model_dump() for token in choice.logprobs.content] if choice.logprobs else [],
            "usage": found.usage.model_dump(),
        }
        for choice in found.choices
    }


def ask_streaming(client, model, more) -> dict[int, dict]:
    """The same from the pieces of a stream."""
    request = {"model": model, "messages": [{"role": "user", "content": "Say something, größer: 日本"}], "temperature": 0}
    whole, usage = {}, None
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 40}
    for chunk in client.chat.completions.create(**(request | options | more)):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            so_far = whole.setdefault(choice.index, {"text": "", "reason": None, "logprobs": []})
            so_far["text"] += choice.delta.content or ""
            so_far["reason"] = choice.finish_reason or so_far["reason"]
            if choice.logprobs:
                so_far["logprobs"] += [token.model_dump() for token in choice.logprobs.content]
    return {index: found | {"usage": usage.model_dump()} for index, found in whole.items()}


@pytest.mark.model
@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("model", ["base", "tuned"])
def test_a_stream_joined_is_the_plain_answer(client, tuned, what, model):
    name = "tiny" if model == "base" else tuned.fine_tuned_model
    plain, joined = ask(client, name, REQUESTS[what]), ask_streaming(client, name, REQUESTS[what])
    assert joined == plain
    assert len(plain) == REQUESTS[what].get("n", 1) and all(found["reason"] for found in plain.values())
