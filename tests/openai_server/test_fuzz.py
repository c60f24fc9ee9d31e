"""Broken uploads and bodies by the hundred: an answer each time, never the server's fault, never a hang.

`make soak` sends twice as many and more. Each broken training file costs a process, so a third of them is tried.
"""

import json
import os
import random
import time

import pytest

from openai_server.conftest import chats, cpu_of, httpx, pairs

pytestmark = [pytest.mark.model, pytest.mark.slow]
BODIES, UPLOADS, FILES = (6, 4, 24) if "COURSE_SOAK" in os.environ else (3, 2, 8)
SECONDS = 10  # of processor time: no answer takes the server more
HANGS = 120  # an answer that is not there by then will not come, however busy the machine
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}
GOOD_CALL = {
    "model": "tiny",
    "messages": [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ],
    "tools": [{"type": "function", "function": TOOL}, {"type": "function", "function": {"name": "g", "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "max_tokens": 4,
}
GOOD_RESPONSE = {
    "model": "tiny",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ],
    "instructions": "Be brief.",
    "max_output_tokens": 4,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    "tools": [{"type": "function", **TOOL}],
    "tool_choice": {"type": "function", "name": "f"},
    "include": ["message.output_text.logprobs"],
    "metadata": {"a": "b"},
}
ODD = [
    None, True, False, 0, -1, 1e308, -1e308, 2**70, -(2**70), "", " ", "\0", "auto", "x" * 70_000, [], {}, [[]], [None],
    {"": ""}, [{}], {"type": "text"}, {"type": "json_object"}, "\u202e", "😀" * 50, 0.1, ["a"] * 500, {"role": "user"},
    "null", "__proto__", "../../../etc/passwd", "%00", "'; DROP TABLE documents; --", {"$ref": "#"}, [1, "a", None],
]  # fmt: skip


def spots(value, path=()):
    """Places in a body."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from spots(part, (*path, key))


def mutated(body, random_):
    """A body with one to three places removed, replaced, doubled or renamed."""
    body = json.loads(json.dumps(body))
    for _ in range(random_.randint(1, 3)):
        path = random_.choice(list(spots(body)))
        if not path:
            return random_.choice(ODD)
        owner = body
        for key in path[:-1]:
            owner = owner[key]
        what = random_.choice(["remove", "replace", "replace", "rename", "wrap"])
        if what == "remove":
            del owner[path[-1]]
        elif what == "replace":
            owner[path[-1]] = random_.choice(ODD)
        elif what == "rename" and isinstance(owner, dict):
            owner[f"{path[-1]}_"] = owner.pop(path[-1])
        else:
            owner[path[-1]] = [owner[path[-1]]]
    return body


def scrambled(data: bytes, random_) -> bytes:
    """Bytes cut, doubled, overwritten or moved."""
    data = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(data) + 1)
        what = random_.randrange(5)
        if what == 0:
            data = data[:at]
        elif what == 1:
            data[at:at] = random_.randbytes(random_.randint(1, 40))
        elif what == 2:
            data[at : at + 3] = random_.choice(
                [b"\xff\xfe", b"\0\0", b"\r\n\r\n", b"{", b'"', b"\xed\xa0\x80", b"NaN", b"]]"]
            )
        elif what == 3:
            data += data[:at]
        else:
            del data[at : at + random_.randint(1, 200)]
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.fixture(scope="module")
def send(server):
    with httpx.Client(
        base_url=server.base_url, headers={"authorization": f"Bearer {server.api_key}"}, timeout=HANGS
    ) as http:

        def send(method, path, **options):
            before = cpu_of(server)
            answer = http.request(method, server.base_url + path, **options)
            assert answer.status_code < 500, (answer.status_code, path, str(options)[:2000])
            if answer.status_code >= 400:
                error = answer.json()["error"]
                assert set(error) == {"message", "type", "param", "code"} and error["message"], error
            assert cpu_of(server) - before < SECONDS, (path, str(options)[:2000])
            return answer

        yield send


@pytest.mark.parametrize("seed", range(BODIES))
def test_bodies(send, seed):
    """Thirty for each seed: as JSON with odd values, and as scrambled bytes. For the others see test_specification.py."""
    random_ = random.Random(seed)
    codes = set()
    for number in range(30):
        path, good = (("/chat/completions", GOOD_CALL), ("/responses", GOOD_RESPONSE))[number % 2]
        if number % 5 == 4:
            data = scrambled(json.dumps(good).encode(), random_)
        else:
            data = json.dumps(mutated(good, random_)).encode()
        codes.add(send("POST", path, content=data, headers={"content-type": "application/json"}).status_code)
    assert 400 in codes


@pytest.mark.parametrize("seed", range(UPLOADS))
def test_uploads(send, seed):
    """Thirty for each seed: broken multipart bodies, and broken files in whole ones."""
    random_ = random.Random(100 + seed)
    kept = []
    for number in range(30):
        data = scrambled(random_.choice([chats, pairs])(12), random_)
        if number % 2:
            body = (
                b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\nContent-Disposition: '
                b'form-data; name="file"; filename="a.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'
                + data[:500]
                + b"\r\n--b--"
            )
            headers = {
                "content-type": random_.choice(["multipart/form-data; boundary=b", "multipart/form-data", "text/plain"])
            }
            answer = send("POST", "/files", content=scrambled(body, random_), headers=headers)
        else:
            name = random_.choice(
                ["a.jsonl", "\u202e.jsonl", "a.jsonl\n", "a" * 300 + ".jsonl", ".jsonl", "a.JSONL", "😀.jsonl"]
            )
            answer = send("POST", "/files", files={"file": (name, data)}, data={"purpose": "fine-tune"})
        if answer.status_code == 200:
            kept.append(answer.json())
    assert kept
    for file in kept:  # what was taken is whole
        assert len(send("GET", f"/files/{file['id']}/content").content) == file["bytes"]
        send("DELETE", f"/files/{file['id']}")


def test_broken_files_end_their_jobs_with_a_reason(send, client):
    """Scrambled training files: each job fails with an error that says something, or trains."""
    random_ = random.Random(7)
    jobs = []
    for number in range(FILES):
        data = scrambled(chats(12) if number % 2 else pairs(12), random_)
        file = send("POST", "/files", files={"file": ("a.jsonl", data)}, data={"purpose": "fine-tune"}).json()
        method = {"type": "supervised" if number % 4 < 3 else "dpo"}
        body = {"model": "tiny", "training_file": file["id"], "method": method, "hyperparameters": {"n_epochs": 1}}
        jobs.append(send("POST", "/fine_tuning/jobs", json=body).json()["id"])
    until = time.time() + 240
    for job in jobs:
        while (found := client.fine_tuning.jobs.retrieve(job)).status not in ("succeeded", "failed"):
            assert time.time() < until, found
            time.sleep(0.1)
        if found.status == "failed":
            assert found.error.code in ("invalid_training_file", "invalid_file_format", "invalid_n_examples"), found.error
            assert len(found.error.message) > 30 and "Traceback" not in found.error.message
