"""The stored outputs of notebook 06 say what the course promises of it."""

import re

import pytest
from support import SLOW

NOTEBOOK = "06_openai_api"  # whose outputs the fixtures give


def test_it_runs_in_five_minutes_on_two_quick_cores(notebook):
    assert notebook.metadata.course["seconds"] <= 300 * SLOW


def share(printed, name) -> float:
    return float(re.search(rf"{re.escape(name)} +valid ([\d.]+) %", printed)[1])


def test_the_format_needs_no_instructions_after_training(printed):
    assert share(printed, "base, no instructions") < 10
    assert share(printed, "tuned, no instructions") > 80 > share(printed, "base, long prompt")


def test_the_validation_loss_turns(printed):
    lowest, last = re.search(r"lowest at step \d+: ([\d.]+); at the end ([\d.]+)", printed).groups()
    assert float(last) > float(lowest)


def test_dpo_starts_at_the_tuned_model(printed):
    first, last = map(float, re.search(r"loss at the first step ([\d.]+) .*, at the last ([\d.]+)", printed).groups())
    assert first == pytest.approx(0.693, abs=0.05) and last < first


def test_the_refusal_takes_its_branch(printed):
    assert "refused: OpenAI is winding down the fine-tuning platform" in printed


def test_no_cell_but_the_first_knows_the_host(notebook):
    """Cells that use the local server beside the API say so, and are left out elsewhere."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    chooser = next(i for i, source in enumerate(code) if "HOST = os.environ" in source)
    for source in code[chooser + 1 :]:
        for line in source.splitlines():
            alone = re.search(r"\bserver\.|BASE_URL|API_KEY|HOST\b", line)
            assert not alone or "if server is not None" in source, line
