"""What is wrong with a row, by the rules of the hosted API and of TRL: one module for each part of a row."""

from course_utils.data_prep.rules.shapes import Rules

__all__ = ["Rules"]
