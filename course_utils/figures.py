"""Plots and diagrams in one style: safe for colour-blind readers, readable in greyscale, each with an alt text.

Colours: Okabe and Ito's palette (Color Universal Design, 2008); lines differ by dash and marker too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload, runtime_checkable

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


@runtime_checkable
class _Interval(Protocol):
    """A share with its confidence interval: `evaluation.Score`."""

    @property
    def value(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


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
        """Write the PNG."""
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


def learning_curve(histories: Mapping[str, _Run], title: str = "Loss while training", smooth: int = 5) -> Figure:
    """Training loss (thin), its running mean, and validation loss (markers) of one or several `History`."""
    import matplotlib
    import numpy as np

    descriptions = []
    with matplotlib.rc_context(STYLE):
        figure, axes = _new()
        for i, (name, history) in enumerate(histories.items()):
            colour = COLOURS[i % len(COLOURS)]
            losses = np.array(history.losses)
            window = min(smooth, len(losses))
            mean = np.convolve(losses, np.ones(window) / window, mode="valid")
            axes.plot(history.steps, losses, color=colour, alpha=0.25, lw=1)
            axes.plot(history.steps[window - 1 :], mean, color=colour, ls=DASHES[i % 4], label=f"{name}: training")
            descriptions.append(f"{name}: training loss from {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps")
            if history.validation_losses:
                steps, values = history.validation_steps, history.validation_losses
                axes.plot(steps, values, color=colour, marker=MARKERS[i % 7], ls="", label=f"{name}: validation")
                descriptions.append(f"validation loss from {values[0]:.2f} to {values[-1]:.2f}, lowest {min(values):.2f}")
        axes.set(xlabel="step", ylabel="loss (nats per scored token)", title=title)
        axes.set_ylim(bottom=0)
        axes.legend()
        return Figure(figure, f"Line chart, {title}. " + "; ".join(descriptions) + ".")


def intervals(scores: Mapping[str, Mapping[str, _Interval]], title: str, xlabel: str = "share, %") -> Figure:
    """Points with 95 % intervals: group (a model, say) → measure → `evaluation.Score`."""
    import matplotlib

    measures = list(next(iter(scores.values())))
    descriptions = []
    with matplotlib.rc_context(STYLE):
        figure, axes = _new(6.4, 0.9 + 0.45 * len(measures) * max(1, len(scores) / 2))
        for i, (group, values) in enumerate(scores.items()):
            positions = [row + 0.22 * (i - (len(scores) - 1) / 2) for row in range(len(measures))]
            points = [100 * values[m].value for m in measures]
            errors = [[100 * (values[m].value - values[m].low) for m in measures],
                      [100 * (values[m].high - values[m].value) for m in measures]]  # fmt: skip
            axes.errorbar(points, positions, xerr=errors, fmt=MARKERS[i % 7], color=COLOURS[i % 7], capsize=3, label=group)
            descriptions += [f"{group}, {m}: {values[m]}" for m in measures]
        axes.set_yticks(range(len(measures)), measures)
        axes.set(xlabel=xlabel, title=title, xlim=(-3, 103), ylim=(len(measures) - 0.5, -0.5))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=len(scores))
        return Figure(figure, f"Point chart with 95 % intervals, {title}. " + "; ".join(descriptions) + ".")


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Lines with markers: name → (x values, y values); `marks`: named vertical lines; with `log_y` both axes are log10."""
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
    """Points without lines: name → (x values, y values)."""
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
    """Horizontal bars: name → value, with optional named vertical lines (such as a GPU's memory)."""
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


def scorecard(
    systems: Mapping[str, Mapping[str, _Interval | float | None]], title: str, units: Mapping[str, str], columns: int = 5
) -> Figure:
    """Several systems on several measures: a row for each system, a panel for each measure.

    Args:
        systems: system → measure → an `evaluation.Score` (drawn in percent with its interval), a number (drawn as a bar), or
            None if there is nothing to measure.
        title: title of the whole figure.
        units: measure → unit, in the order of the panels.
        columns: number of panels in a row.
    """
    import math

    import matplotlib

    names, descriptions = list(systems), []
    across, down = min(columns, len(units)), math.ceil(len(units) / columns)
    with matplotlib.rc_context(STYLE | {"axes.titlelocation": "center"}):
        figure, grid = _new(
            2.1 * across + 1.6, 0.3 + down * (1.0 + 0.36 * len(names)), nrows=down, ncols=across, sharey=True, squeeze=False
        )
        panels = list(grid.flat)
        for column, (axes, (measure, unit)) in enumerate(zip(panels, units.items())):
            values = [system[measure] for system in systems.values()]
            for row, (name, value) in enumerate(zip(names, values)):
                colour = COLOURS[row % 7]
                if value is None:
                    axes.annotate("–", (0, row), xytext=(3, 0), textcoords="offset points", va="center", size=8)
                    descriptions.append(f"{name}, {measure}: none")
                elif isinstance(value, _Interval):
                    error = [[100 * (value.value - value.low)], [100 * (value.high - value.value)]]
                    axes.errorbar([100 * value.value], [row], xerr=error, fmt=MARKERS[row % 7], color=colour, capsize=3)
                    descriptions.append(f"{name}, {measure}: {value}")
                else:
                    axes.barh([row], [value], color=colour, height=0.55)
                    axes.annotate(
                        _number(value), (value, row), xytext=(3, 0), textcoords="offset points", va="center", size=8
                    )
                    axes.margins(x=0.35)
                    descriptions.append(f"{name}, {measure}: {_number(value)} {unit}")
            if any(isinstance(value, _Interval) for value in values):
                axes.set_xlim(-5, 105)
            axes.set(title=measure, xlabel=unit)
            if column % across == 0:
                axes.set_yticks(range(len(names)), names)
        for axes in panels[len(units) :]:
            axes.set_visible(False)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        figure.suptitle(title, x=0.02, ha="left", y=1.02)
        figure.tight_layout()
        return Figure(figure, f"Panels of points with 95 % intervals and bars, {title}. " + "; ".join(descriptions) + ".")


def _number(value: float) -> str:
    """Format a number with three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def stacked_bars(
    values: Mapping[str, Mapping[str, float]], title: str, xlabel: str, limits: Mapping[str, float] | None = None
) -> Figure:
    """Stacked horizontal bars: name → part → value, with optional named vertical lines (such as a GPU's memory).

    Args:
        values: name → part → value; every bar has the same parts in the same order.
        title, xlabel: what is shown, and its unit.
        limits: name → value. The axis shows all limits and the ends of the bars, up to three times the highest limit.
    """
    import matplotlib

    parts = list(next(iter(values.values())))
    names, totals = list(values), {name: sum(bar.values()) for name, bar in values.items()}
    with matplotlib.rc_context(STYLE):
        figure, axes = _new(7.2, 1.7 + 0.42 * len(values))
        bar_starts = dict.fromkeys(names, 0.0)
        for i, part in enumerate(parts):
            sizes = [values[name][part] for name in names]
            hatch = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")[i % 8]
            axes.barh(
                names, sizes, left=[bar_starts[n] for n in names], color=COLOURS[i % 6], hatch=hatch, edgecolor="white",
                lw=0.4, height=0.6, label=part,
            )  # fmt: skip
            bar_starts = {name: bar_starts[name] + values[name][part] for name in names}
        end = 1.18 * max([*totals.values(), *(limits or {}).values()])
        if limits:
            end = min(end, 3 * max(limits.values()))
        for row, name in enumerate(names):
            inside = totals[name] > 0.86 * end
            text = f"{totals[name]:,.3g}" + (" →" if totals[name] > end else "")
            axes.text(
                0.985 * end if inside else totals[name] + 0.01 * end, row, text,
                ha="right" if inside else "left", va="center", bbox={"fc": "white", "ec": "none", "pad": 1.5, "alpha": 0.85},
            )  # fmt: skip
        for i, (name, value) in enumerate((limits or {}).items()):
            axes.axvline(value, color="black", ls=DASHES[(i + 1) % 4], lw=1.6)
            axes.text(value, -0.62, f" {name}: {value:g}", ha="left", va="bottom", size=9)
        axes.set(xlabel=xlabel, xlim=(0, end), ylim=(len(names) - 0.5, -0.65))
        axes.set_title(title, pad=18)
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.3 if len(values) < 3 else -0.22), ncols=4, fontsize=9)
        description = "; ".join(
            f"{name}: {totals[name]:,.3g}, of it " + ", ".join(f"{part} {size:.3g}" for part, size in bar.items() if size)
            for name, bar in values.items()
        )
        line_labels = "; ".join(f"{name} at {value:g}" for name, value in (limits or {}).items())
        return Figure(
            figure,
            f"Stacked bar chart, {title} ({xlabel}). {description}." + (f" Lines: {line_labels}." if line_labels else ""),
        )


def histogram(values: Sequence[float], title: str, xlabel: str, marks: Sequence[float] = (), bins: int = 120) -> Figure:
    """Distribution of values, with optional vertical lines at `marks`."""
    import matplotlib
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64).ravel()
    with matplotlib.rc_context(STYLE):
        figure, axes = _new(7.2, 3.2)
        axes.hist(numbers, bins=bins, color=COLOURS[5], density=True)
        for mark in marks:
            axes.axvline(mark, color=COLOURS[1], lw=1.2)
        axes.set(xlabel=xlabel, ylabel="density", title=title)
        half = np.quantile(np.abs(numbers), 0.5)
        description = (
            f"{len(numbers):,} values from {numbers.min():.3g} to {numbers.max():.3g}, half of them within ±{half:.3g}"
        )
        lines = f" Lines at {', '.join(f'{mark:.3g}' for mark in marks)}." if len(marks) else ""
        return Figure(figure, f"Histogram, {title}; {xlabel}. {description}.{lines}")


def histograms(sets: Mapping[str, Sequence[float]], title: str, xlabel: str, bins: int = 30) -> Figure:
    """Outlines of several distributions on one axis, each as shares of its own count; the top hundredth is clipped."""
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


def lora_diagram() -> Figure:
    """Diagram 1: a linear layer with a LoRA adapter: one input, two paths, one sum."""
    import matplotlib
    from matplotlib.patches import FancyBboxPatch, Polygon

    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = _new(7.2, 3.9)
        axes.set_axis_off()
        axes.set(xlim=(0, 11), ylim=(0, 6), aspect="equal")
        frozen, trained = "#DDE3E8", "#F5C9A6"
        box: dict[str, Any] = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "lw": 1.4}

        axes.add_patch(FancyBboxPatch((2.4, 3.5), 3.2, 1.9, fc=frozen, ec=COLOURS[0], hatch="..", **box))
        label: dict[str, Any] = {"ha": "center", "va": "center"}
        label_box = {"boxstyle": "round,pad=0.25", "fc": frozen, "ec": "none"}
        axes.text(4.0, 4.62, "W₀  (d_out × d_in)", weight="bold", bbox=label_box, **label)
        axes.text(4.0, 4.02, "frozen", bbox=label_box, color=COLOURS[0], **label)

        axes.add_patch(Polygon([(2.4, 0.6), (2.4, 2.5), (3.8, 1.9), (3.8, 1.2)], fc=trained, ec=COLOURS[1], lw=1.4))
        axes.text(3.05, 1.7, "A", weight="bold", **label)
        axes.text(3.05, 1.25, "r × d_in", size=8, **label)
        axes.add_patch(Polygon([(4.2, 1.2), (4.2, 1.9), (5.6, 2.5), (5.6, 0.6)], fc=trained, ec=COLOURS[1], lw=1.4))
        axes.text(4.98, 1.7, "B", weight="bold", **label)
        axes.text(4.98, 1.25, "d_out × r", size=8, **label)
        axes.text(4.0, 0.18, "trained: random A, B starts at zero", size=8.5, color=COLOURS[1], **label)
        axes.text(6.35, 1.98, "× α/r", size=10, color=COLOURS[1], **label)

        arrow = {"arrowstyle": "-|>", "lw": 1.5, "color": "black", "shrinkA": 0, "shrinkB": 0}

        def draw(start: tuple[float, float], end: tuple[float, float]) -> None:
            axes.annotate("", end, start, arrowprops=arrow)

        axes.text(0.55, 3.0, "x", size=15, style="italic", **label)
        axes.plot([0.9, 1.5, 1.5], [3.0, 3.0, 4.45], color="black", lw=1.5)
        axes.plot([1.5, 1.5], [3.0, 1.55], color="black", lw=1.5)
        draw((1.5, 4.45), (2.38, 4.45))
        draw((1.5, 1.55), (2.38, 1.55))
        draw((3.8, 1.55), (4.18, 1.55))
        axes.plot([5.62, 7.2, 7.2], [4.45, 4.45, 3.4], color="black", lw=1.5)
        axes.plot([5.6, 7.2, 7.2], [1.55, 1.55, 2.6], color="black", lw=1.5)
        draw((7.2, 3.6), (7.2, 3.32))
        draw((7.2, 2.4), (7.2, 2.68))
        axes.text(7.2, 3.0, "+", size=15, weight="bold", bbox={"boxstyle": "circle,pad=0.15", "fc": "white"}, **label)
        draw((7.55, 3.0), (8.2, 3.0))
        axes.text(8.3, 3.0, "h = W₀x + α/r · BAx", size=10, ha="left", va="center")
        return Figure(
            figure,
            """Diagram of a LoRA layer. The input x takes two paths. The upper goes through the wide frozen matrix W0.
            The lower goes through A, which narrows it from d_in to r numbers, and B, which widens r to d_out, and is
            scaled by alpha over r; only A and B are trained, and B starts at zero. The two results are added:
            h = W0 x + alpha/r B A x.""",
        )


def alignment_diagram() -> Figure:
    """Diagram 2: three ways from a base model to an aligned one: RLHF in three stages, DPO in one, ORPO without SFT."""
    import matplotlib
    from matplotlib.patches import FancyBboxPatch

    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = _new(9.2, 5.2)
        axes.set_axis_off()
        axes.set(xlim=(0, 15.2), ylim=(0, 8.6))
        fills = {"trained": "#F5C9A6", "frozen": "#DDE3E8", "data": "#FFFFFF"}
        edges = {"trained": COLOURS[1], "frozen": COLOURS[0], "data": "#555555"}

        def box(x: float, y: float, width: float, height: float, text: str, kind: str) -> None:
            axes.add_patch(FancyBboxPatch(
                (x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.12", fc=fills[kind], ec=edges[kind], lw=1.4,
                ls="--" if kind == "data" else "-", hatch=".." if kind == "frozen" else "",
            ))  # fmt: skip
            label_box = {"boxstyle": "round,pad=0.15", "fc": fills[kind], "ec": "none"}
            axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=9, bbox=label_box)

        def draw(
            start: tuple[float, float], end: tuple[float, float], label: str = "", curve: float = 0.0, above: float = 0.16
        ) -> None:
            axes.annotate("", end, start, arrowprops={
                "arrowstyle": "-|>", "lw": 1.4, "color": "black", "shrinkA": 1, "shrinkB": 1,
                "connectionstyle": f"arc3,rad={curve}",
            })  # fmt: skip
            if label:
                axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + above, label, ha="center", va="bottom", size=8)

        box(0.1, 3.6, 1.7, 1.0, "base\nmodel", "frozen")
        box(0.1, 6.6, 2.2, 1.0, "demonstrations", "data")
        box(3.0, 5.0, 2.0, 1.0, "SFT model", "trained")
        draw((1.85, 4.5), (2.98, 5.3))
        draw((2.0, 6.58), (3.4, 6.04))
        axes.text(4.0, 6.75, "1 · imitate", ha="center", size=9, weight="bold")

        box(5.9, 6.9, 2.2, 1.0, "preference\npairs", "data")
        box(9.0, 6.9, 2.2, 1.0, "reward model", "trained")
        draw((8.12, 7.4), (8.98, 7.4))
        axes.text(10.1, 8.1, "2 · learn what is preferred", ha="center", size=9, weight="bold")

        box(9.0, 5.0, 2.2, 1.0, "policy", "trained")
        draw((5.02, 5.5), (8.98, 5.5))
        axes.text(5.7, 5.62, "starts as", ha="center", size=8)
        draw((10.6, 6.02), (10.6, 6.88))
        axes.text(10.72, 6.43, "answers", size=8, va="center")
        axes.annotate("", (11.25, 5.6), (11.25, 7.4), arrowprops={
            "arrowstyle": "-|>", "lw": 1.4, "color": "black", "connectionstyle": "arc3,rad=-0.9"})  # fmt: skip
        axes.text(12.35, 6.5, "reward", size=8, va="center")
        box(13.0, 5.0, 2.1, 1.0, "reference\n= SFT model", "frozen")
        draw((12.98, 5.25), (11.25, 5.25), "KL penalty", above=-0.42)
        axes.text(13.3, 7.4, "3 · optimise: PPO", ha="center", size=9, weight="bold")

        box(9.0, 2.7, 2.2, 1.0, "policy", "trained")
        box(13.0, 2.7, 2.1, 1.0, "reference\n= SFT model", "frozen")
        draw((4.4, 4.98), (8.98, 3.35), curve=0.12)
        draw((7.0, 6.88), (9.4, 3.74), curve=0.18)
        draw((12.98, 3.2), (11.25, 3.2), "log-ratios")
        axes.text(4.15, 3.15, "DPO: the pairs train the policy", size=9, weight="bold", ha="center")

        box(9.0, 0.6, 2.2, 1.0, "policy", "trained")
        draw((0.95, 3.58), (8.98, 0.95), curve=0.22)
        draw((6.35, 6.88), (9.2, 1.64), curve=0.3)
        axes.text(4.2, 0.3, "ORPO: imitate and prefer at once, no reference", size=9, weight="bold", ha="center")
        return Figure(
            figure,
            """Diagram of three ways from a base model to an aligned policy. RLHF takes three stages: supervised fine-tuning
            on demonstrations; a reward model trained on preference pairs; and PPO, in which the policy, which starts as the
            SFT model, answers, the reward model scores the answers, and a KL penalty holds the policy near the frozen
            reference, which is the SFT model too. DPO trains the policy, from the SFT model, on the preference pairs
            themselves, with the reference's log-probabilities and no reward model. ORPO trains the base model on the pairs
            in one stage, with neither reference nor reward model.""",
        )
