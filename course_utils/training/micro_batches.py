"""What goes through the model at once: examples cut, collated and put on the device; what the largest takes in memory."""

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


class MicroBatches:
    """Cuts batches into micro-batches and makes their tensors; knows which one was made last.

    Attributes:
        max_tokens: most tokens of a micro-batch, with padding.
        latest: examples of the micro-batch made last.
        latest_tokens: its tokens, with padding.
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

    def cut(self, examples: Sequence[Encoded]) -> list[list[Encoded]]:
        """Micro-batches without gradient: limited by memory alone."""
        return micro_batches(examples, self.max_tokens)

    def cut_for_training(self, examples: Sequence[Encoded]) -> list[list[Encoded]]:
        """Micro-batches of a step; with accumulation none has more examples than one batch."""
        accumulates = self.settings.gradient_accumulation_steps > 1
        return micro_batches(examples, self.max_tokens, self.settings.batch_size if accumulates else None)

    def collate(self, examples: Sequence[Encoded]) -> Batch:
        """Tensors of a micro-batch on the device."""
        batch = self.objective.collate(examples, self.pad_id, self.share_prompt)
        self.latest, self.latest_tokens = list(examples), batch["input_ids"].numel()
        return to_device(batch, self.device)

    def footprint(self, steps: Sequence[Sequence[Encoded]]) -> Footprint:
        """What training on these steps' examples will add to memory."""
        cut = [self.cut_for_training(step) for step in steps]
        return self._predict(largest([part for step in cut for part in step]), any(len(step) > 1 for step in cut))

    def latest_footprint(self) -> Footprint:
        """What the micro-batch made last takes, as one of several of a step."""
        return self._predict([self.latest], accumulates=True)

    def _predict(self, cut: Sequence[Sequence[Encoded]], accumulates: bool) -> Footprint:
        batches = [self.objective.collate(part, self.pad_id, self.share_prompt) for part in cut]
        return predict(self.model, batches, self.settings, self.objective.output, accumulates)
