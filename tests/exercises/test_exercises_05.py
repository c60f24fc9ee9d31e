"""Lesson 05's challenge, beyond what holds for every exercise."""

import numpy as np
import pytest

from course_utils.exercises import checking, lesson_05

EXERCISES = {exercise.id: exercise for exercise in lesson_05.EXERCISES}
CHALLENGE = EXERCISES["data-5"]


def test_the_rule_is_that_of_the_record(monkeypatch):
    """The probabilities that the record's function gets, given to the exercise's solution."""
    import sklearn.model_selection

    from benchmarks import wrong_labels

    rows, seen = [], []
    for message, answer in lesson_05._challenge_rows():
        if any(f'"category": "{c}"' in answer for c in lesson_05.CATEGORIES):
            rows.append({"messages": [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]})
    rows = [row for row in rows if row["messages"][1]["content"].endswith("}")][:600]
    original = sklearn.model_selection.cross_val_predict
    monkeypatch.setattr(
        sklearn.model_selection, "cross_val_predict", lambda *a, **o: seen.append(original(*a, **o)) or seen[-1]
    )
    checked = wrong_labels.check_labels(rows, "category")
    given = np.searchsorted(checked.labels, checked.given)
    assert lesson_05.accused_rows(given, seen[0]) == sorted(checked.by_published_rule) != []


def test_the_challenges_solution_has_room_to_spare_and_one_rule_alone_earns_half():
    """Processors round differently: what just reaches the bar on one misses it on another."""
    rows = [list(row) for row in lesson_05._challenge_rows()]
    assert lesson_05._run_labels(lesson_05.training_labels(rows)) < lesson_05.CHALLENGE_BAR - 0.01
    assert lesson_05._run_labels(lesson_05._every_record(rows)) > 0.5
    points, _ = checking._mark(CHALLENGE, lesson_05._without_shared)
    assert points == CHALLENGE.points / 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "list of pairs"),
        ("rows", "list of pairs"),
        ([1, 2], "must be a pair"),
        ([(0, "delivery"), (0, "delivery")], "occurs twice"),
        ([(-1, "delivery")], "Row numbers go from 0"),
        ([(True, "delivery")], "Row numbers go from 0"),
        ([(10**6, "delivery")], "Row numbers go from 0"),
        ([(0, "other")], "must be one of"),
        ([(0, ["delivery"])], "must be one of"),
        ([(0, "delivery")], "at least 50 rows"),
        ([], "at least 50 rows"),
    ],
)
def test_choices_outside_the_rules_are_told_what_is_wrong(value, said):
    points, message = checking._mark(CHALLENGE, lambda rows: value)
    assert points == 0 and said in message


def test_the_test_set_is_not_in_the_challenge():
    from course_utils.data_prep import load_task

    messages = {message for message, _ in lesson_05._challenge_rows()}
    assert not messages & {conversation[1]["content"] for conversation in load_task("support_tickets").test}
