"""The official client's own tests, from its source distribution, against a live server; and the API's specification.

Of the client's tests for files, jobs, checkpoints, models and chat completions, loose and strict, this server
can't pass those for stored completions (retrieving, listing, changing and deleting chat completions: 52), which it does not
keep. Those with aiohttp need a client that is not installed with the course. Some of those that pass never reach a server:
they test what the client does with an empty id, or answer themselves.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from openai_server.conftest import chats, finish, supervised, upload

pytestmark = [pytest.mark.model, pytest.mark.slow]
HERE = Path(__file__).parent
TESTS = (
    "fine_tuning/test_jobs.py",
    "fine_tuning/jobs/test_checkpoints.py",
    "test_files.py",
    "test_models.py",
    "chat/test_completions.py",
)
KEY = "My API Key"
NO_LOSS = "ensure_resource_availability"
STAND_INS = ("gpt-4o-mini", "gpt-6-astra")


@pytest.fixture(scope="module")
def trained(start_server, tmp_path_factory):
    """A server with a model trained on it, started again so that jobs stay where they are; the job, and what to call it."""
    folder = tmp_path_factory.mktemp("upstream")
    options = {"key": KEY, "names": STAND_INS, "context": 256}
    server = start_server(folder, **options)
    client = server.client()
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=upload(client, chats(10)).id, method=supervised(n_epochs=1)
    )
    job = finish(client, job)
    server.stop()
    return start_server(folder, jobs=False, **options), job


@pytest.mark.soak("`make test` sends what the specification allows, and the other tests here use that client")
@pytest.mark.index
@pytest.mark.skipif(importlib.metadata.version("openai") < "3", reason="older ones test with a mock of httpx 1")
def test_the_official_clients_own_tests(trained, tmp_path):
    server, job = trained
    version = importlib.metadata.version("openai")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "openai"]
    subprocess.run([*command, "--no-build-isolation", f"openai=={version}", "--dest", str(tmp_path)], check=True)
    with tarfile.open(next(tmp_path.glob("openai-*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / f"openai-{version}"
    command = [sys.executable, "-m", "pytest", "-p", "upstream_plugin", "-o", "addopts=", "-q", "--tb=line"]
    stored = "TestCompletions or TestAsyncCompletions) and (retrieve or update or list or delete) and not (path_params"
    command += ["-k", f"not aiohttp and not (({stored}))", *(f"tests/api_resources/{name}" for name in TESTS)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | {
        "TEST_API_BASE_URL": server.base_url,
        "TEST_SERVER_FOLDER": str(server.folder),
        "TEST_COURSE": str(HERE.parent.parent),
        "TEST_JOB": job.id,
        "TEST_MODEL": job.fine_tuned_model,
        "PYTHONPATH": str(HERE),
    }
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    said = done.stdout
    assert done.returncode == 0, said[-3000:]
    passed = int(re.search(r"(\d+) passed", said).group(1))
    reached = int(re.search(r"reached the server: (\d+)", said).group(1))
    print(f"openai {version}: {passed} passed, {reached} requests")
    assert passed >= 320 and reached >= 240 and "failed" not in said and "error" not in said.splitlines()[-1]


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
    command += [
        "--exclude-path-regex",
        "permissions",
        "--request-timeout",
        "60",
        "--no-color",
        "--seed",
        "1",
        "--max-examples",
        "20",
    ]
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
