"""A progress bar in notebooks and terminals; no output elsewhere.

In a notebook it is one HTML line that is updated, with the growing loss curve below it while training runs. It is not a
widget: a widget's state would be stored in the notebook and show up as an error wherever that state is missing. In a
terminal it is tqdm.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from course_utils.hardware import in_notebook

if TYPE_CHECKING:
    from IPython.display import DisplayHandle
    from tqdm import tqdm

    from course_utils.training.history import History

REFRESH_SECONDS = 0.5
CURVE_SECONDS = 15.0  # drawing it takes a tenth of a second


class Progress:
    """Shows loss, tokens per second and the time left while `fit` runs.

    When it ends, one line of summary takes their place.
    """

    def __init__(self, total: int, history: History, show: bool = True) -> None:
        self.total, self.history, self.show = total, history, show
        self._started = self._shown = self._drawn = time.perf_counter()
        self._handle: DisplayHandle | None = None
        self._curve: DisplayHandle | None = None
        self._bar: tqdm | None = None

    def __enter__(self) -> Progress:
        if not self.show:
            return self
        if in_notebook():
            from IPython.display import HTML, display

            self._handle = display(HTML(self._html(0, "starting")), display_id=True)
        elif sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, unit="step")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._curve is not None:
            from IPython.display import HTML

            self._curve.update(HTML(""))  # the finished run draws itself with History.plot

    def update(self, step: int, last: bool = False) -> None:
        """Show the state after a step. The display is refreshed at most twice a second, and always after the last step.

        Args:
            step: number of the step that has just ended.
            last: whether it was the last one.
        """
        now, history = time.perf_counter(), self.history
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix_str(f"loss {history.losses[-1]:.3f}, {history.tokens_per_second:.0f} tokens/s")
        elif self._handle is not None and (now - self._shown > REFRESH_SECONDS or last):
            from IPython.display import HTML, display

            self._shown = now
            seconds_left = (now - self._started) / step * (self.total - step)
            text = f"loss {history.losses[-1]:.3f}"
            if history.validation_losses:
                text += f", validation loss {history.validation_losses[-1]:.3f}"
                text += "" if history.validation_steps[-1] == step else f" at step {history.validation_steps[-1]}"
            text += f", {history.tokens_per_second:.0f} tokens/s, "
            if last:
                summary = f"Trained {step} of {self.total} steps in {now - self._started:.0f} s: {text.removesuffix(', ')}"
                self._handle.update(HTML(f"<span>{summary}</span>"))
            else:
                self._handle.update(HTML(self._html(step, f"{text}{seconds_left:.0f} s left")))
            if now - self._drawn > CURVE_SECONDS and step > 2:
                picture = HTML(history.plot()._repr_html_())
                if self._curve is None:
                    self._curve = display(picture, display_id=True)
                else:
                    self._curve.update(picture)
                self._drawn = time.perf_counter()

    def _html(self, step: int, text: str) -> str:
        return (
            f'<progress value="{step}" max="{self.total}" aria-label="training progress" style="width:14em"></progress> '
            f"<span>step {step} of {self.total}: {text}</span>"
        )
