"""Builds notebooks from the lessons' sources, and runs them."""

from course_utils.publishing.builder import build, instructor_edition, is_stale, learner_edition
from course_utils.publishing.runner import run

__all__ = ["build", "instructor_edition", "is_stale", "learner_edition", "run"]
