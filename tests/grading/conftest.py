"""Where there is no sandbox these tests are skipped, and say so: answers are other people's code."""

from pathlib import Path

import pytest
from grading_fixtures import SHORT

from course_utils.grading import batch
from course_utils.grading.marking import Marker
from course_utils.grading.sandbox import bubblewrap_problem, require


def pytest_collection_modifyitems(items):
    problem = bubblewrap_problem()
    if problem:
        skip = pytest.mark.skip(reason=f"see README: {problem}"[:150])
        for item in items:
            if Path(item.fspath).parent == Path(__file__).parent:
                item.add_marker(skip)


@pytest.fixture(scope="module")
def marker():
    made = Marker(batch.exercises_of("all")[1], 11, require(False), SHORT)
    yield made
    made.close()
