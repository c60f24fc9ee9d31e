"""Exercises that mark themselves, and quizzes that explain each wrong choice."""

from course_utils.exercises.checking import Score, check
from course_utils.exercises.definitions import Exercise, Mistake
from course_utils.exercises.quizzes import quiz
from course_utils.exercises.registry import EXERCISES

__all__ = ["EXERCISES", "Exercise", "Mistake", "Score", "check", "quiz"]
