"""The losses as formulas, without model or batch: from tensors to one loss per token, pair or example.

Log-probabilities are in nats, in float32. Dividing each loss by the right number is up to the caller
(`Objective.normalizers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def bradley_terry_loss(rewards: torch.Tensor, centre: float = 0.0) -> torch.Tensor:
    """Compute a reward model's loss for each pair: -log sigmoid(r_chosen − r_rejected) + centre · (r_chosen + r_rejected)².

    Bradley and Terry, 1952; as the loss of a reward model: Ouyang et al., 2022 (arXiv 2203.02155); the second term:
    Eisenstein et al., 2023 (arXiv 2312.09244).

    Args:
        rewards: shape (pairs, 2), the rewards of the chosen and of the rejected answer.
        centre: weight of the second term, which pulls the sum of the two rewards to zero.

    Returns:
        One loss per pair, shape (pairs,).
    """
    import torch.nn.functional as F

    losses = -F.logsigmoid(rewards[:, 0] - rewards[:, 1])
    return losses + centre * rewards.sum(1).square() if centre else losses


def dpo_loss(log_ratios: torch.Tensor, beta: float) -> torch.Tensor:
    """Compute the DPO loss for each pair: -log sigmoid(beta · (log-ratio of chosen − log-ratio of rejected)).

    Rafailov et al., 2023 (arXiv 2305.18290), equation 7.

    Args:
        log_ratios: shape (pairs, 2): for the chosen and the rejected answer, its log-probability under the policy minus that
            under the reference.
        beta: how strongly the policy is held to the reference.

    Returns:
        One loss per pair, shape (pairs,).
    """
    return bradley_terry_loss(beta * log_ratios)


def odds_ratio_loss(mean_log_probabilities: torch.Tensor) -> torch.Tensor:
    """Compute ORPO's penalty for each pair: -log sigmoid(log odds of chosen − log odds of rejected).

    The odds of an answer are p / (1 − p).

    Hong et al., 2024 (arXiv 2403.07691), equation 7.

    Args:
        mean_log_probabilities: shape (pairs, 2), log p of the chosen and the rejected answer: the mean over the tokens, so
            that p is the geometric mean of the answer's token probabilities.

    Returns:
        One loss per pair, shape (pairs,).
    """
    import torch
    import torch.nn.functional as F

    # log(1 - p) from log p, without losing precision for a small p
    log_odds = mean_log_probabilities - torch.log(-torch.expm1(mean_log_probabilities))
    return -F.logsigmoid(log_odds[:, 0] - log_odds[:, 1])


def kto_loss(
    log_ratios: torch.Tensor, desirable: torch.Tensor, kl: torch.Tensor | float, beta: float, weights: tuple[float, float]
) -> torch.Tensor:
    """Compute the KTO loss for each example: weight · (1 − sigmoid(± beta · (log-ratio − KL))).

    The sign is plus for a desirable completion and minus for an undesirable one. Ethayarajh et al., 2024 (arXiv 2402.01306),
    L_KTO.

    Args:
        log_ratios: shape (examples,), log-probability under the policy minus that under the reference.
        desirable: shape (examples,), true or 1 where the completion is desirable.
        kl: divergence of the policy from the reference, in nats, at least 0; no gradient flows through it.
        beta: how strongly the policy is held to the reference.
        weights: the weights of desirable and of undesirable examples.

    Returns:
        One loss per example, shape (examples,).
    """
    import torch

    desirable = desirable.bool()
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, *weights)
    return weight * (1 - torch.sigmoid(sign * beta * (log_ratios - kl)))


def ipo_loss(log_ratios: torch.Tensor, beta: float) -> torch.Tensor:
    """Compute the IPO loss for each pair: (log-ratio of chosen − log-ratio of rejected − 1 / (2 · beta))².

    The loss is zero when the difference has reached this distance, and grows again beyond it. Azar et al., 2023 (arXiv
    2310.12036), equation 17.

    Args:
        log_ratios: shape (pairs, 2): for the chosen and the rejected answer, its log-probability under the policy minus that
            under the reference.
        beta: the larger it is, the smaller the distance to reach; τ in the paper.

    Returns:
        One loss per pair, shape (pairs,).
    """
    return (log_ratios[:, 0] - log_ratios[:, 1] - 1 / (2 * beta)).square()


def simpo_loss(mean_log_probabilities: torch.Tensor, beta: float, target: float) -> torch.Tensor:
    """Compute the SimPO loss for each pair: -log sigmoid(beta · (mean log-probability of chosen − of rejected) − target).

    It needs no reference model. Meng et al., 2024 (arXiv 2405.14734), equation 6.

    Args:
        mean_log_probabilities: shape (pairs, 2), the mean over the tokens of the chosen and of the rejected answer.
        beta: scale of the difference.
        target: the margin that the scaled difference should reach; γ in the paper.

    Returns:
        One loss per pair, shape (pairs,).
    """
    import torch.nn.functional as F

    difference = mean_log_probabilities[:, 0] - mean_log_probabilities[:, 1]
    return -F.logsigmoid(beta * difference - target)


def group_advantages(rewards: torch.Tensor, floor: float = 1e-4) -> torch.Tensor:
    """Compute GRPO's advantages: how far each reward is above its group's mean, in standard deviations of the group.

    Shao et al., 2024 (arXiv 2402.03300), section 4.1.

    Args:
        rewards: shape (prompts, answers to each prompt); a row is a group.
        floor: added to the standard deviation, so that a group of equal rewards gets zeros.

    Returns:
        The advantages, in the shape of `rewards`.
    """
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + floor)


def clipped_policy_loss(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """Compute PPO's policy loss for each token: -min(ratio · A, clip(ratio, 1 − ε, 1 + ε) · A).

    Schulman et al., 2017 (arXiv 1707.06347), equation 7.

    Args:
        ratio: shape (tokens,), the token's probability under the new policy divided by that under the old one.
        advantages: shape (tokens,), A.
        clip: ε, how far the ratio may move from 1 before the token's gradient is cut off.

    Returns:
        One loss per token, shape (tokens,).
    """
    import torch

    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Compute PPO's value loss for each token: ½ max((V − R)², (V' − R)²).

    V' is V, clipped to within `clip` of the old V.

    This is the loss of OpenAI's implementation of PPO (baselines, ppo2).

    Args:
        values, old_values, returns: V, the old V and R, each of shape (tokens,).
        clip: how far a value may move from the old one.

    Returns:
        One loss per token, shape (tokens,).
    """
    import torch

    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


def generalized_advantages(
    rewards: Sequence[float], values: Sequence[float], gamma: float, gae_lambda: float
) -> list[float]:
    """Compute the generalized advantage estimates (GAE) of one answer's tokens.

    With V = 0 after the end, delta_t = r_t + gamma · V_(t+1) − V_t, and A_t = delta_t + gamma · lambda · A_(t+1). Schulman
    et al., 2016 (arXiv 1506.02438), equation 16.

    Args:
        rewards: the reward at each token.
        values: the value of the state before each token.
        gamma: discount of later rewards.
        gae_lambda: between 0, which relies on the next value alone, and 1, which relies on the rewards alone.

    Returns:
        One advantage per token.
    """
    advantages, next_value, next_advantage = [0.0] * len(rewards), 0.0, 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * next_value - values[t]
        next_advantage = advantages[t] = delta + gamma * gae_lambda * next_advantage
        next_value = values[t]
    return advantages
