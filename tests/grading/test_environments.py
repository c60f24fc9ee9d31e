"""The grader works wherever its packages lie: in a folder that the sandbox empties for answers, linked, with spaces."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import pytest
from grading_fixtures import PAID, full, hand_in, points, results

import course_utils

# Uses numpy, finds its scratch folder empty but for the way to the packages, and the packages not to be changed.
CELL = """# EXERCISE: api-4
import numpy as np, numpy.testing, os
open('/tmp/mine', 'w').close()
seen = sorted(set(os.listdir('/tmp')) - {'mine'})
if not np.__file__.startswith(FOLDER): seen.append(np.__file__)
try:
    open(os.path.join(os.path.dirname(np.__file__), 'evil.py'), 'w')
    seen.append('writes')
except OSError:
    pass
def requests_until_paid(training, short, long, answer, tuned, untuned):
    return PAID if seen == ALLOWED and np.float64(training) == training else str(seen)
""".replace("PAID", PAID)


def linked_copy(source, target):
    """The same files under another name; a copy where links do not reach."""
    try:
        shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    except (OSError, shutil.Error):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)


def environment(folder, kind):
    """A virtual environment whose numpy is its own; all else comes by a .pth file from the one that runs the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = Path(numpy.__file__).parent.parent
    for name in ("numpy", "numpy.libs", f"numpy-{numpy.__version__}.dist-info"):
        if (ours / name).exists():
            real = packages / name if kind == "copied" else folder / "store" / "v1" / name
            linked_copy(ours / name, real)
            if kind == "linked":
                (packages / name).symlink_to(real)
    elsewhere = [str(importlib.metadata.distribution(name).locate_file("")) for name in ("torch", "tqdm")]
    others = dict.fromkeys([str(ours), *elsewhere])
    (packages / "others.pth").write_text("\n".join(others))
    return folder / "bin" / "python"


@pytest.mark.parametrize(("place", "kind"), [("/tmp", "copied"), ("/tmp", "linked"), ("/dev/shm", "copied")])
def test_an_environment_and_a_clone_under_a_folder_that_is_scratch_in_the_sandbox(place, kind):
    with tempfile.TemporaryDirectory(prefix="an environment ", dir=place) as made:
        folder = Path(made)
        python = environment(folder / "my venv", kind)
        clone = folder / "a clone"
        shutil.copytree(
            Path(course_utils.__file__).parent, clone / "course_utils", ignore=shutil.ignore_patterns("__pycache__")
        )
        for part in ("notebooks", "data"):  # what grading reads besides the package: who handed in what, and a pool of rows
            shutil.copytree(Path(course_utils.__file__).parent.parent / part, clone / part)
        # Besides the folder also this clone's, should it lie there.
        kept = [folder, Path(course_utils.__file__).resolve(), Path(sys.prefix).resolve()] if place == "/tmp" else []
        allowed = sorted({path.relative_to(place).parts[0] for path in kept if path.is_relative_to(place)})
        cell = CELL.replace("ALLOWED", repr(allowed)).replace("FOLDER", repr(made))
        hand_in(folder / "in", "a", "06", {"api-4": cell})
        command = [python, "-m", "course_utils.cli", "grade", "06", folder / "in", "--out", folder / "out", "--jobs", "1"]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(clone)}, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert points(folder / "out", "a") == full("06"), str(results(folder / "out", "a")["tests"])
        assert results(folder / "out", "a")["extra_data"]["no_new_processes"]
