"""One trainer (`fit`) and the objectives that it can train on.

In the order in which the modules build on each other: settings, history, objectives (the losses), fused (the same numbers
in less time), processes, checkpoints, trainer.
"""

from course_utils.training.history import History
from course_utils.training.objectives import DPO, SFT
from course_utils.training.settings import Settings
from course_utils.training.trainer import fit, trial

__all__ = ["DPO", "SFT", "History", "Settings", "fit", "trial"]
