"""A calculator, driven in a real browser in JupyterLab: what it shows is what the function says."""

import json
import sys

import pytest
from support import jupyter, wait_until
from visiting import needs_chromium, needs_jupyterlab

from course_utils.decision import decide

pytestmark = [pytest.mark.slow, needs_chromium, needs_jupyterlab]
EVIDENCE = {"knowledge": "RAG 34 % & fine-tuned <1 %", "behaviour": "84 % against 2 %"}
CELL = f"from course_utils import show\nshow.calculator('decision', evidence={EVIDENCE!r})"


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser):
    from playwright.sync_api import TimeoutError

    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home")
    cell = {"cell_type": "code", "id": "one", "source": CELL, "metadata": {}, "outputs": [], "execution_count": None}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": [cell]}
    (folder / "helper.ipynb").write_text(json.dumps(notebook))
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", f"--ServerApp.root_dir={folder}"]
    with jupyter(command, home) as address:
        page = browser.new_page(viewport={"width": 1300, "height": 1100})
        page.goto(f"{address}/lab/tree/helper.ipynb", timeout=90_000)
        cell = page.get_by_text("from course_utils import show").first
        page.get_by_text("| Idle").wait_for(timeout=90_000)  # before the kernel is there, Lab drops a command to run
        for _ in range(5):
            cell.click()
            page.keyboard.press("Control+Enter")
            try:
                page.locator(".widget-dropdown select").first.wait_for(timeout=30_000)
                break
            except TimeoutError:
                continue
        yield page


def control(page, question):
    """The input beside a question of the helper."""
    box = page.locator(".jupyter-widgets", has=page.get_by_text(question)).last
    return box.locator("select, input").first


def shows(page, decision):
    """Everything that the function says comes to stand in the browser, and in its order."""
    parts = (*decision.reasons, decision.next_step, *decision.evidence, *decision.changes)
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


def test_it_starts_with_the_functions_answer(page):
    answers = {"gap": "behaviour", "prompt_reaches": 0.7, "examples": 300, "requests_a_day": 1000}
    decision = decide(**answers, evidence=EVIDENCE)
    assert decision.approach == "past answers"
    shows(page, decision)


def test_each_changed_answer_changes_it_as_the_function_says(page):
    answers = {"gap": "behaviour", "prompt_reaches": 0.7, "examples": 300, "requests_a_day": 1000}
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
        shows(page, decide(**answers, evidence=EVIDENCE))
