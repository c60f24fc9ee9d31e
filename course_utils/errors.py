"""The one kind of error a learner is meant to read."""


class CourseError(Exception):
    """Something the learner can act on: what went wrong, where, and what to do next, in one sentence or two.

    The command line prints it without a traceback and exits with status 2; everything else is a bug and keeps its
    traceback.
    """
