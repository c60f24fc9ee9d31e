"""Cuts examples into micro-batches that fit, collates them and moves them to the device; predicts the largest's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.scoring import (
    Batch,
    Encoded,
    can_share_prompt,
    default_micro_batch_tokens,
    micro_batches,
    pad_token_id,
    to_device,
)
from course_utils.training.footprint import Footprint, largest, predict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model
    from course_utils.training.objectives import Objective
    from course_utils.training.settings import Settings


# Of the free memory, what a run is planned to take: the allocator loses some in gaps, and libraries take some themselves.
PLANNED_SHARE = 0.85
# On a GPU, where the closed form does not cover the run. For LoRA it gives 3.7 GB for so many tokens of the T4's model, and
# 8.5 GB for those of the A100's: a micro-batch that fits beside the weights on these cards.
UNPREDICTED_TOKENS = 2048


class MicroBatches:
    """Cuts batches into micro-batches, makes their tensors, and remembers the latest one for error messages.

    Attributes:
        max_tokens: maximum number of tokens in a micro-batch, padding included.
        latest: examples of the latest micro-batch.
        latest_tokens: number of tokens in the latest micro-batch, padding included.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.model, self.objective, self.settings, self.device = model, objective, settings, device
        self.pad_id = pad_token_id(tokenizer)
        self.max_tokens = settings.micro_batch_tokens or default_micro_batch_tokens(model.device)
        self.share_prompt = settings.share_prompt and can_share_prompt(model)
        self.latest: list[Encoded] = []
        self.latest_tokens = 0

    def fit_into(self, free: int | None, steps: Sequence[Sequence[Encoded]], longest: int | None = None) -> Footprint:
        """Halve the number of tokens in a micro-batch until the memory that training adds is free; then predict that memory.

        The gradient stays the same, up to the order of additions. Nothing is changed if the number is one of the settings.

        Args:
            free: memory that can still be allocated, in bytes; None where it is not known, as on a CPU.
            steps: the examples of each step.
            longest: number of tokens that was chosen when this run began, if it is resumed: if it still fits, additions have
                the same order as before.

        Returns:
            The prediction, as from `footprint`.
        """
        if self.settings.micro_batch_tokens is not None or free is None:
            return self.footprint(steps)
        if longest is not None:
            self.max_tokens = min(self.max_tokens, longest)
        shortest = max(len(example) for step in steps for example in step)  # a micro-batch has at least one example
        while True:
            prediction = self.footprint(steps)
            if prediction.predicted is None:
                self.max_tokens = min(self.max_tokens, UNPREDICTED_TOKENS)
                return prediction
            if prediction.predicted <= PLANNED_SHARE * free or self.max_tokens <= shortest:
                return prediction
            self.max_tokens = max(self.max_tokens // 2, shortest)

    def cut(self, examples: Sequence[Encoded]) -> list[list[Encoded]]:
        """Cut examples into micro-batches for a computation without gradients, limited only by the number of tokens."""
        return micro_batches(examples, self.max_tokens)

    def cut_for_training(self, examples: Sequence[Encoded]) -> list[list[Encoded]]:
        """Cut the examples of a step into micro-batches.

        With gradient accumulation, none has more examples than `batch_size`.
        """
        accumulates = self.settings.gradient_accumulation_steps > 1
        return micro_batches(examples, self.max_tokens, self.settings.batch_size if accumulates else None)

    def collate(self, examples: Sequence[Encoded]) -> Batch:
        """Return the tensors of a micro-batch, on the device, and remember it as the latest one."""
        batch = self.objective.collate(examples, self.pad_id, self.share_prompt)
        self.latest, self.latest_tokens = list(examples), batch["input_ids"].numel()
        return to_device(batch, self.device)

    def footprint(self, steps: Sequence[Sequence[Encoded]]) -> Footprint:
        """Predict the memory that training adds, from the examples of each of the given steps."""
        cut_steps = [self.cut_for_training(step) for step in steps]
        return self._predict(
            largest([part for step in cut_steps for part in step]), any(len(step) > 1 for step in cut_steps)
        )

    def latest_footprint(self) -> Footprint:
        """Predict the memory of the latest micro-batch, as one of several in its step."""
        return self._predict([self.latest], accumulates=True)

    def _predict(self, micro_batches: Sequence[Sequence[Encoded]], accumulates: bool) -> Footprint:
        batches = [self.objective.collate(part, self.pad_id, self.share_prompt) for part in micro_batches]
        return predict(self.model, batches, self.settings, self.objective.output, accumulates)
