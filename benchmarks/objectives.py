"""What only the records of lesson 04 use: ORPO, equal to TRL's (tests/training), IPO, SimPO, likelihoods, log-ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils.batching import (
    Batch,
    Encoded,
    can_share_prompt,
    collate,
    default_micro_batch_tokens,
    micro_batches,
    pad_token_id,
    to_device,
)
from course_utils.scoring import chat_token_ids, completion_log_probabilities, sum_by_completion, token_log_probabilities
from course_utils.training.objectives import (
    DPO,
    Loss,
    Objective,
    encode_pair,
    pair_metrics,
)

if TYPE_CHECKING:
    from course_utils.models import Model

    import torch
    from transformers import PreTrainedTokenizerBase


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
class IPO(DPO):
    """DPO with a squared distance to a margin (Azar et al., 2023, arXiv 2310.12036, equation 17)."""

    name: str = "ipo"

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Mean over the batch's pairs."""
        log_probabilities = sum_by_completion(token_log_probabilities(model, batch), batch).view(-1, 2)
        log_ratios = log_probabilities - batch["reference_log_probabilities"]
        metrics = pair_metrics(self.beta * log_ratios.detach(), totals["pairs"])
        return Loss((log_ratios[:, 0] - log_ratios[:, 1] - 1 / (2 * self.beta)).square().sum() / totals["pairs"], metrics)


@dataclass(frozen=True)
class SimPO(ORPO):
    """Mean log-probabilities, a target, no reference (Meng et al., 2024, arXiv 2405.14734, equation 6)."""

    beta: float = 2.0
    target: float = 0.5
    name: str = "simpo"

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Mean over the batch's pairs."""
        import torch

        scores = token_log_probabilities(model, batch)
        sums, counts = sum_by_completion(scores, batch), sum_by_completion(torch.ones_like(scores), batch)
        means = (sums / counts).view(-1, 2)
        metrics = pair_metrics(self.beta * means.detach(), totals["pairs"])
        losses = -torch.nn.functional.logsigmoid(self.beta * (means[:, 0] - means[:, 1]) - self.target)
        return Loss(losses.sum() / totals["pairs"], metrics)


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
    """
    prompt_ids = [chat_token_ids(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts]
    encoded = [Encoded(ids, [answer]) for ids, answer in zip(prompt_ids, answers, strict=True)]
    policy_sums = completions_log_probabilities(policy, tokenizer, encoded)
    with policy.disable_adapter() if reference is None else nullcontext():
        reference_sums = completions_log_probabilities(reference or policy, tokenizer, encoded)
    return [a - b for (a,), (b,) in zip(policy_sums, reference_sums)]


class Likelihoods(NamedTuple):
    """How likely a model finds the two replies of a preference pair.

    Attributes:
        chosen, rejected: log-probabilities of the replies, in nats, summed over their tokens.
        chosen_tokens, rejected_tokens: numbers of their tokens, the stop token included.
    """

    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int


def likelihoods(model: Model, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Mapping[str, Any]]) -> list[Likelihoods]:
    """Compute how likely a model finds the two replies of each preference pair, with its adapter if it has one.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        pairs: dicts with "prompt", "chosen" and "rejected".

    Raises:
        CourseError: a pair is broken; the message names it by its position.
    """
    encoded = [encode_pair(tokenizer, row, tokenizer.model_max_length, f"pairs[{i}]") for i, row in enumerate(pairs)]
    sums = completions_log_probabilities(model, tokenizer, encoded)
    return [
        Likelihoods(chosen, rejected, *map(len, example.completions)) for (chosen, rejected), example in zip(sums, encoded)
    ]


def completions_log_probabilities(
    model: Model, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Encoded]
) -> list[tuple[float, ...]]:
    """Return the log-probability of each completion of each example, in nats, without gradient."""
    pad_id, share_prompt = pad_token_id(tokenizer), can_share_prompt(model)
    cut_examples = micro_batches(examples, default_micro_batch_tokens(model.device))
    was_training = model.training
    model.eval()
    by_example = completion_log_probabilities(
        model, cut_examples, lambda part: to_device(collate(part, pad_id, share_prompt), model.device)
    )
    model.train(was_training)
    return [by_example[id(example)] for example in examples]
