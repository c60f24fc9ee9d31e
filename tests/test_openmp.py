"""Threads that wait give up their core soon, in every process of the course; and no import comes too early for that."""

import ast
import os
import re
import subprocess
import sys

import pytest

from course_utils import assets, lessons, openmp
from course_utils.publishing import builder

ALL = {*openmp.GNU_VARIABLES, *openmp.LLVM_VARIABLES}


def test_both_libraries_are_told():
    environment = {}
    openmp.wait_briefly(environment)
    assert environment == {"GOMP_SPINCOUNT": openmp.SPIN_COUNT, "KMP_BLOCKTIME": openmp.BLOCK_TIME}


@pytest.mark.parametrize(
    ("already", "added"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, set()),
        ({"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME"}),
        ({"KMP_BLOCKTIME": "7"}, {"GOMP_SPINCOUNT"}),
    ],
)
def test_what_is_set_already_stays(already, added):
    environment = dict(already)
    openmp.wait_briefly(environment)
    assert environment.items() >= already.items()
    assert environment.keys() - already.keys() == added


def spin_count_in(code, **variables):
    """What GNU OpenMP says it took, in a new process that runs `code` and started without any such variable."""
    environment = {k: v for k, v in os.environ.items() if k not in ALL} | variables | {"OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    told = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not told:
        pytest.skip("torch here is not built with GNU OpenMP")
    return told


@pytest.mark.parametrize(
    "code",
    [
        "import course_utils, torch",
        "from course_utils import models; models.hardware.detect()",
        "from course_utils.openai_server import worker; import torch",
        # what a server, a kernel or a trainer started from a process of the course inherits
        "import course_utils, subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'], check=True)",
    ],
)
def test_the_library_itself_says_so(code):
    assert set(spin_count_in(code)) == {openmp.SPIN_COUNT}


def test_loaded_too_late_it_says_so():
    code = "import torch, course_utils; from course_utils import openmp; print(openmp.wait_briefly())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert set(spin_count_in(code)) != {openmp.SPIN_COUNT}  # and this is why


def imported(source):
    """Names of the packages a source imports, in the order in which its lines stand."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in sorted(statements, key=lambda node: node.lineno):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        yield from (name.split(".")[0] for name in names)


def first_foreign(source):
    return next((name for name in imported(source) if name not in sys.stdlib_module_names), None)


@pytest.mark.parametrize("section", lessons.LESSONS)
def test_a_notebook_imports_the_course_before_anything_that_loads_torch(section):
    cells = (cell.source for cell in builder.learner_edition(section).cells if cell.cell_type == "code")
    assert next(filter(None, map(first_foreign, cells))) == "course_utils"


def test_the_order_test_fails_on_a_planted_fault():
    assert first_foreign("import os\nfrom torch import nn\nimport course_utils") == "torch"


def programs():
    """What is started as a program of its own and loads torch. The service's and the package's modules need no order: the
    package's own code runs before any of them."""
    return sorted((assets.root() / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", programs(), ids=lambda file: file.name)
def test_a_benchmark_imports_the_course_before_anything_that_loads_torch(file):
    assert first_foreign(file.read_text(encoding="utf-8")) in ("course_utils", "common", None)  # common imports it
