"""The rules of the hosted API and of TRL for what may be wrong with a row: one module for each part of a row."""

from course_utils.data_prep.rules.shapes import Rules

__all__ = ["Rules"]
