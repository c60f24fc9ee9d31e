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
    """A micro-batch's part of the batch's loss and of the batch's mean metrics; the parts are added up."""

    value: torch.Tensor
    metrics: dict[str, torch.Tensor]


class ScoreAnswers(Protocol):
    """Scores answers with the policy or the reference; the trainer passes one to `OnlineObjective.rollout`."""

    def __call__(self, examples: Sequence[Encoded], reference: bool) -> list[tuple[list[float], list[float]]]:
        """(log-probabilities, values) of each example's answer tokens."""


class Objective:
    """Base class of the objectives: how an example becomes token ids, and how a batch becomes a loss.

    An objective knows nothing about devices, optimisers, logging or checkpoints; the trainer knows nothing about messages.

    Attributes:
        name: the method's usual name.
        needs_reference: the completions' log-probabilities under the reference are computed once, before training.
        reference: the model to compute them with; None for the trained model as it is before training, so that no second
            copy of it is needed.
        needs_statistics: `statistics` is called on the whole batch before its loss.
        output: output of the last layer: "scored" for a table over the vocabulary at the scored tokens, "none" for less.
        is_online: the model generates the training examples itself, from prompts; true for each `OnlineObjective`, and only
            for these.
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
            example: see the objective.
            max_length: longest example in tokens.
            where: name of the example in errors, such as "train[3]".

        Raises:
            CourseError: the example is broken, or its prompt too long.
        """
        raise NotImplementedError

    def prepare(self, examples: Sequence[Encoded]) -> list[Encoded]:
        """Complete the examples of a whole data set, in order, after all of them have been encoded."""
        return list(examples)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """The numbers by which the losses of a batch of these examples are divided: name → number of tokens, pairs, etc."""
        raise NotImplementedError

    def collate(self, examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
        """Tensors of a batch; see `scoring.collate`."""
        return collate(examples, pad_id, share_prompt)

    def statistics(self, model: torch.nn.Module, batch: Batch, normalizers: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """This micro-batch's part of the quantities that the whole batch's loss needs, without gradient.

        Only if `needs_statistics`. It is called on every micro-batch of a batch before the first loss; the parts are added
        up, over processes too.
        """
        raise NotImplementedError

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Part of the loss of a batch, with gradient.

        Args:
            model: the model, which may be wrapped for several processes.
            batch: from `collate`: the whole batch or a micro-batch of it.
            totals: of the whole batch: its `normalizers`, and its `statistics` if `needs_statistics`.
        """
        raise NotImplementedError

    def attach(self, model: Model) -> None:
        """Add to the model what the objective trains besides it (PPO's value head)."""

    def detach(self, model: Model) -> None:
        """Remove it again."""


class OnlineObjective(Objective):
    """An objective whose examples the model generates itself during training: its data are prompts.

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
        """Training examples that the model generates from prompts, and means for the history ("reward" among them)."""
        raise NotImplementedError

    def log_probabilities_and_values(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each scored token and value of the state before it, (scored tokens) each."""
        raise NotImplementedError
