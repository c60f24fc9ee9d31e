"""Exercises on plain values are checked without NumPy and torch, as in a page's Python, and in the same way."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest

from course_utils.exercises import EXERCISES, comparing
from course_utils.exercises.definitions import Drawn, Draws, generator

# Runs in a fresh interpreter that can import nothing but the standard library and the course.
CHECK_ALL = """
import importlib.abc, importlib.util, json, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and root != "course_utils":
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)

sys.meta_path.insert(0, Nothing())
really = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "numpy" else really(name, package)
from course_utils.exercises import EXERCISES, checking

found = {}
for id, exercise in EXERCISES.items():
    try:
        marked = [checking._mark(exercise, f, 1) for f in (exercise.solution, *(m.function for m in exercise.mistakes))]
        found[id] = {"missing": None, "marked": marked}
    except ModuleNotFoundError as error:
        found[id] = {"missing": error.name}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Id → the library that was missing, or what was said of the solution and of each typical mistake."""
    command = [sys.executable, "-c", CHECK_ALL]
    # an empty cache, or a challenge's result that is remembered would hide that it needs torch
    variables = {"COURSE_CACHE": str(tmp_path_factory.mktemp("cache")), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("id", EXERCISES)
def test_an_exercise_needs_the_libraries_that_it_says(checked, id):
    """One that fails here draws cases with a method that `Draws` has not, or needs a library: `needs=("torch",)`."""
    missing, needs = checked[id]["missing"], EXERCISES[id].needs
    assert missing in needs if needs else missing is None


@pytest.mark.parametrize("id", [id for id, exercise in EXERCISES.items() if not exercise.needs])
def test_without_libraries_the_verdicts_are_the_same(checked, id):
    exercise, (solution, *mistakes) = EXERCISES[id], checked[id]["marked"]
    assert solution[0] == exercise.points
    for (points, message), mistake in zip(mistakes, exercise.mistakes, strict=True):
        assert points < exercise.points and mistake.diagnosis in message


def _numbers():
    drawn = random.Random(0)
    near = [(x * (1 + step), x) for x in (1.0, -3e-7, 12, 5e12, 7) for step in (0, 1e-7, 9e-7, 1.1e-6, 9e-6, 1.1e-5, 1e-3)]
    odd = [True, False, 0, 0.0, 1e-9, math.inf, -math.inf, math.nan, 10**400, -1]
    return [*near, *((drawn.choice(odd), drawn.choice(odd)) for _ in range(200))]


@pytest.mark.parametrize("tolerance", [1e-5, 0.01, 0.0])
def test_plain_numbers_are_compared_as_numpy_compares_them(tolerance):
    verdicts = set()
    for actual, expected in _numbers():
        if (
            isinstance(expected, bool) or expected == 10**400
        ):  # compared by identity of type; no solution gives such a number
            continue
        plain = comparing._close(actual, expected, tolerance)
        try:
            stored = np.asarray(actual, dtype=float)
        except OverflowError:
            assert not plain
            continue
        assert plain == (comparing.difference(stored, expected, tolerance) is None), (actual, expected)
        verdicts.add(plain)
    assert verdicts == {True, False}


def test_the_same_seed_gives_the_same_cases():
    for make in (Draws, generator):
        one, other, third = (make(seed).integers(0, 10**6, size=5) for seed in (1, 1, 2))
        assert list(one) == list(other) != list(third)
    assert isinstance(generator(1), np.random.Generator)  # where there is NumPy, cases are what they always were


def test_what_was_drawn_is_no_array():
    """`drawn * 3` repeats a list and multiplies an array: better an error than other cases on a page."""
    for calculate in (lambda x: x + x, lambda x: x * 3, lambda x: 3 * x):
        with pytest.raises(TypeError):
            calculate(Draws(0).random(3))
    assert isinstance(Draws(0).random(3), Drawn)
