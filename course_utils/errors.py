"""The kind of error a learner is meant to read, and those of it that a program tells apart to say them in its own words."""


class CourseError(Exception):
    """Something the learner can act on: what went wrong, where, and what to do next, in one sentence or two.

    The command line prints it without a traceback and exits with status 2; everything else is a bug and keeps its
    traceback.
    """


class TooLong(CourseError):
    """A prompt of `tokens` tokens leaves no room for an answer."""

    def __init__(self, message: str, tokens: int) -> None:
        super().__init__(message)
        self.tokens = tokens


class Diverged(CourseError):
    """The loss or the weights of a training are not finite numbers any more."""


class OutOfMemory(CourseError):
    """A training needs more memory than there is."""
