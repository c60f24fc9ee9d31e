"""Objectives that only the records of lesson 04 use: ORPO, KTO and reward models, each equal to TRL's (tests/training)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from course_utils.batching import Batch, Encoded, collate, micro_batches, pad_token_id, to_device
from course_utils.errors import CourseError
from course_utils.evaluation import completions_log_probabilities
from course_utils.scoring import chat_token_ids, run_model, sum_by_completion, token_log_probabilities
from course_utils.training.objectives import (
    Loss,
    Objective,
    check_reference,
    encode_completion,
    encode_pair,
    encode_prompt,
    messages_of,
    pair_metrics,
)

if TYPE_CHECKING:
    from course_utils.generation import Conversation
    from course_utils.models import Model

    import torch
    from transformers import PreTrainedTokenizerBase


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


@dataclass(frozen=True)
class ORPO(Objective):
    """Odds ratio preference optimisation: SFT on the chosen answer, plus a penalty on the odds of the rejected one.

    It needs no reference model.

    Attributes:
        beta: weight of the penalty (lambda in the paper).
        score_prompt: whether the SFT term also learns the prompt's tokens, as in the authors' code and in TRL; the paper's
            formula covers only the completion.
    """

    beta: float = 0.1
    score_prompt: bool = False
    name: str = "orpo"

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn a preference pair into token ids; see `encode_pair`."""
        return encode_pair(tokenizer, example, max_length, where)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the numbers of pairs and of tokens in the SFT term, as {"pairs", "tokens"}."""
        tokens = sum(len(e.completions[0]) + self.score_prompt * (len(e.prompt) - 1) for e in examples)
        return {"pairs": len(examples), "tokens": tokens}

    def collate(self, examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
        """Return the tensors of a batch; with `score_prompt`, the prompt's tokens are scored as well."""
        if not self.score_prompt:
            return collate(examples, pad_id, share_prompt)
        # The prompt after its first token becomes part of the completion; `is_answer` tells its tokens from the answer's.
        rows = [
            Encoded(
                e.prompt[:1], [e.prompt[1:] + c],
                token_values={"is_answer": [0.0] * (len(e.prompt) - 1) + [1.0] * len(c)},
            )
            for e in examples for c in e.completions
        ]  # fmt: skip
        return collate(rows, pad_id)

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute the SFT term, a mean over the batch's tokens, plus beta times the penalty, a mean over its pairs."""
        import torch

        scores = token_log_probabilities(model, batch)
        is_answer = batch["is_answer"] if self.score_prompt else torch.ones_like(scores)
        sums, counts = sum_by_completion(scores * is_answer, batch), sum_by_completion(is_answer, batch)
        means = (sums / counts).view(-1, 2)
        is_chosen = batch["completion"] % 2 == 0
        sft = -scores[is_chosen].sum() / totals["tokens"]
        odds = self.beta * odds_ratio_loss(means).sum() / totals["pairs"]
        metrics = pair_metrics(self.beta * means.detach(), totals["pairs"])
        return Loss(sft + odds, metrics | {"sft_loss": sft.detach(), "odds_loss": odds.detach()})


@dataclass(frozen=True)
class KTO(Objective):
    """Kahneman-Tversky optimisation, which learns from single completions that are labelled desirable or undesirable.

    An example is {"prompt", "completion", "label": true or false}. How far the policy is from the reference is estimated on
    mismatched completions: each prompt gets the completion of the example before it (the first one gets the last one's), and
    the estimate is averaged over the whole batch and at least 0, as TRL does. The reference is the model as it is before
    training.

    Attributes:
        beta: how strongly the policy is held to the reference.
        desirable_weight, undesirable_weight: weights of the two kinds of examples; set them if one kind is much rarer.
        reference: another model as the reference, with the same tokenizer; None for the model as it is before training.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    reference: torch.nn.Module | None = field(default=None, repr=False)
    name: str = "kto"
    needs_reference = True
    needs_statistics = True

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn {"prompt", "completion", "label"} into token ids; prompt and completion are texts or lists of messages.

        Raises:
            CourseError: a part is missing, empty or too long, or the label is neither true nor false.
        """
        messages = messages_of(example, "prompt", where)
        prompt = encode_prompt(tokenizer, messages, max_length, where)
        answer = messages_of(example, "completion", where)
        if example.get("label") not in (True, False):
            raise CourseError(f"{where}: expected true or false under 'label', found {example.get('label')!r:.60}")
        completion = encode_completion(tokenizer, prompt, messages + answer, max_length, f"{where}, completion")
        return Encoded(prompt, [completion], example_values={"desirable": float(example["label"])})

    def prepare(self, examples: Sequence[Encoded]) -> list[Encoded]:
        """Give each prompt a second completion, that of the example before it, for the estimate of the divergence."""
        if len(examples) < 2:
            raise CourseError("KTO needs at least two examples: it also scores another example's completion on each prompt")
        completions = [example.completions[0] for example in examples]
        return [
            replace(
                example,
                completions=[own, other],
                token_values={"weight": [1.0] * len(own) + [0.0] * len(other)},
            )
            for example, own, other in zip(examples, completions, [completions[-1], *completions[:-1]])
        ]

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the number of examples, under the name "examples"."""
        return {"examples": len(examples)}

    def statistics(self, model: torch.nn.Module, batch: Batch, normalizers: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Compute this micro-batch's contribution to the estimated KL divergence.

        The estimate is the mean log-ratio of the mismatched completions.
        """
        return {"kl": self._log_ratios(model, batch)[:, 1].sum() / normalizers["examples"]}

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute the micro-batch's contribution to the mean loss over the batch's examples."""
        kl = max(0.0, totals["kl"])
        log_ratios, desirable = self._log_ratios(model, batch)[:, 0], batch["desirable"]
        losses = kto_loss(log_ratios, desirable, kl, self.beta, (self.desirable_weight, self.undesirable_weight))
        count, rewards = totals["examples"], self.beta * log_ratios.detach()
        metrics = {
            "kl": log_ratios.new_tensor(kl * len(losses) / count),
            "reward_desirable": (rewards * desirable).sum() / count,
            "reward_undesirable": (rewards * (1 - desirable)).sum() / count,
        }
        return Loss(losses.sum() / count, metrics)

    def _log_ratios(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Log-ratios (examples, 2): of each prompt's own completion, and of the mismatched one."""
        log_probabilities = sum_by_completion(token_log_probabilities(model, batch), batch).view(-1, 2)
        reference: torch.Tensor = batch["reference_log_probabilities"]
        return log_probabilities - reference


@dataclass(frozen=True)
class Reward(Objective):
    """Bradley-Terry reward model: -log sigmoid(reward of chosen − reward of rejected).

    The model is a sequence classifier with one output (`models.load_reward`). The reward is read at the completion's last
    token, which is found by its position. transformers instead looks for the last token whose id is not that of the padding;
    if the stop token is also used for padding, that is one token too early.

    Attributes:
        centre: weight of a second term, which pulls the sum of the two rewards to zero (Eisenstein et al., 2023, arXiv
            2312.09244).
    """

    centre: float = 0.0
    name: str = "reward"
    output = "none"

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn a preference pair into token ids; see `encode_pair`."""
        return encode_pair(tokenizer, example, max_length, where)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the number of pairs, under the name "pairs"."""
        return {"pairs": len(examples)}

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute the micro-batch's contribution to the mean loss over the batch's pairs."""
        rewards = last_token_rewards(model, batch).view(-1, 2)
        losses = bradley_terry_loss(rewards, self.centre)
        return Loss(losses.sum() / totals["pairs"], pair_metrics(rewards.detach(), totals["pairs"]))


def last_token_rewards(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Compute the reward of each completion in a batch, with gradient.

    Returns:
        A float32 tensor of shape (completions,).

    Raises:
        CourseError: the model has no reward head.
    """
    head = next((module for name, module in model.named_modules() if name.split(".")[-1] == "score"), None)
    if head is None:
        raise CourseError("the model has no reward head: load it with models.load_reward")
    outputs: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        run_model(model, batch, keep_all=True)
    finally:
        hook.remove()
    return outputs[0][batch["end_row"], batch["end_column"], 0].float()


def reward_scores(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Conversation],
    answers: Sequence[str],
    batch_size: int = 16,
) -> list[float]:
    """Score answers with a trained reward model; the result can serve as PPO's reward.

    Args:
        model: a reward model, from `models.load_reward`.
        tokenizer: its tokenizer.
        prompts: for each answer its prompt, as messages or a text.
        answers: the answers, as texts; an answer may be empty.
        batch_size: number of answers that are scored at once.

    Returns:
        One score per answer.

    Raises:
        CourseError: the model has no reward head.
    """
    import torch

    examples = []
    for prompt, answer in zip(prompts, answers, strict=True):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        # Unlike in training, an answer may be empty here.
        completion = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        examples.append(Encoded(chat_token_ids(tokenizer, messages, add_generation_prompt=True), [completion]))
    scores: dict[int, float] = {}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for micro_batch in micro_batches(examples, 10**9, batch_size):
            batch = to_device(collate(micro_batch, pad_token_id(tokenizer)), model.device)
            scores |= {
                id(example): reward for example, reward in zip(micro_batch, last_token_rewards(model, batch).tolist())
            }
    model.train(was_training)
    return [scores[id(example)] for example in examples]


def log_ratios(
    policy: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Mapping[str, Any]]],
    answers: Sequence[list[int]],
    reference: Model | None = None,
) -> list[float]:
    """Compute log policy(answer) − log reference(answer) for each answer, in nats.

    The mean over answers that the policy itself sampled at temperature 1 estimates its KL divergence from the reference, per
    answer (a single log-ratio may be negative).

    Args:
        policy: the trained model.
        tokenizer: the tokenizer of both models.
        prompts: conversations.
        answers: token ids, as returned by `generation.complete`; a text would not show whether the answer was complete.
        reference: another model; None for the policy with its adapter switched off.

    Raises:
        CourseError: the reference is the policy itself.
    """
    if reference is not None:
        check_reference(policy, reference)
    prompt_ids = [chat_token_ids(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts]
    encoded = [Encoded(ids, [answer]) for ids, answer in zip(prompt_ids, answers, strict=True)]
    policy_sums = completions_log_probabilities(policy, tokenizer, encoded)
    with policy.disable_adapter() if reference is None else nullcontext():
        reference_sums = completions_log_probabilities(reference or policy, tokenizer, encoded)
    return [a - b for (a,), (b,) in zip(policy_sums, reference_sums)]
