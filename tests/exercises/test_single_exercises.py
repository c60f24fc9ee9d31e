"""Single exercises of lessons 02 and 06: their cases leave one right answer, and each mistake is told apart."""

import json
from fractions import Fraction

import numpy as np
import pytest

from course_utils.data_prep.validation import validate
from course_utils.exercises import EXERCISES, check, lesson_06


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
        ("W @ x + alpha / len(A) * (B @ A @ x)", "W @ x treats x as one column"),
        ("W @ x + B @ (A @ x) * alpha / A.shape[0]", "W @ x treats x as one column"),
        ("x @ W.T + alpha / len(A) * B @ (A @ x)", "The frozen path is right"),
        ("(W @ x.T + alpha / len(A) * B @ A @ x.T)", "one output per column"),
        ("undefined @ x", "It raised NameError"),
    ],
)
def test_products_of_turned_matrices_are_recognised_though_they_raise(product, told):
    assert told in check("lora-2", eval(f"lambda x, W, A, B, alpha: {product}")).message


def test_weights_are_what_a_host_takes(tmp_path):
    cases = [case for seed in range(3) for case in EXERCISES["api-2"].cases(np.random.default_rng(seed))]
    rows = [{"messages": found} for found in (lesson_06.with_weights(*case) for case in cases) if found]
    rows = [row for row in rows if row["messages"][-1]["role"] == "assistant"]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert len(rows) >= 10
    assert [str(f) for f in validate(file, "chat", "openai").findings if f.severity == "error"] == []


@pytest.mark.parametrize("seed", range(20))
def test_in_one_case_the_training_is_paid_for_exactly(seed):
    """There the smallest number of requests after which the tuned model has cost less is one more."""
    training, short, long, answer, tuned, untuned = lesson_06._exactly_paid(np.random.default_rng(seed))
    saved = (Fraction(long - 2 * short) / 2 - 2 * answer) / 10**6  # untuned tokens cost half as much
    assert (tuned, untuned) == ((1.0, 4.0), (0.5, 2.0)) and (Fraction(str(training)) / saved).denominator == 1
    assert (
        lesson_06.requests_until_paid(training, short, long, answer, tuned, untuned) == Fraction(str(training)) / saved + 1
    )
