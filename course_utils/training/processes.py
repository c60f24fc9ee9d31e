"""The processes of one training run: device, precision, and sums over all processes (done by Accelerate)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from course_utils.errors import CourseError

if TYPE_CHECKING:
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
    return Accelerator(mixed_precision=precision, cpu=on_cpu)


def sum_over_processes(accelerator: Accelerator, values: Mapping[str, float]) -> dict[str, float]:
    """Return each value summed over all processes of the run, under its name."""
    if accelerator.num_processes == 1:
        return dict(values)
    import torch

    tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=accelerator.device)
    return dict(zip(values, accelerator.reduce(tensor, "sum").tolist()))
