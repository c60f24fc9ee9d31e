"""Inspect's provider `openai/`, by the Responses API and by chat completions, and an evaluation with a tool."""

import asyncio
import os
import tempfile

os.environ["INSPECT_LOG_DIR"] = tempfile.mkdtemp()
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ResponseSchema, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
from inspect_ai.tool import ToolFunction, tool
from inspect_ai.util import json_schema
from pydantic import BaseModel
from steps import BASE, CITY, KEY, MODEL, QUESTION, URL, step


class City(BaseModel):
    """A structured answer."""

    city: str


@tool
def get_weather():
    """The weather."""

    async def execute(city: str) -> str:
        """Weather now.

        Args:
            city: where.
        """
        return "Sunny."

    return execute


def model(name=MODEL, **more):
    """The model, asked by the front door that `openai/` takes unless told otherwise."""
    return get_model(f"openai/{name}", base_url=URL, api_key=KEY, memoize=False, **more)


async def calls(**more):
    """The model's calls, free and forced."""
    config = GenerateConfig(max_tokens=60, temperature=0)
    for how in ("auto", "any", ToolFunction("get_weather")):
        made = await model(**more).generate(QUESTION, tools=[get_weather()], tool_choice=how, config=config)
        (call,) = made.message.tool_calls
        assert call.arguments == {"city": CITY}, call


@step("structured output")
def _():
    config = GenerateConfig(max_tokens=60, response_schema=ResponseSchema(name="city", json_schema=json_schema(City)))
    for responses in (True, False):
        made = asyncio.run(model(responses_api=responses).generate(QUESTION, config=config))
        City.model_validate_json(made.completion)


@step("tools")
def _():
    asyncio.run(calls(responses_api=False))


@step("responses")
def _():
    asyncio.run(calls(responses_api=True))


@step("evaluation")
def _():
    task = Task(dataset=[Sample(input="Say hello.", target="e")], solver=generate(), scorer=includes())
    (log,) = eval(task, model=model(BASE), display="none", max_tokens=30)
    assert log.status == "success", log.error
