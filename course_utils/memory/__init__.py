"""How much memory: counted exactly from the architecture, predicted before a run, measured, and given back."""

from course_utils.memory.estimating import CONTEXT, GPUS, MemoryEstimate, advice, estimate, gpu_memory
from course_utils.memory.formula import StepPlan
from course_utils.memory.shape import ARCHITECTURES, ParameterCount, count_parameters
from course_utils.memory.tracking import ProcessesPeak, release, trim

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
    "gpu_memory",
    "release",
    "trim",
]
