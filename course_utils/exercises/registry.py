"""All exercises of the course, by id."""

from course_utils.exercises import alignment, data, framework, hosted, lora, qlora

ROOMS = (framework, lora, qlora, alignment, data, hosted)
EXERCISES = {exercise.id: exercise for room in ROOMS for exercise in room.EXERCISES}
