"""Proximal policy optimisation against a reward, with a KL penalty to the reference.

Schulman et al., 2017 (arXiv 1707.06347) for the clipped objective, Schulman et al., 2016 (arXiv 1506.02438) for GAE,
Ziegler et al., 2019 (arXiv 1909.08593) and Ouyang et al., 2022 (arXiv 2203.02155) for language models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.scoring import Batch, Encoded, log_probabilities, run_model, stop_token_ids
from course_utils.training.losses import clipped_policy_loss, clipped_value_loss, generalized_advantages
from course_utils.training.objectives.base import Loss, OnlineObjective, ScoreAnswers
from course_utils.training.objectives.encoding import check_messages, encode_prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model


@dataclass(frozen=True)
class PPO(OnlineObjective):
    """Proximal policy optimisation on whole answers: the reward is given at the last token, the KL penalty at every token.

    An example is a prompt. The policy answers each batch of prompts (`rollout`), and is then trained on the answers `epochs`
    times. The value head is one linear layer on the policy's last hidden states; it is removed after training.

    Attributes:
        reward: function of (prompts as lists of messages, answers as texts) that returns one number per answer.
        kl_coefficient: penalty per token for each nat of log-ratio to the reference; with 0 nothing holds the policy to the
            reference.
        epochs: how many times each batch of answers is trained on.
        clip: a token's probability ratio is limited to 1 ± clip; ε in the paper.
        clip_value: how far a value may move from the value at rollout.
        value_coefficient: weight of the value loss.
        gamma: discount; 1 by default, since an answer is short and only its end is rewarded.
        gae_lambda: lambda of the generalized advantage estimates.
        max_new_tokens: maximum length of an answer, in tokens.
        temperature: sampling temperature of the answers; the policy is also trained at this temperature.
        missing_eos_reward: reward of an answer that does not reach its stop token, whatever else it says; None to let the
            reward function decide.
    """

    reward: Callable[[list[list[dict[str, Any]]], list[str]], Sequence[float]]
    kl_coefficient: float = 0.05
    epochs: int = 2
    clip: float = 0.2
    clip_value: float = 0.2
    value_coefficient: float = 0.1
    gamma: float = 1.0
    gae_lambda: float = 0.95
    max_new_tokens: int = 32
    temperature: float = 1.0
    missing_eos_reward: float | None = None
    name: str = "ppo"

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn a prompt (messages, a text, or a dict with "prompt") into token ids.

        Raises:
            CourseError: it is not a prompt, or it leaves no room for `max_new_tokens` tokens of answer.
        """
        messages = example.get("prompt") if isinstance(example, dict) else example
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, list) or not messages:
            raise CourseError(f"{where}: expected a prompt (messages or a text), found {example!r:.60}")
        prompt = encode_prompt(tokenizer, check_messages(messages, where), max_length - self.max_new_tokens, where)
        return Encoded(prompt, [[]], messages=messages)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the numbers of answer tokens and of answers, as {"tokens", "answers"}."""
        return {"tokens": sum(e.scored for e in examples), "answers": len(examples)}

    def attach(self, model: Model) -> None:
        """Put a value head on the model, in float32, with all weights zero.

        Raises:
            CourseError: the model has no adapter, so that there is no reference to compare it with.
        """
        import torch

        if not hasattr(model, "disable_adapter"):
            raise CourseError(
                "PPO's reference is the model without its adapter, and this one has none: the reference would be the "
                "trained model itself. Add an adapter (peft.get_peft_model); if you start from an adapter, merge it first"
            )
        width = model.get_output_embeddings().weight.shape[1]
        head = torch.nn.Linear(width, 1, dtype=torch.float32, device=model.get_output_embeddings().weight.device)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        model.value_head = head

    def detach(self, model: Model) -> None:
        """Remove the value head from the model."""
        del model.value_head

    def rollout(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Encoded],
        score: ScoreAnswers,
        seed: int,
    ) -> tuple[list[Encoded], dict[str, float]]:
        """Answer the prompts, and estimate how good each token of the answers was.

        Args:
            model: the current policy, not wrapped.
            tokenizer: its tokenizer.
            prompts: encoded prompts, from `encode`.
            score: function of (examples, reference: bool) that returns (log-probabilities, values) of each example's answer
                tokens.
            seed: seed of the sampling.

        Returns:
            The examples, in which each token has old_log_probabilities, old_advantages, old_returns and old_values; and
            means for the history: "reward", "kl" (nats per answer) and "length" (tokens).

        Raises:
            CourseError: the reward function returns another number of values than there are answers, or one that is not
                finite.
        """
        answers = self._sample(model, tokenizer, prompts, seed)
        examples = [Encoded(p.prompt, [ids]) for p, ids in zip(prompts, answers)]
        rewards = self._rewards(tokenizer, prompts, answers, stop_token_ids(model, tokenizer))
        policy, reference = score(examples, reference=False), score(examples, reference=True)
        rated, divergences = [], []
        for example, reward, (logs, values), (reference_logs, _) in zip(examples, rewards, policy, reference):
            log_ratios = [a - b for a, b in zip(logs, reference_logs)]
            token_rewards = [-self.kl_coefficient * ratio for ratio in log_ratios]
            token_rewards[-1] += reward
            advantages = generalized_advantages(token_rewards, values, self.gamma, self.gae_lambda)
            token_values = {
                "old_log_probabilities": logs,
                "old_advantages": advantages,
                "old_returns": [a + v for a, v in zip(advantages, values)],
                "old_values": values,
            }
            rated.append(replace(example, token_values=token_values))
            divergences.append(sum(log_ratios))
        means = {"reward": fmean(rewards), "kl": fmean(divergences), "length": fmean(e.scored for e in rated)}
        return _whitened(rated), means

    def _rewards(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Encoded],
        answers: Sequence[list[int]],
        stops: Collection[int],
    ) -> list[float]:
        """One checked reward per answer; an answer that ends with one of the tokens in `stops` is complete."""
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
        rewards = [float(reward) for reward in self.reward([p.messages for p in prompts], texts)]
        if len(rewards) != len(prompts) or not all(map(math.isfinite, rewards)):
            raise CourseError(
                f"the reward function gave {len(rewards)} values for {len(prompts)} answers, or one that is not finite: "
                "it must give one finite number for each answer"
            )
        if self.missing_eos_reward is None:
            return rewards
        return [reward if ids[-1] in stops else self.missing_eos_reward for reward, ids in zip(rewards, answers)]

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute the clipped policy loss plus the weighted, clipped value loss, both as means over the batch's tokens."""
        import torch

        logs, values = self.log_probabilities_and_values(model, batch)
        tokens = totals["tokens"]
        ratio = torch.exp(logs - batch["old_log_probabilities"])
        policy = clipped_policy_loss(ratio, batch["old_advantages"], self.clip).sum() / tokens
        value = clipped_value_loss(values, batch["old_values"], batch["old_returns"], self.clip_value).sum() / tokens
        clipped_share = ((ratio - 1).abs() > self.clip).sum() / tokens
        metrics = {"policy_loss": policy.detach(), "value_loss": value.detach(), "clipped": clipped_share}
        return Loss(policy + self.value_coefficient * value, metrics)

    def log_probabilities_and_values(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the log-probability at `temperature` of each scored token, and the value of the state before it.

        Returns:
            Two tensors of shape (scored tokens,).
        """
        owner: Any = next(m for m in model.modules() if hasattr(m, "value_head"))
        hidden_states: list[torch.Tensor] = []
        hook = owner.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: hidden_states.append(inputs[0]))
        try:
            output = run_model(model, batch).logits
        finally:
            hook.remove()
        position = (batch["row"], batch["column"])
        values = owner.value_head(hidden_states[0][position].float())[:, 0]
        return log_probabilities(model, output[position] / self.temperature, batch["label"]), values

    def _sample(
        self, model: Model, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Encoded], seed: int
    ) -> list[list[int]]:
        from course_utils.generation import complete
        from course_utils.training.fused import head

        with head.logits(model):
            return complete(
                model, tokenizer, [p.prompt for p in prompts], self.max_new_tokens, self.temperature,
                batch_size=len(prompts), seed=seed,
            )  # fmt: skip


def _whitened(examples: list[Encoded]) -> list[Encoded]:
    """The examples with advantages scaled to mean 0 and deviation 1, so that one learning rate suits every reward."""
    batch = [a for e in examples for a in e.token_values["old_advantages"]]
    mean, deviation = fmean(batch), pstdev(batch) + 1e-8
    return [
        replace(
            e,
            token_values=e.token_values
            | {"old_advantages": [(a - mean) / deviation for a in e.token_values["old_advantages"]]},
        )
        for e in examples
    ]
