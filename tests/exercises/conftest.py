"""Challenges train for half a minute; tests of how they are marked let a formula stand for the training, and say so here."""

import math

import pytest

from course_utils.exercises import lesson_02


@pytest.fixture(autouse=True)
def _formula_for_training(monkeypatch):
    """A loss with its minimum near the solution's settings; test_challenges.py overrides this and trains."""

    def loss(rank, alpha, learning_rate, warmup_steps, schedule, target_modules):
        step = learning_rate * alpha / rank
        misses = abs(math.log10(step / 4e-3)) + warmup_steps / 40
        return 0.05 + 0.25 * misses + (0.0 if target_modules == "all-linear" else 0.3)

    monkeypatch.setattr(lesson_02, "_challenge_loss", loss)
