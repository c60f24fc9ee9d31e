"""The stored outputs of notebook 05 say what the course promises of it; and so does the record of three seeds."""

import json
import re

import pytest
from support import SLOW

from course_utils import assets, evaluation

NOTEBOOK = "05_dataset_prep"  # whose outputs the fixtures give


@pytest.fixture(scope="module")
def record():
    return json.loads(assets.record("data-quality").read_text(encoding="utf-8"))


def test_it_runs_in_four_minutes_on_two_quick_cores(notebook):
    assert notebook.metadata.course["seconds"] <= 240 * SLOW


def pooled(record, run, side="test", what="both"):
    """All seeds together, with their interval."""
    size = 100 if side == "test" else 80
    right = sum(round(size * seed[side][what][0]) for seed in record["runs"][run])
    seen = size * len(record["runs"][run])
    return evaluation.proportion([True] * right + [False] * (seen - right))


def test_cleaned_beats_raw_on_the_test_set(record):
    assert len(record["seeds"]) >= 3
    raw, cleaned = pooled(record, "raw"), pooled(record, "cleaned")
    assert cleaned.low > raw.high, (str(cleaned), str(raw))
    for one, other in zip(record["runs"]["cleaned"], record["runs"]["raw"]):
        assert one["test"]["both"][0] > other["test"]["both"][0]


def test_cleaned_beats_raw_live(printed):
    gain = float(re.search(r"prepared less raw, points: ([+-]\d+)", printed)[1])
    assert gain > 0


def test_a_leak_inflates_the_score(printed):
    leaked, others = map(
        float, re.search(r"gain on the leaked messages ([+-]\d+) points, on the others ([+-]\d+)", printed).groups()
    )
    assert leaked > others + 10


def test_its_own_generators_test_flatters(record):
    assert pooled(record, "synthetic", "its own test").low > pooled(record, "synthetic").high


def test_what_the_steps_find(printed):
    assert re.search(r"recall 100.0 % \[.*?\]  precision 100.0 % \[.*?\]  \(90 there, 90 found\)", printed)
    for kind in ("EMAIL", "PHONE", "CARD", "IBAN", "IP"):
        recall, precision = map(
            float, re.search(rf"^{kind} +recall ([\d.]+) .*?precision ([\d.]+)", printed, re.MULTILINE).groups()
        )
        assert recall >= 98
        assert precision >= 98
    assert re.search(r"what belongs together .*torn apart: 0 of", printed)


def test_every_claim_has_a_verdict(notebook):
    text = "\n".join("".join(o.get("data", {}).get("text/plain", "")) for c in notebook.cells for o in c.get("outputs", []))
    for claim in ("P1", "P2", "P3", "P4", "P5"):
        assert re.search(rf"^{claim}  .*\n.*\n +(holds when|holds|does not hold)", text, re.MULTILINE), claim
