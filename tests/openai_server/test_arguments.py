"""An argument that nobody knows is refused by its name, wherever it stands; what is known and can't be done is listed."""

import openai
import pytest

from openai_server.conftest import chats, finish, httpx, supervised, upload

pytestmark = pytest.mark.model
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
JSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strct": True}}
CHAT = [
    ("temprature", {"temprature": 0}),
    ("top_k", {"top_k": 5}),
    ("n_epochs", {"n_epochs": 3}),
    ("messages[1].contnt", {"messages": [{"role": "user", "content": "a"}, {"role": "user", "contnt": "b"}]}),
    ("messages[0].weight", {"messages": [{"role": "assistant", "content": "a", "weight": 0}]}),
    ("messages[0].content[0].txt", {"messages": [{"role": "user", "content": [{"type": "text", "txt": "a"}]}]}),
    ("stream_options.usage", {"stream": True, "stream_options": {"usage": True}}),
    ("response_format.json_schema.strct", {"response_format": JSON_FORMAT}),
    ("response_format.schema", {"response_format": {"type": "json_object", "schema": {}}}),
]
JOB = [
    ("sufix", {"sufix": "x"}),
    ("n_epochs", {"n_epochs": 2}),
    ("hyperparameters.epochs", {"hyperparameters": {"epochs": 2}}),
    ("method.hyperparameters", {"method": {"type": "supervised", "hyperparameters": {"n_epochs": 1}}}),
    ("method.supervised.n_epochs", {"method": {"type": "supervised", "supervised": {"n_epochs": 1}}}),
    ("method.supervised.hyperparameters.beta", {"method": supervised(beta=0.1)}),
    ("method.dpo.hyperparameters.lr", {"method": {"type": "dpo", "dpo": {"hyperparameters": {"lr": 1}}}}),
]


@pytest.fixture(scope="module")
def file(client):
    return upload(client, chats(10)).id


def refused(client, path, body):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(path, body=body, cast_to=object)
    return caught.value


@pytest.mark.parametrize(("place", "more"), CHAT)
def test_an_unknown_argument_of_a_chat(client, place, more):
    error = refused(client, "/chat/completions", {"model": "tiny"} | HELLO | more)
    assert error.body["message"] == f"Unrecognized request argument supplied: {place}"
    assert (error.param, error.code, error.type) == (place, "unknown_parameter", "invalid_request_error")


HELLO_TOO = {"role": "user", "content": "hello"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
WRONG = [
    ("messages[0].role", "'pilot'", {"messages": [{"role": "pilot", "content": "x"}]}),
    ("messages[0].role", "Missing required parameter: 'messages[0].role'.", {"messages": [{"content": "x"}]}),
    ("messages[0].content", "Missing required parameter", {"messages": [{"role": "user"}]}),
    ("messages[0].content[0].type", "a valid string", {"messages": [{"role": "user", "content": [{"type": 5}]}]}),
    ("messages[0].tool_calls", "Unrecognized request argument", {"messages": [HELLO_TOO | {"tool_calls": [CALL]}]}),
    ("messages[0].user", "Unrecognized request argument", {"messages": [HELLO_TOO | {"user": "x"}]}),
    ("response_format.type", "'text', 'json_object', 'json_schema'", {"response_format": {"type": "xml"}}),
    ("response_format.json_schema", "Missing required parameter", {"response_format": {"type": "json_schema"}}),
    ("tools[0].type", "Supported values are: 'function'.", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
]


@pytest.mark.parametrize(("place", "words", "more"), WRONG)
def test_what_a_chat_says_wrongly_is_named_with_what_would_be_right(client, place, words, more):
    error = refused(client, "/chat/completions", {"model": "tiny"} | HELLO | more)
    assert error.param == place and words in error.body["message"], error.body


def test_a_number_or_auto_says_both(client, file):
    """Whichever branch of a union was meant: what is wrong with it is said, not of one that nobody meant."""
    error = refused(
        client, "/fine_tuning/jobs", {"model": "tiny", "training_file": file, "hyperparameters": {"n_epochs": 51}}
    )
    assert "less than or equal to 50" in error.body["message"] and "'auto'" in error.body["message"], error.body


@pytest.mark.parametrize(("place", "more"), JOB)
def test_an_unknown_argument_of_a_job_trains_nothing(client, file, place, more):
    before = [job.id for job in client.fine_tuning.jobs.list(limit=100)]
    error = refused(client, "/fine_tuning/jobs", {"model": "tiny", "training_file": file} | more)
    assert error.body["message"] == f"Unrecognized request argument supplied: {place}"
    assert (error.param, error.code) == (place, "unknown_parameter")
    assert [job.id for job in client.fine_tuning.jobs.list(limit=100)] == before


def test_an_unknown_argument_of_an_upload(server):
    headers = {"authorization": f"Bearer {server.api_key}"}
    form = {"purpose": "fine-tune", "purpos": "x"}
    answer = httpx.post(f"{server.base_url}/files", files={"file": ("a.jsonl", b"{}")}, data=form, headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "purpos"


def test_what_only_hosted_models_can_do_is_on_the_list_and_taken(client):
    from typing import get_args, get_type_hints

    from openai.types.chat.completion_create_params import CompletionCreateParams

    from course_utils.openai_server.chat import ChatRequest

    assert {name for kind in get_args(CompletionCreateParams) for name in get_type_hints(kind)} <= set(
        ChatRequest.model_fields
    )
    harmless = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "reasoning_effort": "low"}
    client.chat.completions.create(model="tiny", **HELLO, **harmless)


def test_sound_is_refused_by_name(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", modalities=["text", "audio"], **HELLO)
    assert caught.value.param == "modalities[1]"
    client.chat.completions.create(model="tiny", modalities=["text"], **HELLO)


def test_an_answer_is_taken_back_as_it_was_given(client):
    said = client.chat.completions.create(model="tiny", **HELLO).choices[0].message
    for given in (said, said.model_dump(), said.model_dump(exclude_none=True)):
        client.chat.completions.create(model="tiny", messages=[*HELLO["messages"], given], max_tokens=1)


def test_a_training_file_may_begin_with_a_byte_order_mark(client):
    """Azure asks for one."""
    file = upload(client, b"\xef\xbb\xbf" + chats(12))
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=supervised(n_epochs=1, batch_size=12))
    job = finish(client, job)
    assert job.status == "succeeded", job.error
    assert client.files.content(file.id).read().startswith(b"\xef\xbb\xbf")


def test_a_mark_hides_no_other_fault(client):
    job = client.fine_tuning.jobs.create(model="tiny", training_file=upload(client, b"\xef\xbb\xbf" + chats(4)).id)
    assert finish(client, job).error.code == "invalid_n_examples"


def test_words_are_for_whoever_has_the_api_alone(client):
    """Not of the library's settings, and no word twice."""
    too_long = chats(1).replace(b"Is 0 a number?", b"word " * 3000)
    long = b"\n".join([chats(11), too_long, chats(1), too_long])
    broken = chats(11) + b"\n{"
    found = {}
    for name, data in {"long": long, "broken": broken}.items():
        job = client.fine_tuning.jobs.create(
            model="tiny", training_file=upload(client, data).id, method=supervised(n_epochs=1)
        )
        found[name] = finish(client, job).error
    assert found["long"].message.startswith("training_file, line 12: the prompt alone has ")
    assert found["long"].message.splitlines()[1].startswith("line 14: the prompt alone has ")
    assert "Settings" not in found["long"].message and "max_length" not in found["long"].message
    assert (found["long"].param, found["long"].code) == ("training_file", "training_failed")
    assert "Line 12" in found["broken"].message and "line line" not in found["broken"].message.lower()
