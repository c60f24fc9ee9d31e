"""One request to an OpenAI-compatible endpoint, with its price; used by synthesis and judging."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import openai

RETRIES = 5  # the client waits longer each time, or as long as the server asks it to


@dataclass(frozen=True)
class Price:
    """Price of a model, in US dollars per million tokens of input and of output."""

    input: float
    output: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a request with this many tokens, in dollars."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


@dataclass(frozen=True)
class Answer:
    """A response of the endpoint.

    Attributes:
        text: the answer.
        prompt_tokens, completion_tokens: numbers of tokens of input and of output.
        model: name of the model, as the server gives it.
        finish_reason: why the answer ended.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    model: str
    finish_reason: str


def client_for(base_url: str | None = None, api_key: str | None = None) -> openai.OpenAI:
    """Return a client of the openai library; without arguments, it uses OPENAI_BASE_URL and OPENAI_API_KEY.

    Raises:
        CourseError: there is no key, or the library is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise CourseError(
            "this needs the openai library: pip install 'finetuning-course[data]', then run this again"
        ) from error
    try:
        return openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=RETRIES)
    except openai.OpenAIError as error:
        raise CourseError(
            f"no key for the endpoint: set OPENAI_API_KEY, or pass api_key ({str(error).splitlines()[0]})"
        ) from error


def ask(
    client: openai.OpenAI,
    model: str,
    messages: list[dict],
    schema: dict | None,
    max_tokens: int,
    temperature: float,
    key: str,
) -> Answer:
    """Send one request; the client repeats it where that may help, each time with the same idempotency key.

    Reasoning models refuse `max_tokens` and a temperature; after such a refusal the request is sent in the form that they
    accept.

    Args:
        client: from `client_for`.
        model: name of the model.
        messages: the conversation.
        schema: JSON Schema of the answer; None for free text.
        max_tokens: maximum number of tokens in the answer.
        temperature: sampling temperature.
        key: the idempotency key.

    Raises:
        CourseError: the endpoint refuses (the message quotes it), or it cannot be reached after all retries.
    """
    import openai

    extra: dict[str, Any] = {}
    if schema is not None:
        extra["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": False},
        }
    request: dict[str, Any] = {"model": model, "messages": messages, "extra_headers": {"Idempotency-Key": key}} | extra
    try:
        try:
            response = client.chat.completions.create(max_tokens=max_tokens, temperature=temperature, **request)
        except openai.BadRequestError as error:
            if error.param not in ("max_tokens", "temperature"):
                raise
            request["extra_headers"] = {"Idempotency-Key": f"{key}-2"}  # another request, so another key
            response = client.chat.completions.create(max_completion_tokens=max_tokens, **request)
    except openai.APIStatusError as error:
        raise CourseError(f"{client.base_url} answers {error.status_code}: {str(error)[:300]}") from error
    except openai.APIConnectionError as error:
        raise CourseError(f"{client.base_url} can't be reached: {error.__cause__ or error}") from error
    choice, usage = response.choices[0], response.usage
    return Answer(
        choice.message.content or "",
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        response.model,
        choice.finish_reason or "",
    )


def json_in(text: str) -> Any:
    """Return the JSON in an answer, with or without a code fence around it.

    Raises:
        ValueError: there is no JSON in it.
    """
    text = text.strip()
    if text.startswith("```"):
        text = text.split("\n", 1)[-1].rsplit("```", 1)[0]
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
