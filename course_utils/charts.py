"""Charts of the second edition: readable on a phone, labels on the lines, one colour and marker per method.

`figures` has the first edition's; each lesson moves here when it is rewritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from course_utils.figures import STYLE, Figure, _new

# Method → colour and marker, the same in every lesson.
METHODS: dict[str, tuple[str, str]] = {
    "before training": ("#52606d", "X"),
    "LoRA": ("#0072B2", "o"),
    "QLoRA": ("#007a5a", "s"),
    "full fine-tuning": ("#b34700", "^"),
}
OTHERS = (("#0072B2", "o"), ("#b34700", "^"), ("#007a5a", "s"), ("#a0457f", "D"), ("#7a5d00", "v"))
# At 390 pixels a figure of 5.6 inches at 110 dots is shown at 0.63 of its size, and 12 points are then 11.6 pixels.
LARGE: dict[Any, Any] = STYLE | {"figure.dpi": 110, "font.size": 12, "axes.titlesize": 12.5, "axes.titlepad": 12}
WIDTH, HEIGHT = 5.6, 3.7


def _look(name: str, index: int) -> dict[str, Any]:
    colour, marker = METHODS.get(name, OTHERS[index % len(OTHERS)])
    return {"color": colour, "marker": marker}


def _finish(figure: Any, axes: Any, title: str, alt: str) -> Figure:
    figure.suptitle(
        _wrapped(title, 52), x=0.02, ha="left", fontsize=12.5, fontweight="bold", y=1.04 if len(title) > 52 else 1.0
    )
    return Figure(figure, alt[:300])


def _decimal(value: float) -> str:
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _decimals(axis: Any) -> None:
    """Plain numbers at 1, 2 and 5 of each decade of a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _decimal(value)))
    axis.set_minor_formatter(NullFormatter())


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def loss_curve(losses: Sequence[float], title: str, validation: Mapping[int, float] | None = None) -> Figure:
    """Loss after each step.

    Args:
        losses: training loss of step 1, 2, ...
        title: what to see.
        validation: step → validation loss.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, HEIGHT)
        steps = range(1, len(losses) + 1)
        axes.plot(steps, losses, color="#0072B2", marker="o", ms=4, lw=1.5)
        axes.annotate("training", (len(losses), losses[-1]), xytext=(4, 6), textcoords="offset points", color="#0072B2")
        words = f"training loss from {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps"
        if validation:
            at, values = list(validation), list(validation.values())
            best = min(validation, key=lambda step: validation[step])
            axes.plot(at, values, color="#b34700", marker="^", ls="--", lw=1.5)
            axes.annotate("validation", (at[-1], values[-1]), xytext=(-20, 8), textcoords="offset points", color="#b34700")
            axes.annotate(
                f"best: step {best}", (best, validation[best]), xytext=(0, -18), textcoords="offset points", ha="center",
                color="#b34700",
            )  # fmt: skip
            words += f"; validation loss lowest at step {best} with {validation[best]:.2f}, at the end {values[-1]:.2f}"
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        axes.set_ylim(bottom=0)
        return _finish(figure, axes, title, f"Line chart. {title}: {words}.")


def knob(
    values: Mapping[float, Sequence[float]], title: str, xlabel: str, ylabel: str, levels: Mapping[str, float] | None = None
) -> Figure:
    """How a result depends on one setting, on a logarithmic axis: a point per seed, a line through the means.

    Args:
        values: setting → results, one per seed.
        title: what to see.
        xlabel, ylabel: what is set and what is measured.
        levels: horizontal lines by name, e.g. a rival's result.
    """
    import statistics

    import matplotlib

    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, HEIGHT)
        means = {x: statistics.mean(row) for x, row in values.items()}
        for x, row in values.items():
            axes.plot([x] * len(row), row, ls="", marker="o", ms=5, color="#0072B2", alpha=0.45)
        axes.plot(list(means), list(means.values()), color="#0072B2", lw=2)
        everything = [value for row in values.values() for value in row] + list((levels or {}).values())
        axes.set_xscale("log")
        if max(everything) > 8 * min(everything):
            axes.set_yscale("log")
            axes.set_ylim(0.75 * min(everything), 1.3 * max(everything))
            _decimals(axes.yaxis)
        else:
            axes.set_ylim(0, 1.15 * max(everything))
        for name, level in (levels or {}).items():
            axes.axhline(level, color="#b34700", ls="--", lw=1.5)
            axes.annotate(
                name, (0.98, level), xycoords=("axes fraction", "data"), xytext=(0, 5), textcoords="offset points",
                ha="right",
                color="#b34700", fontsize=11,
            )  # fmt: skip
        axes.set_xticks(list(values), [_decimal(x) for x in values], rotation=20 if len(values) > 4 else 0)
        axes.xaxis.minorticks_off()
        axes.set(xlabel=f"{xlabel} (points: seeds)", ylabel=_wrapped(ylabel, 26))
        words = ", ".join(f"{x:g}: {y:.3f}" for x, y in means.items())
        return _finish(figure, axes, title, f"Line chart. {title}. Mean {ylabel} by {xlabel}: {words}.")


def trade_off(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, xlabel: str, ylabel: str, log_x: bool = False
) -> Figure:
    """Points joined in order, labels on them: name → (x values, y values)."""
    import matplotlib

    words = []
    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, HEIGHT)
        for index, (name, (x, y)) in enumerate(series.items()):
            look = _look(name, index)
            axes.plot(x, y, lw=1.5, ms=7, **look)
            axes.annotate(name, (x[-1], y[-1]), xytext=(-4, 9), textcoords="offset points", ha="right", color=look["color"])
            words.append(f"{name}: {len(x)} points, {ylabel} {min(y):.2f} to {max(y):.2f}")
        if log_x:
            axes.set_xscale("log")
            _decimals(axes.xaxis)
        axes.margins(0.12)
        axes.set(xlabel=_wrapped(xlabel, 48), ylabel=_wrapped(ylabel, 30))
        return _finish(figure, axes, title, f"Chart. {title}. " + "; ".join(words) + ".")
