"""What goes wrong around the service: wrong options, a full disk, a damaged database, weights that are no numbers."""

import os
import resource
import socket
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from support import wait_until

from course_utils.errors import CourseError
from course_utils.openai_server import Options
from openai_server.conftest import chats, finish, supervised, upload

pytestmark = pytest.mark.model
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


def started(*arguments):
    """How `course serve` ends that can't start: status, and what it says."""
    command = [sys.executable, "-m", "course_utils.cli", "serve", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def taken_port():
    """A port with somebody on it, who is returned too."""
    other = socket.create_server(("127.0.0.1", 0))
    return other, other.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "0"], "--rows 0: it must be 1 or more"),
        (["--model", "no-such-model"], "unknown model 'no-such-model'"),
        (["--model", "."], "has no config.json that can be read"),
    ],
)
def test_what_can_not_work_is_said_at_the_start(tmp_path, options, message):
    status, said = started("--folder", tmp_path / "service", "--port", "0", *options)
    assert status == 2 and message in said and "Traceback" not in said, said
    for wrong in ({"port": 99999}, {"context": -1}):
        with pytest.raises(CourseError, match=f"--{next(iter(wrong))} {next(iter(wrong.values()))}: "):
            Options(folder="x", **wrong)


def test_a_port_in_use_is_said_at_the_start(tmp_path, tiny_model):
    other, port = taken_port()
    with other:
        status, said = started("--folder", tmp_path / "service", "--model", tiny_model, "--port", port)
    assert status == 2 and f":{port}" in said and "choose another --port" in said and "Traceback" not in said


@pytest.mark.parametrize("lacking", ["tokenizer", "weights", "model_type"])
def test_a_model_folder_that_lacks_something(tiny_model, tmp_path, lacking):
    from course_utils.openai_server.options import check_model

    for file in Path(tiny_model).iterdir():
        kind = "weights" if file.suffix == ".safetensors" else "tokenizer" if file.name.startswith("tokenizer") else ""
        if kind != lacking:
            text = file.read_bytes()
            (tmp_path / file.name).write_bytes(b"{}" if (lacking, file.name) == ("model_type", "config.json") else text)
    with pytest.raises(CourseError, match=lacking):
        check_model(str(tmp_path))
    check_model(tiny_model)


def a_used_store(folder):
    from course_utils.openai_server.store import Store

    store = Store(folder)
    for number in range(200):
        scratch = store.scratch("x")
        scratch.write_bytes(b"data")
        store.add_file(scratch, f"{number}.jsonl", "fine-tune")
    store._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._connection().close()
    return folder / "service.sqlite"


def one_page_wrong(database):
    data = bytearray(database.read_bytes())
    data[4096 * 3 : 4096 * 4] = os.urandom(4096)
    database.write_bytes(data)


def newer(database):
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


DAMAGES = {
    "torn": lambda database: os.truncate(database, database.stat().st_size // 2),
    "overwritten": lambda database: database.write_bytes(b"this is no database" * 500),
    "empty": lambda database: os.truncate(database, 0),
    "gone": Path.unlink,
    "one page wrong": one_page_wrong,
    "newer": newer,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_database_that_can_not_be_used_is_told_with_what_to_do_and_costs_no_file(tmp_path, tiny_model, damage):
    DAMAGES[damage](a_used_store(tmp_path))
    status, said = started("--folder", tmp_path, "--model", tiny_model, "--port", "0")
    assert status == 2 and "Traceback" not in said, said
    assert "service.sqlite" in said and "--folder" in said
    assert ("newer version" in said) == (damage == "newer")
    assert len(list((tmp_path / "files").iterdir())) == 200


@contextmanager
def full_disk(server, room=0):
    """Nothing can be written beyond so many bytes of a file, by the server and what it starts."""
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux only")
def test_a_full_disk_is_said_and_changes_nothing(start_server, tmp_path, tiny_model):
    server = start_server(tmp_path / "service", jobs=False)
    client = server.client(max_retries=0, timeout=60)
    file = upload(client, chats(12))
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    client.chat.completions.create(model="tiny", **HELLO)
    files = {path.name for path in (server.folder / "files").iterdir()}

    def create():
        client.fine_tuning.jobs.create(model="tiny", training_file=file.id)

    tries = {
        "a small upload": lambda: upload(client, chats(3)),
        "a large upload": lambda: upload(client, b"x" * (3 << 20)),
        "a job": create,
        "a deletion": lambda: client.files.delete(file.id),
        "a cancellation": lambda: client.fine_tuning.jobs.cancel(job.id),
    }
    with full_disk(server):
        for what, action in tries.items():
            with pytest.raises(openai.InternalServerError) as caught:
                action()
            assert caught.value.status_code == 507 and caught.value.code == "insufficient_storage", what
            assert caught.value.response.headers["x-should-retry"] == "false"
        client.chat.completions.create(model="tiny", **HELLO)  # who only asks notices nothing
        assert client.files.retrieve(file.id).id == file.id
    assert {path.name for path in (server.folder / "files").iterdir()} == files
    assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id]
    assert {path.name for path in (server.folder / "jobs").iterdir()} == {job.id}
    assert client.fine_tuning.jobs.retrieve(job.id).status == "validating_files"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"  # with room again all is as before
    create()
    assert client.files.delete(file.id).deleted
    server.stop()


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path):
    """It would swallow all that comes after it."""
    from course_utils.openai_server.store import Store

    store = Store(tmp_path)

    class Broken:
        """The connection, with a disk that is full when it counts."""

        def __init__(self, connection):
            self.connection, self.full = connection, True

        def __getattr__(self, name):
            return getattr(self.connection, name)

        def execute(self, text, *rest):
            if text == "COMMIT" and self.full:
                raise sqlite3.OperationalError("database or disk is full")
            return self.connection.execute(text, *rest)

    store._local.connection = broken = Broken(store._connection())
    with pytest.raises(sqlite3.OperationalError):
        store.add("file", {"id": "one"})
    broken.full = False
    store.add("file", {"id": "two"})
    assert [body["id"] for body in Store(tmp_path).all("file")] == ["two"]


@pytest.mark.parametrize("steps", [1, 3])
def test_weights_that_are_no_numbers_never_become_a_model(client, steps):
    """After one step the loss is still that of the weights before it."""
    before = {model.id for model in client.models.list()}
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(client, chats(12)).id,
        method=supervised(n_epochs=steps, batch_size=12, learning_rate_multiplier=1e30),
    )
    job = finish(client, job)
    assert job.status == "failed" and job.fine_tuned_model is None
    assert "diverged" in job.error.message and "learning_rate_multiplier" in job.error.message
    assert (job.error.code, job.error.param) == ("training_failed", "learning_rate_multiplier")
    assert {model.id for model in client.models.list()} == before
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-5])
def test_almost_no_temperature_is_none(client, temperature):
    def ask(value):
        return client.chat.completions.create(model="tiny", temperature=value, **HELLO).choices[0].message.content

    assert ask(temperature) == ask(0)


def test_a_temporary_folder_goes_with_its_server(tiny_model, tmp_path, monkeypatch):
    """Also when the server, or the process that started it, was killed."""
    import tempfile

    import psutil

    from course_utils.openai_server import local_server

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = local_server(model=tiny_model, jobs=False)
    assert server.folder.parent == tmp_path and server.folder.is_dir()
    server.stop()
    assert not server.folder.exists()

    with pytest.raises(CourseError):
        local_server(model="no-such-model")
    assert not list(tmp_path.iterdir())

    code = (
        f"import os, signal; from course_utils.openai_server import local_server; s = local_server(model={tiny_model!r})\n"
    )
    code += "print(s.process.pid, s.folder, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    pid, folder = done.stdout.split()
    wait_until(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    wait_until(lambda: not Path(folder).exists())  # on a busy machine a moment after its process
