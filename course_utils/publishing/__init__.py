"""From the one source of a lesson to the notebooks that people open, and running them."""

from course_utils.publishing.builder import build, instructor_edition, is_stale, learner_edition
from course_utils.publishing.runner import run

__all__ = ["build", "instructor_edition", "is_stale", "learner_edition", "run"]
