"""What a submission takes, in starts of a bare interpreter on the same machine at the same time; printed with `pytest -s`.

Seconds alone would say what else the machine does meanwhile. `benchmarks/grading.py` records submissions a minute.
"""

import subprocess
import sys
import time

import pytest
from grading_fixtures import full, hand_in, points, run
from support import SLOW

from course_utils.exercises import lesson_05
from course_utils.grading import sandbox

# A submission of four or five answers may take as long as so many starts, two at a time; a wrong answer runs twice, the
# second time for an example to show. What is promised is 200 submissions a minute.
STARTS, A_MINUTE = 30, 200


def starts(number, *arguments):
    """Seconds that so many interpreters take from beginning to end, two at a time."""
    began = time.monotonic()
    for _ in range(number // 2):
        for process in [subprocess.Popen([sys.executable, *arguments]) for _ in range(2)]:
            assert process.wait() == 0
    return time.monotonic() - began


def marking_a_challenge(section):
    """Seconds that the grader itself spends on what lesson 05's challenge returns: it trains a small classifier on it."""
    if section != "05":
        return 0.0
    rows = [list(row) for row in lesson_05._challenge_rows()]
    chosen = lesson_05.training_labels(rows)
    began = time.monotonic()
    lesson_05._run_labels(chosen)
    return time.monotonic() - began


ELSEWHERE = pytest.mark.soak("`make test` times a section without torch and one with it")


@pytest.mark.parametrize(
    ("section", "learners"),
    [("06", 40), ("02", 20), *(pytest.param(section, 40, marks=ELSEWHERE) for section in ("01", "05"))],
)
def test_a_submission_takes_little_more_than_its_processes(section, learners, tmp_path, capsys, monkeypatch):
    heavy, begin = [], sandbox.Sandbox.__init__

    def beginning(self, isolation, warm, *rest):
        heavy.append(warm)
        begin(self, isolation, warm, *rest)

    hand_in(tmp_path / "first", "first", section)
    run(section, tmp_path / "first", tmp_path / "warm")  # what is loaded once in a process
    monkeypatch.setattr(sandbox.Sandbox, "__init__", beginning)
    for number in range(learners):
        wrong = {"api-4": "# EXERCISE: api-4\ndef requests_until_paid(*a): return 0"} if number % 3 == 0 else {}
        hand_in(tmp_path / "in", f"learner-{number:02}", section, wrong)
    before = starts(learners, "-S", "-c", "pass")
    done = run(section, tmp_path / "in", tmp_path / "out")
    assert points(tmp_path / "out", "learner-01") == full(section)
    assert len(heavy) <= 2 * len(set(heavy))  # a sandbox for each of the two jobs, of either kind
    bare = (before + starts(learners, "-S", "-c", "pass")) / 2
    once = starts(2, "-c", "import numpy, torch") if any(heavy) else 0.0
    with capsys.disabled():
        print(
            f"\n{section}: {learners} submissions in {done.seconds:.1f} s, {60 * learners / done.seconds:.0f} a minute; "
            f"as many interpreters start in {bare:.2f} s, two that import torch in {once:.1f} s"
        )
    assert done.seconds < STARTS * bare + 2 * once + learners * marking_a_challenge(section)
    assert 60 * learners / done.seconds > A_MINUTE / SLOW or any(heavy)
