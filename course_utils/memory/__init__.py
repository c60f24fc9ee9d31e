"""How much memory: counted exactly from the architecture, predicted before a run, and measured while it runs."""

from course_utils.memory.estimating import CONTEXT, GPUS, MemoryEstimate, advice, estimate, gpu_memory
from course_utils.memory.plan import StepPlan
from course_utils.memory.shape import ARCHITECTURES, ParameterCount, count_parameters
from course_utils.memory.tracking import MemoryReport, ProcessesPeak, free_bytes, release, track, trim

__all__ = [
    "ARCHITECTURES",
    "CONTEXT",
    "GPUS",
    "MemoryEstimate",
    "MemoryReport",
    "ParameterCount",
    "ProcessesPeak",
    "StepPlan",
    "advice",
    "count_parameters",
    "estimate",
    "free_bytes",
    "gpu_memory",
    "release",
    "track",
    "trim",
]
