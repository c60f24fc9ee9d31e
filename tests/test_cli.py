"""The command `course`, as a learner types it."""

import json
import re
import subprocess
import sys

import pytest

from course_utils import cli, doctor, hardware, models
from course_utils.models import packaged

TIER_MODELS = [choice.name.rpartition("/")[2].removesuffix("-Instruct") for choice in models.TIERS.values()]


def course(*arguments):
    command = [sys.executable, "-m", "course_utils.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def told(capsys, *arguments, status=0):
    """What a command prints with --json, and what it says meanwhile."""
    assert cli.main([*map(str, arguments), "--json"]) == status
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1, printed.out
    return json.loads(printed.out), printed.err


def test_doctor_for_people_and_for_programs(packaged, capsys):
    found, _ = told(capsys, "doctor")
    assert found["device"]["kind"] in ("cpu", "cuda", "mps")
    assert found["device"]["tier"] in models.TIERS
    assert found["model_ready"] is True
    assert found["versions"]["torch"]
    assert [row["model"] for row in found["fits"]] == TIER_MODELS
    assert found["disk_free_bytes"] > 0
    assert cli.main(["doctor"]) == 0
    people = capsys.readouterr().out
    assert all(f"\n{word}" in f"\n{people}" for word in ("device", "packages", "disk", "fits", "advice"))


def test_doctor_says_what_to_do_when_the_model_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "deep" / "cache"))
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "not fetched yet" in said and "run `course fetch` once" in said


def diagnose(monkeypatch, **changes):
    device = {"name": "Tesla T4", "kind": "cuda", "tier": "t4", "memory_bytes": 15_828_320_256,
              "compute_capability": (7, 5), "dtype": "float16", "environment": "colab", "cores": 2}  # fmt: skip
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Device(**(device | changes)))
    return doctor.examine()


def test_doctor_on_a_t4_knows_what_fits(monkeypatch):
    """No GPU here: the device is made up, the arithmetic is real."""
    found = diagnose(monkeypatch)
    assert [(row[0], row[3]) for row in found.fits] == [
        ("SmolLM2-135M", True), ("Qwen2.5-Coder-0.5B", True), ("SmolLM2-1.7B", True), ("granite-4.1-8b", False),
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


def test_doctor_says_what_the_laptop_tier_takes(monkeypatch):
    laptop = {"kind": "cpu", "tier": "laptop", "compute_capability": None}
    small, large = (diagnose(monkeypatch, memory_bytes=size, **laptop) for size in (4_000_000_000, 16_000_000_000))
    assert re.search(r"^run all   \d+ to \d+ minutes a lesson, \d+ in all, and up to [4-9]\.\d GB", str(large), re.M)
    assert any("leave COURSE_TIER out" in line for line in small.advice)
    assert not any("COURSE_TIER" in line for line in large.advice)
    assert "run all" not in str(diagnose(monkeypatch, **laptop | {"tier": "cpu"}))


def test_doctor_on_a_gpu_does_not_send_for_the_cpus_model(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged.PackagedModel, "is_ready", lambda _: False)
    monkeypatch.setattr(models, "hub_model_ready", lambda name: False)
    found = diagnose(monkeypatch)
    assert not any("course fetch" in line for line in found.advice)
    assert "SmolLM2-1.7B-Instruct" in str(found) and "not fetched yet" in str(found).split("lessons ")[1].splitlines()[0]
    monkeypatch.setattr(models, "hub_model_ready", lambda name: True)
    assert "not fetched yet" not in str(diagnose(monkeypatch)).split("lessons ")[1].splitlines()[0]


def test_doctor_on_a_gpu_says_when_the_disk_is_too_small_for_its_model(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(models, "hub_model_ready", lambda name: False)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2_000_000_000))
    assert any("1.7B-Instruct needs 3.4 GB of disk" in line and "HF_HOME" in line for line in diagnose(monkeypatch).advice)


def test_doctor_notices_old_packages(monkeypatch):
    real = doctor.session.installed_version
    monkeypatch.setattr(doctor.session, "installed_version", lambda name: "1.0" if name == "tqdm" else real(name))
    found = doctor.examine()
    assert any(line.startswith("tqdm is 1.0, the course needs >=4.67") for line in found.advice)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "07"], "unknown lesson '07'; there are 01_decision_framework, 02_lora"),
        (["run", "nothing.ipynb"], "no such notebook: nothing.ipynb"),
        (["build", "9"], "unknown lesson '9'"),
        (["build", "9", "--json"], "unknown lesson '9'"),
    ],
)
def test_mistakes_at_the_command_line_are_one_sentence(capsys, arguments, said):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and printed.out == ""


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
    assert done.returncode == 2 and "cell 2 failed: AssertionError: not so" in done.stderr


def test_run_tells_programs_what_each_cell_cost(tmp_path):
    """A cell that waits, and one that takes memory in a process of its own."""
    import nbformat

    sources = (
        "import time; time.sleep(2)",
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'x = bytearray(300_000_000); import time; time.sleep(2)'], check=True);",
    )
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources))), tmp_path / "x.ipynb")
    (found,) = json.loads(course("run", str(tmp_path / "x.ipynb"), "--json").stdout)
    waits, takes = found["cells"]
    assert waits["seconds"] >= 2 and waits["peak_bytes"] < takes["peak_bytes"] - 250e6
    assert takes["peak_bytes"] == found["peak_bytes"] > 320e6 and takes["first_line"] == "import subprocess, sys"
    assert any(name.startswith("python") and 300e6 < size < 400e6 for name, size in found["parts"])


@pytest.mark.model
def test_serve_says_how_to_reach_it(tmp_path):
    """The command as a user runs it: the address and key that it prints are enough for the official client."""
    import signal

    from openai import OpenAI

    command = [sys.executable, "-m", "course_utils.cli", "serve", "--port", "0", "--name", "gpt-4.1-mini"]
    command += ["--folder", str(tmp_path)]
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


# -- for programs -------------------------------------------------------------------------------------------------------


def test_every_command_but_lab_speaks_to_programs(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = re.findall(r"^    ([a-z-]+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    assert {"lab", "book", "grade", "release"} <= set(commands)
    for command in set(commands) - {"lab"}:
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "--json" in capsys.readouterr().out, command


@pytest.mark.parametrize("command", ["train-script", "clean-script"])
def test_a_lessons_script_is_written_once(capsys, tmp_path, command):
    file = tmp_path / "mine.py"
    assert told(capsys, command, "--out", file)[0] == {"file": str(file)}
    compile(file.read_text(encoding="utf-8"), str(file), "exec")
    assert cli.main([command, "--out", str(file)]) == 2 and "exists" in capsys.readouterr().err


def test_run_and_build_tell_programs_what_they_did(capsys, monkeypatch, tmp_path):
    """The work itself is done elsewhere in these tests."""
    from course_utils import publishing
    from course_utils.publishing.runner import CellCost, RunCost

    def run(file, report):
        report("it runs")
        return RunCost(1.5, 2, [("python", 2)], [CellCost(0, 1.5, 2, "x = 1")])

    def build(lesson, report, whole):
        report("it builds whole" if whole else "it builds")
        return tmp_path / f"{lesson}.ipynb"

    monkeypatch.setattr(publishing, "run", run)
    monkeypatch.setattr(publishing, "build", build)
    monkeypatch.setattr(publishing, "is_stale", lambda lesson: lesson == "03")
    (tmp_path / "x.ipynb").write_text("")
    cell = {"index": 0, "seconds": 1.5, "peak_bytes": 2, "first_line": "x = 1"}
    cost = {"seconds": 1.5, "peak_bytes": 2, "parts": [["python", 2]], "cells": [cell]}
    assert told(capsys, "run", tmp_path / "x.ipynb") == ([{"notebook": str(tmp_path / "x.ipynb"), **cost}], "it runs\n")
    assert told(capsys, "build", "02") == ({"built": [str(tmp_path / "02.ipynb")]}, "it builds\n")
    assert told(capsys, "build", "--rerun", "02")[1] == "it builds whole\n"
    assert told(capsys, "build", "--check", "02", "03", status=1)[0] == {"stale": ["03"]}
    assert told(capsys, "build", "--check", "02")[0] == {"stale": []}


def test_what_a_command_does_not_take_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "extra", "--more"])
    assert end.value.code == 2
    assert "doctor does not take extra --more; `course doctor --help` says what it takes" in capsys.readouterr().err


def test_fetch_and_serve_tell_programs_where_it_is(capsys, monkeypatch, tmp_path):
    from course_utils.openai_server import serving

    def prepare(model, report):
        report(f"it fetches {model.name}")
        return tmp_path

    monkeypatch.setattr(packaged, "prepare", prepare)
    monkeypatch.setattr(models, "fetch", lambda name: f"{name} of the hub")
    monkeypatch.setattr(serving, "serve", lambda options, ready: ready("http://127.0.0.1:1/v1", "sk-x"))
    laptop = models.TIERS["laptop"].name
    asked = {(): models.PACKAGED.name, ("cpu",): models.PACKAGED.name, ("laptop", "--from-index"): laptop}
    for arguments, name in asked.items():
        assert told(capsys, "fetch", *arguments) == ({"model": name, "folder": str(tmp_path)}, f"it fetches {name}\n")
    assert told(capsys, "fetch", "laptop") == ({"model": laptop, "folder": f"{laptop} of the hub"}, "")
    found, _ = told(capsys, "serve", "--folder", tmp_path, "--model", "cpu")
    assert found["base_url"] == "http://127.0.0.1:1/v1" and found["api_key"] == "sk-x" and found["folder"] == str(tmp_path)


def test_grade_nbgrader_and_release_tell_programs_what_they_wrote(capsys, monkeypatch, tmp_path):
    from course_utils.grading import batch, nbgrader_course, release

    graded = batch.Graded(3, 1, 2, 0, 7, "bubblewrap", (tmp_path / "grades.csv",), 1.5)
    monkeypatch.setattr(batch, "grade", lambda **_: graded)
    found, _ = told(capsys, "grade", "02", tmp_path, "--out", tmp_path, status=1)
    assert (found["new"], found["problems"], found["seed"]) == (3, 2, 7)
    assert found["files"] == [str(tmp_path / "grades.csv")] and found["learners"] == str(tmp_path / "learners")
    monkeypatch.setattr(nbgrader_course, "write_course", lambda *_: ["02_lora"])
    assert told(capsys, "nbgrader", "02", "F")[0] == {"folder": "F", "assignments": ["02_lora"]}
    monkeypatch.setattr(nbgrader_course, "hand_in", lambda *_: nbgrader_course.HandedIn(("ada",), {"bob": ["no notebook"]}))
    found, _ = told(capsys, "nbgrader", "02", "F", "--inbox", "I", status=1)
    assert found == {"folder": "F", "learners": ["ada"], "problems": {"bob": ["no notebook"]}}
    monkeypatch.setattr(release, "release", lambda *_: release.Packs(tmp_path / "l", tmp_path / "i", ("02_lora",), 7))
    found, _ = told(capsys, "release", "02", "--out", tmp_path)
    assert found == {"learner": str(tmp_path / "l"), "instructor": str(tmp_path / "i"), "sections": ["02_lora"], "seed": 7}


def test_check_data_tells_programs_what_it_wrote(capsys, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"Is {i} odd?"}, {"role": "assistant", "content": "no"}]} for i in range(9)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, _ = told(capsys, "check-data", tmp_path / "x.jsonl", "--fix", tmp_path / "out", "--workers", 1)
    assert str(tmp_path / "out" / "train.jsonl") in found["files"] and found["counts"]


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path):
    """`course check-data FILE | head -1`: the reader goes before the report is written."""
    file = tmp_path / "many.jsonl"
    file.write_text("not json\n" * 20_000, encoding="utf-8")
    command = [sys.executable, "-m", "course_utils.cli", "check-data", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()
        said = run.stderr.read()
    assert run.returncode == 141 and "Traceback" not in said and "BrokenPipe" not in said


def test_the_commands_that_lessons_print_can_be_typed(capsys):
    """Every `course …` in a lesson's text or code that names an existing command is one that its parser takes."""
    import shlex

    from course_utils import lessons

    known = "estimate|doctor|lab|run|fetch|restore|check-data|clean-script|train-script"  # need no argument, or have it
    found = set()
    for lesson in lessons.NOTEBOOKS.values():
        text = lessons.source_file(lesson.name).read_text(encoding="utf-8")
        found |= set(re.findall(rf"`(course (?:{known}) ?[^`]*)`", text))
    assert len(found) >= 10
    for command in found:
        cli._parser().parse_args([word for word in shlex.split(command)[1:] if word != "…"])


def test_doctor_knows_a_model_that_came_from_the_index(monkeypatch):
    monkeypatch.setenv(hardware.TIER, "laptop")
    monkeypatch.setattr(models, "hub_model_ready", lambda name: False)
    for ready in (False, True):
        monkeypatch.setattr(packaged.PackagedModel, "is_ready", lambda _, ready=ready: ready)
        line = next(line for line in str(doctor.examine()).splitlines() if line.startswith("lessons"))
        assert models.TIERS["laptop"].name in line and ("not fetched yet" not in line) == ready
