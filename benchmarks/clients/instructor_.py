"""instructor, in its default mode (tools) and in others."""

import instructor
from openai import OpenAI
from pydantic import BaseModel
from steps import KEY, MODEL, QUESTION, URL, step

REQUEST = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 60, "temperature": 0}


class City(BaseModel):
    """A structured answer."""

    city: str


def client(**more):
    """The official client with instructor around it."""
    return instructor.from_openai(OpenAI(base_url=URL, api_key=KEY, max_retries=0), **more)


@step("stream")
def _():
    made = list(client().chat.completions.create_partial(response_model=City, **REQUEST))
    assert made[-1].city


@step("structured output")
def _():
    made = client(mode=instructor.Mode.JSON_SCHEMA).chat.completions.create(response_model=City, max_retries=0, **REQUEST)
    assert isinstance(made, City)


@step("tools")
def _():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
        made = client(mode=mode).chat.completions.create(response_model=City, max_retries=0, **REQUEST)
        assert isinstance(made, City) and made.city, mode


@step("responses")
def _():
    made = client(mode=instructor.Mode.RESPONSES_TOOLS)
    found = made.responses.create(response_model=City, model=MODEL, input=QUESTION, temperature=0, max_retries=0)
    assert isinstance(found, City)
