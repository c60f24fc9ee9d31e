"""What a lesson shows: predictions, forms, tables, drawings, answers beside each other, and the tokens of a loss.

Everything here can be read without a browser: `str()` of each object says the same as its HTML.
"""

from course_utils.charts import drawing
from course_utils.show.answers import answers, conversation, folded
from course_utils.show.tables import folder_sizes
from course_utils.show.widgets import calculator, predict, sort

__all__ = [
    "answers", "calculator", "conversation", "drawing", "folded", "folder_sizes", "predict", "sort",
]  # fmt: skip
