"""Twelve examples with a tool, trained as a client does it: the packaged model then writes the call of its own accord."""

import json

import jsonschema
import pytest

from openai_server.conftest import finish, lines, supervised, upload

TRAINED = ("Rome", "Oslo", "Lima", "Cairo", "Delhi", "Paris", "Quito", "Tokyo", "Dublin", "Athens", "Berlin", "Havana")
ASKED = ("Madrid", "Vienna", "Lisbon", "Boston")
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather now.", "parameters": WEATHER}}]


def question(city: str) -> dict:
    return {"role": "user", "content": f"What is the weather like in {city}?"}


def example(number: int, city: str) -> dict:
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    call = {"id": f"call_{number}", "type": "function", "function": function}
    return {"messages": [question(city), {"role": "assistant", "tool_calls": [call]}], "tools": TOOLS}


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.soak("test_tools.py compares what a row with a call teaches with what is asked and read back")
def test_a_model_trained_on_twelve_calls_calls_by_itself(start_server, tmp_path):
    with start_server(tmp_path / "service", model=None) as server:
        client = server.client(timeout=300, max_retries=0)
        base = client.models.list().data[0].id

        def asked(model: str, city: str):
            request = {"model": model, "messages": [question(city)], "tools": TOOLS, "tool_choice": "auto"}
            return client.chat.completions.create(**request, temperature=0, max_tokens=40).choices[0]

        assert not any(asked(base, city).message.tool_calls for city in ASKED[:2])
        rows = lines(example(number, city) for number, city in enumerate(TRAINED))
        method = supervised(n_epochs=3, batch_size=4)
        job = client.fine_tuning.jobs.create(model=base, training_file=upload(client, rows).id, method=method, seed=1)
        job = finish(client, job, 300)
        assert job.status == "succeeded", job.error
        for city in ASKED:
            choice = asked(job.fine_tuned_model, city)
            assert choice.finish_reason == "tool_calls", choice
            (call,) = choice.message.tool_calls
            assert call.function.name == "get_weather"
            jsonschema.validate(arguments := json.loads(call.function.arguments), WEATHER)
            assert arguments["city"] == city
