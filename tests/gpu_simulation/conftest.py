"""Processes that see a simulated card, to which tests send code: starting one costs an `import torch`."""

import json
import subprocess
import sys
from textwrap import dedent

import pytest

from . import build, driver, run

MEGABYTE = 1 << 20
# Reads a line of JSON (code), runs it, answers with the value of `result` or with the error's type and words.
LOOP = """
import gc, json, sys, torch
for line in sys.stdin:
    names = {"torch": torch}
    gc.collect()  # the memory of the code before
    try:
        exec(json.loads(line), names)
        answer = {"result": names.get("result")}
    except Exception as error:
        answer = {"error": type(error).__name__, "words": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Process:
    """A Python process in which torch sees a card."""

    def __init__(self, gpu, memory_bytes=None, **more):
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOOP],
            env=build.environment(gpu, memory_bytes) | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=build.HERE.parents[1],
        )

    def answer(self, code):
        """What came of the code: {"result": …} or {"error": …, "words": …}."""
        self.process.stdin.write(json.dumps(dedent(code)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __call__(self, code):
        """The value of `result` after the code."""
        answer = self.answer(code)
        assert "error" not in answer, answer
        return answer["result"]

    def refuses(self, code):
        """The error that the code raises, and its words."""
        answer = self.answer(code)
        assert "error" in answer, answer
        return answer["error"], answer["words"]

    def close(self):
        self.process.kill()  # leaving by itself takes it two seconds
        self.process.communicate()


@pytest.fixture(scope="session")
def on_card():
    """Starts such processes, and skips the test with a word where there can be no simulated card."""
    if reason := build.why_not():
        pytest.skip(reason)
    started = {}

    def start(gpu, memory_bytes=None, **more):
        key = (gpu, memory_bytes, *more.items())
        if key not in started:
            started[key] = Process(gpu, memory_bytes, **more)
        return started[key]

    yield start
    for process in started.values():
        process.close()


@pytest.fixture
def t4(on_card):
    return on_card("t4")


@pytest.fixture
def a100(on_card):
    return on_card("a100")


@pytest.fixture
def pair(on_card):
    """Two T4 of 64 MB each."""
    return on_card("2xt4", driver.CONTEXT_BYTES + 64 * MEGABYTE)


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    if reason := build.why_not():
        pytest.skip(reason)
    with run.stand_ins(tmp_path_factory.mktemp("hub")) as folder:
        yield folder
