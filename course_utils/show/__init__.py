"""What a lesson shows: predictions, forms, tables, drawings, answers beside each other, and the tokens of a loss.

Everything here can be read without a browser: `str()` of each object says the same as its HTML.
"""

import os
import warnings

from course_utils.figures import drawing
from course_utils.show.answers import answers, conversation, folded
from course_utils.show.tables import folder_sizes, table
from course_utils.show.widgets import calculator, predict, review, sort

__all__ = [
    "answers", "calculator", "conversation", "drawing", "folded", "folder_sizes", "predict", "quiet", "review", "sort",
    "table",
]  # fmt: skip


def quiet() -> None:
    """Switch off the libraries' bars for loading, saving and converting, and their notices about coming versions.

    Training keeps its own progress, and warnings that a learner can act on still appear.
    """
    # Read when the libraries are imported; nobody who has set them otherwise is overruled.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    from logging import WARNING, getLogger

    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not are_progress_bars_disabled():
        disable_progress_bars()  # not by its variable, after which nobody can switch them on for a download
    logging.set_verbosity_error()
    # By the level of this one `TrainingArguments` decides between a table of the losses and lines of raw numbers.
    getLogger("transformers.training_args").setLevel(WARNING)
