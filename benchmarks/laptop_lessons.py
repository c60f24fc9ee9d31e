"""Every lesson on the laptop tier's model, from the first cell to the last: seconds and peak memory.

    python benchmarks/laptop_lessons.py [LESSON ...]     lessons that the record does not have yet; writes a record

The notebooks are the learners'; COURSE_TIER=laptop is all that differs. The model must be on this machine.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from common import run_missing
from course_utils import hardware, lessons, publishing

NAME = "laptop-lessons"
SLOWEST = 5  # cells named in the record


def one_lesson(name: str) -> dict:
    """Time and memory of a run of the whole notebook."""
    cost = publishing.run(lessons.learner_file(lessons.find(name).name), lambda line: print(line, flush=True))
    slowest = sorted(cost.cells, key=lambda cell: -cell.seconds)[:SLOWEST]
    return {
        "run_seconds": round(cost.seconds),
        "peak_bytes": cost.peak_bytes,
        "slowest": [{"cell": c.index, "seconds": round(c.seconds), "first_line": c.first_line} for c in slowest],
    }


if __name__ == "__main__":
    os.environ[hardware.TIER] = "laptop"
    run_missing(NAME, {name: partial(one_lesson, name) for name in sys.argv[1:] or lessons.NOTEBOOKS}, {"tier": "laptop"})
