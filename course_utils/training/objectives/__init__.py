"""Objectives: how an example becomes token ids, and a batch becomes a loss.

An objective knows nothing of devices, optimisers, logging or checkpoints; the loop knows nothing of messages.
"""

from course_utils.training.objectives.base import Loss, Objective
from course_utils.training.objectives.ppo import PPO
from course_utils.training.objectives.preference import DPO, ORPO
from course_utils.training.objectives.reward import Reward, reward_scores
from course_utils.training.objectives.sft import SFT

__all__ = ["DPO", "ORPO", "PPO", "SFT", "Loss", "Objective", "Reward", "reward_scores"]
