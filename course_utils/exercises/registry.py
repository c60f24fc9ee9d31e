"""All exercises of the course, by id."""

from course_utils.exercises import data, lora, qlora

EXERCISES = {exercise.id: exercise for exercise in (*lora.EXERCISES, *qlora.EXERCISES, *data.EXERCISES)}
