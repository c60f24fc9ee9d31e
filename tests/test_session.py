"""What importing the course leaves alone, and what a process that is prepared for it gets: threads, cards, torchao."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from course_utils import assets, lessons, session
from course_utils.publishing import builder

INHERITED = ("HOME", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR")
CACHES = dict.fromkeys(("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), session.PREPARED_PRODUCTS)
ANYWAY = CACHES | {"USE_HUB_KERNELS": "0"}
VARIABLES = {"GOMP_SPINCOUNT": session.SPIN_COUNT, "KMP_BLOCKTIME": session.BLOCK_TIME} | ANYWAY
STATE = """
import importlib, logging, os, sys, types, warnings
def state():
    loggers = {name: getattr(one, "level", 0) for name, one in logging.root.manager.loggerDict.items()}
    hooks = sys.excepthook, sys.displayhook, sys.unraisablehook, sys.meta_path[:], sys.path_hooks[:], sys.path[:]
    levels = {name: level for name, level in loggers.items() if level} | {"": logging.root.level}
    return dict(os.environ), sys.modules.get("torchao", 0), warnings.filters[:], levels, logging.root.handlers[:], hooks
sys.modules["ipykernel"] = types.ModuleType("ipykernel")
"""
# Modules whose libraries change the process, two programs that are started and never imported, and one that needs nbgrader.
LEFT_OUT = re.compile(r"\.(fused|recognizers|child|__main__|nbgrader_plugin|_assets)\b")
ADAPTER = """
from peft import LoraConfig, get_peft_model
from torch import nn
get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
print("adapted")
"""
PREPARE = "from course_utils import session\nsession.prepare_process()\n"


def run(code, **variables):
    """Run code in a new process that inherits nothing that this one, which has imported the course, may have set."""
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.fixture
def with_torchao(tmp_path):
    """Runs code in a process that finds a torchao of a version, by name only, as Colab has it."""

    def run_code(version, code):
        package, info = tmp_path / "torchao", tmp_path / f"torchao-{version}.dist-info"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(f"__version__ = {version!r}")
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchao\nVersion: {version}\n")
        return run(code, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))

    return run_code


# -- importing


def test_importing_the_package_changes_nothing_of_the_process(with_torchao):
    done = with_torchao("0.10.0", f"{STATE}\nbefore = state()\nimport course_utils\nassert state() == before, state()")
    assert done.returncode == 0, done.stderr


def test_importing_its_modules_changes_nothing_of_the_process():
    files = (file.relative_to(assets.PACKAGE.parent).with_suffix("") for file in assets.PACKAGE.rglob("*.py"))
    modules = [name for file in files if not LEFT_OUT.search(name := ".".join(file.parts).removesuffix(".__init__"))]
    assert len(modules) > 100
    code = f"""{STATE}
import numpy
before = state()
for name in {modules}:
    importlib.import_module(name)
    changed = [pair for pair in zip(before, state()) if pair[0] != pair[1]]
    assert not changed, name
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


# -- preparing a process


KERNEL = ("sys", "ipykernel")
CARD = {"CUDA_VISIBLE_DEVICES": "0"}


@pytest.mark.parametrize(
    ("already", "modules", "changed"),
    [
        ({}, ("sys",), VARIABLES),  # a script, or the service, may use all cards
        ({}, KERNEL, VARIABLES | CARD),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, KERNEL, CARD | ANYWAY),
        ({"GOMP_SPINCOUNT": "7"}, ("sys",), {"KMP_BLOCKTIME": session.BLOCK_TIME} | ANYWAY),
        ({"KMP_BLOCKTIME": "7"}, ("sys",), {"GOMP_SPINCOUNT": session.SPIN_COUNT} | ANYWAY),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, KERNEL, VARIABLES),
        ({"LOCAL_RANK": "1"}, KERNEL, VARIABLES),  # accelerate launch, notebook_launcher
        ({}, (*KERNEL, "torch"), VARIABLES),  # it may have counted the cards; the variables are for processes started later
        (VARIABLES, (*KERNEL, "torch"), {}),
    ],
)
def test_what_the_user_has_set_stays_and_nothing_is_set_twice(monkeypatch, already, modules, changed):
    environment = dict(already)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(session, "sys", SimpleNamespace(modules=dict.fromkeys([*modules, "torchao"])))
    assert session.prepare_process() == changed and environment == already | changed
    assert session.prepare_process() == {}


@pytest.mark.parametrize(
    ("code", "spins"),
    [
        (f"{PREPARE}import torch", {session.SPIN_COUNT}),
        # what a server, a kernel or a trainer started from a prepared process inherits
        (f"{PREPARE}import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])", {session.SPIN_COUNT}),
        (f"import torch\n{PREPARE}", set()),
    ],
)
def test_the_library_itself_says_how_long_its_threads_spin(code, spins):
    done = run(code, OMP_DISPLAY_ENV="VERBOSE")
    assert done.returncode == 0, done.stderr
    found = set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr))
    if not found:
        pytest.skip("torch here is not built with GNU OpenMP")
    assert found == spins if spins else session.SPIN_COUNT not in found


def test_an_adapter_is_made_beside_colabs_torchao(with_torchao):
    """If PEFT no longer refuses it, the course need not hide it."""
    assert "Found an incompatible version of torchao" in with_torchao("0.10.0", ADAPTER).stderr
    done = with_torchao("0.10.0", PREPARE + ADAPTER)
    assert done.stdout == "adapted\n", done.stderr


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("0.17.0+cu128", f"{PREPARE}import torchao\nprint(torchao.__version__)"),
        ("0.10.0", f"import torchao\n{PREPARE}import torchao\nprint(torchao.__version__)"),  # it is imported already
    ],
)
def test_no_other_torchao_is_hidden(with_torchao, version, code):
    done = with_torchao(version, code)
    assert done.stdout == f"{version}\n", done.stderr


# -- who prepares: the service's processes are tested in openai_server/test_gate.py


@pytest.mark.parametrize("section", lessons.NOTEBOOKS)
def test_a_lesson_prepares_its_process_in_its_first_cell(section):
    first = next(cell for cell in builder.learner_edition(section).cells if cell.cell_type == "code")
    assert re.search(r'(?m)^from course_utils import session; session\.start_lesson\("[a-z,]+"\)$', first.source)


def test_bars_and_notices_of_libraries_stay_out_of_a_lesson():
    """In a process of its own: switching them off would outlast the test."""
    done = run("""
import warnings
from course_utils import session
session.start_lesson("trl")
warnings.warn("in v6 this goes", FutureWarning)
warnings.warn("your labels are all -100", UserWarning)
from datasets import Dataset
Dataset.from_list([{"a": 1}] * 10).map(lambda row: row)
""")
    assert "labels are all" in done.stderr  # what a learner can act on
    assert "v6" not in done.stderr and "Map" not in done.stderr and done.stdout == ""


def test_a_lesson_says_when_torch_was_loaded_too_early():
    assert "restart the kernel" in run("import torch\nfrom course_utils import session\nsession.start_lesson('trl')").stdout


# -- memory


@pytest.mark.skipif(sys.platform != "linux", reason="counts the memory that glibc has given out")
def test_products_of_many_shapes_do_not_fill_the_memory():
    """Where oneDNN multiplies: after a hundred lengths its caches are full, and a hundred more take nothing."""
    code = f"""{PREPARE}
import ctypes, torch
class Counts(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
def in_use():
    counts = ctypes.CDLL(None).mallinfo2
    counts.restype = Counts
    return counts().uordblks
layers = [torch.nn.Linear(576, size, dtype=torch.bfloat16) for size in (192, 576, 1536)]
def multiply(length):
    for layer in layers:
        layer(torch.ones(1, length, 576, dtype=torch.bfloat16)).sum().backward()
for length in range(50, 250):
    if length == 150:
        before = in_use()
    multiply(length)
print((in_use() - before) / 1e6)
"""
    done = run(code)
    assert float(done.stdout) < 10, done.stderr


def test_freed_memory_is_given_back_after_long_cells_and_deletions_only(monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    from course_utils import memory

    shell, releases = InteractiveShell(), []
    monkeypatch.setattr(memory, "release", lambda: releases.append("released"))
    monkeypatch.setattr(session, "LONG_CELL_SECONDS", 0.2)
    for _ in range(2):  # as when the first cell is run again
        session._release_after_long_cells(shell)
    shell.run_cell("1 + 1")
    assert releases == []
    shell.run_cell("import time; time.sleep(0.3)")
    assert releases == ["released"]
    shell.run_cell("x = 1\ndel x")
    assert releases == ["released"] * 2
