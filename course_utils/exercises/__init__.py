"""Self-marking exercises, and quizzes that explain each wrong choice."""

from course_utils.exercises.checking import ExerciseScore, check
from course_utils.exercises.definitions import Exercise, Mistake
from course_utils.exercises.quizzes import quiz
from course_utils.exercises.registry import EXERCISES

__all__ = ["EXERCISES", "Exercise", "ExerciseScore", "Mistake", "check", "quiz"]
