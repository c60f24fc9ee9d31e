import math

import numpy as np
import pytest

from course_utils import evaluation
from course_utils.errors import CourseError

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b"]},
        "id": {"type": ["string", "null"], "pattern": r"^\d$"},
        "text": {"type": "string"},
    },
    "required": ["kind", "id", "text"],
    "additionalProperties": False,
}
RIGHT = {"kind": "a", "id": "1", "text": "the cat sat"}


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ('{"kind": "a", "id": "1", "text": "x"}', True),
        ('\n {"kind": "b", "id": null, "text": ""} ', True),
        ('Here it is: {"kind": "a", "id": "1", "text": "x"}', False),
        ('{"kind": "a", "id": "1", "text": "x"} Done.', False),
        ('```json\n{"kind": "a", "id": "1", "text": "x"}\n```', False),
        ('{"kind": "c", "id": "1", "text": "x"}', False),
        ('{"kind": "a", "id": "12", "text": "x"}', False),
        ('{"kind": "a", "id": "1"}', False),
        ('{"kind": "a", "id": "1", "text": "x", "more": 1}', False),
        ('["a"]', False),
        ('"a"', False),
        ("", False),
        ("[" * 100_000, False),
        ("NaN", False),
    ],
)
def test_only_a_whole_record_is_valid(answer, valid):
    assert (evaluation.parse_record(answer, SCHEMA) is not None) is valid


def test_scores_count_what_they_say():
    outputs = [
        '{"kind": "a", "id": "1", "text": "the cat sat"}',  # all right
        '{"kind": "b", "id": "1", "text": "the dog sat"}',  # kind wrong, two of three words
        "no record",
        '{"kind": "a", "id": null, "text": "nothing alike"}',
    ]
    scores = evaluation.evaluate(outputs, [RIGHT] * 4, SCHEMA)
    assert scores.valid.value == 0.75
    assert scores.exact["kind"].value == scores.enumerations.value == 0.5
    assert scores.exact["id"].value == 0.5
    assert scores.f1["text"].value == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    assert set(scores.f1) == {"text"}  # enumerations and patterns are no free text
    assert scores.records[2] is None
    assert "75.0 %" in str(scores)


def test_wilson_interval_of_known_values():
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine, table I)."""
    score = evaluation.proportion([True] * 81 + [False] * 182)
    assert (round(score.low, 4), round(score.high, 4)) == (0.2553, 0.3662)
    none = evaluation.proportion([False] * 20)
    assert none.low == none.value == 0
    assert 0.1 < none.high < 0.2
    everything = evaluation.proportion([True] * 20)
    assert everything.high == everything.value == 1


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    import numpy as np

    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        score = evaluation.mean(random.normal(3, 1, 40))
        covered += score.low <= 3 <= score.high
    assert 0.88 < covered / 200 < 0.99


def test_seeds_of_one_question_are_no_independent_draws():
    once = evaluation.proportion([1, 0, 1, 1, 0, 1, 0, 1] * 5)
    thrice = evaluation.over_seeds([[1, 0, 1, 1, 0, 1, 0, 1] * 5] * 3)  # three seeds that agree say no more than one
    assert thrice.value == once.value and thrice.n == 40
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, abs=0.03)
    pooled = evaluation.proportion([1, 0, 1, 1, 0, 1, 0, 1] * 15)
    assert pooled.high - pooled.low < 0.7 * (thrice.high - thrice.low)


def test_over_seeds_keeps_an_interval_where_all_are_right_or_wrong():
    assert evaluation.over_seeds([[0] * 38] * 3) == evaluation.proportion([0] * 38)
    assert evaluation.over_seeds([[1] * 9] * 2).low < 0.75
    # One right answer of three hundred, but to a hundred questions.
    assert evaluation.over_seeds([[1] + [0] * 99, [0] * 100, [0] * 100]).high > 0.03
    mixed = evaluation.over_seeds([[1, 0, 0, 0], [0, 0, 0, 1]])
    assert mixed.value == 0.25 and mixed.low < 0.25 < mixed.high
    with pytest.raises(CourseError, match="nothing to average"):
        evaluation.over_seeds([])
    with pytest.raises(ValueError):
        evaluation.over_seeds([[1, 0], [1]])


def test_token_f1_ignores_case_and_punctuation_and_tells_null_from_text():
    assert evaluation.token_f1("The Cat, sat!", "the cat sat") == 1
    assert evaluation.token_f1(None, None) == 1
    assert evaluation.token_f1(None, "x") == evaluation.token_f1("x", None) == 0
    assert evaluation.token_f1("a a b", "a b b") == pytest.approx(2 / 3)
    assert math.isclose(evaluation.token_f1("", ""), 1)


def test_unequal_or_empty_lists_are_refused():
    with pytest.raises(CourseError, match="2 answers for 1 references"):
        evaluation.evaluate(["", ""], [RIGHT], SCHEMA)
    with pytest.raises(CourseError, match="nothing to score"):
        evaluation.evaluate([], [], SCHEMA)


@pytest.mark.parametrize(("gained", "lost", "n"), [(3, 9, 100), (0, 4, 40), (12, 1, 60)])
def test_a_paired_interval_ends_where_the_score_test_rejects(gained, lost, n):
    both = [True] * (n - gained - lost)
    score = evaluation.paired_difference([True] * gained + [False] * lost + both, [False] * gained + [True] * lost + both)
    for bound, wanted in ((score.low, 1.96), (score.high, -1.96)):
        shares = np.linspace(max(0, -bound) + 1e-9, (1 - bound) / 2 - 1e-9, 200_001)  # of questions that are lost
        likelihood = (
            gained * np.log(shares + bound) + lost * np.log(shares) + (n - gained - lost) * np.log(1 - 2 * shares - bound)
        )
        share = shares[np.nanargmax(likelihood)]
        assert (gained - lost - n * bound) / math.sqrt(n * (2 * share + bound - bound**2)) == pytest.approx(wanted, abs=0.01)


def test_a_paired_interval_has_a_width_and_a_sign():
    same = evaluation.paired_difference([True, False] * 50, [True, False] * 50)
    assert same.value == 0 and same.low == pytest.approx(-same.high) and same.high > 0.03
    better, worse = (
        evaluation.paired_difference([True] * 20, [False] * 20),
        evaluation.paired_difference([False] * 20, [True] * 20),
    )
    assert better.value == 1 and better.low > 0.5 and worse.high == pytest.approx(-better.low)
    with pytest.raises(CourseError, match="same questions"):
        evaluation.paired_difference([True], [])
