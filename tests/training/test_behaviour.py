"""Small real runs on the packaged model: what the objectives promise happens."""

import pytest

from course_utils import models, training
from course_utils.data_prep import load_task

pytestmark = pytest.mark.slow
FIELDS = ["category", "escalation"]


def adapted(seed=0):
    import torch
    from peft import LoraConfig, get_peft_model

    model, tokenizer = models.load(tier="cpu")
    torch.manual_seed(seed)
    return get_peft_model(
        model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    ), tokenizer


def short(task, split, count):
    return sorted(getattr(task, split), key=lambda c: len(c[1]["content"]))[:count]


@pytest.mark.soak("test_checkpoints.py stops runs of a tiny model early and goes back to their best step")
def test_early_stopping_ends_a_run_that_overfits_and_keeps_the_best_weights():
    """24 examples, many epochs: the held-out loss turns."""
    task = load_task("support_tickets", FIELDS)
    train, held_out = short(task, "train", 24), short(task, "validation", 12)
    model, tokenizer = adapted()
    settings = training.Settings(
        learning_rate=3e-3, batch_size=8, epochs=30, evaluate_every=3, early_stopping=2, schedule="constant"
    )
    history = training.fit(model, tokenizer, train, held_out, settings=settings)
    losses = history.validation_losses
    best = losses.index(min(losses))
    assert len(history.steps) < 30 * 3
    assert len(losses) - 1 - best == 2  # stopped two evaluations after the minimum, at once
    assert history.best_step == history.validation_steps[best] > 0
    assert losses[-1] > losses[best]
    again = training.fit(model, tokenizer, train[:1], held_out, settings=training.Settings(learning_rate=1e-12, max_steps=1))
    assert again.validation_losses[0] == pytest.approx(losses[best], rel=2e-2)  # bfloat16: other pieces, other roundings


def preferences(task, split, count):
    """The right record against a polite sentence."""
    rows = sorted(zip(getattr(task, split), task.rows[split]), key=lambda pair: len(pair[1]["message"]))[:count]
    return [
        {
            "prompt": conversation[:2],
            "chosen": conversation[2]["content"],
            "rejected": "Thank you, we will look into it for you.",
        }
        for conversation, _ in rows
    ]


def test_preferences_are_learned():
    task = load_task("support_tickets", FIELDS)
    model, tokenizer = adapted()
    settings = training.Settings(learning_rate=5e-4, batch_size=8, max_steps=6, schedule="constant")
    train, held_out = preferences(task, "train", 48), preferences(task, "validation", 16)
    history = training.fit(model, tokenizer, train, held_out, training.DPO(), settings)
    assert history.losses[-1] < history.losses[0]
    margins, accuracies = (history.metric(name, validation=True) for name in ("margin", "accuracy"))
    assert margins[-1] > margins[0]
    assert accuracies[-1] >= 0.9
    assert history.losses[0] == pytest.approx(0.693, abs=0.01)  # ln 2: policy and reference are one, up to bfloat16
    assert history.reference_seconds > 0
