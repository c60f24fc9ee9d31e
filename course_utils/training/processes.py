"""The processes of one training run: device, precision, sums over all of them, and the share of each in every batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from course_utils.batching import Encoded, shuffled_batches
from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from course_utils.models import Model
    from course_utils.training.objectives import Objective
    from course_utils.training.settings import Settings


Key = TypeVar("Key")


def accelerator_for(model: Model) -> Accelerator:
    """Create an Accelerator that suits the model's device and number format.

    Raises:
        CourseError: the model is in float16 on a CPU.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import GradScalerKwargs

    on_cpu = model.device.type == "cpu"
    half = next(model.parameters()).dtype == torch.float16
    if half and on_cpu:
        raise CourseError("the model is in float16 on a CPU, which is slow and inexact: load it in bfloat16 or float32")
    precision = "fp16" if half else "no"
    # Another trainer in this process, such as TRL's, may have set another precision or device (`use_cpu`), which Accelerate
    # would silently go on using.
    other_device = bool(PartialState._shared_state) and PartialState().device.type != model.device.type
    if other_device or (AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision):
        AcceleratorState._reset_state(reset_partial_state=other_device)
    # PyTorch begins at 65,536 and finds the scale that float16 holds by skipping steps: of a run of two, both.
    scaler = [GradScalerKwargs(init_scale=2.0**12)] if half else None
    return Accelerator(mixed_precision=precision, cpu=on_cpu, kwargs_handlers=scaler)


@contextmanager
def forward_restored(model: Model) -> Iterator[None]:
    """Give the model its own `forward` back at the end of the block.

    For mixed precision, Accelerate replaces it by one that computes under autocast and returns float32. Left in place, it
    would change what the model computes after training.
    """
    names = ("forward", "_original_forward", "_is_accelerate_prepared")  # with the last, Accelerate would not wrap it again
    before = {name: vars(model)[name] for name in names if name in vars(model)}
    try:
        yield
    finally:
        for name in names:
            vars(model).pop(name, None)
        vars(model).update(before)


def to_floats(values: Mapping[Key, torch.Tensor | float]) -> dict[Key, float]:
    """Return scalars as Python's numbers; those on a device in one copy, as each copy waits until the device is done."""
    import torch

    names = [name for name, value in values.items() if isinstance(value, torch.Tensor)]
    if not names:
        return {name: float(value) for name, value in values.items()}
    tensors = [cast("torch.Tensor", values[name]).detach() for name in names]
    copied = torch.stack(tensors).tolist()
    return {**{name: float(value) for name, value in values.items() if name not in names}, **dict(zip(names, copied))}


def sum_over_processes(accelerator: Accelerator, values: Mapping[str, float]) -> dict[str, float]:
    """Return each value summed over all processes of the run, under its name."""
    if accelerator.num_processes == 1:
        return dict(values)
    import torch

    tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=accelerator.device)
    return dict(zip(values, accelerator.reduce(tensor, "sum").tolist()))


@dataclass(frozen=True)
class StepBatch:
    """What one process has to work on in one step.

    Attributes:
        examples: this process's part of the batch.
        weight: 1, or 0 if the batch has no part for this process. It then works on another process's first example, only
            because all processes must take part in averaging the gradients.
        normalizers: the numbers by which the losses are divided, of the whole batch over all processes.
    """

    examples: list[Encoded]
    weight: int
    normalizers: Mapping[str, float]


class BatchSampler:
    """Yields the batches of a run in order. They depend only on the data, the settings and the number of processes."""

    def __init__(self, objective: Objective, settings: Settings, accelerator: Accelerator) -> None:
        self.objective, self.settings, self.accelerator = objective, settings, accelerator
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self.batch_size: int = settings.batch_size * self.world

    def steps_per_epoch(self, examples: Sequence[Encoded]) -> int:
        """Return the number of optimiser steps in one pass over the examples."""
        return math.ceil(len(examples) / self.batch_size)

    def epoch(self, examples: Sequence[Encoded], number: int) -> list[list[Encoded]]:
        """Return all batches of an epoch; each batch has the examples of all processes.

        Args:
            examples: the encoded examples of the data set.
            number: number of the epoch, from 0.
        """
        return shuffled_batches(examples, self.batch_size, self.settings.seed + number)

    def part(self, batch: list[Encoded]) -> tuple[list[Encoded], int]:
        """Return this process's examples of a whole batch, and their weight (see `StepBatch`)."""
        own_examples = batch[self.rank :: self.world]
        return (own_examples, 1) if own_examples else (batch[:1], 0)

    def after(self, step: int, examples: Sequence[Encoded]) -> Iterator[StepBatch]:
        """Yield this process's work in each step that follows `step`, without end."""
        epoch, first = divmod(step, self.steps_per_epoch(examples))
        while True:
            for batch in self.epoch(examples, epoch)[first:]:
                own_examples, weight = self.part(batch)
                yield StepBatch(own_examples, weight, self.objective.normalizers(batch))
            epoch, first = epoch + 1, 0
