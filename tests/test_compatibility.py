"""A torchao that PEFT refuses does not stop anybody: tried with one that is installed by name, as on Colab."""

import os
import subprocess
import sys

import pytest

ADAPTER = """
from peft import LoraConfig, get_peft_model
from torch import nn
get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
print("adapted")
"""


@pytest.fixture
def with_torchao(tmp_path):
    """Runs code in a process that finds a torchao of a version."""

    def run(version, code):
        package, info = tmp_path / "torchao", tmp_path / f"torchao-{version}.dist-info"
        package.mkdir()
        (package / "__init__.py").write_text(f"__version__ = {version!r}")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchao\nVersion: {version}\n")
        path = os.pathsep.join([str(tmp_path), *sys.path])
        return subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )

    return run


def test_peft_refuses_colabs_torchao(with_torchao):
    """If PEFT no longer does, the course need not hide it."""
    done = with_torchao("0.10.0", ADAPTER)
    assert "Found an incompatible version of torchao" in done.stderr


def test_an_adapter_is_made_beside_colabs_torchao(with_torchao):
    done = with_torchao("0.10.0", f"import course_utils\n{ADAPTER}")
    assert done.stdout == "adapted\n", done.stderr


def test_no_other_torchao_is_hidden(with_torchao):
    done = with_torchao("0.17.0+cu128", "import course_utils, torchao\nprint(torchao.__version__)")
    assert done.stdout == "0.17.0+cu128\n", done.stderr


def test_one_that_is_imported_already_stays(with_torchao):
    done = with_torchao("0.10.0", "import torchao, course_utils, sys\nprint(sys.modules['torchao'] is torchao)")
    assert done.stdout == "True\n", done.stderr
