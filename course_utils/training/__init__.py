"""One training loop and the objectives it can follow."""

from course_utils.training.history import History
from course_utils.training.loop import fit
from course_utils.training.objectives import DPO, ORPO, PPO, SFT, Reward, reward_scores
from course_utils.training.settings import Settings

__all__ = ["DPO", "ORPO", "PPO", "SFT", "History", "Reward", "Settings", "fit", "reward_scores"]
