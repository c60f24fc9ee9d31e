"""LangChain's `ChatOpenAI`."""

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from steps import BASE, CITY, KEY, MODEL, QUESTION, URL, step

SETTINGS = {"base_url": URL, "api_key": KEY, "max_tokens": 60, "temperature": 0, "max_retries": 0}
llm = ChatOpenAI(model=MODEL, **SETTINGS)


class City(BaseModel):
    """A structured answer."""

    city: str


@tool
def get_weather(city: str) -> str:
    """Weather now."""
    return "Sunny."


@step("stream")
def _():
    assert "".join(piece.content for piece in ChatOpenAI(model=BASE, **SETTINGS).stream(QUESTION))


@step("structured output")
def _():
    for method in ("json_schema", "function_calling"):
        assert isinstance(llm.with_structured_output(City, method=method).invoke(QUESTION), City), method


@step("tools")
def _():
    for how in ("auto", "required", "get_weather"):
        bound = llm.bind_tools([get_weather], tool_choice=how)
        (call,) = bound.invoke(QUESTION).tool_calls
        assert call["args"] == {"city": CITY}, (how, call)
    whole = None
    for piece in llm.bind_tools([get_weather]).stream(QUESTION):
        whole = piece if whole is None else whole + piece
    assert whole.tool_calls[0]["args"] == {"city": CITY}
    history = [("human", QUESTION), whole, get_weather.invoke(whole.tool_calls[0])]
    assert llm.invoke(history).content


@step("responses")
def _():
    modern = ChatOpenAI(model=MODEL, use_responses_api=True, **SETTINGS)
    (call,) = modern.bind_tools([get_weather]).invoke(QUESTION).tool_calls
    assert call["args"] == {"city": CITY}
    assert isinstance(modern.with_structured_output(City).invoke(QUESTION), City)
    assert list(modern.stream(QUESTION))
