"""How much memory: counted exactly from the architecture, predicted before a run, and what is free or can be given back."""

from course_utils.memory.estimating import CONTEXT, GPUS, MemoryEstimate, advice, estimate, gpu_memory
from course_utils.memory.plan import StepPlan
from course_utils.memory.shape import ARCHITECTURES, ParameterCount, count_parameters
from course_utils.memory.tracking import ProcessesPeak, free_bytes, release, trim

__all__ = [
    "ARCHITECTURES",
    "CONTEXT",
    "GPUS",
    "MemoryEstimate",
    "ParameterCount",
    "ProcessesPeak",
    "StepPlan",
    "advice",
    "count_parameters",
    "estimate",
    "free_bytes",
    "gpu_memory",
    "release",
    "trim",
]
