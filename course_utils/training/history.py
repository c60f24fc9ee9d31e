"""The record of a run of `fit`, losses by step and speed, and what is shown of it while it runs."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from course_utils.hardware import in_notebook
from course_utils.training.footprint import Footprint
from course_utils.training.settings import Settings

if TYPE_CHECKING:
    from IPython.display import DisplayHandle
    from tqdm import tqdm

    from course_utils.figures import Figure


@dataclass
class History:
    """What happened in one training run: losses, speed and memory.

    Attributes:
        settings: the settings of the run.
        steps: numbers of the steps, from 1.
        losses: training loss of each step. For SFT it is the mean over the learned tokens, in nats per token; for
            preferences it is the mean over the pairs.
        learning_rates: learning rate of each step.
        grad_norms: norm of the gradient in each step, before clipping.
        validation_steps: steps after which the validation loss was measured; 0 is before training.
        validation_losses: loss of the whole validation set at each of these steps; each token (or pair) has the same weight.
        metrics: other quantities that the objective measures on training batches: name → [(step, value), ...].
        validation_metrics: the same quantities on the validation set.
        skipped_steps: steps whose gradient was not finite in float16, so that the weights stayed as they were; the loss
            scaling then tries a smaller scale. A few at the beginning are normal.
        best_step: with early stopping, the step whose weights the model has at the end; otherwise None.
        notes: sentences about the run: that it was resumed, or that checkpoints were damaged or could not be written.
        tokens: number of tokens processed, without padding; a prompt that several completions share is counted once.
        scored_tokens: number of tokens that contributed to the loss.
        seconds: time spent in training steps, without validation and the reference.
        reference_seconds: time spent before training on the reference's log-probabilities.
        memory: the memory that the run was predicted to add, and what it did add.
    """

    settings: Settings
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    validation_metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    skipped_steps: list[int] = field(default_factory=list)
    best_step: int | None = None
    notes: list[str] = field(default_factory=list)
    tokens: int = 0
    scored_tokens: int = 0
    seconds: float = 0.0
    reference_seconds: float = 0.0
    memory: Footprint | None = None

    @property
    def tokens_per_second(self) -> float:
        """Training speed over the whole run, in tokens per second, without padding; 0 before the first step."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def metric(self, name: str, validation: bool = False) -> list[float]:
        """Return the values of a metric, in the order of the steps.

        Args:
            name: a key of `metrics`, such as "margin".
            validation: whether to take the values on the validation set instead of those on training batches.

        Raises:
            KeyError: the objective does not measure a metric of this name.
        """
        return [value for _, value in (self.validation_metrics if validation else self.metrics)[name]]

    def add_metrics(self, step: int, values: Mapping[str, float], validation: bool = False) -> None:
        """Store the values that were measured at a step, under their names."""
        metrics = self.validation_metrics if validation else self.metrics
        for name, value in values.items():
            metrics.setdefault(name, []).append((step, float(value)))

    def note(self, text: str) -> None:
        """Keep a sentence for the user in `notes`, and show it now as a warning."""
        self.notes.append(text)
        warnings.warn(text, stacklevel=2)

    def as_dict(self) -> dict[str, Any]:
        """Return the history as plain values for a checkpoint, without the settings and the memory."""
        return {name: value for name, value in asdict(self).items() if name not in ("settings", "memory")}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take over the values that `as_dict` returned in an earlier part of the run.

        Notes of this part are kept after the earlier ones.
        """
        notes = self.notes
        for attribute in fields(self):
            if attribute.name in values:
                setattr(self, attribute.name, values[attribute.name])
        self.notes = [*self.notes, *notes]

    def plot(self, title: str = "Loss while training") -> Figure:
        """Draw training and validation loss over the steps, as a `figures.Figure` with alternative text."""
        from course_utils import charts

        return charts.loss_curve(self.losses, title, dict(zip(self.validation_steps, self.validation_losses)))

    def __str__(self) -> str:
        text = f"{len(self.steps)} steps, {self.tokens:,} tokens in {self.seconds:.0f} s ({self.tokens_per_second:.0f}/s)"
        if self.losses:
            text += f", training loss {self.losses[0]:.3f} → {self.losses[-1]:.3f}"
        if self.validation_losses:
            text += f", validation loss {self.validation_losses[0]:.3f} → {self.validation_losses[-1]:.3f}"
        if self.best_step is not None:
            text += f", weights of step {self.best_step} kept"
        return text


REFRESH_SECONDS = 0.5
CURVE_SECONDS = 15.0  # drawing it takes a tenth of a second


class Progress:
    """Shows loss, tokens per second and the time left while `fit` runs; one line of summary takes their place at the end.

    In a notebook it is one HTML line that is updated, with the growing loss curve below it. It is not a widget: a widget's
    state would be stored in the notebook and show up as an error wherever that state is missing. In a terminal it is tqdm;
    elsewhere nothing is shown.
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
