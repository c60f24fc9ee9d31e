"""The API's specification, sent to a live server: requests that it allows, and such that it does not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from openai_server.conftest import chats, finish, supervised, upload

pytestmark = [pytest.mark.model, pytest.mark.slow]
HERE = Path(__file__).parent
KEY = "My API Key"
NO_LOSS = "ensure_resource_availability"


@pytest.fixture(scope="module")
def trained(start_server, tmp_path_factory):
    """A server with a model trained on it, started again so that jobs stay where they are; the job, and what to call it."""
    folder = tmp_path_factory.mktemp("service")
    options = {"key": KEY, "names": ("gpt-4o-mini",), "context": 256}
    server = start_server(folder, **options)
    client = server.client()
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=upload(client, chats(10)).id, method=supervised(n_epochs=1)
    )
    job = finish(client, job)
    server.stop()
    return start_server(folder, jobs=False, **options), job


def test_the_specification(trained, tmp_path):
    """schemathesis: thousands of requests made from the specification, right and wrong ones, single and in sequence.

    Permissions of checkpoints are left out: there are no projects here to share one with.

    Two of its checks can't hold. That whatever fits the schema is accepted: a schema can't say which files exist, that a
    training file's name ends in .jsonl, or how long a context is. That a file's content is JSON: the specification says so,
    the service sends bytes.
    """
    server, job = trained
    settings = f"""
        base-url = "{server.base_url}"
        headers = {{ Authorization = "Bearer {KEY}" }}
        [parameters]
        KNOWN
        fine_tuning_job_id = "{job.id}"
        [checks.positive_data_acceptance]
        enabled = false
        [[operations]]
        include-path = "/files/{{file_id}}/content"
        checks.content_type_conformance.enabled = false
        [[operations]]
        include-path = "/models/{{model}}"
        parameters = {{ model = "{job.fine_tuned_model}" }}
        """
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(HERE / "openapi-finetune-cut.json")]
    command += ["--exclude-path-regex", "permissions", "--request-timeout", "60", "--no-color"]
    command += ["--seed", "1", "--max-examples", "20"]
    generated = 0
    # A file that it is told of it deletes, and then takes for one that it made and that must still be there: where it looks
    # for what it made, it is told of none.
    for phases, known in (
        (["examples,coverage,fuzzing", "--exclude-checks", NO_LOSS], job.training_file),
        (["stateful"], ""),
    ):
        told = f'file_id = "{known}"' if known else ""
        (tmp_path / "schemathesis.toml").write_text(settings.replace("KNOWN", told))
        done = subprocess.run([*command, "--phases", *phases], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[:9000] + done.stderr[-1000:]
        generated += int(re.search(r"(\d+) generated", done.stdout).group(1))
    print(f"schemathesis: {generated} requests, no fault")
    assert generated > 1000
