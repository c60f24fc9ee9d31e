"""Proximal policy optimisation against a reward, with a KL penalty to the reference.

Schulman et al., 2017 (arXiv 1707.06347) for the clipped objective, Schulman et al., 2016 (arXiv 1506.02438) for GAE,
Ziegler et al., 2019 (arXiv 1909.08593) and Ouyang et al., 2022 (arXiv 2203.02155) for language models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.training.batching import Batch, Encoded, run
from course_utils.training.objectives.base import LookBack, Loss, Objective, check_messages, encode_prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model


@dataclass(frozen=True)
class PPO(Objective):
    """PPO on whole answers: the reward comes with the last token, the KL penalty with each.

    An example is a prompt. For each batch of prompts the policy answers (`rollout`), and the answers are then trained on
    `epochs` times. The value head is one linear layer on the policy's last hidden states; it is taken off after training.

    Attributes:
        reward: (prompts as messages, answers as texts) → one number for each answer.
        kl: price of one nat of log-ratio to the reference, a token; 0 lets the policy run.
        epochs: times each batch of answers is trained on.
        clip: how far a token's probability ratio counts, ε in the paper.
        clip_value: how far a value may move from the one at rollout.
        value_weight: weight of the value loss.
        discount: gamma; 1, since an answer is short and only its end is rewarded.
        trace: GAE's lambda.
        max_new_tokens: longest answer.
        temperature: of the answers; the policy that is trained is the one at this temperature.
        unfinished: reward of an answer that does not come to its stop token, whatever else it says; None to let the reward
            decide.
    """

    reward: Callable[[list[list[dict[str, Any]]], list[str]], Sequence[float]]
    kl: float = 0.05
    epochs: int = 2
    clip: float = 0.2
    clip_value: float = 0.2
    value_weight: float = 0.1
    discount: float = 1.0
    trace: float = 0.95
    max_new_tokens: int = 32
    temperature: float = 1.0
    unfinished: float | None = None
    name: str = "ppo"
    online = True

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn a prompt (messages, a text, or a dict with "prompt") into token ids."""
        messages = example.get("prompt") if isinstance(example, dict) else example
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, list) or not messages:
            raise CourseError(f"{where}: expected a prompt (messages or a text), found {example!r:.60}")
        prompt = encode_prompt(tokenizer, check_messages(messages, where), max_length - self.max_new_tokens, where)
        return Encoded(prompt, [[]], extra={"messages": messages})

    def sizes(self, examples: Sequence[Encoded]) -> dict[str, int]:
        """Tokens of the answers, and answers."""
        return {"tokens": sum(e.scored for e in examples), "answers": len(examples)}

    def attach(self, model: Model) -> None:
        """Put a value head on the model, in float32, starting at zero.

        Raises:
            CourseError: the model has no adapter, so that there is no reference to go back to.
        """
        import torch

        if not hasattr(model, "disable_adapter"):
            raise CourseError(
                "PPO's reference is the model without its adapter, and this one has none: the reference would be the "
                "trained model itself. Add an adapter (peft.get_peft_model); merge one that is the start first"
            )
        width = model.get_output_embeddings().weight.shape[1]
        head = torch.nn.Linear(width, 1, dtype=torch.float32, device=model.get_output_embeddings().weight.device)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        model.value_head = head

    def detach(self, model: Model) -> None:
        """Take the value head off."""
        del model.value_head

    def rollout(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Encoded],
        forward: LookBack,
        seed: int,
    ) -> tuple[list[Encoded], dict[str, float]]:
        """Answer the prompts and say how good each token was.

        Args:
            model: the policy as it is now, not wrapped.
            tokenizer: its tokenizer.
            prompts: from `encode`.
            forward: (examples, reference: bool) → for each example (log-probabilities, values) of its answer's tokens.
            seed: of the sampling.

        Returns:
            (examples with old log-probabilities, advantages, returns and values in `extra`, means for the record).
        """
        answers = self._sample(model, tokenizer, prompts, seed)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
        examples = [Encoded(p.prompt, [ids]) for p, ids in zip(prompts, answers)]
        scores = [float(s) for s in self.reward([p.extra["messages"] for p in prompts], texts)]
        if len(scores) != len(prompts) or not all(map(math.isfinite, scores)):
            raise CourseError(f"the reward function gave {len(scores)} values for {len(prompts)} answers, or one not finite")
        if self.unfinished is not None:
            scores = [s if ids[-1] == tokenizer.eos_token_id else self.unfinished for s, ids in zip(scores, answers)]
        policy, reference = forward(examples, reference=False), forward(examples, reference=True)
        made, kls = [], []
        for example, score, (logs, values), (reference_logs, _) in zip(examples, scores, policy, reference):
            ratios = [a - b for a, b in zip(logs, reference_logs)]
            rewards = [-self.kl * ratio for ratio in ratios]
            rewards[-1] += score
            advantages = advantage_estimates(rewards, values, self.discount, self.trace)
            returns = [a + v for a, v in zip(advantages, values)]
            extra = {"log_probabilities": logs, "advantages": advantages, "returns": returns, "values": values}
            made.append(replace(example, extra=extra))
            kls.append(sum(ratios))
        count = len(made)
        record = {"reward": sum(scores) / count, "kl": sum(kls) / count, "length": sum(e.scored for e in made) / count}
        return _whitened(made), record

    def collate(self, examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
        """A batch with what `rollout` noted of each token, (scored tokens) each."""
        import torch

        names = ("log_probabilities", "advantages", "returns", "values") if "returns" in examples[0].extra else ()
        noted = {f"old_{n}": torch.tensor([v for e in examples for v in e.extra[n]]) for n in names}
        return super().collate(examples, pad_id, share_prompt) | noted

    def loss(self, model: torch.nn.Module, batch: Batch, sizes: Mapping[str, float]) -> Loss:
        """Clipped policy loss plus the clipped value loss, means over the batch's tokens."""
        import torch

        logs, values = self.log_probabilities_and_values(model, batch)
        ratio = torch.exp(logs - batch["old_log_probabilities"])
        policy = clipped_policy_loss(ratio, batch["old_advantages"], self.clip)
        value = clipped_value_loss(values, batch["old_values"], batch["old_returns"], self.clip_value)
        policy, value = policy.sum() / sizes["tokens"], value.sum() / sizes["tokens"]
        clipped = ((ratio - 1).abs() > self.clip).sum() / sizes["tokens"]
        metrics = {"policy_loss": policy.detach(), "value_loss": value.detach(), "clipped": clipped}
        return Loss(policy + self.value_weight * value, metrics)

    def log_probabilities_and_values(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each scored token: its log-probability at `temperature`, and the value of the state before it."""
        from course_utils.training.fused.head import log_probabilities

        owner: Any = next(m for m in model.modules() if hasattr(m, "value_head"))
        seen: list[torch.Tensor] = []
        hook = owner.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            output = run(model, batch).logits
        finally:
            hook.remove()
        place = (batch["row"], batch["column"])
        values = owner.value_head(seen[0][place].float())[:, 0]
        return log_probabilities(model, output[place] / self.temperature, batch["label"]), values

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


def advantage_estimates(rewards: Sequence[float], values: Sequence[float], discount: float, trace: float) -> list[float]:
    """Generalised advantage estimation over one answer's tokens.

    delta_t = r_t + gamma · V_(t+1) − V_t, with V = 0 after the end; A_t = delta_t + gamma · lambda · A_(t+1).
    """
    advantages, following, after = [0.0] * len(rewards), 0.0, 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + discount * following - values[t]
        after = advantages[t] = delta + discount * trace * after
        following = values[t]
    return advantages


def clipped_policy_loss(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """-min(ratio · A, clip(ratio, 1 − ε, 1 + ε) · A) for each token."""
    import torch

    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """½ max((V − R)², (V clipped to within `clip` of the old V − R)²) for each token."""
    import torch

    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


def _whitened(examples: list[Encoded]) -> list[Encoded]:
    """Advantages of a batch at mean 0 and deviation 1, so that one learning rate suits every reward."""
    from statistics import fmean, pstdev

    every = [a for e in examples for a in e.extra["advantages"]]
    mean, deviation = fmean(every), pstdev(every) + 1e-8
    return [
        replace(e, extra=e.extra | {"advantages": [(a - mean) / deviation for a in e.extra["advantages"]]}) for e in examples
    ]
