"""Who is let in, how much may be sent, and how often."""

import contextlib
import os
import socket
import stat
from pathlib import Path

import openai
import pytest
from support import wait_until

from openai_server.conftest import chats, cpu_of, httpx, upload

pytestmark = pytest.mark.model


def ask(server, method, path, **options):
    headers = {"authorization": f"Bearer {server.api_key}"} | options.pop("headers", {})
    return httpx.request(method, server.base_url + path, headers=headers, timeout=60, **options)


def test_a_wrong_key_is_refused_and_never_repeated_in_full(server):
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=server.base_url, api_key="sk-wrong-0123456789abcdef", max_retries=0).models.list()
    assert caught.value.code == "invalid_api_key"
    assert caught.value.body["message"].startswith("Incorrect API key provided: sk-wrong")
    assert "0123456789" not in caught.value.body["message"]
    for headers in ({"authorization": ""}, {"authorization": server.api_key}, {"authorization": "Basic eDp5"}):
        answer = ask(server, "GET", "/models", headers=headers)
        assert answer.status_code == 401 and answer.json()["error"]["type"] == "invalid_request_error"


def test_the_key_is_kept_and_its_owner_alone_can_read_it(server):
    file = server.folder / "key"
    assert file.read_text() == server.api_key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_listens_on_loopback_only(server):
    port = int(server.base_url.split(":")[2].split("/")[0])
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        probe.connect(("192.0.2.1", 9))  # sends nothing; says which address this machine has for others
    except OSError:
        pytest.skip("no interface but loopback: nothing here can show what another machine would see")
    finally:
        outside = probe.getsockname()[0]
        probe.close()
    assert not outside.startswith("127."), "the address for others is on loopback: the test can't show anything"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((outside, port), timeout=5)
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def everything_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_an_upload_of_600_mb_is_refused_and_nothing_of_it_is_kept(server):
    size, block = 600 * 1024 * 1024, bytes(1 << 20)
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    )

    def body():
        yield head
        for _ in range(size // len(block)):
            yield block
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    before = everything_under(server.folder)
    answer = ask(server, "POST", "/files", content=body(), headers=headers)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"
    assert everything_under(server.folder) - before < 1 << 20
    assert ask(server, "GET", "/models").status_code == 200


BOMBS = {
    "deep": b'{"messages":' * 100_000,
    "deep and whole": b"[" * 50_000 + b"]" * 50_000,
    "deep inside": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"metadata":'
    + b'{"a":' * 500
    + b"1"
    + b"}" * 501,
    "long number": b'{"model":"tiny","seed":' + b"9" * 100_000 + b"}",
    "huge exponent": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"temperature":1e999}',
    "not a number": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "not UTF-8": b'{"model":"\xff\xfe"}',
    "a list": b"[1,2]",
    "nothing": b"",
    "nine megabytes": b'{"model":"' + b"x" * (9 << 20) + b'"}',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_json_bomb_is_refused_at_once(server, name):
    before = cpu_of(server)
    answer = ask(server, "POST", "/chat/completions", content=BOMBS[name], headers={"content-type": "application/json"})
    assert answer.status_code in (400, 413), answer.text[:300]
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert cpu_of(server) - before < 2


def test_every_answer_has_a_request_id(client):
    found = client.models.with_raw_response.list()
    assert found.headers["x-request-id"].startswith("req_")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.request_id.startswith("req_")


def test_unknown_addresses_and_methods_have_the_api_s_body(server):
    for path in ("/embeddings", "/fine_tuning/alpha/graders/run", "/uploads", "/files/", "/chat/completions/", "//files"):
        answer = ask(server, "POST", path, json={})
        assert answer.status_code == 404 and answer.json()["error"]["message"] == f"Invalid URL (POST /v1{path})"
    refused = [("PUT", "/responses", "POST"), *((m, "/models", "GET") for m in ("PUT", "OPTIONS", "PATCH", "TRACE"))]
    for method, path, allowed in refused:
        answer = ask(server, method, path)
        assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_supported"
        assert answer.headers["allow"] == allowed


def test_one_folder_has_one_server(server):
    from course_utils.errors import CourseError
    from course_utils.openai_server import local_server

    with pytest.raises(CourseError, match="another server is using"):
        local_server(server.folder, model=server.options.model)


PATHS = ["/health", "/v1/models", "/v1/nothing", "/"]


@pytest.mark.parametrize("path", PATHS)
def test_a_page_elsewhere_can_not_have_its_name_lead_here(server, path):
    """DNS rebinding: a browser takes what answers under a page's name for the page's own."""
    root = server.base_url.removesuffix("/v1")
    port = root.rpartition(":")[2]
    headers = {"authorization": f"Bearer {server.api_key}"}
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "[::2]:80", ""):
        answer = httpx.get(root + path, headers=headers | {"host": host})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_not_allowed", (host, answer.text)
    for host in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", "[::1]", f"[::1]:{port}", "localhost."):
        assert httpx.get(root + path, headers=headers | {"host": host}).status_code != 403, host


def test_names_that_were_allowed_lead_here(start_server, tmp_path):
    server = start_server(tmp_path / "service", jobs=False, allow_host=("hub.example",))
    root = server.base_url.removesuffix("/v1")
    assert httpx.get(f"{root}/health", headers={"host": "Hub.example:8443"}).status_code == 200
    assert httpx.get(f"{root}/health", headers={"host": "other.example"}).status_code == 403
    server.stop()


def test_its_owner_alone_can_read_what_it_keeps(server, client, tuned):
    upload(client, chats(10))
    for folder in ("files", "models", "jobs", "incoming"):
        assert stat.S_IMODE((server.folder / folder).stat().st_mode) == 0o700, folder
    open_to_others = [
        path.relative_to(server.folder)
        for path in server.folder.rglob("*")
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077 and not path.name.endswith("lock")
    ]
    assert not [path for path in open_to_others if path.parts[0] != "jobs"], open_to_others


def log_of(server) -> str:
    return (server.folder / "server.log").read_text()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files", "/v1/fine_tuning/jobs"])
def test_a_client_that_goes_away_in_its_request_is_one_line_of_the_log(server, path):
    before = log_of(server)
    port = int(server.base_url.split(":")[2].split("/")[0])
    kind = "multipart/form-data; boundary=b" if path == "/v1/files" else "application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.api_key}\r\nContent-Type: {kind}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: 5000\r\n\r\n--b\r\n".encode())
    wait_until(lambda: log_of(server) != before)
    ask(server, "GET", "/models")
    said = log_of(server)[len(before) :]
    assert len(said.splitlines()) == 1 and path in said and "disconnected while sending" in said, said


def test_threads_that_wait_give_up_their_core_in_the_server_and_in_what_it_starts(tiny_model, tmp_path):
    """Also where it is started from a process that has set nothing."""
    import signal
    import subprocess
    import sys

    import psutil

    from course_utils import session

    waiting = {name for names in session.WAITING for name in names}
    bare = {name: value for name, value in os.environ.items() if name not in waiting}
    begin = "from course_utils.openai_server import local_server; x = local_server({!r}, model={!r}); "
    begin += "print(x.base_url, x.api_key, flush=True); input()"
    command = [sys.executable, "-c", begin.format(str(tmp_path), tiny_model)]
    started = subprocess.Popen(command, env=bare, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url, key = started.stdout.readline().split()
        client = openai.OpenAI(base_url=url, api_key=key)
        job = client.fine_tuning.jobs.create(model="tiny", training_file=upload(client, chats(40)).id)
        kinds = {}

        def both() -> bool:
            for process in psutil.Process(started.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    kinds[" train " in line] = process.environ().get("GOMP_SPINCOUNT")
            return True in kinds

        wait_until(both)
        client.fine_tuning.jobs.cancel(job.id)
        assert set(kinds.values()) == {session.SPIN_COUNT}
    finally:
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=60)
