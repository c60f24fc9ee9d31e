"""PPO's pieces against an independent reference in float64, and that rollouts note what training needs."""

import math

import numpy as np
import pytest
from support import tiny_llama, with_lora

from course_utils import training
from course_utils.errors import CourseError
from course_utils.scoring import Encoded
from course_utils.training import losses

PROMPTS = ["Say hello.", "Name a colour, please.", "Tell me about the sea and what lives in it."]


@pytest.fixture
def tokenizer(packaged):
    return packaged[1]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_equal_the_definition(gamma, gae_lambda):
    """A_t as the sum over all later deltas (Schulman et al., 2016, eq. 16), not by the recursion that the code uses."""
    dice = np.random.default_rng(0)
    for length in (1, 2, 17):
        rewards, values = dice.normal(size=length), dice.normal(size=length)
        following = np.append(values[1:], 0.0)
        deltas = rewards + gamma * following - values
        weights = (gamma * gae_lambda) ** np.arange(length)
        expected = [np.dot(weights[: length - t], deltas[t:]) for t in range(length)]
        assert losses.generalized_advantages(rewards, values, gamma, gae_lambda) == pytest.approx(expected, rel=1e-12)


def test_with_lambda_one_the_return_is_the_sum_of_what_follows():
    rewards, values = [0.1, -0.2, 1.0], [0.5, 0.4, -0.3]
    advantages = losses.generalized_advantages(rewards, values, 1.0, 1.0)
    assert [a + v for a, v in zip(advantages, values)] == pytest.approx([0.9, 0.8, 1.0])


def test_clipped_losses_equal_an_independent_float64_reference():
    import torch

    dice = np.random.default_rng(1)
    old, new = dice.normal(size=200), dice.normal(size=200) * 0.3
    new = old + new
    advantages, values, old_values, returns = (dice.normal(size=200) for _ in range(4))
    ratio = np.exp(new - old)
    expected_policy, expected_value = [], []
    for r, a, v, w, g in zip(ratio, advantages, values, old_values, returns):
        allowed = min(max(r, 0.8), 1.2)
        expected_policy.append(-min(r * a, allowed * a))
        near = w + min(max(v - w, -0.3), 0.3)
        expected_value.append(0.5 * max((v - g) ** 2, (near - g) ** 2))
    tensors = [torch.tensor(x) for x in (ratio, advantages, values, old_values, returns)]
    assert losses.clipped_policy_loss(*tensors[:2], 0.2).tolist() == pytest.approx(expected_policy, rel=1e-12)
    assert losses.clipped_value_loss(*tensors[2:], 0.3).tolist() == pytest.approx(expected_value, rel=1e-12)
    clipped = (np.abs(ratio - 1) > 0.2).mean()
    assert 0.2 < clipped < 0.9  # so that both branches were met


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_whole_loss_equals_a_float64_reference(tokenizer, temperature):
    """Model in float64, log-softmax and values by hand, one row for each answer; ours in float32 with padding."""
    import torch

    objective = training.PPO(reward=lambda p, a: [0.0] * len(a), temperature=temperature)
    model = with_lora(tiny_llama())
    objective.attach(model)
    torch.nn.init.normal_(model.value_head.weight, std=0.3)
    dice = np.random.default_rng(2)
    examples = []
    for prompt, length in zip(PROMPTS, (4, 9, 1)):
        given = objective.encode(tokenizer, prompt, 512, "x")
        noted = {name: dice.normal(size=length).tolist() for name in ("old_advantages", "old_returns", "old_values")}
        noted["old_log_probabilities"] = (-10.8 + 0.3 * dice.normal(size=length)).tolist()
        examples.append(Encoded(given.prompt, [dice.integers(5, 400, length).tolist()], token_values=noted))
    sizes = objective.normalizers(examples)
    with torch.no_grad():
        ours, metrics = objective.loss(model, objective.collate(examples, 2), sizes)
        wide = model.double()
        total, clipped = 0.0, 0
        for e in examples:
            ids = torch.tensor([e.prompt + e.completions[0]])
            out = wide(input_ids=ids, output_hidden_states=True)
            for i, token in enumerate(e.completions[0]):
                at = len(e.prompt) + i - 1
                log = (out.logits[0, at] / temperature).log_softmax(-1)[token].item()
                value = wide.value_head(out.hidden_states[-1][0, at]).item()
                x = {name: values[i] for name, values in e.token_values.items()}
                ratio = math.exp(log - x["old_log_probabilities"])
                near = x["old_values"] + min(max(value - x["old_values"], -0.2), 0.2)
                total -= min(ratio * x["old_advantages"], min(max(ratio, 0.8), 1.2) * x["old_advantages"])
                total += 0.1 * 0.5 * max((value - x["old_returns"]) ** 2, (near - x["old_returns"]) ** 2)
                clipped += abs(ratio - 1) > 0.2
    assert ours.item() == pytest.approx(total / sizes["tokens"], rel=1e-5)
    assert metrics["clipped"].item() == pytest.approx(clipped / sizes["tokens"])
    assert 0 < clipped < sizes["tokens"]


def test_rollouts_pay_the_reward_at_the_end_and_the_kl_at_every_token(tokenizer):
    import torch

    model = with_lora(tiny_llama())
    seen = {}

    def reward(prompts, answers):
        seen.update(prompts=prompts, answers=answers)
        return [float(len(answer)) for answer in answers]

    objective = training.PPO(reward=reward, kl_coefficient=0.5, max_new_tokens=6, gae_lambda=1.0)
    rollouts = {}

    def note(*arguments):
        rollouts["examples"], rollouts["means"] = original(*arguments)
        return rollouts["examples"], rollouts["means"]

    original = objective.rollout
    object.__setattr__(objective, "rollout", note)
    history = training.fit(model, tokenizer, PROMPTS, objective=objective)
    assert sorted(messages[-1]["content"] for messages in seen["prompts"]) == sorted(PROMPTS)
    examples = rollouts["examples"]
    raw = [e.token_values["old_returns"] for e in examples]
    # With lambda 1 the first token's return is everything that follows: the reward less the price of the whole log-ratio.
    total_kl = sum(len(answer) - returns[0] for answer, returns in zip(seen["answers"], raw)) / 0.5
    assert total_kl / 3 == pytest.approx(rollouts["means"]["kl"], rel=1e-4)
    assert rollouts["means"]["reward"] == pytest.approx(sum(map(len, seen["answers"])) / 3)
    whitened = np.concatenate([e.token_values["old_advantages"] for e in examples])
    assert whitened.mean() == pytest.approx(0, abs=1e-6)
    assert whitened.std() == pytest.approx(1, rel=1e-4)
    assert not hasattr(model, "value_head")
    assert torch.isfinite(torch.tensor(history.losses)).all()


def test_an_answer_that_ends_at_any_of_the_models_stop_tokens_is_complete(tokenizer):
    """Qwen's answers may end with <|endoftext|> instead of the template's marker."""
    from course_utils.scoring import Encoded

    model = tiny_llama()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 0]
    objective = training.PPO(
        reward=lambda prompts, answers: [1.0] * len(answers), missing_eos_reward=-1.0, kl_coefficient=0.0
    )
    object.__setattr__(objective, "_sample", lambda *_: [[5, 0], [5, tokenizer.eos_token_id], [5, 6]])
    same = lambda examples, reference: [([0.0] * e.scored, [0.0] * e.scored) for e in examples]
    _, means = objective.rollout(model, tokenizer, [Encoded([5], [[]])] * 3, same, 0)
    assert means["reward"] == pytest.approx((1 + 1 - 1) / 3)


def test_the_value_head_trains_and_nothing_else_but_the_adapter_does(tokenizer):
    model = with_lora(tiny_llama(), random_b=False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    objective = training.PPO(reward=lambda p, a: [1.0] * len(a), max_new_tokens=5)
    history = training.fit(model, tokenizer, PROMPTS, objective=objective, settings=training.Settings(
        batch_size=3, max_steps=4, learning_rate=1e-2))  # fmt: skip
    assert len(history.steps) == 4
    assert history.metric("reward") == [1.0, 1.0]  # two rollouts, two steps on each
    assert {n for n, p in model.named_parameters() if not p.equal(before[n])} == {n for n in before if "lora_" in n}
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("scores", [[1.0], [math.nan, 0.0, 0.0]])
def test_a_reward_function_that_misbehaves_is_named(tokenizer, scores):
    objective = training.PPO(reward=lambda p, a: scores, max_new_tokens=3)
    with pytest.raises(CourseError, match="the reward function gave"):
        training.fit(with_lora(tiny_llama()), tokenizer, PROMPTS, objective=objective)


@pytest.mark.parametrize("prompt", [[], {"text": "x"}, [{"role": "user"}]])
def test_broken_prompts_are_named(tokenizer, prompt):
    objective = training.PPO(reward=lambda p, a: [0.0] * len(a))
    with pytest.raises(CourseError, match=r"train\[1\]"):
        training.fit(with_lora(tiny_llama()), tokenizer, [PROMPTS[0], prompt], objective=objective)
