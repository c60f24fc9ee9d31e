"""`course lab` serves the course, and a browser shows notebook 02."""

import importlib.util
import shutil
import subprocess
import sys
import urllib.request

import pytest
from support import jupyter

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="needs the extra `lab`")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, packaged):
    with jupyter([sys.executable, "-m", "course_utils.cli", "lab"], tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.mark.parametrize("path", ["/lab/tree/02_lora.ipynb", "/api/contents/02_lora.ipynb?content=0"])
def test_notebook_02_is_served(lab, path):
    with urllib.request.urlopen(lab + path, timeout=60) as answer:
        assert answer.status == 200


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (see README)")
def test_a_browser_shows_the_lesson_with_its_outputs(lab, tmp_path):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path}", "--window-size=1400,2400", "--virtual-time-budget=60000", "--dump-dom",
        f"{lab}/lab/tree/02_lora.ipynb",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert "LoRA: teach a new behaviour" in done.stdout
    assert "Invalid Notebook" not in done.stdout
