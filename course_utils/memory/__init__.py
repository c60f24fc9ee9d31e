"""How much memory: counted exactly from the architecture, and measured while it runs."""

from course_utils.memory.counting import ARCHITECTURES, ParameterCount, build_without_weights, count_parameters
from course_utils.memory.tracking import MemoryReport, release, track

__all__ = [
    "ARCHITECTURES",
    "MemoryReport",
    "ParameterCount",
    "build_without_weights",
    "count_parameters",
    "release",
    "track",
]
