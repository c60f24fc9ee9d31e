"""One training loop and the objectives it can follow."""

from course_utils.training.history import History
from course_utils.training.loop import fit
from course_utils.training.objectives import SFT
from course_utils.training.settings import Settings

__all__ = ["SFT", "History", "Settings", "fit"]
