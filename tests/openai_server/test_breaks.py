"""What strangers tried to break the service with: each is refused or survived, and somebody else's answer goes on."""

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from openai_server.conftest import chats, finish, httpx, supervised, upload

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def neighbour(client):
    """Another client's stream: it must come to its end, whatever happens beside it."""
    found = []

    def stream():
        asked = {"messages": [{"role": "user", "content": "tell"}], "max_tokens": 60, "logit_bias": {"0": -100, "2": -100}}
        try:
            found.append([chunk for chunk in client.chat.completions.create(model="tiny", stream=True, **asked) if chunk])
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=stream)
    thread.start()
    yield
    thread.join(timeout=120)
    assert found and isinstance(found[0], list), found
    assert found[0][-1].choices[0].finish_reason in ("length", "stop")


def post(server, path, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    key = {"authorization": f"Bearer {server.api_key}"}
    return httpx.post(server.base_url + path, content=data, headers=key | headers, timeout=60)


def chat(server, **more):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    return post(server, "/chat/completions", body | more)


def schema(value):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": value}}}


SURVIVED = {
    "a seed of 200 bits": {"seed": 2**200},
    "a seed far below zero": {"seed": -(2**70)},
    "128 choices": {"n": 128},
    "no token": {"max_tokens": 0},
    "empty stops": {"stop": ["", ""]},
    "a stop of a megabyte": {"stop": "x" * 900_000},
    "a bias on tokens that are not there": {"logit_bias": {"99999999": 5, "-1": 3, "foo": 0}},
    "every token banned": {"logit_bias": {str(i): -100 for i in range(50_000)}},
    "50,000 values": schema({"enum": [f"value {i}" for i in range(50_000)]}),
    "a text that is never long enough": schema({"type": "string", "minLength": 10**8, "maxLength": 10**9}),
    "a list that is never long enough": schema({"type": "array", "items": {"type": "integer"}, "minItems": 10**6}),
    "a pattern of nested repetitions": schema({"type": "string", "pattern": "(a|a)*" * 50}),
    "the character zero": {"messages": [{"role": "user", "content": "\0"}]},
}
REFUSED = {
    "no choice": ({"n": 0}, "n"),
    "129 choices": ({"n": 129}, "n"),
    "as many tokens as can be said": ({"max_tokens": 10**30}, "messages"),
    "no messages": ({"messages": []}, "messages"),
    "21 alternatives": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "alternatives of no log-probabilities": ({"top_logprobs": 2}, "top_logprobs"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages",
    ),
    "a prompt of a megabyte": ({"messages": [{"role": "user", "content": "a b " * 249_000}]}, "messages"),
    "2,048 messages": ({"messages": [{"role": "user", "content": "y"}] * 2048}, "messages"),
    "a schema of 20,000 fields": (
        schema({"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(20_000)}}),
        "response_format",
    ),
    "a schema that nothing fits": (schema({"type": "integer", "minimum": 5, "maximum": 3}), "response_format"),
    "a schema from elsewhere": (schema({"$ref": "http://elsewhere.example/x"}), "response_format"),
    "half a character": ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
    "half a character as a stop": ({"stop": "\udc00"}, None),
}


@pytest.mark.parametrize("what", SURVIVED)
def test_odd_and_valid_is_answered(server, what):
    answer = chat(server, **SURVIVED[what])
    assert answer.status_code == 200 and answer.json()["choices"], answer.text[:300]


@pytest.mark.parametrize("what", REFUSED)
def test_impossible_is_refused_in_one_line_that_names_it(server, what):
    more, param = REFUSED[what]
    answer = chat(server, **more)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param, error
    assert "''" not in error["message"] and "\n" not in error["message"] and len(error["message"]) < 400, error


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_after_what_was_deleted_meanwhile_is_the_next_one(client, order):
    """A client that deletes what it has seen would see the rest again, or never the end."""
    made = [client.files.create(file=(f"{i}.txt", b"x"), purpose="vision").id for i in range(6)]
    walked = made if order == "asc" else made[::-1]
    page = client.files.list(purpose="vision", limit=2, order=order)
    assert [file.id for file in page.data] == walked[:2]
    client.files.delete(walked[1])
    page = client.files.list(purpose="vision", limit=2, order=order, after=walked[1])
    assert [file.id for file in page.data] == walked[2:4]
    for file in set(made) - {walked[1]}:
        client.files.delete(file)


def at_once(count, action):
    """What an action returns that so many threads start at once."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: action(), range(count)))


def test_eight_who_delete_at_once_and_one_who_does_it(client):
    file = upload(client, chats(1))

    def delete():
        try:
            return client.files.delete(file.id).deleted
        except openai.NotFoundError:
            return False

    assert sorted(at_once(8, delete)) == [False] * 7 + [True]


def test_fifty_jobs_at_once_are_made_and_cancelled(client):
    file = upload(client, chats(10))
    made = at_once(50, lambda: client.fine_tuning.jobs.create(model="tiny", training_file=file.id))
    assert len({job.id for job in made}) == 50
    assert client.files.delete(file.id).deleted  # while they wait for it
    assert {client.fine_tuning.jobs.cancel(job.id).status for job in made} == {"cancelled"}


def test_a_suffix_used_twice_and_one_of_no_latin_letter(client):
    file = upload(client, chats(10))
    how = {"model": "tiny", "training_file": file.id, "method": supervised(n_epochs=1, batch_size=10)}
    jobs = [client.fine_tuning.jobs.create(suffix=suffix, **how) for suffix in ("same", "same", "日本 😀")]
    names = [finish(client, job).fine_tuned_model for job in jobs]
    assert len(set(names)) == 3 and names[0].startswith("ft:tiny:local:same:") and names[2].startswith("ft:tiny:local::")
    assert client.fine_tuning.jobs.retrieve(jobs[2].id).user_provided_suffix == "日本 😀"
    for name in names:
        client.chat.completions.create(model=name, messages=[{"role": "user", "content": "x"}], max_tokens=1)
        client.models.delete(name)


def test_two_hundred_who_begin_to_send_and_do_not_go_on(server):
    port = int(server.base_url.split(":")[2].split("/")[0])
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.api_key}\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            connection.sendall(f"{head}Content-Length: 5000\r\n\r\n{{".encode())
        assert chat(server).status_code == 200
