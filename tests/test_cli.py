"""The command `course`, as a learner types it."""

import json
import os
import re
import subprocess
import sys

import pytest

from course_utils import doctor, hardware, models


def course(*arguments, **variables):
    command = [sys.executable, "-m", "course_utils.cli", *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=900)


def test_doctor_for_people_and_for_programs(packaged):
    people, programs = course("doctor"), course("doctor", "--json")
    assert people.returncode == programs.returncode == 0, people.stderr + programs.stderr
    found = json.loads(programs.stdout)
    assert found["device"]["kind"] in ("cpu", "cuda", "mps")
    assert found["device"]["tier"] in models.TIERS
    assert found["model_ready"] is True
    assert found["versions"]["torch"]
    assert [row["model"] for row in found["fits"]] == ["SmolLM2-135M", "SmolLM2-1.7B", "Qwen2.5-7B"]
    assert found["disk_free_bytes"] > 0
    for word in ("device", "packages", "disk", "fits", "advice"):
        assert f"\n{word}" in "\n" + people.stdout


def test_doctor_says_what_to_do_when_the_model_is_missing(tmp_path):
    said = course("doctor", COURSE_CACHE=str(tmp_path / "deep" / "cache")).stdout
    assert "not fetched yet" in said
    assert "run `course fetch` once" in said


def diagnose(monkeypatch, **changes):
    device = {"name": "Tesla T4", "kind": "cuda", "tier": "t4", "memory_bytes": 15_828_320_256,
              "compute_capability": (7, 5), "dtype": "float16", "environment": "colab", "cores": 2}  # fmt: skip
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Device(**(device | changes)))
    return doctor.examine()


def test_doctor_on_a_t4_knows_what_fits(monkeypatch):
    """No GPU here: the device is made up, the arithmetic is real."""
    found = diagnose(monkeypatch)
    assert [(row[0], row[3]) for row in found.fits] == [
        ("SmolLM2-135M", True), ("SmolLM2-1.7B", True), ("Qwen2.5-7B", False),
    ]  # fmt: skip
    assert "compute capability 7.5" in str(found)
    assert "lessons   with HuggingFaceTB/SmolLM2-1.7B-Instruct (Apache-2.0; from the hub" in str(found)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"compute_capability": (6, 0), "name": "Tesla P100"}, "older than current PyTorch builds"),
        ({"kind": "cpu", "compute_capability": None, "memory_bytes": 1_900_000_000}, "close other notebooks"),
    ],
)
def test_doctor_advises_in_one_line(monkeypatch, changes, advice):
    assert any(advice in line and "\n" not in line for line in diagnose(monkeypatch, **changes).advice)


def test_doctor_notices_stale_imports_and_old_packages(monkeypatch):
    import peft

    monkeypatch.setattr(peft, "__version__", "0.1.0")
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "1.0" if name == "tqdm" else real(name))
    found = doctor.examine()
    assert found.stale == ["peft"]
    assert any("restart the kernel" in line for line in found.advice)
    assert any(line.startswith("tqdm is 1.0, the course needs >=4.67") for line in found.advice)


@pytest.mark.parametrize(
    ("imported", "installed", "differs"),
    [
        ("2.9.0+cu128", "2.9.0", False),  # what a CUDA build calls itself, and what its metadata say
        ("2.9.0", "2.9.0", False),
        ("2.9", "2.9.0", False),
        ("2.8.0+cu128", "2.9.0", True),
        (None, "2.9.0", False),
        ("unknown", "2.9.0", True),
    ],
)
def test_doctor_compares_versions_and_not_their_spelling(imported, installed, differs):
    assert doctor._differs(imported, installed) == differs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "07"], "unknown lesson '07'; there are 01_decision_framework, 02_lora"),
        (["run", "nothing.ipynb"], "no such notebook: nothing.ipynb"),
        (["build", "9"], "unknown lesson '9'"),
    ],
)
def test_mistakes_at_the_command_line_are_one_sentence(arguments, said):
    done = course(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_build_check_is_clean():
    done = course("build", "--check")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_help_answers_without_loading_torch():
    code = (
        "import sys; from course_utils.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_run_runs_a_notebook_and_says_which_cell_fails(tmp_path):
    """The course's own notebooks are run by `make test`, with the network cut."""
    import nbformat

    cells = [nbformat.v4.new_code_cell(text) for text in ("x = 6 * 7", "assert x == 42, 'no'", "assert x == 43, 'not so'")]
    for name, number in (("good", 2), ("bad", 3)):
        nbformat.write(nbformat.v4.new_notebook(cells=cells[:number]), tmp_path / f"{name}.ipynb")
    done = course("run", str(tmp_path / "good.ipynb"))
    assert done.returncode == 0 and "good.ipynb: " in done.stdout, done.stderr
    assert done.stderr == ""  # nothing that a learner would have to look up
    done = course("run", str(tmp_path / "bad.ipynb"))
    assert done.returncode != 0 and "not so" in done.stderr + done.stdout


def test_run_says_which_cells_cost_most(tmp_path):
    """A cell that waits and one that takes memory in a process of its own; a quick third is not listed."""
    import nbformat

    sources = (
        "x = 1",
        "import time; time.sleep(4)",
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'x = bytearray(300_000_000); import time; time.sleep(2)'], check=True);",
    )
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources))), tmp_path / "x.ipynb")
    done = course("run", str(tmp_path / "x.ipynb"), "--cells", "2")
    total, slowest, second = done.stdout.splitlines()
    peak, parts = re.search(r"3 cells ran in \d+ s, peak (\d+) MB \((.*)\)$", total).groups()
    assert int(peak) > 320 and "ipykernel_launcher" in parts and re.search(r"python\S* 3\d\d\b", parts), total
    seconds, memory = re.search(r"^ +([\d.]+) s +(\d+) MB  cell +1  import time; time.sleep", slowest).groups()
    assert float(seconds) >= 4 and int(memory) < int(peak) - 250
    assert re.search(rf" {peak} MB  cell +2  import subprocess", second)


@pytest.mark.model
def test_serve_says_how_to_reach_it(tmp_path):
    """The command as a user runs it: the address and key that it prints are enough for the official client."""
    import signal

    from openai import OpenAI

    command = [
        sys.executable,
        "-m",
        "course_utils.cli",
        "serve",
        "--port",
        "0",
        "--folder",
        str(tmp_path),
        "--name",
        "gpt-4.1-mini",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = ""
        while "Ctrl-C" not in said:
            said += process.stdout.readline() or pytest.fail(said)
        url, key = (re.search(rf"export {name}=(\S+)", said).group(1) for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"))
        names = [model.id for model in OpenAI(base_url=url, api_key=key).models.list()]
        assert names == ["smollm2-135m-instruct", "gpt-4.1-mini"]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in (0, 130)


def test_serve_refuses_another_address(capsys):
    from course_utils import cli

    assert cli.main(["serve", "--host", "0.0.0.0"]) == 2
    assert "this machine" in capsys.readouterr().err
