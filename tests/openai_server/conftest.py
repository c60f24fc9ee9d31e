"""Servers for the tests: real processes on loopback, most of them with a model so small that a job takes seconds."""

import json
import time

import pytest

try:
    import httpx2 as httpx  # what the client uses since 3.0
except ImportError:
    import httpx


@pytest.fixture(scope="session")
def start_server(tiny_model):
    """Starts servers with the small model; all are stopped at the end."""
    from course_utils.openai_server import local_server

    started = []

    def start(folder, **options):
        server = local_server(folder, **({"model": tiny_model} | options))
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def server(start_server, tmp_path_factory):
    """One server for all tests that leave it as they found it."""
    return start_server(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="session")
def client(server):
    return server.client(max_retries=0, timeout=60)


def lines(rows) -> bytes:
    """Rows as JSONL."""
    return "\n".join(json.dumps(row) for row in rows).encode()


def chats(count: int, answer="yes") -> bytes:
    """A training file of so many short conversations."""
    return lines(
        {"messages": [{"role": "user", "content": f"Is {i} a number?"}, {"role": "assistant", "content": f"{answer}, {i}"}]}
        for i in range(count)
    )


def pairs(count: int) -> bytes:
    """A file of so many preferences."""
    return lines(
        {
            "input": {"messages": [{"role": "user", "content": f"Is {i} a number?"}]},
            "preferred_output": [{"role": "assistant", "content": f"yes, {i}"}],
            "non_preferred_output": [{"role": "assistant", "content": "perhaps"}],
        }
        for i in range(count)
    )


def upload(client, data: bytes, name="data.jsonl"):
    return client.files.create(file=(name, data), purpose="fine-tune")


def supervised(**hyperparameters) -> dict:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def finish(client, job, seconds=120):
    """The job once it has ended."""
    until = time.time() + seconds
    while (job := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed", "cancelled"):
        assert time.time() < until, f"{job.status} after {seconds} s"
        time.sleep(0.1)
    return job


def cpu_of(server) -> float:
    """Seconds of processor time that the serving process has used; not those of processes that train."""
    import psutil

    times = psutil.Process(server.process.pid).cpu_times()
    return times.user + times.system


def training_process(server) -> int | None:
    """Process id of the one that trains, if there is one."""
    return httpx.get(server.base_url.removesuffix("/v1") + "/health", timeout=60).json()["training_process"]


def messages_of(client, job) -> list[str]:
    """Its events' texts, oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)][::-1]


@pytest.fixture(scope="session")
def tuned(client):
    """A job of four epochs that has succeeded."""
    train, held_out = upload(client, chats(12)), upload(client, chats(3, "no"))
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=train.id, validation_file=held_out.id, suffix="My Model", method=supervised(n_epochs=4)
    )
    job = finish(client, job)
    assert job.status == "succeeded", job.error
    return job
