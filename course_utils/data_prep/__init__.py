"""Data in: the course's own data sets, checked row by row, as conversations."""

from course_utils.data_prep.tasks import TASKS, Task, load_task, read_rows

__all__ = ["TASKS", "Task", "load_task", "read_rows"]
