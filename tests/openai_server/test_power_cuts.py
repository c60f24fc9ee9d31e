"""A few of the kills of `benchmarks/service.py kills`: one at each moment."""

import pytest

from openai_server import power_cuts

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.mark.parametrize(("moment", "victim", "seed"), [*power_cuts.rounds(5), ("training", "worker", 5)])
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
