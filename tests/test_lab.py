"""`course lab` serves the course; a browser shows notebook 02, and in a calculator what the function says."""

import asyncio
import json
import sys
import urllib.request
from pathlib import Path

import pytest
from support import jupyter, wait_until
from tornado.websocket import websocket_connect
from visiting import needs_chromium, needs_jupyterlab

from course_utils.decision import decide

pytestmark = needs_jupyterlab
CELL = "from course_utils import show\nshow.calculator('decision')"


@pytest.fixture(scope="module")
def lab(tmp_path_factory, packaged):
    folder = tmp_path_factory.mktemp("lessons")
    cell = {"cell_type": "code", "id": "one", "source": CELL, "metadata": {}, "outputs": [], "execution_count": None}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": [cell]}
    (folder / "helper.ipynb").write_text(json.dumps(notebook))
    command = [sys.executable, "-m", "course_utils.cli", "lab", "--folder", str(folder)]
    command += ["--ServerApp.disable_check_xsrf=True"]  # so that a test may start a terminal
    with jupyter(command, tmp_path_factory.mktemp("home")) as address:
        yield address


def test_lessons_are_served_and_it_opens_on_the_first(lab):
    for path, leads_to in (
        ("/lab/tree/02_lora.ipynb", "02_lora.ipynb"),
        ("/api/contents/02_lora.ipynb?content=0", "content=0"),
        ("", "/lab/tree/01_decision_framework.ipynb"),
    ):
        with urllib.request.urlopen(lab + path, timeout=60) as answer:
            assert answer.status == 200 and answer.url.endswith(leads_to)


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


@pytest.fixture
def page(lab, browser):
    page = browser.new_page(viewport={"width": 1300, "height": 1100})
    page.set_default_timeout(90_000)
    yield page
    page.close()


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_the_lesson_with_its_outputs(lab, page):
    page.goto(f"{lab}/lab/tree/02_lora.ipynb")
    page.locator(".jp-MarkdownCell h1", has_text="LoRA: teach a model a new behaviour").wait_for()
    page.locator(".jp-OutputArea-output").first.wait_for()
    shown = page.content()
    assert "Invalid Notebook" not in shown
    assert "Jupyter news" not in shown  # a question that would cover the page


def control(page, question):
    """The input beside a question of the helper."""
    box = page.locator(".jupyter-widgets", has=page.get_by_text(question)).last
    return box.locator("select, input").first


def shows(page, decision):
    """Everything that the function says comes to stand in the browser, and in its order."""
    parts = (*decision.reasons, decision.next_step, *decision.changes)
    found = page.locator(".widget-html-content", has_text=decision.headline)

    def there():
        text, place = found.inner_text() if found.count() == 1 else "", 0
        for part in parts:
            place = text.find(part, place)
            if place < 0:
                return False
        return True

    assert decision.reasons and decision.next_step
    wait_until(there)


@pytest.mark.slow
@needs_chromium
def test_each_changed_answer_changes_the_calculator_as_the_function_says(lab, page):
    from playwright.sync_api import TimeoutError

    page.goto(f"{lab}/lab/tree/helper.ipynb")
    cell = page.get_by_text("from course_utils import show").first
    page.get_by_text("| Idle").wait_for()  # before the kernel is there, Lab drops a command to run
    for _ in range(5):
        cell.click()
        page.keyboard.press("Control+Enter")
        try:
            page.locator(".widget-dropdown select").first.wait_for(timeout=30_000)
            break
        except TimeoutError:
            continue
    answers = {"gap": "behaviour", "prompt_reaches": 0.7, "examples": 300, "requests_a_day": 1000}
    shows(page, decide(**answers))  # it starts with these
    for name, question, value, act in (
        ("gap", "What is missing?", "both", lambda c: c.select_option("both")),
        ("facts_change", "How often do the facts", "daily", lambda c: c.select_option("daily")),
        ("own_machines", "stay on your own machines", True, lambda c: c.check()),
        ("examples", "How many good, checked examples", 40, lambda c: (c.fill("40"), c.press("Enter"))),
        ("prompt_reaches", "How much of the goal", 0.9, lambda c: c.select_option("90 %")),
        ("requests_a_day", "How many requests", 900_000, lambda c: (c.fill("900000"), c.press("Enter"))),
        ("prompt_reaches", "How much of the goal", None, lambda c: c.select_option("not measured")),
    ):
        act(control(page, question))
        answers[name] = value
        shows(page, decide(**answers))
