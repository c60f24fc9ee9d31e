"""Where there is no sandbox these tests are skipped, and say so: answers are other people's code."""

from pathlib import Path

import pytest

from course_utils.grading.sandbox import bubblewrap_problem


def pytest_collection_modifyitems(items):
    problem = bubblewrap_problem()
    if problem:
        skip = pytest.mark.skip(reason=f"see README: {problem}"[:150])
        for item in items:
            if Path(item.fspath).parent == Path(__file__).parent:
                item.add_marker(skip)
