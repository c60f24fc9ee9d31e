"""A short run with a fresh adapter on a model that already has one, which is as before afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from course_utils.training.history import History
from course_utils.training.settings import Settings
from course_utils.training.trainer import fit

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedTokenizerBase

NAME = "trial"


def trial(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Any],
    validation: Sequence[Any],
    config: LoraConfig,
    settings: Settings,
) -> History:
    """Train a fresh adapter beside those that the model has, measure it, and remove it again.

    Args:
        model: a PEFT model. Its active adapter is not used during the trial, and is active again afterwards.
        tokenizer: its tokenizer.
        train, validation: conversations, as `fit` takes them.
        config: configuration of the fresh adapter.
        settings: settings of the run; the seed also determines the adapter's first weights.

    Returns:
        History of the run.

    Raises:
        CourseError: for the same reasons as `fit`.
    """
    import torch

    active = model.active_adapter
    torch.manual_seed(settings.seed)
    model.add_adapter(NAME, config)
    try:
        model.set_adapter(NAME)
        return fit(model, tokenizer, train, validation, settings=settings)
    finally:
        model.set_adapter(active)
        model.delete_adapter(NAME)
