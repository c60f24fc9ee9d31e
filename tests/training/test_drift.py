"""A shield against drift of the libraries: every objective, and every TRL trainer of the lessons, trains some real steps.

What must happen is asserted (the loss falls, the margin rises), on the oldest versions that the course
supports (`make test-oldest`) and on the newest. TRL is configured as in the lessons.
"""

import json
import math

import pytest
from support import tiny_llama, trl_arguments, trl_tokenizer, with_lora

from course_utils import training
from course_utils.data_prep import load_preferences

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


def test_preferences(packaged, rows):
    history = training.fit(adapted(), packaged[1], rows, rows, training.DPO(), settings())
    assert mean(history.losses[-3:]) < history.losses[0]
    margins = history.validation_metrics["margin"]
    assert margins[-1][1] > margins[0][1] + 0.01
    assert history.losses[0] == pytest.approx(math.log(2), abs=1e-3)


# -- TRL -------------------------------------------------------------------------------------------------------------------


def trl_trainer(method, model, data, folder, **more):
    """One of TRL's trainers as lessons 02 to 04 configure them."""
    from peft import LoraConfig

    settings = {
        "max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "logging_steps": 1,
        "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    rewarded = {"reward_funcs": more.pop("reward")} if method == "GRPO" else {}
    return getattr(trl, f"{method}Trainer")(
        model=model, args=trl_arguments(getattr(trl, f"{method}Config"), folder, **settings | more),
        processing_class=trl_tokenizer(),
        train_dataset=datasets.Dataset.from_list(data), **rewarded,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("method", ["SFT", "DPO"])
def test_trl(rows, tmp_path, method):
    model = tiny_llama(initializer_range=0.2)
    replies = [{key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")} for row in rows]
    data = [{"prompt": row["prompt"], **reply} for row, reply in zip(rows, replies)]
    if method == "SFT":
        data = [{"prompt": row["prompt"], "completion": reply["chosen"]} for row, reply in zip(rows, replies)]
    trainer = trl_trainer(method, model, data, tmp_path, **({"beta": 0.1} if method == "DPO" else {}))
    trainer.train()
    losses = logged(trainer, "loss")
    assert len(losses) == STEPS
    assert mean(losses[-3:]) < losses[0]
    if method == "DPO":
        assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
        assert mean(logged(trainer, "rewards/margins")[-3:]) > 0.01


@pytest.mark.slow
def test_trl_grpo(tmp_path):
    texts = ("Hello", "What is tea?", "Tell me more.", "Why?") * 4
    trainer = trl_trainer(
        "GRPO", tiny_llama(initializer_range=1.0),
        [{"prompt": [{"role": "user", "content": text}]} for text in texts], tmp_path,
        reward=lambda completions, **_: [len(completion[0]["content"]) / 5 for completion in completions],
        learning_rate=1e-2, num_generations=8, per_device_train_batch_size=8, gradient_accumulation_steps=3,
        max_completion_length=4, beta=0.0, temperature=1.0,
    )  # fmt: skip
    trainer.train()
    rewards = logged(trainer, "reward")
    assert len(rewards) == STEPS
    assert mean(rewards[-4:]) > mean(rewards[:4])
