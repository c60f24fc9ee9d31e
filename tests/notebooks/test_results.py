"""The stored outputs of notebook 02 say what the course promises of it; they come from a real run of the present source."""

import re

import pytest

NOTEBOOK = "02_lora"  # whose outputs the fixtures give


@pytest.fixture(scope="module")
def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join("".join(output.get("text", "")) for output in outputs)


def share(printed, name):
    """Last printed score of a name, in percent."""
    return float(re.findall(rf"{name}:? +([\d.]+) % \[", printed)[-1])


def test_the_table_of_times_holds_this_very_run(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert f"| {notebook.metadata.course['seconds'] / 60:.1f} minutes |" in text


def test_format_is_learned_from_nothing(printed):
    assert float(re.search(r"valid format: ([\d.]+) %", printed)[1]) < 10
    assert share(printed, "valid format") >= 95


@pytest.mark.parametrize("field", ["category", "escalation"])
def test_enumeration_fields_are_right_often_enough(printed, field):
    assert share(printed, f"{field}: exact match") >= 75


def test_from_scratch_equals_peft(printed):
    gaps = re.search(r"forward (\S+), gradients (\S+), merged weights (\S+)", printed)
    assert max(map(float, gaps.groups())) < 1e-6


def test_merging_costs_nothing_and_keeping_apart_does(printed):
    ratios = dict(re.findall(r"(merged|kept apart): ([\d.]+) times the base's latency", printed))
    assert float(ratios["merged"]) < 1.15 < float(ratios["kept apart"])
