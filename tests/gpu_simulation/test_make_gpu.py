"""`make gpu`: what it measures runs on a simulated card, and what was cut off goes on."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from course_utils import assets, hardware, plans

from . import build

BENCHMARKS = assets.root() / "benchmarks"
CARD = hardware.Device("Tesla T4", "cuda", "t4", 15_828_320_256, (7, 5), "float16", "plain", 2)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """benchmarks/gpu.py, its records in a folder of their own and each result made up."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import common
    import gpu

    measured = []

    def in_a_process(*arguments):
        measured.append(arguments)
        if arguments == ("device",):
            return asdict(CARD)
        if arguments[0] == "lesson":
            return {"seconds": 60.0, "peak_bytes": 10**9, "card_peak_bytes": 2 * 10**9}
        return {"missing": "needs flash_attn"} if "flash" in arguments[-1] else {
            "seconds": 2.0, "peak_bytes": 10**9, "loss": 0.5, "rate": 1e-4,
        }  # fmt: skip

    monkeypatch.setattr(common, "RECORDS", tmp_path)
    monkeypatch.setattr(gpu, "in_a_process", in_a_process)
    monkeypatch.setattr(gpu.gpu_memory, "rows", lambda: [{"row": 1}, {"row": 2}])
    monkeypatch.setattr(gpu.gpu_memory, "compare", lambda row: measured.append(row) or {"total_error": 0.01})
    monkeypatch.setattr(gpu.Record.__init__, "__defaults__", (tmp_path,))
    return gpu, measured, tmp_path


def run(gpu, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    return gpu.main()


def test_it_goes_on_where_it_was_cut_off(gpu, monkeypatch, capsys):
    gpu, measured, folder = gpu
    whole = gpu.in_a_process

    def cut(*arguments):
        if arguments == ("lesson", "03"):
            raise KeyboardInterrupt
        return {"error": "out of memory"} if arguments == ("lesson", "02") else whole(*arguments)

    monkeypatch.setattr(gpu, "in_a_process", cut)
    with pytest.raises(KeyboardInterrupt):
        run(gpu, monkeypatch)
    (file,) = folder.glob("gpu-tesla-t4-*.json")
    record = json.loads(file.read_text())
    assert list(record["lessons"]) == ["01", "02"] and len(record["memory"]) == 2 and not record["complete"]
    assert record["machine"] == "Tesla T4, 2 cores"
    monkeypatch.setattr(gpu, "in_a_process", whole)
    measured.clear()
    assert run(gpu, monkeypatch) == 0
    lessons = [arguments[1] for arguments in measured if arguments[0] == "lesson"]
    assert (
        lessons == ["02", "03", "04", "05", "06", "further/04"] and {"row": 1} not in measured
    )  # what failed is measured again
    assert json.loads(file.read_text())["complete"]
    printed = capsys.readouterr().out
    assert "lesson 03: 60 s, 1.0 GB, 2.0 GB of the card" in printed and "sft: TRL, packed, flash attention: needs" in printed
    assert "memory: 2 steps, mean error 1.0 %" in printed and "FAILED" not in printed
    measured.clear()
    run(gpu, monkeypatch)
    assert {"row": 1} in measured  # a record that is complete stays as it is: this is another one


def test_one_part_or_lesson_can_be_asked_for(gpu, monkeypatch):
    gpu, measured, _ = gpu
    run(gpu, monkeypatch, "lessons", "--lesson", "04")
    assert measured == [("device",), ("lesson", "04")]


def test_a_failure_costs_one_result(gpu, monkeypatch, capsys):
    gpu, measured, _ = gpu
    monkeypatch.setattr(gpu.gpu_memory, "compare", lambda row: 1 / 0)
    assert run(gpu, monkeypatch, "memory", "rates") == 1
    assert [arguments for arguments in measured if arguments[0] == "rate"]
    assert 'FAILED memory {"row": 1}: ZeroDivisionError' in capsys.readouterr().out


def test_the_cards_memory_is_its_drivers(gpu, monkeypatch, tmp_path):
    gpu, *_ = gpu
    program, file = tmp_path / "nvidia-smi", tmp_path / "used"
    program.write_text(f"#!/bin/sh\ncat {file}\n")
    program.chmod(0o755)
    file.write_text("300\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(gpu.gpu_steps, "SAMPLE_SECONDS", 0.01)
    with gpu.gpu_steps.CardPeak() as card:
        file.write_text("5300\n")
        while not card.bytes:
            pass
    assert card.bytes == 5000 * 2**20
    program.unlink()
    monkeypatch.setenv("PATH", "/nowhere")
    with gpu.gpu_steps.CardPeak() as card:
        pass
    assert card.bytes is None


SELDOM = [
    *(("rate", lesson, factor) for lesson, factor in (("02", "0.5"), ("03", "1"), ("04", "2"))),
    *(("speed", "sft", way) for way in ("ours", "TRL as installed")),
]
SOAK = pytest.mark.soak("one step on a card runs in `make test`")


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [("speed", "dpo", "TRL as installed"), *(pytest.param(step, marks=SOAK) for step in SELDOM)],
    ids=" ".join,
)
def test_each_step_runs_on_a_card(hub, step):
    environment = build.environment("t4") | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", plans.SMALL: "1"}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_steps.py", *step], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert 5 < result["loss"] < 12 if step[0] == "speed" else result["loss"] < 12
    assert result["seconds"] > 0 and (step[0] == "rate" or result["peak_bytes"] > 10**6)
    assert step[0] == "speed" or result["rate"] == float(step[2]) * plans.PLANS[step[1]]["t4"].learning_rate
