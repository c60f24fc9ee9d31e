"""Self-marking exercises, and quizzes that explain each wrong choice."""

from course_utils.exercises.checking import EXERCISES, ExerciseScore, check
from course_utils.exercises.definitions import Exercise, Mistake
from course_utils.exercises.quizzes import quiz

__all__ = ["EXERCISES", "Exercise", "ExerciseScore", "Mistake", "check", "quiz"]
