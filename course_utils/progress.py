"""One line that shows how far something slow is, and how long it still takes."""

from __future__ import annotations

import sys
import time
from html import escape
from typing import TYPE_CHECKING

from course_utils.hardware import in_notebook

if TYPE_CHECKING:
    from IPython.display import DisplayHandle
    from tqdm import tqdm

REFRESH_SECONDS = 0.5


class ProgressLine:
    """A progress bar with text: HTML in a notebook, tqdm in a terminal, nothing elsewhere.

    In a notebook it is no widget: a widget's state would be stored in the notebook and show up as an error wherever that
    state is missing.

    Args:
        total: number of units of work.
        unit: what is counted, in the singular.
        patience: seconds after which it appears; what is done by then leaves no trace.
        show: whether to show anything at all.
    """

    def __init__(self, total: int, unit: str, patience: float = 0.0, show: bool = True) -> None:
        self.total, self.unit, self.patience = total, unit, patience
        self._started = self._shown = time.perf_counter()
        self._handle: DisplayHandle | None = None
        self._bar: tqdm | None = None
        self._place = "notebook" if show and in_notebook() else "terminal" if show and sys.stderr.isatty() else ""
        if not patience:
            self._appear()

    def _appear(self) -> None:
        if self._place == "notebook":
            from IPython.display import HTML, display

            self._handle = display(HTML(self._html(0, "starting")), display_id=True)
        elif self._place == "terminal":
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, unit=self.unit, leave=not self.patience)

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` units are finished; the display is refreshed at most twice a second.

        Args:
            done: number of units that are finished.
            text: what else is known, such as the loss.
        """
        now = time.perf_counter()
        if self._handle is None and self._bar is None:
            if not self._place or now - self._started < self.patience:
                return
            self._appear()
            self._shown = 0.0
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            self._bar.set_postfix_str(text)
        elif self._handle is not None and now - self._shown > REFRESH_SECONDS:
            from IPython.display import HTML

            self._shown = now
            left = (now - self._started) / done * (self.total - done) if done else None
            parts = [text] if text else []
            parts += [f"{time_in_words(left)} left"] if left is not None else []
            self._handle.update(HTML(self._html(done, ", ".join(parts))))

    def finish(self, text: str = "") -> None:
        """Put a last line in the display's place, if there is one."""
        if self._bar is not None:
            self._bar.close()
        elif self._handle is not None:
            from IPython.display import HTML

            self._handle.update(HTML(f"<span>{escape(text)}</span>" if text else ""))

    def _html(self, done: int, text: str) -> str:
        return (
            f'<progress value="{done}" max="{self.total}" aria-label="progress" style="width:14em"></progress> '
            f"<span>{escape(self.unit)} {done} of {self.total}: {escape(text)}</span>"
        )


def time_in_words(seconds: float) -> str:
    """Return a time as people say it: "40 s", "3 min"."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
