"""One question to an endpoint: reasoning models are asked as they want to be (by a stand-in with the errors of OpenAI)."""

import json

import httpx
import openai
import pytest

from course_utils.data_prep.endpoint import ask
from course_utils.errors import CourseError

DONE = {
    "id": "1", "object": "chat.completion", "created": 0, "model": "thinker",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "19 days"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}  # fmt: skip


def client(refused):
    """A client of a server that refuses some parameters as OpenAI's does; and what it was sent."""
    sent = []

    def answer(request):
        sent.append(json.loads(request.content) | {"key": request.headers["idempotency-key"]})
        wrong = [name for name in refused if name in sent[-1]]
        if not wrong:
            return httpx.Response(200, json=DONE)
        error = {"message": f"Unsupported: {wrong[0]!r}", "type": "invalid_request_error", "param": wrong[0], "code": "x"}
        return httpx.Response(400, json={"error": error})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(base_url="http://there.example/v1", api_key="none", max_retries=0, http_client=http), sent


@pytest.mark.parametrize("refused", [("max_tokens", "temperature"), ("temperature",)])
def test_a_reasoning_model_is_asked_again(refused):
    at, sent = client(refused)
    found = ask(at, "thinker", [{"role": "user", "content": "?"}], None, 50, 0.0, "one")
    assert (found.text, found.prompt_tokens, found.completion_tokens) == ("19 days", 9, 3)
    assert sent[0]["max_tokens"] == sent[1]["max_completion_tokens"] == 50
    assert "temperature" not in sent[1] and sent[0]["key"] != sent[1]["key"]


def test_another_refusal_is_told():
    at, sent = client(("messages",))
    with pytest.raises(CourseError, match="answers 400: .*Unsupported: 'messages'"):
        ask(at, "thinker", [{"role": "user", "content": "?"}], None, 50, 0.0, "one")
    assert len(sent) == 1
