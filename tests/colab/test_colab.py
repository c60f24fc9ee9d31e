"""What `make colab` stands on: packages told apart, lists compared, cells run in another kernel, a lost runtime."""

import sys

import pytest

from . import disconnect, kernel, machine, run

TINY = f"""
import sys, torch
sys.path.insert(0, {str(run.ROOT / "tests")!r})
from support import tiny_llama
torch.set_num_threads(1)
model, tokenizer = tiny_llama(), models.load_tokenizer(tier="cpu")
"""


def entry(name, version, *requires, extras=None):
    found = {"metadata": {"name": name, "version": version, "requires_dist": list(requires)}}
    return found | ({"requested_extras": extras} if extras else {})


REPORT = {
    "environment": {"python_version": "3.13", "sys_platform": "linux", "platform_system": "Linux"},
    "install": [
        entry("finetuning-course", "1", "torch>=2", "trl; extra == 'trl'", "faker; extra == 'data'", extras=["trl"]),
        entry("torch", "2.11.0", "filelock", "nvidia-nccl-cu13==2.28; platform_system == 'Linux'", "triton==3.6"),
        entry("trl", "0.29.1", "Py_YAML", "rich[jupyter]", "numpy; python_version < '3'"),
        entry("rich", "13.9", "ipywidgets; extra == 'jupyter'"),
        entry("ipywidgets", "7.7.1", "jedi"),
        *(entry(name, "1") for name in ("filelock", "py-yaml", "jedi", "faker", "numpy", "wandb", "triton")),
        entry("nvidia-nccl-cu13", "2.28"),
    ],
}


def test_a_reports_packages_are_told_apart():
    """Markers and extras decide what leads to what; of the host is what the image has, and what torch's build needs."""
    assert machine.reached(REPORT, ["rich"]) == {"rich"}
    reached = machine.reached(REPORT, ["Finetuning_Course"])
    assert reached == {entry["metadata"]["name"] for entry in REPORT["install"]} - {"faker", "numpy", "wandb"}
    image = {"torch": "2.11.0", "Py-YAML": "1", "rich": "13.9", "wandb": "1", "ipywidgets": "7.7.1", "cowsay": "1"}
    host = machine.of_the_host(REPORT, image)
    assert set(host) == {"torch", "py-yaml", "rich", "wandb", "ipywidgets", "nvidia-nccl-cu13", "triton"}  # not jedi
    assert host["nvidia-nccl-cu13"] == "2.28"


def test_what_an_installation_replaced_is_told_from_what_it_added():
    before = {"Py.Parsing": "3", "torch": "2.11.0", "six": "1"}
    after = {"py-parsing": "3", "torch": "2.12.0", "trl": "0.29.1"}
    found = machine.difference(before, after)
    assert found.replaced == {"torch": ("2.11.0", "2.12.0"), "six": ("1", None)}
    assert found.added == {"trl": "0.29.1"}
    assert machine.difference(before, before) == machine.Difference({}, {})


def test_the_image_is_read_with_versions_that_an_index_has():
    image = machine.shipped(run.IMAGE)
    assert len(image) > 600 and image["torch"] != machine.public(image["torch"]) == "2.11.0"
    assert {machine.canonical(name) for name in machine.LOOKED_FOR} <= {machine.canonical(name) for name in image}


def test_a_record_goes_on_where_it_stopped():
    def row(number, cells, errors=0):
        return {"lesson": number, "cells": cells, "errors": ["bad"] * errors, "replaced": {}}

    once = run.merged({}, {"tier": "cpu", "lessons": [row("05", 100, errors=2)]})
    assert (once["cells"], once["errors"]) == (100, 2)
    twice = run.merged(once, {"lessons": [row("01", 50)]})
    assert [r["lesson"] for r in twice["lessons"]] == ["01", "05"] and (twice["cells"], twice["errors"]) == (150, 2)
    again = run.merged(run.merged(twice, {"host": {}}), {"lessons": [row("05", 101)]})
    assert (again["cells"], again["errors"], again["tier"], again["host"]) == (151, 0, "cpu", {})


def ours(**more):
    """The environment of a kernel that has the course as this process has it, and the stand-in for google.colab."""
    paths = ":".join([str(run.ROOT), str(machine.STAND_IN)])
    return machine.environment(PYTHONPATH=paths, **run.ON_COLAB, **more)


def test_a_kernel_is_on_colab_and_where_the_network_is_cut_it_is(tmp_path):
    code = (
        "import socket\nfrom course_utils import hardware\n"
        "print(hardware.detect_environment(), [name for _, name in socket.if_nameindex()])"
    )
    assert kernel.run_cells([code], sys.executable, tmp_path, ours(), cut=True).startswith("colab ['lo'")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        kernel.run_cells(["1 / 0"], sys.executable, tmp_path, ours())


def test_the_fold_of_lesson_02_is_taken_as_it_stands_there():
    code = disconnect.fold()
    assert "from google.colab import drive" in code["mount"].splitlines() and "folder = " in code["mount"]
    assert "checkpoint_folder=folder" in code["course"] and code["trl"].startswith("settings.output_dir, ")
    assert code["train"].startswith("trainer.train(resume_from_checkpoint=")


@pytest.mark.soak("tests/training/test_checkpoints.py kills a run and lets it go on in `make test`")
@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("way", ["course", "trl"])
def test_a_lost_runtime_goes_on_from_the_drive(way, tmp_path):
    """A kernel is killed in training; the same cell in a new one ends with the weights of an undisturbed run."""
    found = disconnect.lose_and_resume(way, sys.executable, tmp_path, ours(), TINY, steps=60)
    assert found.same_weights and found.resumed_after == found.newest > 0
