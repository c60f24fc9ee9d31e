"""Charts in one style: readable on a phone, labels on the lines, each with an alt text; and the course's drawings.

lines         lines, of one run or several at each place
loss_curve    the loss of a training, step by step
bars          horizontal bars, whole or in parts, beside limits
shares        shares with their intervals
histogram     how values are distributed
drawing       one of the drawings in `course_utils/drawings`: an idea as a picture, not data
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape, unescape
from itertools import cycle
from typing import TYPE_CHECKING, Any

from course_utils.assets import PACKAGE
from course_utils.errors import CourseError
from course_utils.style import ACCENT, LIMIT, LOOKS, MUTED, PARTS, SERIES, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# At 390 pixels a figure of 5.6 inches at 110 dots is shown at 0.63 of its size, and 12 points are then 11.6 pixels.
STYLE: dict[Any, Any] = {  # Any, since matplotlib's own type lists each of its three hundred settings
    "figure.dpi": 110,
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}
WIDTH, HEIGHT = 5.6, 3.8
DASHES = ("-", "--", ":", "-.")
FEW_POINTS = 16  # with more, a line needs no markers
FEW_STEPS, RUNNING = 30, 5
LONGEST_ALT = 300  # characters
MOST_TOLD = 5  # points of a line that its alt text names; of more, the first and the last
DRAWINGS = PACKAGE / "drawings"


@dataclass(frozen=True, repr=False)
class Figure:
    """A picture; a notebook shows it, other places show the alt text.

    Attributes:
        data: the picture's file.
        alt: description of the picture, at most two sentences.
        kind: "png" or "svg+xml".
        width: CSS pixels across where there is room for them; None: as many as the picture has.
    """

    data: bytes
    alt: str
    kind: str = "png"
    width: int | None = None

    def save(self, file: str) -> None:
        """Write the picture as a file."""
        with open(file, "wb") as out:
            out.write(self.data)

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.data).decode()
        width = f' width="{self.width}"' if self.width else ""
        alt = escape(self.alt, quote=True)
        return f'<img src="data:image/{self.kind};base64,{data}" alt="{alt}"{width} style="max-width:100%">'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def drawing(name: str) -> Figure:
    """Return a drawing of the course: an idea as a picture, not data.

    Args:
        name: of a file in `course_utils/drawings`, such as "lora". Its `<desc>` is the alt text.

    Raises:
        CourseError: there is no such drawing; the message lists those that there are.
    """
    file = DRAWINGS / f"{name}.svg"
    if not file.is_file():
        names = ", ".join(sorted(other.stem for other in DRAWINGS.glob("*.svg")))
        raise CourseError(f"there is no drawing {name!r}; there are {names}")
    svg = file.read_text(encoding="utf-8")
    description = re.search(r"<desc>(.*?)</desc>", svg, re.DOTALL)
    width = re.search(r'<svg[^>]* width="(\d+)"', svg)
    if description is None or width is None:
        raise CourseError(f"{file.name} needs a <desc>, which is its alt text, and a width")
    return Figure(svg.encode(), " ".join(unescape(description[1]).split()), "svg+xml", int(width[1]))


def from_canvas(canvas: Canvas, alt: str) -> Figure:
    """Return a matplotlib figure as a PNG of few colours, a third of the usual size.

    Raises:
        ValueError: the alt text is empty.
    """
    from PIL import Image

    if not alt.strip():
        raise ValueError("a figure needs an alt text")
    drawn, out = io.BytesIO(), io.BytesIO()
    canvas.savefig(drawn, format="png", bbox_inches="tight", metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return Figure(out.getvalue(), " ".join(alt.split()))


@contextmanager
def _canvas(height: float = HEIGHT) -> Iterator[tuple[Canvas, Axes]]:
    """A figure with axes in the course's style, outside pyplot's registry, so that it is shown once, with its alt text."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, height))
        yield canvas, canvas.subplots()


def _finish(canvas: Canvas, title: str, alt: str, names: int = 0) -> Figure:
    """The picture, with its title above so many lines of names over the frame."""
    top = canvas.axes[0].get_position().y1 + (names * 16 + 10) / 72 / canvas.get_size_inches()[1]
    canvas.suptitle(_wrapped(title, 52), x=0.02, y=top, ha="left", va="bottom", fontsize=12.5, fontweight="bold")
    return from_canvas(canvas, alt)


def _alt(start: str, parts: Sequence[str]) -> str:
    """Two sentences: the start, and as many parts as fit."""
    shown, start = list(parts), start.rstrip("?.!")
    while shown and len(f"{start}. {'; '.join(shown)}; and {len(parts) - len(shown)} more.") > LONGEST_ALT:
        shown.pop()
    more = [f"and {len(parts) - len(shown)} more"] if len(shown) < len(parts) else []
    return f"{start}. {'; '.join([*shown, *more])}."


def decimal(value: float) -> str:
    """Return a number as text, without an exponent."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def _number_log_axis(axis: Any, ticks: Sequence[float] = ()) -> None:
    """Write plain numbers on a logarithmic axis: at the ticks, or at 1, 2 and 5 of each decade, of many decades at 1."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high < 1000 * low else (1,)
    axis.set_major_locator(FixedLocator(list(ticks)) if ticks else LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _label_lines(canvas: Canvas, axes: Axes, labels: Mapping[str, tuple[Sequence[float], Sequence[float], str]]) -> None:
    """Put each label on its own line where it covers least: of other labels, of lines and of points.

    Args:
        canvas, axes: with everything drawn, since limits and scales decide what is free.
        labels: text → (x values, y values, colour) of its line.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    agg = FigureCanvasAgg(canvas)
    agg.draw()
    renderer, frame = agg.get_renderer(), axes.get_window_extent().padded(-6)
    to_pixels = axes.transData.transform
    inked = []
    for x, y, _ in labels.values():
        corners = to_pixels(np.column_stack([x, y]).astype(float))
        inked.append(corners)
        for start, end in zip(corners, corners[1:]):
            inked.append(start + np.linspace(0, 1, 25)[:, None] * (end - start))
    ink = np.concatenate(inked)
    label_boxes: list[Any] = []
    sides = ((8, 8, "left"), (-8, 8, "right"), (8, -16, "left"), (-8, -16, "right"), (0, 10, "center"), (0, -18, "center"))
    by_choice = sorted(labels.items(), key=lambda item: (len(item[1][0]), max(item[1][1]) - min(item[1][1])))
    for name, (x, y, colour) in by_choice:  # those with the least choice first
        best: tuple[float, Any, Any] | None = None
        for point in list(zip(x, y))[:: max(1, len(x) // 60)]:
            for across, up, side in sides:
                text = axes.annotate(
                    name, point, xytext=(across, up), textcoords="offset points", ha=side, color=colour, fontsize=11
                )
                box = text.get_window_extent(renderer)
                outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
                wide = box.expanded(1.02, 1.1)
                covered = ((ink > (wide.x0, wide.y0)) & (ink < (wide.x1, wide.y1))).all(axis=1).sum()
                cost = covered + 200 * outside + 500 * sum(wide.overlaps(other) for other in label_boxes)
                if best is None or cost < best[0]:
                    if best:
                        best[1].remove()
                    best = cost, text, wide
                else:
                    text.remove()
        if best:
            label_boxes.append(best[2])


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float | Sequence[float]]]],
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    log_x: Sequence[float] = (),
    log_y: bool = False,
    marks: Mapping[str, tuple[float, float]] | None = None,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Draw lines with their names on them; lines of few points have markers, others are dashed differently.

    Args:
        series: name → (x values, y values). A y value may be a list, the results of several runs: each is drawn as a point,
            and the line goes through the means.
        title: what to see.
        xlabel, ylabel: what the axes measure.
        log_x: the values to name on a logarithmic x axis; without any, the axis is linear.
        log_y: whether the y axis is logarithmic.
        marks: single points with a text beside them, as text → (x, y).
        levels: horizontal lines by name, such as the result of a rival.
    """
    import statistics

    labels: dict[str, Any] = {}
    has_markers = all(len(x) <= FEW_POINTS for x, _ in series.values())
    parts = []
    with _canvas(HEIGHT + 0.8 * log_y) as (canvas, axes):
        for index, (name, (x, values)) in enumerate(series.items()):
            colour, marker = LOOKS.get(name, SERIES[index % len(SERIES)])
            runs = [[value] if isinstance(value, int | float) else list(map(float, value)) for value in values]
            y = [statistics.mean(row) for row in runs]
            several = any(len(row) > 1 for row in runs)
            for place, row in zip(x, runs) if several else ():
                axes.plot([place] * len(row), row, ls="", marker=marker, ms=5, color=colour, alpha=0.45)
            looks: dict[str, Any] = {"marker": marker, "ms": 7, "lw": 1.5} if has_markers and not several else {"lw": 2.2}
            axes.plot(x, y, color=colour, ls="-" if has_markers else DASHES[index % len(DASHES)], **looks)
            labels[_wrapped(name, 26)] = (x, y, colour)
            told = list(zip(x, y)) if len(y) <= MOST_TOLD else [(x[0], y[0]), (x[-1], y[-1])]
            parts.append(f"{name}: " + ", ".join(f"{_number(value)} at {_number(place)}" for place, value in told))
        for text, (x_at, y_at) in (marks or {}).items():
            axes.plot([x_at], [y_at], marker="D", ms=8, ls="", color=TEXT, zorder=5)
            labels[_wrapped(text, 24)] = ([x_at], [y_at], TEXT)
        if log_x:
            axes.set_xscale("log")
            _number_log_axis(axes.xaxis, log_x)
            if len(log_x) > 4:
                axes.tick_params(axis="x", rotation=20)
        if log_y:
            axes.set_yscale("log")
            _number_log_axis(axes.yaxis)
        axes.margins(0.12 if has_markers else 0.06, 0.12)
        if levels and not log_y:  # a difference from a level is judged by eye
            axes.set_ylim(0, 1.15 * max(max(levels.values()), axes.dataLim.y1))
        for name, level in (levels or {}).items():
            axes.axhline(level, color=LIMIT, ls="--", lw=1.5)
            axes.text(1, 1.02, f"- - {name}", transform=axes.transAxes, ha="right", color=LIMIT, fontsize=11)
            parts.append(f"line at {_number(level)}: {name}")
        axes.set(xlabel=_wrapped(xlabel, 48), ylabel=ylabel.replace(" (", "\n("))
        _label_lines(canvas, axes, labels)
        return _finish(canvas, title, _alt(f"Lines. {title}", parts), len(levels or {}))


def _number(value: float) -> str:
    """Format a number with three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def loss_curve(
    losses: Sequence[float], title: str, validation: Mapping[int, float] | None = None, top: float | None = None
) -> Figure:
    """Draw the loss after each step.

    Args:
        losses: training loss of step 1, 2, ...
        title: what to see.
        validation: step → validation loss.
        top: where the axis ends if the first steps would make the rest too small to see; None shows everything.
    """
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    training, other = LOOKS["training"][0], LOOKS["validation"][0]
    with _canvas() as (canvas, axes):
        steps, shown = list(range(1, len(losses) + 1)), list(losses)
        if len(losses) <= FEW_STEPS:
            axes.plot(steps, losses, color=training, marker="o", ms=4, lw=1.5)
        else:  # single steps are noise: they stay in the background of their running mean
            axes.plot(steps, losses, color=training, lw=1, alpha=0.3)
            steps, shown = steps[RUNNING - 1 :], list(np.convolve(losses, np.ones(RUNNING) / RUNNING, mode="valid"))
            axes.plot(steps, shown, color=training, lw=2)
        labels = {"training": (steps, shown, training)}
        words = [f"training loss from {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps"]
        if validation:
            at, values = list(validation), list(validation.values())
            best = min(validation, key=lambda step: validation[step])
            axes.plot(at, values, color=other, marker="^", ls="--", lw=1.5)
            labels["validation"] = (at, values, other)
            if best != at[-1]:
                labels[f"best: step {best}"] = ([best], [validation[best]], other)
            words.append(f"validation loss lowest at step {best} with {validation[best]:.2f}, at the end {values[-1]:.2f}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        if top is not None and min(shown) > top:  # cut off there, nothing would be left to see
            top = None
        axes.set_ylim(bottom=0, top=top)
        if top is not None and max(shown) > top:
            axes.set_xlabel(f"step (a loss above {top:g} lies outside)")
            inside = [(step, loss) for step, loss in zip(steps, shown) if loss <= top]
            labels["training"] = ([step for step, _ in inside], [loss for _, loss in inside], training)
        _label_lines(canvas, axes, labels)
        return _finish(canvas, title, _alt(f"Line chart. {title}", words))


def bars(
    values: Mapping[str, float | Mapping[str, float]],
    title: str,
    unit: str,
    limits: Mapping[str, float] | None = None,
    decimals: int = 1,
    highlight: Sequence[str] = (),
) -> Figure:
    """Draw horizontal bars with their values at the end.

    Args:
        values: name → value, from top to bottom; or name → part → value, the same parts in each bar.
        title: what to see.
        unit: unit of the values.
        limits: a vertical line by its name, such as a card's memory.
        decimals: number of decimals of the values as written.
        highlight: names of bars in the accent colour.
    """
    limits = limits or {}
    in_parts = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    totals = {name: sum(value.values()) if isinstance(value, Mapping) else value for name, value in values.items()}
    rows = range(len(values))
    with _canvas(0.9 + 0.55 * len(values) + 0.6 * bool(in_parts)) as (canvas, axes):
        if in_parts:
            start = [0.0] * len(values)
            for part, (colour, hatch) in zip(next(iter(in_parts.values())), PARTS):
                lengths = [row[part] for row in in_parts.values()]
                looks: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0.6}
                axes.barh(rows, lengths, left=start, height=0.6, label=part, **looks)
                start = [a + b for a, b in zip(start, lengths)]
        else:
            colours = [ACCENT if name in highlight else MUTED for name in values]
            axes.barh(rows, list(totals.values()), height=0.6, color=colours)
        axes.set_yticks(rows, [_wrapped(name, 21) for name in values])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        offset: dict[str, Any] = {"textcoords": "offset points", "fontsize": 11}
        for name, at in limits.items():
            axes.axvline(at, color=LIMIT, ls="--", lw=1.8)
            axes.annotate(name, (at, 1), xycoords=("data", "axes fraction"), xytext=(0, 5), color=LIMIT, **offset)
        low, high = min(0, *totals.values()), 1.18 * max([*totals.values(), *limits.values()])
        axes.set_xlim(low, high)
        per_point = (high - low) / (72 * axes.get_position().width * WIDTH)
        for row, value in enumerate(totals.values()):  # at the end of the bar, or beyond a line that it would touch
            text, end = f"{value:,.{decimals}f}", max(value, 0)
            touched = [at for at in limits.values() if -3 <= (at - end) / per_point <= 5 + 6.8 * len(text)]
            axes.annotate(text, (max(touched, default=end), row), xytext=(5, 0), va="center", **offset)
        axes.set(xlabel=unit)
        if in_parts:
            under = axes.get_position().y0 - 0.5 / canvas.get_size_inches()[1]  # inches
            canvas.legend(loc="upper center", bbox_to_anchor=(0.5, under), ncols=2, fontsize=10.5)
        words = [f"line at {value:,.1f}: {name}" for name, value in limits.items()]
        words += [f"{name}: {value:,.{decimals}f}" for name, value in totals.items()]
        return _finish(canvas, title, _alt(f"Bar chart, {unit}. {title}", words), len(limits))


def shares(rows: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """Draw shares with their intervals: a row for each system, and a marker for each kind of share.

    Args:
        rows: system → kind of share → `evaluation.Score`.
        title: what to see.
    """
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    looks = dict(zip(kinds, cycle(SERIES)))
    words = []
    high = sum(30 + 20 * len(row) for row in rows.values())  # hundredths of an inch, as are all y
    with _canvas((high + 120) / 100) as (canvas, axes):
        y = float(high)
        for name, row in rows.items():
            y -= 14
            axes.text(0, y, name, fontsize=11, va="center")
            for kind, score in row.items():
                y -= 20
                colour, marker = looks[kind]
                at, low, high_end = 100 * score.value, 100 * score.low, 100 * score.high
                around = [[at - low], [high_end - at]]
                axes.errorbar(at, y, xerr=around, color=colour, marker=marker, ms=7, capsize=3, lw=1.6)
            words.append(f"{name}: " + ", ".join(f"{kind} {100 * score.value:.0f} %" for kind, score in row.items()))
            y -= 16
            axes.axhline(y, color=MUTED, lw=0.5)
        for kind, (colour, marker) in looks.items():
            axes.plot([], [], color=colour, marker=marker, ls="", label=kind)
        axes.set(xlim=(-2, 102), ylim=(y, high), yticks=[], xlabel="share of answers, %, with its 95 % interval")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.grid(axis="x", alpha=0.4)
        columns = max(1, min(3, len(kinds)))
        handles, _ = axes.get_legend_handles_labels()
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.04, -0.02), "ncols": columns}
        canvas.legend(handles=handles, fontsize=11, handletextpad=0.1, columnspacing=1, **place)
        foot = 60 + 20 * -(-len(kinds) // columns)
        canvas.subplots_adjust(left=0.06, right=0.98, top=1 - 40 / (high + 120), bottom=foot / (high + 120))
        return _finish(canvas, title, _alt(f"Chart. {title}", words))


def histogram(
    sets: Mapping[str, Sequence[float]],
    title: str,
    xlabel: str,
    ticks: Mapping[str, Sequence[float]] | None = None,
    bins: int = 30,
) -> Figure:
    """Draw how values are distributed, each set as shares of its own count.

    Args:
        sets: name → values.
        title: what to see.
        xlabel: what the values are.
        ticks: name → values that are marked in a row below, such as those that a code book can store. Without them the top
            hundredth of the values is gathered in the last bin.
        bins: number of bins.
    """
    import numpy as np

    values = {name: np.asarray(numbers, dtype=np.float64) for name, numbers in sets.items()}
    everything, words = np.concatenate(list(values.values())), []
    end = everything.max() if ticks else max(float(np.quantile(numbers, 0.99)) for numbers in values.values())
    edges = np.linspace(float(everything.min()), float(end), bins + 1)
    with _canvas() as (canvas, axes):
        for index, (name, numbers) in enumerate(values.items()):
            colour, _ = SERIES[index % len(SERIES)] if len(values) > 1 else (MUTED, "")
            heights = 100 * np.histogram(np.minimum(numbers, end), edges)[0] / len(numbers)
            dash = DASHES[index % len(DASHES)]
            label = f"{name} ({len(numbers):,})"
            axes.stairs(heights, edges, color=colour, ls=dash, lw=2, label=label, fill=len(values) == 1)
            low, middle, high = np.quantile(numbers, (0.25, 0.5, 0.75))
            words.append(
                f"{name}: {len(numbers):,} values, half of them between {low:.2g} and {high:.2g}, median {middle:.2g}"
            )
        if len(values) > 1:
            axes.legend()
        low, high = np.quantile(everything, (0.25, 0.75))
        top = axes.get_ylim()[1]
        for index, (name, places) in enumerate((ticks or {}).items(), 1):
            colour, at = SERIES[index - 1][0], -0.16 * top * index
            axes.vlines(places, at - 0.05 * top, at + 0.07 * top, color=colour, lw=2)
            axes.annotate(
                name, (0, at), xycoords=("axes fraction", "data"), xytext=(-5, 0), textcoords="offset points", color=colour,
                ha="right", va="center", fontsize=11,
            )  # fmt: skip
            words.append(f"{name} has {sum(low <= place <= high for place in places)} of {len(places)} values there")
        axes.set_ylim(-0.16 * top * (len(ticks or {}) + 0.6) if ticks else 0, top)
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
        axes.set(xlabel=xlabel, ylabel="share, %")
        return _finish(canvas, title, _alt(f"Histogram. {title}", words))
