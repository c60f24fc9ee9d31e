"""LiteLLM."""

import json
import time

import litellm
from pydantic import BaseModel
from steps import BASE, CITY, KEY, MODEL, QUESTION, ROWS, TOOL, URL, WEATHER, step

WHERE = {"api_base": URL, "api_key": KEY}
MESSAGES = [{"role": "user", "content": QUESTION}]


class City(BaseModel):
    """A structured answer."""

    city: str


def chat(**more):
    """A completion of the tuned model."""
    return litellm.completion(model=f"openai/{MODEL}", messages=MESSAGES, max_tokens=60, temperature=0, **WHERE, **more)


@step("lifecycle")
def _():
    host = {"custom_llm_provider": "openai", **WHERE}
    with open(ROWS, "rb") as rows:
        file = litellm.create_file(file=rows, purpose="fine-tune", **host)
    settings = {"n_epochs": 1, "batch_size": 12}
    job = litellm.create_fine_tuning_job(model=BASE, training_file=file.id, hyperparameters=settings, **host)
    while (job := litellm.retrieve_fine_tuning_job(fine_tuning_job_id=job.id, **host)).status not in ("succeeded", "failed"):
        time.sleep(0.2)
    assert job.status == "succeeded", job
    assert litellm.completion(model=f"openai/{job.fine_tuned_model}", messages=MESSAGES, max_tokens=5, **WHERE)


@step("stream")
def _():
    made = litellm.completion(model=f"openai/{BASE}", messages=MESSAGES, max_tokens=20, stream=True, **WHERE)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in made)


@step("structured output")
def _():
    City.model_validate_json(chat(response_format=City).choices[0].message.content)


@step("tools")
def _():
    for how in ("auto", "required"):
        (call,) = chat(tools=[TOOL], tool_choice=how).choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"city": CITY}
    pieces = [chunk.choices[0].delta.tool_calls for chunk in chat(tools=[TOOL], stream=True)]
    text = "".join(piece[0].function.arguments for piece in pieces if piece)
    assert json.loads(text) == {"city": CITY}


@step("responses")
def _():
    tool = {"type": "function", "name": "get_weather", "description": "Weather now.", "parameters": WEATHER, "strict": True}
    made = litellm.responses(model=f"openai/{MODEL}", input=QUESTION, tools=[tool], temperature=0, **WHERE)
    assert json.loads(made.output[0].arguments) == {"city": CITY}
