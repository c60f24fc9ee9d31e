"""What an objective is: the contract between a method and the trainer.

The trainer reads the attributes and calls the methods that stand here and no others; tests/training/test_contract.py runs it
with an objective that has nothing else. A method that needs something new gets it by a new line here.
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
    """A micro-batch's part of a batch's loss, and of the batch's means of other quantities; parts are added up."""

    value: torch.Tensor
    metrics: dict[str, torch.Tensor]


class ScoreAnswers(Protocol):
    """Asks the policy, or the reference, about answers; the trainer gives one to `OnlineObjective.rollout`."""

    def __call__(self, examples: Sequence[Encoded], reference: bool) -> list[tuple[list[float], list[float]]]:
        """For each example (log-probabilities, values) of its answer's tokens."""


class Objective:
    """Base of the objectives: how an example becomes token ids, and a batch becomes a loss.

    An objective knows nothing of devices, optimisers, logging or checkpoints; the trainer knows nothing of messages.

    Attributes:
        name: the field's name for the method.
        needs_reference: the completions' log-probabilities under the reference are taken once, before training.
        reference: the model to take them from; None for the trained model as it is before training, so that no second copy
            of it is needed.
        needs_statistics: `statistics` is called on the whole batch before its loss.
        output: what the last layer makes: "scored" for a table over the vocabulary at the scored tokens, "none" for less.
    """

    name: str = "objective"
    needs_reference: bool = False
    reference: torch.nn.Module | None = None
    needs_statistics: bool = False
    output: str = "scored"

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn an example as the user has it into token ids.

        Args:
            tokenizer: with a chat template.
            example: see the objective.
            max_length: longest example in tokens.
            where: name of the example in errors, such as "train[3]".

        Raises:
            CourseError: the example is broken, or its prompt too long.
        """
        raise NotImplementedError

    def prepare(self, examples: Sequence[Encoded]) -> list[Encoded]:
        """Complete the examples of a whole data set after all are encoded, in their order."""
        return list(examples)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """What the losses of a batch of these examples are divided by: name → number of tokens, pairs or the like."""
        raise NotImplementedError

    def collate(self, examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
        """Tensors of a batch; see `scoring.collate`."""
        return collate(examples, pad_id, share_prompt)

    def statistics(self, model: torch.nn.Module, batch: Batch, normalizers: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Where `needs_statistics`: this micro-batch's part of what the whole batch's loss needs, without gradient.

        It is called on every micro-batch of a batch before the first loss; the parts are added up, over processes too.
        """
        raise NotImplementedError

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Part of the loss of a batch, with gradient.

        Args:
            model: may be wrapped for several processes.
            batch: from `collate`: the whole batch or a micro-batch of it.
            totals: of the whole batch: its `normalizers`, and its `statistics` where `needs_statistics`.
        """
        raise NotImplementedError

    def attach(self, model: Model) -> None:
        """Add what the objective trains beside the model (PPO's value head)."""

    def detach(self, model: Model) -> None:
        """Take it off again."""


class OnlineObjective(Objective):
    """An objective whose examples the model makes itself while it trains: its data are prompts.

    Attributes:
        epochs: times each batch of examples that the model has made is trained on.
    """

    epochs: int = 1

    def rollout(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Encoded],
        score: ScoreAnswers,
        seed: int,
    ) -> tuple[list[Encoded], dict[str, float]]:
        """Training examples that the model makes from prompts, and means for the record ("reward" among them)."""
        raise NotImplementedError

    def log_probabilities_and_values(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """For each scored token its log-probability and the value of the state before it, (scored tokens) each."""
        raise NotImplementedError
