"""Jobs: their states, events, checkpoints, failures and results, as the hosted service has them."""

import json
import time
from types import SimpleNamespace

import openai
import pytest
from support import wait_until

from course_utils.openai_server import worker
from openai_server.conftest import (
    chats,
    finish,
    httpx,
    lines,
    messages_of,
    pairs,
    supervised,
    training_process,
    upload,
)

pytestmark = pytest.mark.model
SAY = {"messages": [{"role": "user", "content": "Is 3 a number?"}], "max_tokens": 5, "temperature": 0}


def test_a_job_from_beginning_to_end(client, tuned):
    assert tuned.error is None and tuned.finished_at >= tuned.created_at and tuned.organization_id == "org-local"
    assert tuned.hyperparameters.n_epochs == 4 and tuned.hyperparameters.batch_size == 1  # "auto" resolved
    assert tuned.method.supervised.hyperparameters.learning_rate_multiplier == 2.0
    assert tuned.fine_tuned_model.startswith("ft:tiny:local:my-model:")
    said = messages_of(client, tuned)
    assert said[:6] == [
        f"Created fine-tuning job: {tuned.id}",
        f"Validating training file: {tuned.training_file}",
        f"Validating validation file: {tuned.validation_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        said[5],
    ]
    assert said[5].startswith("Step 1/48: training loss=")
    assert said[-2:] == [
        f"New fine-tuned model created: {tuned.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert sum(text.startswith("Step ") for text in said) == 48
    walked = [event.id for event in client.fine_tuning.jobs.list_events(tuned.id, limit=7)]
    assert len(walked) == len(set(walked)) == len(said)


def test_metrics_are_those_of_the_run(client, tuned):
    events = [e for e in client.fine_tuning.jobs.list_events(tuned.id, limit=100) if e.type == "metrics"]
    last = events[0].data
    assert set(last) == {
        "step", "total_steps", "train_loss", "valid_loss", "full_valid_loss",
        "train_mean_token_accuracy", "valid_mean_token_accuracy", "full_valid_mean_token_accuracy",
    }  # fmt: skip
    assert last["step"] == last["total_steps"] == 48 and 0 <= last["train_mean_token_accuracy"] <= 1
    middle = next(e.data for e in events if e.data["step"] == 15)  # inside an epoch, at a validation
    assert "valid_loss" in middle and "full_valid_loss" not in middle
    assert "valid_loss" not in next(e.data for e in events if e.data["step"] == 16)


def test_the_last_three_checkpoints_are_models(client, tuned):
    found = list(client.fine_tuning.jobs.checkpoints.list(tuned.id, limit=2))
    assert [checkpoint.step_number for checkpoint in found] == [48, 36, 24]
    said = messages_of(client, tuned)
    for checkpoint in found:
        name = checkpoint.fine_tuned_model_checkpoint
        assert f"Checkpoint created at step {checkpoint.step_number} with Snapshot ID: {name}" in said
        assert client.models.retrieve(name).id == name
        assert checkpoint.metrics.full_valid_loss is not None
    answers = {
        checkpoint.step_number: client.chat.completions.create(
            model=checkpoint.fine_tuned_model_checkpoint, logprobs=True, **SAY
        )
        .choices[0]
        .logprobs.content[0]
        .logprob
        for checkpoint in found
    }
    assert len(set(answers.values())) == 3  # each has weights of its own
    final = client.chat.completions.create(model=tuned.fine_tuned_model, logprobs=True, **SAY)
    assert final.choices[0].logprobs.content[0].logprob == answers[48]
    listed = [model.id for model in client.models.list()]
    assert tuned.fine_tuned_model in listed and not any("ckpt" in name for name in listed)


def test_training_goes_on_from_a_tuned_model_and_dpo_on_top_of_it(client, tuned):
    held_out = upload(client, pairs(4))
    job = client.fine_tuning.jobs.create(
        model=tuned.fine_tuned_model,
        training_file=upload(client, pairs(12)).id,
        validation_file=held_out.id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5, "n_epochs": 2, "batch_size": 4}}},
    )
    job = finish(client, job)
    assert job.status == "succeeded", job.error
    assert job.method.dpo.hyperparameters.beta == 0.5
    first = next(e for e in list(client.fine_tuning.jobs.list_events(job.id, limit=100))[::-1] if e.type == "metrics")
    assert first.data["train_loss"] == pytest.approx(0.6931, abs=2e-3)  # ln 2: the reference is the tuned model
    assert {"train_rewards_margins", "train_rewards_accuracies"} <= set(first.data)
    assert job.fine_tuned_model.startswith("ft:tiny:local::")


FAULTS = {
    "too few": (
        chats(7),
        None,
        "invalid_n_examples",
        "Training file has 7 example(s), but must have at least 10 examples",
    ),
    "no role": (
        chats(10) + b'\n{"messages":[{"role":"user","content":"x"},{"content":"y"}]}',
        None,
        "invalid_training_file",
        "The job failed due to an invalid training file. Invalid file format. Example 11, message 2 Discriminator 'role' "
        "is missing in value",
    ),
    "another format": (
        lines([{"question": "x", "reply": "y"}] * 10),
        None,
        "invalid_training_file",
        "The job failed due to an invalid training file. Unexpected file format, expected either prompt/completion pairs or "
        "chat messages.",
    ),
    "an extra key": (
        lines([{"messages": [{"role": "user", "content": "x", "weight": 1}, {"role": "assistant", "content": "y"}]}] * 10),
        None,
        "invalid_file_format",
        "The job failed due to a file format error in the training file. Invalid file format. Example 1 contains an extra "
        '"weight".',
    ),
    "a control token": (
        lines([{"messages": [{"role": "user", "content": "<|fim_suffix|>"}, {"role": "assistant", "content": "y"}]}] * 10),
        None,
        "invalid_file_format",
        "The job failed due to a file format error in the training file. Invalid file format. Example 1 message contains an "
        "invalid token: <|fim_suffix|>.",
    ),
    "chat for DPO": (
        chats(10),
        {"type": "dpo"},
        "invalid_training_file",
        "The job failed due to an invalid training file. Invalid file format. Input file {file} is in the fine-tune-chat "
        "format, but the specified fine-tuning job is not using 'supervised' as the training method (provided method=dpo). ",
    ),
    "pairs for SFT": (pairs(10), None, "invalid_training_file", None),
    "no JSON": (b"\n".join([b"{"] * 12), None, "invalid_training_file", None),
    "nothing to learn": (
        lines([{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]}] * 10),
        None,
        "invalid_training_file",
        None,
    ),
    "an image": (
        lines(
            [
                {
                    "messages": [
                        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
                        {"role": "assistant", "content": "y"},
                    ]
                }
            ]
            * 10
        ),
        None,
        "training_failed",
        "training_file, line 1: message 0 has a part of type 'image_url'; this model reads text only",
    ),
}


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "an image"])  # which only training notices
def test_a_bad_files_fault_is_said_as_the_hosted_service_says_it(name, tmp_path):
    """As the process that validates does it; the next test has such processes."""
    data, method, code, message = FAULTS[name]
    (tmp_path / "training_file.jsonl").write_bytes(data)
    job = {"training_file": "file-x", "validation_file": None, "method": method or {"type": "supervised"}}
    with pytest.raises(worker.JobFailure) as caught:
        worker.validate(SimpleNamespace(document=lambda *_: job, job_folder=lambda _: tmp_path), "ftjob-x")
    assert (caught.value.code, caught.value.param) == (code, "training_file")
    assert not message or str(caught.value).partition("\n")[0] == message.format(file="file-x")


@pytest.mark.parametrize("name", ["chat for DPO", "an image"])
def test_a_bad_file_is_taken_and_fails_the_job_later(client, name):
    data, method, code, message = FAULTS[name]
    file = upload(client, data)
    assert file.status == "processed"
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, **({"method": method} if method else {}))
    assert job.status == "validating_files" and job.error is None
    job = finish(client, job)
    assert (job.status, job.error.code, job.error.param) == ("failed", code, "training_file")
    assert job.error.message.partition("\n")[0] == message.format(file=file.id)
    assert job.fine_tuned_model is None and job.finished_at
    assert messages_of(client, job)[-1] == job.error.message


def test_up_to_ten_bad_lines_are_reported_at_once(client):
    good, bad = chats(1).decode(), '{"messages":[{"role":"user","content":"x"},{"content":"y"}]}'
    data = "\n".join([good, bad, "{", *[good] * 10, *[bad] * 20])
    job = finish(client, client.fine_tuning.jobs.create(model="tiny", training_file=upload(client, data.encode()).id))
    first, *others = job.error.message.split("\n")
    assert first.endswith("Invalid file format. Example 2, message 2 Discriminator 'role' is missing in value")
    assert [line.partition(":")[0] for line in others[:2]] == ["line 3", "line 14, messages[1]"]
    assert len(others) == 10 and others[-1] == "and 12 more lines"


GRADER = {"type": "string_check", "name": "x", "operation": "eq", "input": "{{sample.output_text}}", "reference": "y"}
REINFORCEMENT = {"type": "reinforcement", "reinforcement": {"grader": GRADER}}
REFUSALS = [
    ({"model": "gpt-9"}, "Model gpt-9 is not available for fine-tuning or does not exist.", "model_not_available", "model"),
    ({"training_file": "file-x"}, "invalid training_file: file-x", None, "training_file"),
    ({"validation_file": "file-x"}, "invalid validation_file: file-x", None, "validation_file"),
    ({"method": REINFORCEMENT}, "Reinforcement fine-tuning is not available", "method_not_available", "method"),
    ({"suffix": "x" * 65}, "Invalid value for 'suffix'", "invalid_value", "suffix"),
    ({"seed": -1}, "Invalid value for 'seed'", "invalid_value", "seed"),
    ({"hyperparameters": {"n_epochs": 51}}, "Invalid value for 'hyperparameters.n_epochs'", "invalid_value", None),
    ({"hyperparameters": {"batch_size": "many"}}, "Invalid value for 'hyperparameters.batch_size'", "invalid_value", None),
    ({"metadata": {f"k{i}": "v" for i in range(17)}}, "Invalid value for 'metadata'", "invalid_value", "metadata"),
    (
        {"hyperparameters": {"n_epochs": 1}, "method": supervised(n_epochs=2)},
        "'hyperparameters.n_epochs' is 1 and 'method.supervised.hyperparameters.n_epochs' is 2",
        None,
        "hyperparameters",
    ),
]


@pytest.mark.parametrize(("changes", "message", "code", "param"), REFUSALS)
def test_a_request_is_refused(client, tuned, changes, message, code, param):
    asked = {"model": "tiny", "training_file": tuned.training_file} | changes
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(**asked)
    assert caught.value.body["message"].startswith(message) and caught.value.code == code
    if param:
        assert caught.value.param == param


def test_what_is_missing_is_named(server):
    answer = httpx.post(
        f"{server.base_url}/fine_tuning/jobs", json={"model": "tiny"}, headers={"authorization": f"Bearer {server.api_key}"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Missing required parameter: 'training_file'."


def test_unknown_jobs_and_models(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.retrieve("ftjob-x")
    assert caught.value.body["message"] == "Could not find fine tune: ftjob-x"
    assert (caught.value.code, caught.value.param) == ("fine_tune_not_found", "fine_tune_id")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.delete("ft:tiny:x")
    assert caught.value.body["message"] == "The model 'ft:tiny:x' does not exist"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="ft:tiny:x", messages=[{"role": "user", "content": "x"}])
    assert caught.value.body["message"] == "The model `ft:tiny:x` does not exist or you do not have access to it."
    assert caught.value.code == "model_not_found"


def test_a_cancelled_job_leaves_no_model(client, server):
    file = upload(client, chats(40))
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=supervised(n_epochs=50, batch_size=1))
    until = time.time() + 60
    while client.fine_tuning.jobs.retrieve(job.id).status != "running" or len(messages_of(client, job)) < 8:
        assert time.time() < until
        time.sleep(0.05)
    before = {model.id for model in client.models.list()}
    job = client.fine_tuning.jobs.cancel(job.id)
    assert job.status == "cancelled" and job.finished_at
    count = len(messages_of(client, job))
    wait_until(lambda: training_process(server) is None)
    after = client.fine_tuning.jobs.retrieve(job.id)
    assert after == job and after.fine_tuned_model is None and {model.id for model in client.models.list()} == before
    assert len(messages_of(client, job)) == count and messages_of(client, job)[-1] == "The job has been cancelled"
    for again in (client.fine_tuning.jobs.cancel, client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError):  # 400 and not 409, which the client would try again
            again(job.id)


def test_a_cancelled_job_leaves_no_bytes_but_its_checkpoints(start_server, tmp_path):
    """Cancelled before it ran, while it waits, and while it runs: what is on disk is what the API still lists."""
    server = start_server(tmp_path)
    client = server.client(max_retries=0)
    create = lambda: client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, chats(12)).id, method=supervised(n_epochs=50, batch_size=4)
    )
    running, waiting = create(), create()
    wait_until(lambda: client.fine_tuning.jobs.checkpoints.list(running.id).data)
    wait_until(lambda: client.fine_tuning.jobs.retrieve(waiting.id).status == "queued")
    (tmp_path / "models" / "unfinished").mkdir()  # as if it was killed between an adapter and its checkpoint
    client.fine_tuning.jobs.pause(running.id)
    for job in (create(), waiting, running):
        client.fine_tuning.jobs.cancel(job.id)
    wait_until(lambda: not any((tmp_path / "jobs").iterdir()))
    listed = client.fine_tuning.jobs.checkpoints.list(running.id).data
    wait_until(lambda: len(list((tmp_path / "models").iterdir())) == len(listed))
    client.chat.completions.create(model=listed[0].fine_tuned_model_checkpoint, **SAY)
    server.stop()


def test_a_job_may_be_paused_while_its_files_are_validated(client, server):
    """Its files are validated all the same, which takes seconds; then it waits, and says so."""
    file = upload(client, chats(12))
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=supervised(n_epochs=1))
    client.fine_tuning.jobs.pause(job.id)
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "queued")
    other = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=supervised(n_epochs=1))
    assert finish(client, other).status == "succeeded"  # so the server looked for work, and passed the paused job over
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    assert "Fine-tuning job paused" in messages_of(client, job)
    client.fine_tuning.jobs.resume(job.id)
    assert finish(client, job).status == "succeeded"


def test_what_a_job_bears(client):
    """An integration, said to do nothing; line separators in texts; and that its file goes while it lasts.

    U+2028 and its kin end a line for `str.splitlines`, and not for JSONL.
    """
    rows = [
        {"messages": [{"role": "user", "content": f"a\u2028b\u0085c {i}"}, {"role": "assistant", "content": f"d\u2029 {i}"}]}
        for i in range(12)
    ]
    file = upload(client, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    wandb = {"type": "wandb", "wandb": {"project": "p"}}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, method=supervised(n_epochs=1), integrations=[wandb]
    )
    client.files.delete(file.id)
    assert job.integrations[0].wandb.project == "p"
    warnings = [event.message for event in client.fine_tuning.jobs.list_events(job.id) if event.level == "warn"]
    assert len(warnings) == 1 and "wandb" in warnings[0]
    assert finish(client, job).status == "succeeded"


@pytest.mark.slow
def test_a_paused_job_waits_and_goes_on_where_it_was(client, server):
    file = upload(client, chats(20))
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, method=supervised(n_epochs=6, batch_size=1), seed=5
    )
    until = time.time() + 60
    while not any(text.startswith("Step 30/") for text in messages_of(client, job)):
        assert time.time() < until
        time.sleep(0.02)
    assert client.fine_tuning.jobs.pause(job.id).status == "queued"
    wait_until(lambda: training_process(server) is None)
    steps = [text for text in messages_of(client, job) if text.startswith("Step ")]
    assert len(steps) < 120, "it was over before it could be paused"
    other = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=supervised(n_epochs=1, batch_size=20))
    assert finish(client, other).status == "succeeded"  # so the server looked for work, and passed the paused job over
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    assert [text for text in messages_of(client, job) if text.startswith("Step ")] == steps
    client.fine_tuning.jobs.resume(job.id)
    done = finish(client, job)
    said = [e.data for e in list(client.fine_tuning.jobs.list_events(job.id, limit=100))[::-1] if e.type == "metrics"]
    assert done.status == "succeeded" and [data["step"] for data in said] == list(range(1, 121))
    whole = finish(
        client,
        client.fine_tuning.jobs.create(
            model="tiny", training_file=file.id, method=supervised(n_epochs=6, batch_size=1), seed=5
        ),
    )
    straight = [e.data for e in list(client.fine_tuning.jobs.list_events(whole.id, limit=100))[::-1] if e.type == "metrics"]
    assert [data["train_loss"] for data in said] == pytest.approx([data["train_loss"] for data in straight], abs=1e-3)


@pytest.mark.slow
def test_a_checkpoint_may_be_deleted_while_its_job_lasts(client):
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, chats(30)).id, method=supervised(n_epochs=8, batch_size=1)
    )
    deleted = set()
    while client.fine_tuning.jobs.retrieve(job.id).status in ("validating_files", "queued", "running"):
        for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id):
            name = checkpoint.fine_tuned_model_checkpoint
            if name not in deleted:
                deleted.add(name)
                try:
                    client.models.delete(name)
                except openai.NotFoundError:  # a fourth one came, and this one went
                    pass
        time.sleep(0.05)
    job = finish(client, job)
    assert job.status == "succeeded" and deleted, job.error
    client.chat.completions.create(model=job.fine_tuned_model, **SAY)


def test_a_deleted_model_is_gone_and_so_are_its_checkpoints(client, server):
    """Whoever deletes a model because of what it was trained on wants none of its weights left."""
    adapters = lambda: set((server.folder / "models").iterdir())
    before = adapters()
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, chats(12)).id, method=supervised(n_epochs=2, batch_size=6)
    )
    name = finish(client, job).fine_tuned_model
    client.chat.completions.create(model=name, **SAY)
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    first, last = (checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints)
    client.models.delete(first)  # one checkpoint alone
    assert [checkpoint.id for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id)] == [checkpoints[1].id]
    assert client.models.delete(name).deleted
    for gone in (name, first, last):
        for use in (lambda: client.models.retrieve(gone), lambda: client.chat.completions.create(model=gone, **SAY)):  # noqa: B023
            with pytest.raises(openai.NotFoundError):
                use()
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data == [] and adapters() == before
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("tiny")


def test_jobs_are_found_by_their_metadata(client, tuned):
    make = {"model": "tiny", "training_file": tuned.training_file, "method": supervised(n_epochs=1, batch_size=12)}
    one, other = (client.fine_tuning.jobs.create(metadata={"team": team}, **make) for team in ("a", "b"))
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [one.id]
    assert client.fine_tuning.jobs.list(limit=1).data[0].id == other.id
    for job in (one, other):
        client.fine_tuning.jobs.cancel(job.id)


def test_the_refusal_that_new_organisations_get(start_server, tmp_path):
    server = start_server(tmp_path, refuse=True, jobs=False)
    client = server.client(max_retries=0)
    file = upload(client, chats(10))  # uploads still work
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    assert caught.value.code == "training_not_available" and caught.value.param is None
    assert caught.value.body["message"] == (
        "OpenAI is winding down the fine-tuning platform and your organization is no longer able to create new fine-tuning "
        "training jobs. Learn more "
        "https://developers.openai.com/api/docs/deprecations#update-to-openais-self-serve-fine-tuning"
    )
    server.stop()


def test_auto_follows_the_number_of_examples():
    from course_utils.openai_server.worker import evaluation_interval
    from course_utils.openai_server.worker import resolve_hyperparameters as resolved

    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert resolved(auto, 11, "supervised")["n_epochs"] == 10  # what the hosted service chose for 11 examples
    assert resolved(auto, 100, "supervised") == {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 2.0}
    assert resolved(auto, 1, "supervised")["n_epochs"] == 25 and resolved(auto, 10_000, "supervised")["batch_size"] == 16
    assert resolved(auto | {"n_epochs": 7}, 100, "supervised")["n_epochs"] == 7
    for per_epoch in range(1, 200):
        assert per_epoch % evaluation_interval(per_epoch) == 0
