"""The contract between a method (objective) and the trainer.

The trainer uses only the attributes and methods defined here; tests/training/test_contract.py runs it with an objective that
has nothing else. If a method needs something new, it is added here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from course_utils.scoring import Batch, Encoded, collate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model


class Loss(NamedTuple):
    """What a micro-batch contributes to the loss and to the mean metrics of its batch; the contributions are added up.

    Attributes:
        value: the contribution to the loss, a scalar tensor with gradient.
        metrics: name → contribution to the batch's mean, a scalar tensor without gradient.
    """

    value: torch.Tensor
    metrics: dict[str, torch.Tensor]


class ScoreAnswers(Protocol):
    """The function with which an online objective scores answers; the trainer passes it to `OnlineObjective.rollout`."""

    def __call__(self, examples: Sequence[Encoded], reference: bool) -> list[tuple[list[float], list[float]]]:
        """Score the answer tokens of each example with the policy or, if `reference` is true, with the reference.

        Returns:
            For each example (log-probabilities, values), with one entry per answer token each.
        """


class Objective:
    """Base class of the objectives: how an example becomes token ids, and how a batch becomes a loss.

    An objective knows nothing about devices, optimisers, logging or checkpoints; the trainer knows nothing about messages.

    Attributes:
        name: the method's usual name.
        needs_reference: whether the completions' log-probabilities under the reference are computed once, before training.
        reference: the model that computes them; None for the trained model as it is before training, so that no second copy
            of it is needed.
        needs_statistics: whether `statistics` is called on the whole batch before its loss.
        output: what the last layer has to compute: "scored" for logits at the scored tokens, "none" for less than that.
        is_online: whether the model itself generates the training examples, from prompts. True for each `OnlineObjective`,
            and only for these.
    """

    name: str = "objective"
    needs_reference: bool = False
    reference: torch.nn.Module | None = None
    needs_statistics: bool = False
    output: str = "scored"
    is_online: bool = False

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn an example in the user's format into token ids.

        Args:
            tokenizer: a tokenizer with a chat template.
            example: an example in the form that the objective describes.
            max_length: maximum length of an example, in tokens.
            where: name of the example in error messages, such as "train[3]".

        Raises:
            CourseError: the example is broken, or its prompt is too long.
        """
        raise NotImplementedError

    def prepare(self, examples: Sequence[Encoded]) -> list[Encoded]:
        """Complete the examples of a data set, for example with parts of other examples.

        This is called once, after all examples have been encoded.

        Returns:
            The completed examples, in the same order.
        """
        return list(examples)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the numbers by which the losses of a batch of these examples are divided, such as {"tokens": 120}."""
        raise NotImplementedError

    def collate(self, examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
        """Return the tensors of a batch, padded with `pad_id`; see `scoring.collate`."""
        return collate(examples, pad_id, share_prompt)

    def statistics(self, model: torch.nn.Module, batch: Batch, normalizers: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Compute, without gradient, what this micro-batch contributes to the quantities that its batch's loss needs.

        The trainer calls it only if `needs_statistics`: on every micro-batch of a batch, before the first loss. It adds the
        contributions up, over processes too.
        """
        raise NotImplementedError

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute what a batch or micro-batch contributes to the loss, with gradient.

        Args:
            model: the model, which may be wrapped for several processes.
            batch: tensors from `collate`, of the whole batch or of one micro-batch.
            totals: numbers of the whole batch: its `normalizers`, and its `statistics` if `needs_statistics`.
        """
        raise NotImplementedError

    def attach(self, model: Model) -> None:
        """Add to the model what the objective trains besides it, such as PPO's value head; called before the first step."""

    def detach(self, model: Model) -> None:
        """Remove from the model what `attach` added to it; called when the run has ended."""


class OnlineObjective(Objective):
    """An objective whose training examples are generated by the model itself during training: its data are prompts.

    Attributes:
        epochs: how many times each generated batch is trained on.
    """

    epochs: int = 1
    is_online = True

    def rollout(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Encoded],
        score: ScoreAnswers,
        seed: int,
    ) -> tuple[list[Encoded], dict[str, float]]:
        """Let the model answer prompts, and turn the answers into training examples.

        Args:
            model: the current policy, not wrapped.
            tokenizer: its tokenizer.
            prompts: encoded prompts, without answers.
            score: scores the answers with the policy or the reference.
            seed: seed of the sampling.

        Returns:
            The training examples, and means for the history by name, with "reward" among them.
        """
        raise NotImplementedError

    def log_probabilities_and_values(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute, with gradient, the log-probability of each scored token and the value of the state before it.

        Returns:
            Two tensors of shape (scored tokens,).
        """
        raise NotImplementedError
