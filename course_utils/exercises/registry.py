"""All exercises of the course, by id."""

from course_utils.exercises import alignment, data, lora, qlora

EXERCISES = {
    exercise.id: exercise for exercise in (*lora.EXERCISES, *qlora.EXERCISES, *alignment.EXERCISES, *data.EXERCISES)
}
