"""LlamaIndex's `OpenAILike`."""

from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from steps import BASE, CITY, KEY, MODEL, QUESTION, URL, step

SETTINGS = {
    "api_base": URL, "api_key": KEY, "is_chat_model": True, "context_window": 2048, "max_tokens": 60, "temperature": 0,
    "is_function_calling_model": True, "max_retries": 0,
}  # fmt: skip
llm = OpenAILike(model=MODEL, **SETTINGS)


class City(BaseModel):
    """A structured answer."""

    city: str


def get_weather(city: str) -> str:
    """Weather now."""
    return f"Sunny in {city}."


@step("stream")
def _():
    assert "".join(piece.delta for piece in OpenAILike(model=BASE, **SETTINGS).stream_complete(QUESTION))


@step("structured output")
def _():
    for structured in (False, True):
        other = OpenAILike(model=MODEL, **SETTINGS, should_use_structured_outputs=structured)
        assert isinstance(other.as_structured_llm(City).complete(QUESTION).raw, City), structured


@step("tools")
def _():
    tools = [FunctionTool.from_defaults(get_weather)]
    for required in (False, True):
        made = llm.chat_with_tools(tools, user_msg=QUESTION, tool_required=required)
        (call,) = llm.get_tool_calls_from_response(made)
        assert call.tool_kwargs == {"city": CITY}, call
    assert CITY in str(llm.predict_and_call(tools, user_msg=QUESTION))
