"""Plots and diagrams in one style: safe for colour-blind readers, readable in greyscale, each with an alt text.

Colours: Okabe and Ito's palette (Color Universal Design, 2008); lines differ by dash and marker too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {  # Any, since matplotlib's own type lists each of its three hundred settings
    "figure.dpi": 90,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


class _Run(Protocol):
    """The data of a learning curve: `training.History`."""

    steps: list[int]
    losses: list[float]
    validation_steps: list[int]
    validation_losses: list[float]


class Figure:
    """A finished picture with its alt text; a notebook shows the picture, other places the alt text.

    Attributes:
        png: the picture as PNG.
        alt: description of the picture.
        width: CSS pixels across where there is room for them; None: as many as the picture has.
    """

    def __init__(self, figure: Canvas, alt: str, width: int | None = None) -> None:
        import matplotlib.pyplot as plt

        if not alt.strip():
            raise ValueError("a figure needs an alt text")
        buffer = io.BytesIO()
        # Letters that are sized for a width keep their size only if nothing is trimmed.
        figure.savefig(buffer, format="png", bbox_inches=None if width else "tight", metadata={"Software": None})
        plt.close(figure)
        self.png = _with_a_palette(buffer)
        self.alt, self.width = " ".join(alt.split()), width

    def save(self, file: str) -> None:
        """Write the picture as a PNG file."""
        with open(file, "wb") as out:
            out.write(self.png)

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png).decode()
        width = f' width="{self.width}"' if self.width else ""
        return f'<img src="data:image/png;base64,{data}" alt="{escape(self.alt, quote=True)}"{width} style="max-width:100%">'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def _with_a_palette(picture: io.BytesIO) -> bytes:
    """A drawing of few colours as a PNG of a third of the size."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(picture).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return out.getvalue()


@overload
def _new(width: float = 6.4, height: float = 3.6) -> tuple[Canvas, Axes]: ...


@overload
def _new(
    width: float, height: float, *, nrows: int, ncols: int, sharey: bool, squeeze: Literal[False]
) -> tuple[Canvas, np.ndarray]: ...


def _new(width: float = 6.4, height: float = 3.6, **grid: Any) -> tuple[Canvas, Any]:
    import matplotlib

    # Not through pyplot's interactive backend, so that the figure is shown once, with its alt text.
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        figure = Canvas(figsize=(width, height))
        axes = figure.subplots(**grid)
    return figure, axes


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Draw lines with markers.

    Args:
        series: name → (x values, y values).
        title: title of the figure.
        xlabel, ylabel: labels of the axes.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether both axes are logarithmic (base 10).
        marks: vertical lines by name.
    """
    import matplotlib

    descriptions = []
    with matplotlib.rc_context(STYLE):
        figure, axes = _new()
        for i, (name, (x, y)) in enumerate(series.items()):
            axes.plot(x, y, color=COLOURS[i % 7], ls=DASHES[i % 4], marker=MARKERS[i % 7], label=name)
            descriptions.append(f"{name}: " + ", ".join(f"{a:g} → {b:.3g}" for a, b in zip(x, y)))
        if log_y:
            axes.set(xscale="log", yscale="log")
        elif log_x:
            axes.set_xscale("log", base=2)
            ticks = sorted({a for x, _ in series.values() for a in x})
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
            axes.minorticks_off()
        for i, (name, position) in enumerate((marks or {}).items()):
            axes.axvline(position, color="black", ls=DASHES[(i + 1) % 4], lw=1, label=f"{name}: {_number(position)}")
            descriptions.append(f"line at {_number(position)}: {name}")
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        if marks:  # inside the axes so many entries would cover the lines
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
        elif len(series) > 1:
            axes.legend()
        return Figure(figure, f"Line chart, {title}; {xlabel} against {ylabel}. " + "; ".join(descriptions) + ".")


def points(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
) -> Figure:
    """Draw points without lines.

    Args:
        series: name → (x values, y values).
        title: title of the figure.
        xlabel, ylabel: labels of the axes.
        log_x: whether the horizontal axis is logarithmic.
    """
    import matplotlib

    descriptions = []
    with matplotlib.rc_context(STYLE):
        figure, axes = _new()
        for i, (name, (x, y)) in enumerate(series.items()):
            axes.plot(x, y, color=COLOURS[i % 7], ls="", marker=MARKERS[i % 7], ms=5, alpha=0.8, label=name)
            descriptions.append(f"{name}: {len(y)} points from {min(y):.3g} to {max(y):.3g}")
        if log_x:
            axes.set_xscale("log")
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        if len(series) > 1:
            axes.legend()
        return Figure(figure, f"Points, {title}; {xlabel} against {ylabel}. " + "; ".join(descriptions) + ".")


def bars(values: Mapping[str, float], title: str, xlabel: str, limits: Mapping[str, float] | None = None) -> Figure:
    """Draw horizontal bars.

    Args:
        values: name → value.
        title: title of the figure.
        xlabel: label of the horizontal axis.
        limits: vertical lines by name, such as a GPU's memory.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, axes = _new(6.4, 1.0 + 0.36 * len(values))
        names = list(values)
        drawn = axes.barh(names, [values[n] for n in names], color=COLOURS[0], height=0.6)
        axes.bar_label(drawn, labels=[_number(values[n]) for n in names], padding=3)
        for i, (name, value) in enumerate((limits or {}).items()):
            axes.axvline(value, color=COLOURS[1], ls=DASHES[(i + 1) % 4], label=f"{name}: {value:g}")
        axes.invert_yaxis()
        axes.set(xlabel=xlabel, title=title)
        axes.margins(x=0.12)
        if limits:
            axes.legend(loc="lower right")
        description = "; ".join(f"{name}: {_number(value)}" for name, value in values.items())
        line_labels = "; ".join(f"{name} at {value:g}" for name, value in (limits or {}).items())
        return Figure(
            figure, f"Bar chart, {title} ({xlabel}). {description}." + (f" Lines: {line_labels}." if line_labels else "")
        )


def _number(value: float) -> str:
    """Format a number with three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def histograms(sets: Mapping[str, Sequence[float]], title: str, xlabel: str, bins: int = 30) -> Figure:
    """Draw the outlines of several distributions on one axis, each as shares of its own count; the top hundredth is cut off.

    Args:
        sets: name → values.
        title: title of the figure.
        xlabel: label of the horizontal axis.
        bins: number of bins.
    """
    import matplotlib
    import numpy as np

    values = {name: np.asarray(numbers, dtype=np.float64) for name, numbers in sets.items()}
    end = max(float(np.quantile(numbers, 0.99)) for numbers in values.values())
    edges = np.linspace(min(float(numbers.min()) for numbers in values.values()), end, bins + 1)
    with matplotlib.rc_context(STYLE):
        figure, axes = _new(7.2, 3.2)
        for i, (name, numbers) in enumerate(values.items()):
            shares = np.histogram(np.minimum(numbers, end), edges)[0] / len(numbers)
            axes.stairs(
                100 * shares, edges, color=COLOURS[i % 7], ls=DASHES[i % 4], lw=2, label=f"{name} ({len(numbers):,})"
            )
        axes.set(xlabel=xlabel, ylabel="share, %", title=title)
        axes.legend()
        description = "; ".join(
            f"{name}: {len(numbers):,} values, median {np.median(numbers):.3g}, 90 % at most {np.quantile(numbers, 0.9):.3g}"
            for name, numbers in values.items()
        )
        return Figure(figure, f"Histograms, {title}; {xlabel}. {description}.")
