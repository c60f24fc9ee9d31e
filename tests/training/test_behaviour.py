"""Small real runs on the packaged model: what the objectives promise happens.

`make test` has DPO; the others and three seeds are `make soak`'s.
"""

import json

import pytest

from course_utils import evaluation, models, training
from course_utils.data_prep import load_task

pytestmark = pytest.mark.slow
FIELDS = ["category", "escalation"]
EQUAL = pytest.mark.soak("its loss and gradients equal TRL's in test_against_trl.py and test_drift.py")


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
    """24 examples, many epochs: the held-out loss turns; the probe finds training answers by heart and not held-out ones."""
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
    by_heart = evaluation.memorisation(model, tokenizer, train[:12], max_new_tokens=24)
    assert by_heart.value > evaluation.memorisation(model, tokenizer, held_out, max_new_tokens=24).value


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


@pytest.mark.parametrize(
    "objective", [training.DPO(), pytest.param(training.ORPO(beta=0.5), marks=EQUAL)], ids=["dpo", "orpo"]
)
def test_preferences_are_learned(objective):
    task = load_task("support_tickets", FIELDS)
    model, tokenizer = adapted()
    settings = training.Settings(learning_rate=5e-4, batch_size=8, max_steps=6, schedule="constant")
    train, held_out = preferences(task, "train", 48), preferences(task, "validation", 16)
    history = training.fit(model, tokenizer, train, held_out, objective, settings)
    assert history.losses[-1] < history.losses[0]
    margins, accuracies = (history.metric(name, validation=True) for name in ("margin", "accuracy"))
    assert margins[-1] > margins[0]
    assert accuracies[-1] >= 0.9
    if objective.name == "dpo":
        assert history.losses[0] == pytest.approx(0.693, abs=0.01)  # ln 2: policy and reference are one, up to bfloat16
        assert history.reference_seconds > 0
    else:
        assert history.reference_seconds == 0


@EQUAL
def test_a_reward_model_ranks_held_out_pairs():
    from peft import LoraConfig, get_peft_model

    task = load_task("support_tickets", FIELDS)
    model, tokenizer = models.load_reward(tier="cpu")
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    model = get_peft_model(model, config)
    settings = training.Settings(learning_rate=3e-4, batch_size=8, max_steps=8, schedule="constant")
    train, held_out = preferences(task, "train", 64), preferences(task, "validation", 16)
    history = training.fit(model, tokenizer, train, held_out, training.Reward(), settings)
    assert history.metric("accuracy", validation=True)[-1] > 0.8
    prompts = [row["prompt"] for row in held_out]
    good = training.reward_scores(model, tokenizer, prompts, [row["chosen"] for row in held_out])
    bad = training.reward_scores(model, tokenizer, prompts, [row["rejected"] for row in held_out])
    ranked = sum(a > b for a, b in zip(good, bad)) / len(good)
    assert ranked == pytest.approx(history.metric("accuracy", validation=True)[-1], abs=0.07)


PPO_PROMPTS = [
    [{"role": "user", "content": text}] for text in ("Tell me a story.", "Describe the sea.", "Who are you?", "What is tea?")
] * 8


def few_letters_e(_prompts, answers):
    """How little of an answer is the letter e: nothing anyone wants, easy to see through, and easy to overdo."""
    return [-10 * answer.count("e") / max(1, len(answer)) for answer in answers]


@pytest.mark.soak("test_ppo.py holds each of its pieces against a reference in float64")
def test_ppo_raises_the_reward():
    model, tokenizer = adapted()
    objective = training.PPO(reward=few_letters_e, kl_coefficient=0.02, max_new_tokens=16)
    history = training.fit(model, tokenizer, PPO_PROMPTS, objective=objective, settings=training.Settings(
        learning_rate=1e-3, batch_size=16, max_steps=8, schedule="constant"))  # fmt: skip
    rewards = history.metric("reward")
    assert rewards[-1] > rewards[0]
    assert history.metric("kl")[0] == pytest.approx(0, abs=0.2)
    json.dumps(history.as_dict())
