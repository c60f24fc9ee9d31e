"""Objectives: how an example becomes token ids, and a batch becomes a loss; the contract is in `base`."""

from course_utils.training.objectives.base import Loss, Objective, OnlineObjective
from course_utils.training.objectives.kto import KTO
from course_utils.training.objectives.ppo import PPO
from course_utils.training.objectives.preference import DPO, ORPO
from course_utils.training.objectives.reward import Reward, reward_scores
from course_utils.training.objectives.sft import SFT

__all__ = ["DPO", "KTO", "ORPO", "PPO", "SFT", "Loss", "Objective", "OnlineObjective", "Reward", "reward_scores"]
