"""The processes of one training run: device, precision, and sums over all processes (done by Accelerate)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from course_utils.models import Model


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


def to_floats(values: Mapping[str, torch.Tensor | float]) -> dict[str, float]:
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
