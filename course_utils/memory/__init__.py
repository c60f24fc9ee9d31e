"""How much memory: counted exactly from the architecture, predicted before a run, and measured while it runs."""

from course_utils.memory.counting import ARCHITECTURES, ParameterCount, build_without_weights, count_parameters
from course_utils.memory.estimating import GPUS, MemoryEstimate, advice, estimate, what_fits
from course_utils.memory.plan import Plan
from course_utils.memory.tracking import MemoryReport, release, track

__all__ = [
    "ARCHITECTURES",
    "GPUS",
    "MemoryEstimate",
    "MemoryReport",
    "ParameterCount",
    "Plan",
    "advice",
    "build_without_weights",
    "count_parameters",
    "estimate",
    "release",
    "track",
    "what_fits",
]
