"""Learning from single judgements, desirable or not, without pairs: KTO (Ethayarajh et al., 2024, arXiv 2402.01306)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.scoring import Batch, Encoded, sum_by_completion, token_log_probabilities
from course_utils.training.losses import kto_loss
from course_utils.training.objectives.base import Loss, Objective
from course_utils.training.objectives.encoding import encode_completion, encode_prompt, messages_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


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
