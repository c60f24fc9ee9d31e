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
        for number, mistaken in enumerate(outputs):
            for other in outputs[:number]:
                assert not checking._matches(mistaken, other, exercise.tolerance)


def test_a_loss_that_still_divides_by_all_labels_is_recognised():
    """Shift and softmax are mended, the third bug of the statement stays."""

    def answer_loss(logits, labels):
        scores = logits[:-1].log_softmax(dim=-1)
        losses = [-scores[i, label] for i, label in enumerate(labels[1:]) if label != -100]
        return sum(losses) / len(labels)

    assert "You divide by len(labels)" in check("lora-1", answer_loss).message


@pytest.mark.parametrize(
    ("product", "told"),
    [
        ("W @ x + alpha / len(A) * (B @ A @ x)", "W @ x takes x for one column"),
        ("W @ x + B @ (A @ x) * alpha / A.shape[0]", "W @ x takes x for one column"),
        ("x @ W.T + alpha / len(A) * B @ (A @ x)", "The frozen path is right"),
        ("(W @ x.T + alpha / len(A) * B @ A @ x.T)", "one output per column"),
        ("undefined @ x", "It raised NameError"),
    ],
)
def test_products_of_turned_matrices_are_recognised_though_they_raise(product, told):
    assert told in check("lora-2", eval(f"lambda x, W, A, B, alpha: {product}")).message
