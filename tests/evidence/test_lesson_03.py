"""Lesson 03: the runs and timings that it shows are the recorded and the published ones."""

from course_utils import assets, evaluation
from course_utils.evidence import lesson_03


def test_recorded_runs_are_the_records():
    record = assets.read_record("laptop-tickets")
    rows = lesson_03.recorded().rows
    assert "LoRA" in rows
    for way, shown in lesson_03.WAYS.items():
        runs = [record["runs"][name] for seed in record["seeds"] if (name := f"0.5B | {way} | {seed}") in record["runs"]]
        if runs:
            row, score = rows[shown], evaluation.over_seeds([run["right"]["all fields"] for run in runs])
            assert row["seeds"] == str(len(runs))
            assert row["all fields"] == f"{100 * score.value:.0f} [{100 * score.low:.0f}, {100 * score.high:.0f}]"


def test_published_timings_are_ratios_of_tokens_per_second():
    rows = lesson_03.published_pace().rows
    assert rows["torchtune's README: 8B, RTX 4090"] == {"more time, %": "+28"} and len(rows) > 3
