"""Whether each objective does what it promises, with three seeds on the packaged model: margins, accuracies, rewards, KL.

    python benchmarks/behaviour.py [SEED ...]

The tasks are those of tests/training/test_behaviour.py. PPO runs twice, with and without its KL term: without it the policy
runs away from the reference.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import picture, write_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))
from course_utils import charts, training
from course_utils.data_prep import load_task

import test_behaviour as tasks


def preferences(objective, seed: int) -> dict:
    """DPO or ORPO: first and last loss, held-out margin and held-out accuracy."""
    task = load_task("support_tickets", tasks.FIELDS)
    model, tokenizer = tasks.adapted(seed)
    settings = training.Settings(learning_rate=5e-4, batch_size=8, max_steps=6, schedule="constant", seed=seed)
    train, held_out = tasks.preferences(task, "train", 48), tasks.preferences(task, "validation", 16)
    history = training.fit(model, tokenizer, train, held_out, objective, settings)
    return {"loss": [history.losses[0], history.losses[-1]], **_ends(history, "margin", "accuracy")}


def reward_model(seed: int) -> dict:
    """Reward model: first and last loss, held-out margin and held-out accuracy."""
    from course_utils import models

    from peft import LoraConfig, get_peft_model

    task = load_task("support_tickets", tasks.FIELDS)
    model, tokenizer = models.load_reward(tier="cpu", seed=seed)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    settings = training.Settings(learning_rate=3e-4, batch_size=8, max_steps=8, schedule="constant", seed=seed)
    train, held_out = tasks.preferences(task, "train", 64), tasks.preferences(task, "validation", 16)
    history = training.fit(get_peft_model(model, config), tokenizer, train, held_out, training.Reward(), settings)
    return {"loss": [history.losses[0], history.losses[-1]], **_ends(history, "margin", "accuracy")}


def ppo(seed: int, kl: float, steps: int = 40) -> dict:
    """PPO on the test's reward: reward and KL of each rollout, and the reward of 96 sampled answers before and after."""
    from course_utils import evaluation
    from course_utils.generation import generate

    def sampled(model) -> list[float]:
        """Mean and 95 % interval; the same random numbers before and after."""
        prompts = tasks.PPO_PROMPTS * 3
        answers = generate(model, tokenizer, prompts, max_new_tokens=16, temperature=1.0, seed=seed)
        score = evaluation.mean(tasks.few_letters_e(prompts, answers))
        return [score.value, score.low, score.high]

    model, tokenizer = tasks.adapted(seed)
    before = sampled(model)
    objective = training.PPO(reward=tasks.few_letters_e, kl_coefficient=kl, max_new_tokens=16)
    settings = training.Settings(learning_rate=1e-3, batch_size=16, max_steps=steps, schedule="constant", seed=seed)
    history = training.fit(model, tokenizer, tasks.PPO_PROMPTS, objective=objective, settings=settings)
    rollouts = {"reward": history.metric("reward"), "kl": history.metric("kl")}
    return {**rollouts, "before": before, "after": sampled(model)}


def _ends(history, *names: str) -> dict:
    series = {name: history.metric(name, validation=True) for name in names}
    return {name: [values[0], values[-1]] for name, values in series.items()}


if __name__ == "__main__":
    seeds = [int(text) for text in sys.argv[1:]] or [0, 1, 2]
    runs_by_objective: dict[str, list] = {"dpo": [], "orpo": [], "reward": [], "ppo": [], "ppo_without_kl": []}
    for seed in seeds:
        runs_by_objective["dpo"].append(preferences(training.DPO(), seed))
        runs_by_objective["orpo"].append(preferences(training.ORPO(beta=0.5), seed))
        runs_by_objective["reward"].append(reward_model(seed))
        runs_by_objective["ppo"].append(ppo(seed, kl=0.03))
        runs_by_objective["ppo_without_kl"].append(ppo(seed, kl=0.0))
        print(seed, {name: runs[-1] for name, runs in runs_by_objective.items()}, flush=True)
    file = write_results("behaviour", {"seeds": seeds, **runs_by_objective})
    rollouts = range(1, len(runs_by_objective["ppo"][0]["kl"]) + 1)
    curves = {name: (rollouts, runs_by_objective[name][0]["kl"]) for name in ("ppo", "ppo_without_kl")}
    charts.lines(curves, "KL to the reference, with and without its penalty", "rollout", "nats per answer").save(
        picture(file.stem)
    )
