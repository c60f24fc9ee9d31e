"""The record of a run of `fit`, losses by step and speed, and what is shown of it while it runs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from course_utils.hardware import in_notebook
from course_utils.progress import ProgressLine
from course_utils.training.settings import Settings

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

    from course_utils.charts import Figure


@dataclass
class History:
    """What happened in one training run: losses and speed.

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
        notes: sentences about the run: that it was resumed, or that checkpoints were damaged or could not be written.
        tokens: number of tokens processed, without padding; a prompt that several completions share is counted once.
        scored_tokens: number of tokens that contributed to the loss.
        seconds: time spent in training steps, without validation and the reference.
        reference_seconds: time spent before training on the reference's log-probabilities.
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
    notes: list[str] = field(default_factory=list)
    tokens: int = 0
    scored_tokens: int = 0
    seconds: float = 0.0
    reference_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Training speed over the whole run, in tokens per second, without padding; 0 before the first step."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def metric(self, name: str) -> list[float]:
        """Return the values of a metric on training batches, such as "margin", in the order of the steps.

        Raises:
            KeyError: the objective does not measure a metric of this name.
        """
        return [value for _, value in self.metrics[name]]

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
        """Return the history as plain values for a checkpoint, without the settings."""
        return {name: value for name, value in asdict(self).items() if name != "settings"}

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
        return text


CURVE_SECONDS = 15.0  # drawing it takes a tenth of a second


class Progress:
    """Shows loss, tokens per second and the time left while `fit` runs; one line of summary takes their place at the end.

    In a notebook, the growing loss curve is below the line.
    """

    def __init__(self, total: int, history: History, show: bool = True) -> None:
        self.total, self.history = total, history
        self._started = self._drawn = time.perf_counter()
        self._line = ProgressLine(total, "step", show=show)
        self._draws = show and in_notebook()
        self._curve: DisplayHandle | None = None
        self._step = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        seconds = time.perf_counter() - self._started
        text = f"{self._step} of {self.total} steps in {seconds:.0f} s: {self._known()}"
        if error:
            text += ". The model keeps what it has learned in them: load it again if you want to begin anew"
        self._line.finish(f"{'Stopped after' if error else 'Trained'} {text}")
        if self._curve is not None:
            from IPython.display import HTML

            self._curve.update(HTML(""))  # the finished run draws itself with History.plot

    def update(self, step: int) -> None:
        """Show the state after a step, its number counted from 1."""
        self._step = step
        self._line.update(step, self._known())
        if self._draws and time.perf_counter() - self._drawn > CURVE_SECONDS and step > 2:
            from IPython.display import HTML, display

            picture = HTML(self.history.plot()._repr_html_())
            if self._curve is None:
                self._curve = display(picture, display_id=True)
            else:
                self._curve.update(picture)
            self._drawn = time.perf_counter()

    def _known(self) -> str:
        history = self.history
        if not history.losses:
            return "no step is done"
        text = f"loss {history.losses[-1]:.3f}"
        if history.validation_losses:
            text += f", validation loss {history.validation_losses[-1]:.3f}"
            text += "" if history.validation_steps[-1] == self._step else f" at step {history.validation_steps[-1]}"
        return f"{text}, {history.tokens_per_second:.0f} tokens/s"
