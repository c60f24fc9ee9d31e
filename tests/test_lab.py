"""`course lab` serves the course, and a browser shows notebook 02."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support import jupyter
from tornado.websocket import websocket_connect
from visiting import CHROMIUM, needs_jupyterlab

pytestmark = needs_jupyterlab


@pytest.fixture(scope="module")
def lab(tmp_path_factory, packaged):
    command = [sys.executable, "-m", "course_utils.cli", "lab", "--folder", str(tmp_path_factory.mktemp("lessons"))]
    command += ["--ServerApp.disable_check_xsrf=True"]  # so that a test may start a terminal
    with jupyter(command, tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.mark.parametrize("path", ["/lab/tree/02_lora.ipynb", "/api/contents/02_lora.ipynb?content=0"])
def test_notebook_02_is_served(lab, path):
    with urllib.request.urlopen(lab + path, timeout=60) as answer:
        assert answer.status == 200


def test_it_opens_on_the_first_lesson(lab):
    with urllib.request.urlopen(lab, timeout=60) as answer:
        assert answer.url.endswith("/lab/tree/01_decision_framework.ipynb")


def test_its_terminal_finds_the_command(lab):
    """The environment of the server need not be active: make starts it by its path."""
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{lab}/api/terminals", b"{}", headers), timeout=60) as answer:
        name = json.load(answer)["name"]
    address = f"{lab.replace('http', 'ws')}/terminals/websocket/{name}"

    async def printed():
        terminal = await websocket_connect(address)
        await terminal.write_message(json.dumps(["stdin", "command -v course; ls; echo th''e end\r"]))
        text = ""
        while "the end" not in text:
            text += str(json.loads(await asyncio.wait_for(terminal.read_message(), 60))[1:])
        return text

    text = asyncio.run(printed())
    assert str(Path(sys.executable).parent / "course") in text
    assert "02_lora.ipynb" in text  # it opens where the lessons and the files that they write are


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
    assert "LoRA: teach a model a new behaviour" in done.stdout
    assert "Invalid Notebook" not in done.stdout
    assert "Jupyter news" not in done.stdout  # a question that would cover the page
