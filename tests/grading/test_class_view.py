"""What the instructor's page says of the class is what the learners were told."""

from pathlib import Path

import pytest

from course_utils.exercises import EXERCISES
from course_utils.grading import results, tables
from course_utils.grading.intake import Answers, LearnerAnswer, Submission
from course_utils.grading.marking import Attempt, Run, draw_cases

ORDINARY = {id: exercise for id, exercise in EXERCISES.items() if not exercise.challenge}


@pytest.mark.parametrize("id", ORDINARY)
def test_the_class_is_shown_the_diagnosis_that_the_learner_was_told(id):
    exercise = EXERCISES[id]
    attempt = Attempt(exercise, "02_lora", 1, LearnerAnswer(""))
    for mistake, outputs in zip(exercise.mistakes, draw_cases(exercise, 1).mistake_outputs):
        mark = attempt.verdict(Run(list(outputs), ready=True, is_defined=True))
        assert mistake.diagnosis in mark.message
        submission = Submission("a", "a", (Path("a"),))
        told = results.compose(submission, Answers(), {id: mark}, ["02_lora"], "bubblewrap", "digest", 1.0)
        assert [said for _, _, said in tables._misconceptions([id], [told])] == [mistake.diagnosis]
