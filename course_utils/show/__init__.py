"""What a lesson shows: predictions, tables, answers beside each other, and the tokens that a loss is taken on.

Everything here has a plain twin: `str()` of each object says the same as its HTML, for hosts without a browser.
"""

from course_utils.show.answers import answers
from course_utils.show.folders import folder_sizes
from course_utils.show.folds import folded
from course_utils.show.predictions import predict
from course_utils.show.sorting import sort
from course_utils.show.tables import table
from course_utils.show.tokens import conversation

__all__ = ["answers", "conversation", "folded", "folder_sizes", "predict", "sort", "table"]
