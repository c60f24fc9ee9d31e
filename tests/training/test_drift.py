"""A shield against drift of the libraries: every objective, and every TRL trainer of the lesson, trains some real steps.

What must happen is asserted (the loss falls, the margin rises, the KL stays bounded), on the oldest versions that the course
supports (`make test-oldest`) and on the newest. The TRL code is the lesson's own cell.
"""

import json
import math
import tempfile
from types import SimpleNamespace

import pytest
from support import tiny_llama, with_lora

from course_utils import training
from course_utils.data_prep import load_preferences
from course_utils.publishing import builder

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
STEPS = 12


@pytest.fixture(scope="module")
def rows():
    return sorted(load_preferences().train, key=lambda row: len(json.dumps(row)))[:8]


def mean(values):
    return sum(values) / len(values)


def adapted():
    return with_lora(tiny_llama(initializer_range=0.2), rank=8, alpha=16, random_b=False)


def settings(**changes):
    return training.Settings(
        **{"learning_rate": 5e-3, "batch_size": 4, "max_steps": STEPS, "schedule": "constant"} | changes
    )


def test_sft(packaged, rows):
    chats = [row["prompt"] + [{"role": "assistant", "content": row["chosen"]}] for row in rows]
    history = training.fit(adapted(), packaged[1], chats, settings=settings())
    assert mean(history.losses[-3:]) < history.losses[0] - 0.1


@pytest.mark.parametrize("objective", [training.DPO(), training.ORPO(beta=0.5)], ids=lambda o: o.name)
def test_preferences(packaged, rows, objective):
    history = training.fit(adapted(), packaged[1], rows, rows, objective, settings())
    assert mean(history.losses[-3:]) < history.losses[0]
    margins = history.metric("margin", validation=True)
    assert margins[-1] > margins[0] + 0.01
    if objective.name == "dpo":
        assert history.losses[0] == pytest.approx(math.log(2), abs=1e-3)


def reward_tiny(pad_id):
    import torch
    from transformers import LlamaForSequenceClassification

    config = tiny_llama().config
    config.num_labels, config.pad_token_id = 1, pad_id
    torch.manual_seed(0)
    return LlamaForSequenceClassification(config)


def test_reward_model(packaged, rows):
    history = training.fit(reward_tiny(2), packaged[1], rows, rows, training.Reward(), settings(learning_rate=1e-3))
    assert history.losses[-1] < history.losses[0]
    assert history.metric("margin", validation=True)[-1] > history.metric("margin", validation=True)[0] + 0.01


def long_words(answers):
    """Characters of each answer, in units of five: what a model without any knowledge can learn to raise."""
    return [len(answer) / 5 for answer in answers]


def test_ppo(packaged, rows):
    found = {}
    for kl in (0.0, 1.0):
        # Peaked distributions, so that tokens come again and what they earned counts.
        model = with_lora(tiny_llama(initializer_range=1.0), rank=8, alpha=16, random_b=False)
        objective = training.PPO(reward=lambda _, answers: long_words(answers), kl_coefficient=kl, max_new_tokens=4)
        changes = settings(learning_rate=1e-2, max_steps=24, batch_size=32)
        history = training.fit(model, packaged[1], [row["prompt"] for row in rows] * 4, None, objective, changes)
        found[kl] = history.metric("reward"), history.metric("kl")
        assert history.metric("kl")[0] == pytest.approx(0, abs=0.05)
    rewards, moved = found[0.0]
    assert mean(rewards[-4:]) > mean(rewards[:4]) + 0.2
    assert 0 < mean(found[1.0][1][-4:]) < 0.7 * mean(moved[-4:])


# -- TRL, by the code that stands in the lesson -----------------------------------------------------------------------


@pytest.fixture
def lesson(rows):
    """The lesson's cells on TRL, with a tokenizer of their own, which trainers change."""
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from course_utils import models

    tokenizer = AutoTokenizer.from_pretrained(models.resolve(models.PACKAGED.name))
    tokenizer.pad_token = "<|endoftext|>"
    names = [name for name in dir(trl) if name.endswith(("Config", "Trainer"))]
    space = {
        "datasets": datasets,
        "tempfile": tempfile,
        "LoraConfig": LoraConfig,
        "tokenizer": tokenizer,
        "device": SimpleNamespace(kind="cpu", dtype="float32"),
        **{name: getattr(trl, name) for name in names},
    }
    orpo = pytest.importorskip("trl.experimental.orpo")
    space |= {"ORPOConfig": orpo.ORPOConfig, "ORPOTrainer": orpo.ORPOTrainer}
    for cell in builder.learner_edition("04").cells:
        tags = cell.metadata.get("tags", [])
        if "trl" in tags:
            exec(cell.source, space)
    return space


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("method", ["SFT", "DPO", "ORPO", "Reward"])
def test_trl(lesson, rows, method):
    model = reward_tiny(0) if method == "Reward" else tiny_llama(initializer_range=0.2)
    trainer = lesson["trl_trainer"](method, model, rows, STEPS, learning_rate=5e-3, per_device_train_batch_size=4)
    trainer.train()
    losses = logged(trainer, "loss")
    assert len(losses) == STEPS
    assert mean(losses[-3:]) < losses[0]
    if method == "DPO":
        assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
        assert mean(logged(trainer, "rewards/margins")[-3:]) > 0.01


@pytest.mark.slow
def test_trl_grpo(lesson):
    prompts = [[{"role": "user", "content": text}] for text in ("Hello", "What is tea?", "Tell me more.", "Why?")] * 4
    reward = lambda completions, **_: long_words([completion[0]["content"] for completion in completions])
    model = tiny_llama(initializer_range=1.0)
    more = {"learning_rate": 1e-2, "num_generations": 8, "per_device_train_batch_size": 8, "max_completion_length": 4}
    trainer = lesson["grpo_trainer"](model, prompts, 12, reward=reward, **more)
    trainer.train()
    rewards = logged(trainer, "reward")
    assert len(rewards) == 12
    assert mean(rewards[-4:]) > mean(rewards[:4])
