"""Of the twenty kills of `benchmarks/service.py kills` the server while it notes a checkpoint, and the training process; in
`make soak` also the server while it takes a file in."""

import pytest

from openai_server import power_cuts

pytestmark = [pytest.mark.model, pytest.mark.slow]


SOAK = pytest.mark.soak("`make test` kills the server while it notes a checkpoint")
ROUNDS = [
    ("checkpointing", "server", 3),
    ("training", "worker", 5),
    pytest.param("upload", "server", 0, marks=SOAK),
]


@pytest.mark.parametrize(("moment", "victim", "seed"), ROUNDS)
def test_nothing_that_was_promised_is_lost(tiny_model, tmp_path, moment, victim, seed):
    found = power_cuts.one_round(tmp_path, tiny_model, moment, victim, seed)
    assert found["killed"] and found["broken"] == []
    # Killed when it was said to be: a job that was over could not have lost anything.
    unfinished = ("validating_files", "queued", "running")
    assert found["job_was"] in {"validation": unfinished, "training": ("running",), "checkpointing": ("running",)}.get(
        moment, (*unfinished, "succeeded")
    )


def test_what_is_missing_is_noticed(server, client):
    promises = power_cuts.Promises()
    promises.files["file-x"], promises.models = "0", {"ft:x"}
    promises.jobs.add("ftjob-x")
    assert promises.broken(client, server.folder) == ["file file-x", "job ftjob-x", "model ft:x"]
