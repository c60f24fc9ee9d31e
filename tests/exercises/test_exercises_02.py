"""The exercises of lesson 02: their cases leave one right answer, and each mistake is told apart."""

import numpy as np
import pytest

from course_utils.exercises import EXERCISES, check, checking

IDS = ["lora-1", "lora-2", "lora-3", "lora-5"]


@pytest.mark.parametrize("id", IDS)
def test_no_two_diagnoses_fit_the_same_answer(id):
    """The first that fits is told, so each mistake's values must be its own in every draw."""
    exercise = EXERCISES[id]
    for seed in range(30):
        outputs = checking.CaseSet.of(exercise, np.random.default_rng(seed)).mistake_outputs
        assert None not in outputs
        for number, mistaken in enumerate(outputs):
            for other in outputs[:number]:
                assert not all(checking._alike(a, b, exercise.tolerance) for a, b in zip(mistaken, other))


def test_a_loss_that_still_divides_by_all_labels_is_recognised():
    """Shift and softmax are mended, the third bug of the statement stays."""

    def answer_loss(logits, labels):
        scores = logits[:-1].log_softmax(dim=-1)
        losses = [-scores[i, label] for i, label in enumerate(labels[1:]) if label != -100]
        return sum(losses) / len(labels)

    assert "You divide by len(labels)" in check("lora-1", answer_loss).message
