"""From one source a section to the notebooks that people open, and running them."""

from course_utils.notebooks.builder import SECTIONS, build, instructor_edition, is_stale, learner_edition
from course_utils.notebooks.runner import run

__all__ = ["SECTIONS", "build", "instructor_edition", "is_stale", "learner_edition", "run"]
