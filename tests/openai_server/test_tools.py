"""Tools: refused or done, never dropped; what is asked is written as what is trained; calls are whole, streamed or not."""

import json
import random

import jsonschema
import openai
import pytest

from openai_server.conftest import lines

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
STOCK = {
    "type": "object",
    "properties": {"symbol": {"type": "string", "maxLength": 6}},
    "required": ["symbol"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "get_stock": STOCK}


def tool(name, parameters=None, **more) -> dict:
    function = {"name": name, **more, **({"parameters": parameters} if parameters is not None else {})}
    return {"type": "function", "function": function}


TOOLS = [tool("get_weather", WEATHER, description="The weather."), tool("get_stock", STOCK)]
NAMED = {"type": "function", "function": {"name": "get_stock"}}
QUESTION = [{"role": "user", "content": "How warm is it in Rome?"}]


def create(client, **more):
    request = {"model": "tiny", "messages": QUESTION, "max_tokens": 300, "temperature": 1, "seed": 1, "tools": TOOLS}
    return client.chat.completions.create(**(request | more))


def check_calls(calls):
    """Each call has an id and arguments that its function's schema allows."""
    assert calls and len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.type == "function" and call.id.startswith("call_")
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


# -- forced, free and forbidden -----------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("seed", range(4))
def test_required_gives_calls_even_by_a_model_of_noise(client, seed):
    made = create(client, tool_choice="required", n=3, seed=seed, parallel_tool_calls=False)
    for choice in made.choices:
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert len(choice.message.tool_calls) == 1
        check_calls(choice.message.tool_calls)
    assert made.usage.completion_tokens > 30


@pytest.mark.model
def test_a_named_function_is_called_once(client):
    for seed in range(3):
        choice = create(client, tool_choice=NAMED, seed=seed).choices[0]
        assert [call.function.name for call in choice.message.tool_calls] == ["get_stock"]
        check_calls(choice.message.tool_calls)
        assert choice.finish_reason == "tool_calls"


@pytest.mark.model
def test_without_parameters_a_function_is_called_with_nothing(client):
    call = (
        create(client, tools=[tool("now")], tool_choice="required", parallel_tool_calls=False).choices[0].message.tool_calls
    )
    assert [(c.function.name, c.function.arguments) for c in call] == [("now", "{}")]


@pytest.mark.model
def test_a_call_that_is_cut_says_so(client):
    whole = create(client, tool_choice=NAMED, temperature=0).choices[0].message.tool_calls[0].function.arguments
    for size in range(1, 60):
        choice = create(client, tool_choice=NAMED, temperature=0, max_tokens=size).choices[0]
        if choice.finish_reason == "tool_calls":
            break
        assert choice.finish_reason == "length"
        calls = choice.message.tool_calls
        assert choice.message.content in (None, "") and (calls is None or whole.startswith(calls[0].function.arguments))
    assert size > 10 and calls is not None


@pytest.mark.model
def test_with_a_schema_the_answer_is_json_or_calls(client, packaged):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": STOCK, "strict": True}}
    for start, reason in (('{"', "stop"), ("<", "tool_calls")):
        (likely,) = packaged[1].encode(start)
        choice = create(client, response_format=wanted, logit_bias={str(likely): 20}, parallel_tool_calls=False).choices[0]
        assert choice.finish_reason == reason
        if reason == "stop":
            jsonschema.validate(json.loads(choice.message.content), STOCK)
        else:
            check_calls(choice.message.tool_calls)
    forced = create(client, response_format=wanted, tool_choice="required", parallel_tool_calls=False).choices[0]
    check_calls(forced.message.tool_calls)


@pytest.mark.parametrize("seed", range(30))
def test_calls_are_read_the_same_however_their_text_is_cut(seed):
    from course_utils.openai_server.constrained import CallReader

    calls = [("f", '{"a": "x}"}'), ("g_2", "{}"), ("f", '{"b": {"c": "</tool_call>"}}')]
    blocks = [f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>' for name, arguments in calls]
    dice = random.Random(seed)
    said = dice.choice(["", "I look.\n\nNow <tool_ca", "<", "a\n"])
    chosen = blocks[: dice.randint(0, 3)]
    text = said + ("\n" if said and chosen else "") + "\n".join(chosen)
    reader, plain, found = CallReader(), "", []
    while True:
        size = dice.randint(1, 9)
        more, pieces = reader.add(text[:size]) if text else reader.finish()
        plain += more
        found += pieces
        if not text:
            break
        text = text[size:]
    assert plain == said and found == calls[: len(chosen)]


# -- the grammar --------------------------------------------------------------------------------------------------------

CALL = '<tool_call>\n{"name": "get_stock", "arguments": {"symbol": "A"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'
CASES = [
    ("auto", 9, ["", "hello <b>", "größer 日本", CALL, f"I look.\n{CALL}\n{OTHER}"]),
    ("required", 9, [CALL, f"{CALL}\n{OTHER}"]),
    ("required", 1, [CALL, OTHER]),
    ("none", 0, ["", "hello", "<tool", "a\n\n日"]),
]
WRONG = [
    ("auto", 9, ["<tool_call>hello", CALL.replace("symbol", "name"), f"{CALL} thanks", CALL.replace("stock", "news")]),
    ("auto", 1, [f"{CALL}\n{OTHER}"]),
    ("required", 9, ["", "hello", f"I look.\n{CALL}", OTHER.replace("2", "0")]),
    ("none", 0, [CALL, "<tool_call>"]),
]


def accepted(tokenizer, how, most, text) -> bool:
    """Whether a text is a whole answer by the grammar."""
    from course_utils.openai_server import constrained, sampling

    functions = tuple(constrained.Signature(name, schema) for name, schema in SCHEMAS.items())
    calls = constrained.Calls(functions if how != "none" else (), "required" if how == "required" else "auto", most)
    matcher = sampling._make_matcher(tokenizer, constrained.answer_grammar(None, calls))
    return all(map(matcher.consume_token, tokenizer.encode(text))) and matcher.is_accepting()


def test_a_grammar_takes_whole_calls_and_nothing_else(packaged):
    for cases, expected in ((CASES, True), (WRONG, False)):
        for how, most, texts in cases:
            for text in texts:
                assert accepted(packaged[1], how, most, text) == expected, (how, most, text)


@pytest.mark.model
def test_a_model_may_have_more_rows_than_the_tokenizer_has_tokens(tiny):
    """Qwen2.5-7B has 152,064 logits for 151,665 tokens: those without a token are never allowed, however likely they are."""
    import torch

    from course_utils.openai_server.constrained import json_grammar
    from course_utils.openai_server.sampling import Sampling, TokenSampler

    _, tokenizer = tiny
    grammar = json_grammar({"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]})
    sampler = TokenSampler(Sampling(temperature=0.0, grammar=grammar), tokenizer, {int(tokenizer.eos_token_id)})
    logits = torch.zeros(len(tokenizer) + 399)
    logits[len(tokenizer) :] = 9.0
    chosen = sampler.choose(logits, int(logits.argmax())).id
    assert tokenizer.decode([chosen]).lstrip().startswith("{")


def test_what_an_open_schema_does_not_name_is_no_argument(packaged):
    """Clients leave `additionalProperties` out; whatever is called satisfies the schema that they gave."""
    from course_utils.openai_server.chat import Tool, allowed_calls

    def closed(**schema):
        tools = [Tool.model_validate(tool("f", {"type": "object", "properties": {"a": {"type": "string"}}, **schema}))]
        (signature,) = allowed_calls(packaged[1], tools, None, None).functions
        return signature.schema.get("additionalProperties")

    assert closed() is False and closed(additionalProperties=True) is True
    assert closed(anyOf=[{"properties": {"b": {"type": "string"}}}]) is None  # a part describes what another allows


# -- what is refused ----------------------------------------------------------------------------------------------------

REFUSED = [
    ({"tools": []}, "tools"),
    ({"tools": [tool(f"f{i}") for i in range(129)]}, "tools"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [tool("a b")]}, "tools[0].function.name"),
    ({"tools": [tool("f" * 65)]}, "tools[0].function.name"),
    ({"tools": [tool("f"), tool("g"), tool("f")]}, "tools[2].function.name"),
    ({"tools": [tool("f", {"type": "string"})]}, "tools[0].function.parameters"),
    ({"tools": [tool("f", {"type": "object", "properties": {"a": {"type": "no"}}})]}, "tools[0].function.parameters"),
    ({"tools": [tool("f", {"type": "object", "properties": {"a": {"$ref": "#/no"}}})]}, "tools[0].function.parameters"),
    ({"tools": [tool("f", color="red")]}, "tools[0].function.color"),
    ({"tool_choice": "always"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
    ({"tool_choice": {"type": "custom", "custom": {"name": "no"}}}, "tool_choice.type"),
    ({"tools": openai.omit, "tool_choice": "auto"}, "tool_choice"),
    ({"tools": openai.omit, "parallel_tool_calls": True}, "parallel_tool_calls"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"tools": openai.omit, "functions": [{"name": "f"}], "function_call": {"name": "f"}}, "functions"),
]  # fmt: skip


@pytest.mark.model
@pytest.mark.parametrize(("more", "param"), REFUSED, ids=[f"{i} {param}" for i, (_, param) in enumerate(REFUSED)])
def test_what_cant_be_is_refused_by_name(client, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **(more | {"max_tokens": 2}))
    assert caught.value.param == param and caught.value.body["message"]


def asks(*ids) -> dict:
    function = {"name": "get_stock", "arguments": '{"symbol": "A"}'}
    return {"role": "assistant", "tool_calls": [{"id": i, "type": "function", "function": function} for i in ids]}


def says(call_id=None, **more) -> dict:
    return {"role": "tool", "content": "7", **({"tool_call_id": call_id} if call_id else {}), **more}


HISTORIES = [
    ([says("a")], "messages[1].role", "must be a response to a preceeding message"),
    ([asks("a"), says()], "messages[2].tool_call_id", "Missing required parameter"),
    ([asks("a"), says("b")], "messages[2].tool_call_id", "not found in 'tool_calls' of previous message"),
    ([asks("a", "b"), says("b"), QUESTION[0]], "messages[3].role", "did not have response messages: a"),
    ([asks("a")], "messages[1].role", "did not have response messages: a"),
    ([{"role": "assistant", "tool_calls": []}], "messages[1].tool_calls", ""),
    ([{"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}], "messages[1].tool_calls[0].function", ""),
]  # fmt: skip


@pytest.mark.model
@pytest.mark.parametrize(("history", "param", "message"), HISTORIES, ids=[case[1] + case[2][:9] for case in HISTORIES])
def test_a_tools_answer_belongs_to_a_call(client, history, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, messages=[*QUESTION, *history], max_tokens=2)
    assert caught.value.param == param and message in caught.value.body["message"]


@pytest.mark.model
def test_a_conversation_with_calls_goes_on(client):
    history = [*QUESTION, asks("a", "b"), says("b"), says("a"), {"role": "assistant", "content": "7"}, QUESTION[0]]
    assert (
        create(client, messages=history, max_tokens=3).usage.prompt_tokens > create(client, max_tokens=3).usage.prompt_tokens
    )


# -- what is trained is what is asked -----------------------------------------------------------------------------------

# What Qwen2.5's template does with tools, in short.
NATIVE = r"""
{%- if tools %}
{{- '<|im_start|>system\n' + messages[0].content + "\n\n# Tools\n\nYou may call one or more functions to assist with the user
 query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
{%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
{{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within
 <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n" }}
{{- '</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == "assistant" and message.tool_calls %}
{{- '<|im_start|>' + message.role }}{%- if message.content %}{{- '\n' + message.content }}{%- endif %}
{%- for call in message.tool_calls %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}{{- call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\n' }}
{%- elif message.role == "tool" %}
{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != "tool" %}{{- '<|im_end|>\n' }}{%- endif %}
{%- elif not (loop.first and tools) %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
""".replace("\n query", " query").replace("\n <", " <")  # fmt: skip


def test_tools_are_written_as_the_template_of_a_model_that_knows_them_does(packaged):
    from course_utils.openai_server.messages import flatten

    tokenizer = packaged[1]
    first = {"role": "system", "content": "Be brief."}
    messages = [first, *QUESTION, {**asks("a", "b"), "content": "I look."}, says("a"), says("b", content="8")]
    messages += [{"role": "assistant", "content": "15"}, QUESTION[0], {**asks("c"), "content": None}]
    plain = tokenizer.apply_chat_template(flatten(messages, TOOLS), tokenize=False)
    values = json.loads(json.dumps(messages))
    for call in (call for message in values for call in message.get("tool_calls") or ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    native = tokenizer.apply_chat_template(values, tools=TOOLS, chat_template=NATIVE, tokenize=False)
    assert plain == native and "<tool_response>\n7\n</tool_response>\n<tool_response>\n8\n" in native


@pytest.mark.parametrize("old", [False, True], ids=["tools", "functions"])
def test_a_training_rows_tools_and_calls_are_what_is_asked_and_read_back(packaged, tmp_path, old):
    """The row's text is the request's prompt and then a text that is read as the row's call."""
    from course_utils.openai_server.chat import ChatRequest
    from course_utils.openai_server.completions import read_request
    from course_utils.openai_server.constrained import CallReader
    from course_utils.openai_server.worker import read_examples

    call = {"name": "get_stock", "arguments": '{"symbol":"Ä"}'}
    calls = {"function_call": call} if old else {"tool_calls": [{"id": "c", "type": "function", "function": call}]}
    offer = {"functions": [one["function"] for one in TOOLS]} if old else {"tools": TOOLS}
    row = {"messages": [*QUESTION, {"role": "assistant", **calls}], **offer}
    (tmp_path / "training_file.jsonl").write_bytes(lines([row]))
    ((_, example),) = read_examples(tmp_path, "training_file", "supervised")
    tokenizer = packaged[1]
    text = tokenizer.apply_chat_template(example, tokenize=False)
    request = ChatRequest.model_validate({"model": "m", "messages": QUESTION, "tools": TOOLS})
    prompt = tokenizer.decode(read_request(tokenizer, 2048, request)[0])
    assert "get_weather" in prompt and text.startswith(prompt)
    reader = CallReader()
    plain, found = reader.add(text.removeprefix(prompt).removesuffix("<|im_end|>\n"))
    assert plain == "" and found[0].name == "get_stock"
    assert [piece.arguments for piece in found] == ['{"symbol": "Ä"}']


def test_a_preferences_tools_stand_in_its_prompt(tmp_path):
    from course_utils.openai_server.worker import read_examples

    sides = {"preferred_output": [asks("a")], "non_preferred_output": [{"role": "assistant", "content": "no"}]}
    file = tmp_path / "training_file.jsonl"
    file.write_bytes(lines([{"input": {"messages": QUESTION, "tools": TOOLS}, **sides}]))
    ((_, example),) = read_examples(tmp_path, "training_file", "dpo")
    assert "get_weather" in example["prompt"][0]["content"]
    assert example["chosen"][0]["content"].startswith("<tool_call>\n") and example["rejected"][0]["content"] == "no"
