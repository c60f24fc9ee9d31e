"""For the official client's own tests, run against our server: their fixed ids stand for objects that exist there.

The tests were written for a stateless mock that answers everything. Where a test names a file, a job or a model by an id of
the specification's examples, its request gets the id of one that was made here through the API; what a test deletes,
cancels, pauses or resumes is made anew for it. Nothing else of a request is touched.
"""

import json
import os
import re
import sys
from functools import cached_property

import httpx2
import openai

ROOT, FOLDER = os.environ["TEST_API_BASE_URL"], os.environ["TEST_SERVER_FOLDER"]
FILES = ("file-abc123", "file_id")
JOB = "ft-AF1WoRqd3aJAHsqc9NY7iL8F"
MODEL = "ft:gpt-4o-mini:acemeco:suffix:abc123"
LINES = b"\n".join(
    json.dumps({"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": str(i)}]}).encode()
    for i in range(10)
)

send, send_async = httpx2.HTTPTransport.handle_request, httpx2.AsyncHTTPTransport.handle_async_request
counts = {"reached": 0, "rewritten": 0}


class Objects:
    """What exists on the server, made when it is first asked for."""

    def __init__(self):
        self.client = openai.OpenAI(base_url=ROOT, api_key="My API Key", timeout=60)

    @cached_property
    def file(self) -> str:
        return self.new_file()

    job, model = os.environ["TEST_JOB"], os.environ["TEST_MODEL"]  # trained here before

    def new_file(self) -> str:
        return self.client.files.create(file=("a.jsonl", LINES), purpose="fine-tune").id

    def new_job(self):
        method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 5}}}
        return self.client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=self.file, method=method)

    def new_model(self) -> str:
        """A further name for the tuned model, as each of its checkpoints is one; twelve jobs would take minutes."""
        sys.path.insert(0, os.environ["TEST_COURSE"])
        from course_utils.openai_server.store import Store, random_letters

        store, name = Store(FOLDER), f"ft:gpt-4o-mini:local::{random_letters(8)}"
        store.add("model", store.get("model", self.model) | {"id": name, "_checkpoint": True})
        return name


objects = Objects()
busy = False  # making an object, whose requests come through here too
mocked = False  # the test at work answers itself: its requests reach no server


def pytest_runtest_setup(item):
    global mocked
    mocked = "respx2_mock" in item.fixturenames


def rewrite(request):
    """The request with ids of what exists."""
    global busy
    if busy or mocked:
        return request
    busy = True
    try:
        counts["reached"] += 1
        return _rewrite(request)
    finally:
        busy = False


def _rewrite(request):
    path, body = request.url.raw_path.decode(), request.read()
    fresh = request.method == "DELETE" or re.search(r"/(cancel|pause|resume)$", path)
    swaps = {}
    if JOB in path:
        swaps = {JOB: objects.new_job().id if fresh else objects.job}
    elif any(file in path for file in FILES):
        swaps = {file: objects.new_file() if fresh else objects.file for file in FILES}
    elif MODEL in path:
        swaps = {MODEL: objects.new_model() if fresh else objects.model}
    new_path = path
    for old, new in swaps.items():
        new_path = new_path.replace(old, new)
    new_body = body.replace(b"file-abc123", objects.file.encode()) if path.endswith("/jobs") else body
    if (new_path, new_body) == (path, body):
        return request
    counts["rewritten"] += 1
    headers = [(k, v) for k, v in request.headers.raw if k.lower() != b"content-length"]
    url = request.url.copy_with(raw_path=new_path.encode())
    return httpx2.Request(request.method, url, headers=headers, content=new_body, extensions=request.extensions)


def handle(self, request):
    return send(self, rewrite(request))


async def handle_async(self, request):
    return await send_async(self, rewrite(request))


httpx2.HTTPTransport.handle_request = handle
httpx2.AsyncHTTPTransport.handle_async_request = handle_async


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"requests that reached the server: {counts['reached']}, rewritten: {counts['rewritten']}")
