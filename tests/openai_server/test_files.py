"""Files: what is kept, what is listed, what is refused and in which words."""

import base64
import time
from pathlib import Path

import openai
import pytest

from openai_server.conftest import chats, upload

pytestmark = pytest.mark.model


def test_what_comes_back_is_what_was_sent(client):
    data = chats(10)
    file = upload(client, data, "tickets.jsonl")
    assert file.id.startswith("file-") and file.bytes == len(data) and file.filename == "tickets.jsonl"
    assert file.status == "processed" and file.purpose == "fine-tune"
    assert client.files.content(file.id).read() == data
    assert client.files.retrieve(file.id) == file
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve(file.id)
    assert caught.value.body == {
        "message": f"No such File object: {file.id}",
        "type": "invalid_request_error",
        "param": "id",
        "code": None,
    }


def test_a_list_is_walked_page_by_page(client):
    made = [client.files.create(file=(f"{i}.txt", b"x"), purpose="vision").id for i in range(5)]
    walked = [file.id for file in client.files.list(purpose="vision", limit=2)]
    assert walked == made[::-1]
    assert [file.id for file in client.files.list(purpose="vision", limit=2, order="asc")] == made
    page = client.files.list(purpose="vision", limit=5)
    assert not page.has_more and (page.data[0].id, page.data[-1].id) == (made[-1], made[0])
    assert client.files.list(purpose="vision", limit=4).has_more
    for file in made:
        client.files.delete(file)
    empty = client.files.with_raw_response.list(purpose="vision").http_response.json()
    assert (empty["first_id"], empty["last_id"], empty["has_more"]) == ("", "", False)


def test_a_name_is_shown_and_never_followed(client, server):
    own = Path(server.folder)

    def on_disk() -> set:
        everything = {*own.rglob("*"), *own.parent.iterdir()}  # beside it lie other tests' folders
        return {path for path in everything if not path.name.startswith("service.sqlite")}

    names = [
        "../../escape.jsonl",
        "/etc/passwd.jsonl",
        "..\\..\\x.jsonl",
        "..jsonl",
        "a\nb.jsonl",
        "a\0b.jsonl",
        "%2e%2e%2fx.jsonl",
    ]
    for name in names:
        before = on_disk()
        file = upload(client, chats(1), name)
        assert on_disk() - before == {server.folder / "files" / file.id}
        assert not {"/", "\\", "\0", "\n"} & set(file.filename)
        client.files.delete(file.id)
    before = on_disk()
    with pytest.raises(openai.BadRequestError):
        upload(client, chats(1), "x" * 5000 + ".jsonl")
    assert on_disk() == before
    with pytest.raises(openai.NotFoundError):
        client.get("/files/%2e%2e%2fkey/content", cast_to=object)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": ("a.txt", b"{}"), "purpose": "fine-tune"}, "Invalid file format for Fine-Tuning API. Must be .jsonl"),
        ({"file": ("a.jsonl", b""), "purpose": "fine-tune"}, "File is empty."),
        ({"file": ("a.jsonl", b"{}"), "purpose": "evals"}, "Invalid value: 'evals'. Supported values are: 'assistants'"),
        (
            {"file": ("a.jsonl", b"{}"), "purpose": "batch", "expires_after": {"anchor": "now", "seconds": 9}},
            "Invalid value: 'now'. Supported values are: 'created_at'.",
        ),
    ],
)
def test_an_upload_is_refused(client, options, message):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(**options)
    assert caught.value.body["message"].startswith(message)


def test_an_expired_file_is_gone(client, server, tmp_path):
    before = time.time()
    file = client.files.create(
        file=("a.txt", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert int(before) + 3600 <= file.expires_at <= time.time() + 3600
    from course_utils.openai_server.store import Store

    Store(server.folder).update("file", file.id, expires_at=int(time.time()) - 1)  # an hour later
    assert file.id not in [found.id for found in client.files.list()]
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    assert not (server.folder / "files" / file.id).exists()


def test_a_result_file_is_base64_of_the_csv(client, tuned):
    sent = client.files.content(tuned.result_files[0]).read()
    table = base64.b64decode(sent, validate=True).decode().splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert len(table) == 1 + 48 and table[1].startswith("1,")  # 12 examples, batch size 1 by "auto", 4 epochs
    assert table[1].endswith(",,") and not table[12].endswith(",")  # blank where there was no validation
    assert client.files.retrieve(tuned.result_files[0]).purpose == "fine-tune-results"
