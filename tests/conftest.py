"""What tests share: a model small enough to build in a blink, and the packaged one, loaded once a process."""

import os
from collections import Counter

import pytest
from support import tiny_llama


def pytest_collection_modifyitems(items):
    """Leave out what is for `make soak`, and put files with slow tests first.

    So no process is left alone with one of them when the other has finished.
    """
    if not os.environ.get("COURSE_SOAK"):
        for item in items:
            if marker := item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason=f"takes minutes: part of `make soak` ({marker.args[0]})"))
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def packaged():
    """(model, tokenizer) of the CPU tier; tests must leave the model as they found it."""
    from course_utils import models

    return models.load(tier="cpu")


@pytest.fixture
def tokenizer(packaged):
    """That of the CPU tier."""
    return packaged[1]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, packaged):
    """Folder with a Llama of two thin layers and random weights, and the course's tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama(max_position_embeddings=2048).save_pretrained(folder)
    packaged[1].save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tiny(packaged):
    """A new Llama of two layers with random weights in float32, and the real tokenizer."""
    return tiny_llama(), packaged[1]


@pytest.fixture(scope="module")
def browser():
    """A browser for the tests of a module."""
    from playwright.sync_api import sync_playwright
    from visiting import CHROMIUM

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
