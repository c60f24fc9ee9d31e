"""The Responses API over what chat has: objects and events that the official client's strict types accept, in order."""

import json

import jsonschema
import openai
import pydantic
import pytest

from openai_server.conftest import httpx
from openai_server.test_tools import SCHEMAS, STOCK, WEATHER

pytestmark = pytest.mark.model
TOOLS = [
    {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True, "description": "The weather."},
    {"type": "function", "name": "get_stock", "parameters": STOCK, "strict": True},
]
FORM = {"type": "json_schema", "name": "stock", "schema": STOCK, "strict": True}
ONE_CALL = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 300}
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}


@pytest.fixture(scope="module")
def strict(server):
    """A client that takes nothing that its types do not allow."""
    return server.client(max_retries=0, timeout=60, _strict_response_validation=True)


def create(client, **more):
    return client.responses.create(**({"model": "tiny", "input": "Say something.", "max_output_tokens": 12} | more))


def same(response, other) -> bool:
    """Equal but for ids and times."""

    def plain(value):
        if isinstance(value, dict):
            passing = {"id", "call_id", "created_at", "completed_at"}
            return {key: plain(inner) for key, inner in value.items() if key not in passing}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    return plain(response.model_dump(mode="json")) == plain(other.model_dump(mode="json"))


def no_extras(value, place="response"):
    """Nothing in a document that the client's types do not name."""
    if isinstance(value, pydantic.BaseModel):
        assert not value.model_extra, (place, value.model_extra)
        for name in type(value).model_fields:
            no_extras(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, list):
        for inner in value:
            no_extras(inner, place)


REQUESTS = {
    "text": {},
    "cut": {"max_output_tokens": 3},
    "a call": ONE_CALL,
    "calls": {"tools": TOOLS, "tool_choice": "required", "max_output_tokens": 150},
    "auto": {"tools": TOOLS, "max_output_tokens": 30},
    "a named function": ONE_CALL | {"tool_choice": {"type": "function", "name": "get_stock"}},
    "a cut call": ONE_CALL | {"max_output_tokens": 21},
    "a schema": {"text": {"format": FORM}, "max_output_tokens": 60},
    "any JSON": {"text": {"format": {"type": "json_object"}}},
    "log-probabilities": LOGPROBS,
    "log-probabilities of a call": ONE_CALL | LOGPROBS,
    "everything": {
        "instructions": "Be brief.", "temperature": 0, "top_p": 0.9, "metadata": {"a": "b"}, "store": False, "user": "u",
        "truncation": "disabled", "service_tier": "auto", "background": False, "text": {"verbosity": "medium"},
        "include": ["reasoning.encrypted_content"],
    },
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
def test_a_response_is_what_the_clients_types_say_streamed_or_not(strict, what):
    request = {"temperature": 0} | REQUESTS[what]
    response = create(strict, **request)
    no_extras(response)
    final = list(create(strict, **request, stream=True))[-1].response
    no_extras(final)
    assert same(final, response)
    with strict.responses.stream(model="tiny", input="Say something.", **({"max_output_tokens": 12} | request)) as made:
        assert list(made)[-1].response.output_text == response.output_text
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 10
    cut = response.usage.output_tokens == request.get("max_output_tokens", 12)
    assert response.status == ("incomplete" if cut else "completed") == response.output[-1].status
    assert (response.incomplete_details is not None) == cut
    assert not cut or response.incomplete_details.reason == "max_output_tokens"
    if "call" in what and not cut:
        assert len(response.output) == 1 and response.output[0].call_id.startswith("call_")
        jsonschema.validate(json.loads(response.output[0].arguments), SCHEMAS[response.output[0].name])
    if what == "a schema":
        jsonschema.validate(json.loads(response.output_text), STOCK)
    if what == "any JSON":
        assert response.output_text.startswith("{")
    if what == "log-probabilities":
        tokens = response.output[0].content[0].logprobs
        assert "".join(token.token for token in tokens) == response.output_text and len(tokens[0].top_logprobs) == 2
    if what == "everything":
        assert response.metadata == {"a": "b"} and response.instructions == "Be brief."


@pytest.mark.parametrize("what", REQUESTS)
def test_events_come_in_their_order_and_add_up(server, what):
    body = {"model": "tiny", "input": "Hi", "max_output_tokens": 12, "temperature": 0, "stream": True} | REQUESTS[what]
    headers = {"authorization": f"Bearer {server.api_key}"}
    answer = httpx.post(server.base_url + "/responses", json=body, headers=headers, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"] and kinds[-1] in ("completed", "incomplete")
    assert all(event["response"]["output"] == [] for event in events[:2])
    output = events[-1]["response"]["output"]
    at = 2
    for index, item in enumerate(output):
        assert kinds[at] == "output_item.added" and events[at]["item"]["status"] == "in_progress"
        assert not (events[at]["item"].get("content") or events[at]["item"].get("arguments"))
        own = [event for event in events[at:-1] if event["output_index"] == index]
        assert own == events[at : at + len(own)]
        deltas = [event for event in own if event["type"].endswith(".delta")]
        pattern = [kind.removeprefix("response.") for kind in dict.fromkeys(event["type"] for event in own)]
        assert all(event["item_id"] == item["id"] for event in own[1:-1])
        if item["type"] == "message":
            begin, end = ["output_item.added", "content_part.added"], ["output_text.done", "content_part.done"]
            delta = ["output_text.delta"] if deltas else []
            assert own[-3]["text"] == own[-2]["part"]["text"] == item["content"][0]["text"]
            whole = item["content"][0]["text"]
        else:
            begin, end = ["output_item.added"], ["function_call_arguments.done"]
            delta = ["function_call_arguments.delta"] if deltas else []
            assert own[-2]["arguments"] == (whole := item["arguments"])
        assert pattern == [*begin, *delta, *end, "output_item.done"]
        assert "".join(event["delta"] for event in deltas) == whole and own[-1]["item"] == item
        at += len(own)
    assert at == len(events) - 1 and output


def test_parsing_gives_values(strict):
    class Stock(pydantic.BaseModel):
        symbol: str = pydantic.Field(max_length=6)

    made = strict.responses.parse(model="tiny", input="x", text_format=Stock, max_output_tokens=100)
    assert isinstance(made.output_parsed, Stock)
    tool = openai.pydantic_function_tool(Stock)["function"]
    tools = [{"type": "function", "name": "Stock", "parameters": tool["parameters"], "strict": True}]
    made = strict.responses.parse(model="tiny", input="x", **(ONE_CALL | {"tools": tools}))
    assert set(made.output[0].parsed_arguments) == {"symbol"}


def test_a_conversation_goes_on_from_the_response_that_is_kept(strict, server):
    """What is remembered is what would have been sent again: the prompt has as many tokens, the answer is the same."""
    first = create(strict, **ONE_CALL, temperature=0, instructions="Be brief.")
    call = first.output[0]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "7"}
    items = [
        {"role": "user", "content": "Say something."},
        call.model_dump(exclude_none=True, mode="json"),
        output,
    ]
    options = {"tools": TOOLS, "tool_choice": "none", "temperature": 0}
    remembered = create(strict, input=[output], previous_response_id=first.id, **options)
    sent_again = create(strict, input=items, **options)
    assert remembered.output_text == sent_again.output_text
    assert remembered.usage.input_tokens == sent_again.usage.input_tokens  # instructions are not carried on
    assert remembered.previous_response_id == first.id
    third = create(strict, input="And now?", previous_response_id=remembered.id, **options)
    assert third.usage.input_tokens > remembered.usage.total_tokens
    found = strict.responses.retrieve(first.id)
    assert found == first
    strict.responses.delete(first.id)
    for lost in (first.id, create(strict, store=False).id, "resp_x"):
        with pytest.raises(openai.NotFoundError, match="not found"):
            strict.responses.retrieve(lost)
        with pytest.raises(openai.BadRequestError) as caught:
            create(strict, previous_response_id=lost)
        assert caught.value.code == "previous_response_not_found" and caught.value.param == "previous_response_id"
    streamed = create(strict, stream=True)
    made = list(streamed)[-1].response
    assert strict.responses.retrieve(made.id).output_text == made.output_text


def test_the_oldest_responses_are_forgotten_first(monkeypatch):
    from course_utils.openai_server import responses

    monkeypatch.setattr(responses, "MAX_RESPONSES", 3)
    memory = responses.ResponseStore()
    for number in range(5):
        memory.add({"id": str(number), "output": []}, [])
    assert list(memory) == ["2", "3", "4"]


def test_input_is_written_as_chat_messages_are(strict, client):
    """Parts, roles, calls and outputs: as many tokens as the same conversation of a chat."""
    call = {"id": "c", "type": "function", "function": {"name": "get_stock", "arguments": '{"symbol": "A"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "How is A?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call, {**call, "id": "d"}]},
        {"role": "tool", "tool_call_id": "c", "content": "7"},
        {"role": "tool", "tool_call_id": "d", "content": "8"},
    ]
    text = {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}
    called = {"type": "function_call", "name": "get_stock", "arguments": '{"symbol": "A"}', "id": "fc_1"}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "How is"}, {"type": "input_text", "text": " A?"}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [text]},
        {**called, "call_id": "c", "status": "completed"},
        {**called, "call_id": "d"},
        {"type": "function_call_output", "call_id": "c", "output": "7"},
        {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "8"}]},
    ]
    response = create(strict, input=items, instructions="Be brief.", temperature=0)
    answer = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=12)
    assert response.usage.input_tokens == answer.usage.prompt_tokens
    assert response.output_text == answer.choices[0].message.content


IMAGE = {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}
CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
REFUSED = [
    ({"input": []}, "input"),
    ({"input": [IMAGE]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": "x", "colour": 1}]}, "input[0].colour"),
    ({"input": [CALLED]}, "input"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
    ({"input": [{k: v for k, v in CALLED.items() if k != "name"}]}, "input[0].name"),
    ({"input": "x " * 9000}, "input"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"text": {"format": {"type": "json_schema", "schema": STOCK}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}}, "text.format"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "array"}}]}, "tools[0].parameters"),
    ({"tools": [{"type": "function", "name": "f", "colour": 1}]}, "tools[0].colour"),
    ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].name"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "no"}}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"reasoning": {"effort": "low"}}, "reasoning"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"max_tool_calls": 1}, "max_tool_calls"),
    ({"include": ["moon"]}, "include[0]"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"extra_body": {"colour": "red"}}, "colour"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "param"), REFUSED, ids=[f"{i} {param}" for i, (_, param) in enumerate(REFUSED)])
def test_what_a_response_cant_have_is_refused_by_name(strict, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        create(strict, **more)
    assert caught.value.param == param and caught.value.body["message"]


def test_a_model_that_is_not_there_is_said_in_the_same_words(strict):
    with pytest.raises(openai.NotFoundError) as caught:
        create(strict, model="gpt-9")
    assert caught.value.code == "model_not_found"


def test_what_fails_on_the_way_is_an_event_and_an_error():
    """The stream ends with `response.failed`; in one piece it is the server's fault; neither is kept."""
    import asyncio

    from course_utils.openai_server.bodies import ApiError
    from course_utils.openai_server.completions import Piece
    from course_utils.openai_server.responses import Events, ResponseRequest, frame

    class Broken:
        usage = None

        async def pieces(self):
            yield Piece(0, "Hal", [], [], None)
            raise ApiError(500, "out of memory", type="server_error")

        def token_logprobs(self, tokens):
            return []

    async def both():
        stored = []
        bodies = [frame(ResponseRequest(model="m", input="x")) for _ in range(2)]
        streamed = [event async for event in Events(bodies[0], Broken(), stored.append).events()]
        with pytest.raises(ApiError, match="out of memory") as caught:
            await Events(bodies[1], Broken(), stored.append).whole()
        assert caught.value.status == 500
        assert not stored
        return streamed

    events = asyncio.run(both())
    assert [event["type"] for event in events][-2:] == ["response.output_text.delta", "response.failed"]
    failed = events[-1]["response"]
    assert failed["status"] == "failed" and failed["error"] == {"code": "server_error", "message": "out of memory"}
    assert openai.types.responses.Response.model_validate(failed).error.message == "out of memory"
