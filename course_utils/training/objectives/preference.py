"""Learning from preferences: DPO (Rafailov et al., 2023, arXiv 2305.18290), ORPO (Hong et al., 2024, arXiv 2403.07691)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.scoring import Batch, Encoded, collate, sum_by_completion, token_log_probabilities
from course_utils.training.losses import dpo_loss, odds_ratio_loss
from course_utils.training.objectives.base import Loss, Objective
from course_utils.training.objectives.encoding import encode_completion, encode_prompt, messages_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def encode_pair(tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
    """Turn a pair {"prompt", "chosen", "rejected"} into token ids; each part is a text or a list of messages.

    Without "prompt", chosen and rejected are whole conversations that differ only in the last message (TRL's implicit
    prompt).

    Returns:
        Encoded with two completions: the chosen one, then the rejected one.

    Raises:
        CourseError: a part is missing, empty or too long, the two answers are the same, or their prompts differ.
    """
    if isinstance(example, dict) and "prompt" not in example:
        example = _with_explicit_prompt(example, where)
    question = messages_of(example, "prompt", where)
    prompt = encode_prompt(tokenizer, question, max_length, where)
    chosen, rejected = (
        encode_completion(tokenizer, prompt, question + messages_of(example, key, where), max_length, f"{where}, {key}")
        for key in ("chosen", "rejected")
    )
    if chosen == rejected:
        raise CourseError(
            f"{where}: chosen and rejected are the same (within max_length={max_length}), there is no preference"
        )
    return Encoded(prompt, [chosen, rejected])


def _with_explicit_prompt(example: dict[str, Any], where: str) -> dict[str, list[dict[str, Any]]]:
    chosen, rejected = (messages_of(example, key, where) for key in ("chosen", "rejected"))
    if len(chosen) < 2:
        raise CourseError(
            f"{where}: there is no prompt; give it under 'prompt', or as the first messages of chosen and rejected"
        )
    for number, (chosen_message, rejected_message) in enumerate(zip(chosen[:-1], rejected[:-1])):
        if chosen_message != rejected_message:
            raise CourseError(
                f"{where}: the prompts of the pair differ in message {number} ({chosen_message['content']!r:.50} and "
                f"{rejected_message['content']!r:.50}); two answers can be compared only if they answer the same prompt"
            )
    if len(chosen) != len(rejected):
        raise CourseError(
            f"{where}: the prompts of the pair differ: {len(chosen) - 1} messages before chosen, {len(rejected) - 1} "
            "before rejected"
        )
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


@dataclass(frozen=True)
class DPO(Objective):
    """Direct preference optimisation: -log sigmoid(beta · (log-ratio of chosen − log-ratio of rejected)).

    A log-ratio is a completion's log-probability under the policy minus that under the reference, which is the model as it
    was when training began. At step 0 the two are equal, and the loss is ln 2. beta · log-ratio is called the implicit
    reward.

    Attributes:
        beta: how strongly the policy is held to the reference; the larger beta is, the closer the policy stays to it.
        reference: another model as the reference, with the same tokenizer; None for the model as it is before training.
        sft_weight: weight of an SFT term on the chosen answers (TRL's loss type "sft" beside "sigmoid"). It holds the chosen
            answer up, whose probability DPO alone may lower (Pang et al., 2024, arXiv 2404.19733, who weight all pairs
            alike; TRL and we weight all tokens alike).
    """

    beta: float = 0.1
    reference: torch.nn.Module | None = field(default=None, repr=False)
    sft_weight: float = 0.0
    name: str = "dpo"
    needs_reference = True

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn a preference pair into token ids; see `encode_pair`."""
        return encode_pair(tokenizer, example, max_length, where)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the numbers of pairs and of the chosen answers' tokens, as {"pairs", "tokens"}."""
        return {"pairs": len(examples), "tokens": sum(len(e.completions[0]) for e in examples)}

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute the micro-batch's contribution to the mean over the batch's pairs, and over tokens for the SFT term."""
        scores = token_log_probabilities(model, batch)
        log_ratios = sum_by_completion(scores, batch).view(-1, 2) - batch["reference_log_probabilities"]
        metrics = pair_metrics(self.beta * log_ratios.detach(), totals["pairs"])
        loss = dpo_loss(log_ratios, self.beta).sum() / totals["pairs"]
        if not self.sft_weight:
            return Loss(loss, metrics)
        sft = -scores[batch["completion"] % 2 == 0].sum() / totals["tokens"]
        return Loss(loss + self.sft_weight * sft, metrics | {"sft_loss": sft.detach()})


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


def pair_metrics(rewards: torch.Tensor, pairs: float) -> dict[str, torch.Tensor]:
    """Return what a micro-batch contributes to the batch's mean rewards, margin and accuracy.

    Args:
        rewards: shape (pairs of the micro-batch, 2), the rewards of chosen and rejected.
        pairs: number of pairs in the whole batch.
    """
    chosen, rejected = rewards[:, 0], rewards[:, 1]
    return {
        "reward_chosen": chosen.sum() / pairs,
        "reward_rejected": rejected.sum() / pairs,
        "margin": (chosen - rejected).sum() / pairs,
        "accuracy": (chosen > rejected).sum() / pairs,
    }
