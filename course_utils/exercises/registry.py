"""All exercises of the course, by id."""

from course_utils.exercises import lesson_01, lesson_02, lesson_03, lesson_04, lesson_05, lesson_06

MODULES = (lesson_01, lesson_02, lesson_03, lesson_04, lesson_05, lesson_06)
EXERCISES = {exercise.id: exercise for module in MODULES for exercise in module.EXERCISES}
