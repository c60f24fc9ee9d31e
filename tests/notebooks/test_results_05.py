"""The stored outputs of notebook 05 say what the course promises of it; and so does the record of three seeds.

`course build 05` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.

The record is written by `benchmarks/data_quality.py`: a change of code shows in it after the next run of that.
"""

import json
import re

import pytest
from support import SLOW, judged, shares, verdict

from course_utils import assets, evaluation

NOTEBOOK = "05_dataset_prep"  # whose outputs the fixtures give


@pytest.fixture(scope="module")
def record():
    return json.loads(assets.benchmark_results("data-quality").read_text(encoding="utf-8"))


def test_it_runs_in_four_minutes_on_two_quick_cores(notebook):
    """Notices what makes the lesson slow: more steps, a slower pipeline or loop. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 240 * SLOW


def pooled(record, run, side="test", what="both"):
    """All seeds together, with their interval."""
    size = 100 if side == "test" else 80
    right = sum(round(size * seed[side][what][0]) for seed in record["runs"][run])
    seen = size * len(record["runs"][run])
    return evaluation.proportion([True] * right + [False] * (seen - right))


def test_cleaned_beats_raw_on_the_test_set(record):
    """Notices a new record in which preparing the data does not help, in all seeds together and in each."""
    assert len(record["seeds"]) >= 3
    raw, cleaned = pooled(record, "raw"), pooled(record, "cleaned")
    assert cleaned.low > raw.high, (str(cleaned), str(raw))
    for one, other in zip(record["runs"]["cleaned"], record["runs"]["raw"]):
        assert one["test"]["both"][0] > other["test"]["both"][0]


def test_cleaned_beats_raw_live(printed):
    """Notices a pipeline that drops what is good, keeps what is bad or breaks labels, or a training that learns nothing."""
    gain = float(re.search(r"prepared less raw, points: ([+-]\d+)", printed)[1])
    assert gain > 0


def test_a_leak_inflates_the_score(printed):
    """Notices a leak that is closed somewhere on the way, so that the lesson would show nothing."""
    leaked, others = map(
        float, re.search(r"gain on the leaked messages ([+-]\d+) points, on the others ([+-]\d+)", printed).groups()
    )
    assert leaked > others + 10


def test_its_own_generators_test_flatters(record):
    """Notices a new record in which the generator's own test set says the truth."""
    assert pooled(record, "synthetic", "its own test").low > pooled(record, "synthetic").high


def test_what_the_steps_find(printed):
    """Notices a validator, recogniser or split that finds less, or more than there is, on the lesson's files."""
    assert re.search(r"recall 100.0 % \[.*?\]  precision 100.0 % \[.*?\]  \(90 there, 90 found\)", printed)
    for kind in ("EMAIL", "PHONE", "CARD", "IBAN", "IP"):
        recall, precision = map(
            float, re.search(rf"^{kind} +recall ([\d.]+) .*?precision ([\d.]+)", printed, re.MULTILINE).groups()
        )
        assert recall >= 98
        assert precision >= 98
    assert re.search(r"what belongs together .*torn apart: 0 of", printed)


def test_every_claim_has_a_verdict(printed, record):
    """Notices a claim that is no longer judged, and verdicts that do not follow from the record or the answers."""
    found = judged(printed)
    assert found.keys() == {"P1", "P2", "P3", "P4", "P5"}

    def seeds(run, side="test"):
        return [seed[side]["both"][0] for seed in record["runs"][run]]

    ((valid, _, _),) = shares(found["P5"].measured)
    for id, holds, conditional in (
        ("P1", min(seeds("a hundred good")) > max(seeds("mediocre")), True),
        ("P2", min(seeds("cleaned")) > max(seeds("cleaned, 60 rows repeated")), True),
        ("P3", min(seeds("synthetic", "its own test")) > max(seeds("synthetic")), False),
        ("P4", min(seeds("cleaned")) > max(seeds("raw")), True),
        ("P5", valid >= 90, True),
    ):
        assert found[id].verdict == verdict(id, holds, conditional), found[id]
