"""Whole notebooks of honest students: grading accepts what the check accepts, or says why not and what to do."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import honest_notebooks
import pytest
from honest_notebooks import stored

from course_utils.exercises import EXERCISES
from course_utils.grading import batch, intake, reading
from course_utils.grading.marking import Marker
from course_utils.grading.protocol import Limits
from course_utils.grading.sandbox import require

pytestmark = pytest.mark.slow

ANSWERS = honest_notebooks.ANSWERS
PACKAGES = "datasets matplotlib networkx pandas scipy sklearn sortedcontainers sympy tqdm transformers".split()
EACH = [pytest.param(number, id=f"{'+'.join(a.ids)}: {a.about['unusual']}") for number, a in enumerate(ANSWERS)]


def answers_in(data):
    """A notebook's answers as the grader takes them, by exercise."""
    return intake.answers([reading.File("homework.ipynb", b"", reading.cells_of(data))], list(EXERCISES)).cells


@pytest.fixture(scope="module")
def graded():
    """The marks of each entry, all made in the same few sandboxes."""
    marker = Marker(batch.exercises_of("all")[1], 11, require(False), Limits())

    def mark(answer):
        found = answers_in(stored(answer))
        return marker.mark({id: found[id] for id in answer.ids if id in found})

    with ThreadPoolExecutor(2) as pool:
        marks = list(pool.map(mark, ANSWERS))
    marker.close()
    return marks


@pytest.fixture(scope="module")
def checked():
    """What the notebook's check says of each entry."""
    done = subprocess.run([sys.executable, honest_notebooks.__file__], capture_output=True, text=True, check=True)
    return [json.loads(line.partition(" ")[2]) for line in done.stdout.splitlines()]


def skip_without_its_packages(answer):
    used = set(re.findall(r"(?:import|from) (\w+)", " ".join(cell.source for cell in answer.cells))) & set(PACKAGES)
    if missing := [name for name in used if not find_spec(name)]:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.mark.parametrize("number", EACH)
def test_the_notebooks_check_accepts(checked, number):
    skip_without_its_packages(ANSWERS[number])
    passed = checked[number]["passed"]
    if "course's own package" in ANSWERS[number].about.get(
        "refused", ""
    ):  # the check has the package, and refuses by name what uses it
        passed = {id: "The answer uses course_utils" in str(says) for id, says in passed.items()}
    assert (passed, checked[number]["trouble"]) == (dict.fromkeys(ANSWERS[number].ids, True), [])


@pytest.mark.parametrize("number", EACH)
def test_grading_accepts_or_says_what_to_do(graded, number):
    answer = ANSWERS[number]
    skip_without_its_packages(answer)
    for id in answer.ids:
        mark = graded[number][id]
        if "refused" in answer.about:
            assert answer.about["refused"] in mark.message
        else:
            assert mark.points == EXERCISES[id].points, (mark.message, mark.notes)
