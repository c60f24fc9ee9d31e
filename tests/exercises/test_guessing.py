"""An answer that does not look at its arguments gets what the stub gets: nothing, in every exercise and every draw."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from course_utils.exercises import EXERCISES, checking
from course_utils.exercises.comparing import key

# A challenge's answer is run, not compared: every answer that reaches the bar is right, so constants earn there.
ORDINARY = {id: exercise for id, exercise in EXERCISES.items() if not exercise.challenge}

DRAWS = range(500, 506)


@cache
def cases_of(id, seed):
    """Kept, with what each typical mistake gives: many answers are marked by the same cases."""
    return checking.CaseSet.of(EXERCISES[id], np.random.default_rng(seed))


def draw(exercise, seed):
    return cases_of(exercise.id, seed)


def marks(exercise, outputs_of):
    """Points in each draw of what `outputs_of` gives for its cases."""
    found = []
    for seed in DRAWS:
        asked = draw(exercise, seed)
        found.append(checking.judge(exercise, asked, outputs_of(asked.cases))[0])
    return found


@pytest.fixture(scope="module")
def learned():
    """Exercise id → right values by number of the call, in many draws that are not among those marked."""
    found = {}
    for id, exercise in ORDINARY.items():
        values = found.setdefault(id, [])
        for seed in range(60):
            for place, value in enumerate(draw(exercise, seed).expected):
                if place == len(values):
                    values.append([])
                values[place].append(value)
    return found


def commonest(values):
    common, _ = Counter(map(key, values)).most_common(1)[0]
    return next(value for value in values if key(value) == common)


@pytest.mark.parametrize("id", ORDINARY)
def test_the_best_answer_by_the_number_of_the_call_earns_nothing(id, learned):
    by_call = [commonest(values) for values in learned[id]]
    strange = object()  # so that it is no constant

    def counted(cases):
        return [*by_call, *[strange] * len(cases)][: len(cases)]

    assert set(marks(EXERCISES[id], counted)) == {0.0}
    common = commonest([value for values in learned[id] for value in values])
    for period in (2, 3, 7):
        assert set(
            marks(EXERCISES[id], lambda cases, p=period: [strange if i % p == 1 else common for i in range(len(cases))])
        ) == {0.0}


@pytest.mark.parametrize("id", ORDINARY)
def test_the_answers_of_another_draw_earn_nothing(id):
    exercise = EXERCISES[id]
    for other in range(900, 905):
        replayed = draw(exercise, other).expected
        assert set(marks(exercise, lambda cases, known=replayed: (known * 9)[: len(cases)])) == {0.0}


@pytest.mark.parametrize("place", range(-4, 4))
def test_a_fixed_place_of_the_argument_earns_nothing(place):
    def picked(cases):
        return [rows[max(-len(rows), min(place, len(rows) - 1))]["name"] for (rows,) in cases]

    assert set(marks(EXERCISES["api-3"], picked)) == {0.0}


def test_number_and_order_of_the_cases_differ_from_draw_to_draw():
    for exercise in ORDINARY.values():
        draws = [draw(exercise, seed) for seed in DRAWS]
        assert len({len(asked.cases) for asked in draws}) > 1, exercise.id
        assert len({tuple(map(key, asked.expected)) for asked in draws}) == len(draws), exercise.id


def test_an_answer_that_is_partly_right_still_gets_its_share():
    """A rule that is missing costs its cases, not everything."""
    shares = {}
    for id, exercise in ORDINARY.items():
        best = 0.0
        for index in range(len(exercise.mistakes)):
            for seed in list(DRAWS)[:4]:
                asked = draw(exercise, seed)
                best = max(best, checking.judge(exercise, asked, asked.mistake_outputs[index])[0] / exercise.points)
        shares[id] = best
    assert sum(share > 0 for share in shares.values()) >= 0.4 * len(shares), shares
