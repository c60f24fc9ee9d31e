"""The official client for Python."""

import json
import time

from openai import OpenAI
from pydantic import BaseModel
from steps import BASE, CITY, KEY, MODEL, QUESTION, ROWS, TOOL, URL, WEATHER, step

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
MESSAGES = [{"role": "user", "content": QUESTION}]
COLD = {"max_tokens": 60, "temperature": 0}


class City(BaseModel):
    """A structured answer."""

    city: str


@step("lifecycle")
def _():
    with open(ROWS, "rb") as rows:
        file = client.files.create(file=rows, purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 12}}}
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id, method=method)
    while (job := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
        time.sleep(0.2)
    assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
    assert client.models.delete(job.fine_tuned_model).deleted


@step("stream")
def _():
    made = client.chat.completions.create(model=BASE, messages=MESSAGES, max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in made)


@step("structured output")
def _():
    made = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=City, **COLD)
    assert isinstance(made.choices[0].message.parsed, City)


@step("tools")
def _():
    for how in ("auto", "required"):
        made = client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice=how, **COLD)
        (call,) = made.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"city": CITY}
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, tools=[TOOL], **COLD) as events:
        message = events.get_final_completion().choices[0].message
    assert message.tool_calls[0].function.name == "get_weather"


@step("responses")
def _():
    tool = {"type": "function", "name": "get_weather", "description": "Weather now.", "parameters": WEATHER, "strict": True}
    made = client.responses.create(model=MODEL, input=QUESTION, tools=[tool], temperature=0)
    call = made.output[0]
    assert json.loads(call.arguments) == {"city": CITY}
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    request = {"model": BASE, "input": [output], "previous_response_id": made.id, "tools": [tool], "max_output_tokens": 20}
    assert client.responses.create(**request, tool_choice="none").output_text
    assert isinstance(
        client.responses.parse(model=MODEL, input=QUESTION, text_format=City, temperature=0).output_parsed, City
    )
    with client.responses.stream(model=MODEL, input=QUESTION, tools=[tool], temperature=0) as events:
        assert events.get_final_response().output[0].name == "get_weather"
