"""One trainer (`fit`) and the objectives that it can train on."""

from course_utils.training.history import History
from course_utils.training.objectives import DPO, KTO, ORPO, PPO, SFT, Reward, reward_scores
from course_utils.training.settings import Settings
from course_utils.training.trainer import fit
from course_utils.training.trials import trial

__all__ = ["DPO", "KTO", "ORPO", "PPO", "SFT", "History", "Reward", "Settings", "fit", "reward_scores", "trial"]
