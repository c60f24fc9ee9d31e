"""The reference model that a policy is compared with: checked, and evaluated once before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from course_utils.errors import CourseError
from course_utils.scoring import Encoded, completion_log_probabilities

if TYPE_CHECKING:
    import torch

    from course_utils.training.micro_batches import MicroBatches


def check_reference(model: torch.nn.Module, reference: torch.nn.Module) -> None:
    """Refuse a reference model that training would change too: every log-ratio to it would stay zero.

    The reference need not be the same object as the model: `get_peft_model` puts the adapter into the base model itself, so
    that the base *is* the policy.

    Raises:
        CourseError: the two models share a trained parameter.
    """
    trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    shared = next((trained[id(p)] for p in reference.parameters() if id(p) in trained), None)
    if reference is model or shared:
        raise CourseError(
            f"the reference is the trained model itself ({shared or 'one object'} is part of both): leave the reference "
            "out, and the model as it is before training is taken; or load a second copy with models.load"
        )


def reference_log_probabilities(
    model: torch.nn.Module, reference: torch.nn.Module | None, examples: Sequence[Encoded], micro_batches: MicroBatches
) -> list[tuple[float, ...]]:
    """Compute the log-probabilities of the examples' completions under the reference.

    Args:
        model: the model that will be trained; without a `reference` it is itself the reference, as it is now.
        reference: another model to use as the reference, or None.
        examples: the encoded examples.
        micro_batches: cuts and collates them.

    Returns:
        For each example a tuple with one log-probability per completion, in nats, summed over the completion's tokens.

    Raises:
        CourseError: the reference is the trained model itself.
    """
    if reference is not None:
        check_reference(model, reference)
    scoring_model = reference or model
    scoring_model.eval()
    by_example = completion_log_probabilities(scoring_model, micro_batches.cut(examples), micro_batches.collate)
    return [by_example[id(example)] for example in examples]


def with_reference(examples: Sequence[Encoded], values: Sequence[Sequence[float]]) -> list[Encoded]:
    """Return copies of the examples that contain the reference's log-probabilities of their completions.

    Args:
        examples: the encoded examples.
        values: for each example one log-probability per completion, as `reference_log_probabilities` returns them.
    """
    return [replace(e, reference_log_probabilities=tuple(v)) for e, v in zip(examples, values, strict=True)]
