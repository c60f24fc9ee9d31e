"""Submissions a minute on this machine, with two jobs; printed with `pytest -s`."""

import pytest
from grading_fixtures import full, hand_in, points, run

LEAST = {"06": 200, "01": 200, "05": 200, "02": 100}  # a minute, on two cores that do nothing else
BUSY = 4  # how much slower a machine may be before the test takes it for a fault of the grader


@pytest.mark.parametrize(("section", "learners"), [("06", 40), ("01", 40), ("05", 40), ("02", 20)])
def test_submissions_a_minute(section, learners, tmp_path, capsys):
    for number in range(learners):
        wrong = {"api-2": "# EXERCISE: api-2\ndef job_cost(*a): return 0"} if number % 3 == 0 else {}
        hand_in(tmp_path / "in", f"learner-{number:02}", section, wrong)
    done = run(section, tmp_path / "in", tmp_path / "out")
    assert points(tmp_path / "out", "learner-01") == full(section)
    rate = 60 * learners / done.seconds
    with capsys.disabled():
        print(f"\n{section}: {learners} submissions in {done.seconds:.1f} s, {rate:.0f} a minute (target {LEAST[section]})")
    assert rate > LEAST[section] / BUSY
