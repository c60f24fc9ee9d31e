"""The lessons' charts: readable on a phone, labels on the lines, one colour and marker per method.

`figures` has the pictures of benchmarks and reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from course_utils.figures import STYLE, Figure, _new

# Method → colour and marker, the same in every lesson.
METHODS: dict[str, tuple[str, str]] = {
    "before training": ("#52606d", "X"),
    "LoRA": ("#0072B2", "o"),
    "QLoRA": ("#007a5a", "s"),
    "full fine-tuning": ("#b34700", "^"),
    "SFT on chosen": ("#4b3f99", "v"),
    "DPO": ("#a0457f", "D"),
    "ORPO": ("#7a5d00", "p"),
    "GRPO": ("#1f2933", "*"),
    "KTO": ("#006b75", "P"),
    "IPO": ("#8c1d18", "<"),
    "SimPO": ("#5b6b00", ">"),
}
OTHERS = (("#0072B2", "o"), ("#b34700", "^"), ("#007a5a", "s"), ("#a0457f", "D"), ("#7a5d00", "v"))
# A measure looks the same in every figure of shares: its place in OTHERS.
MEASURES = {
    "right fact": 0, "valid form": 1, "valid form on others": 1, "right record": 2, "on others": 2, "usable": 3,
    "on its own examples": 4,
}  # fmt: skip
# At 390 pixels a figure of 5.6 inches at 110 dots is shown at 0.63 of its size, and 12 points are then 11.6 pixels.
LARGE: dict[Any, Any] = STYLE | {"figure.dpi": 110, "font.size": 12, "axes.titlesize": 12.5, "axes.titlepad": 12}
WIDTH, HEIGHT = 5.6, 3.7
FEW_STEPS, RUNNING = 30, 5
MARK = "#1f2933"  # a single point among lines


def _look(name: str, index: int) -> dict[str, Any]:
    colour, marker = METHODS.get(name, OTHERS[index % len(OTHERS)])
    return {"color": colour, "marker": marker}


def _finish(figure: Any, axes: Any, title: str, alt: str) -> Figure:
    figure.suptitle(
        _wrapped(title, 52), x=0.02, ha="left", fontsize=12.5, fontweight="bold", y=1.04 if len(title) > 52 else 1.0
    )
    return Figure(figure, alt[:300])


def decimal(value: float) -> str:
    """Return a number as text, without an exponent."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _decimals(axis: Any) -> None:
    """Plain numbers at 1, 2 and 5 of each decade of a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value)))
    axis.set_minor_formatter(NullFormatter())


def _label_lines(
    figure: Any,
    axes: Any,
    labels: Mapping[str, tuple[Sequence[float], Sequence[float], str]],
    notes: Sequence[tuple[str, float, float]] = (),
) -> None:
    """Put each label on its own line where it covers least: of other labels, of lines and of points.

    Args:
        figure, axes: with everything drawn, since limits and scales decide what is free.
        labels: text → (x values, y values, colour) of its line.
        notes: (text, x, y) of smaller texts at single points, in the colour of the line that has the point.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, frame = canvas.get_renderer(), axes.get_window_extent()
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
    # Those with the least choice first.
    texts = [(name, x, y, colour, 11) for name, (x, y, colour) in sorted(labels.items(), key=lambda item: len(item[1][0]))]
    colour_of = {point: colour for x, y, colour in labels.values() for point in zip(x, y)}
    small_texts = [(note, [x], [y], colour_of.get((x, y), "#52606d"), 9) for note, x, y in notes]
    for name, x, y, colour, size in [*small_texts, *texts]:
        best: tuple[float, Any, Any] | None = None
        for point in zip(x, y):
            for across, up, side in sides:
                text = axes.annotate(
                    name, point, xytext=(across, up), textcoords="offset points", ha=side, color=colour, fontsize=size
                )
                box = text.get_window_extent(renderer)
                outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
                wide = box.expanded(1.02, 1.1)
                covered = ((ink > (wide.x0, wide.y0)) & (ink < (wide.x1, wide.y1))).all(axis=1).sum()
                cost = covered + 60 * outside + 100 * sum(wide.overlaps(other) for other in label_boxes)
                if best is None or cost < best[0]:
                    if best:
                        best[1].remove()
                    best = cost, text, wide
                else:
                    text.remove()
        if best:
            label_boxes.append(best[2])


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


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
    import matplotlib
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, HEIGHT)
        steps = range(1, len(losses) + 1)
        shown_steps, shown = list(steps), list(losses)
        if len(losses) <= FEW_STEPS:
            axes.plot(steps, losses, color="#0072B2", marker="o", ms=4, lw=1.5)
        else:  # single steps are noise: they stay in the background of their running mean
            axes.plot(steps, losses, color="#0072B2", lw=1, alpha=0.3)
            shown_steps, shown = (
                shown_steps[RUNNING - 1 :],
                list(np.convolve(losses, np.ones(RUNNING) / RUNNING, mode="valid")),
            )
            axes.plot(shown_steps, shown, color="#0072B2", lw=2)
        labels = {"training": (shown_steps, shown, "#0072B2")}
        words = f"training loss from {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps"
        if validation:
            at, values = list(validation), list(validation.values())
            best = min(validation, key=lambda step: validation[step])
            axes.plot(at, values, color="#b34700", marker="^", ls="--", lw=1.5)
            labels["validation"] = (at, values, "#b34700")
            if best != at[-1]:
                labels[f"best: step {best}"] = ([best], [validation[best]], "#b34700")
            words += f"; validation loss lowest at step {best} with {validation[best]:.2f}, at the end {values[-1]:.2f}"
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        if top is not None and min(shown) > top:  # cut off there, nothing would be left to see
            top = None
        axes.set_ylim(bottom=0, top=top)
        if top is not None and max(shown) > top:
            axes.set_xlabel(f"step (a loss above {top:g} lies outside)")
            shown_steps, shown = map(list, zip(*[(at, loss) for at, loss in zip(shown_steps, shown) if loss <= top]))
            labels["training"] = (shown_steps, shown, "#0072B2")
        _label_lines(figure, axes, labels)
        return _finish(figure, axes, title, f"Line chart. {title}: {words}.")


def setting_curve(
    values: Mapping[float, Sequence[float]], title: str, xlabel: str, ylabel: str, levels: Mapping[str, float] | None = None
) -> Figure:
    """Draw how a result depends on one setting, on a logarithmic axis: a point for each seed, and a line through the means.

    Args:
        values: setting → results, one per seed.
        title: what to see.
        xlabel, ylabel: what is set and what is measured.
        levels: horizontal lines by name, such as the result of a rival.
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
            axes.text(1, 1.02, f"- - {name}", transform=axes.transAxes, ha="right", color="#b34700", fontsize=11)
        axes.set_xticks(list(values), [decimal(x) for x in values], rotation=20 if len(values) > 4 else 0)
        axes.xaxis.minorticks_off()
        axes.set(xlabel=f"{xlabel}\n(points: single runs, line: their mean)", ylabel=ylabel.replace(" (", "\n("))
        words = ", ".join(f"{x:g}: {y:.3f}" for x, y in means.items())
        return _finish(figure, axes, title, f"Line chart. {title}. Mean {ylabel} by {xlabel}: {words}.")


def trade_off(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    notes: Sequence[tuple[str, float, float]] = (),
) -> Figure:
    """Draw points that are joined in order, with labels on them.

    Args:
        series: name → (x values, y values).
        title: what to see.
        xlabel, ylabel: what the axes measure.
        log_x: whether the x axis is logarithmic.
        notes: small texts at points, as (text, x, y), such as the setting that each was made with.
    """
    import matplotlib

    words, labels = [], {}
    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, HEIGHT)
        for index, (name, (x, y)) in enumerate(series.items()):
            look = _look(name, index)
            axes.plot(x, y, lw=1.5, ms=7, **look)
            labels[name] = (x, y, look["color"])
            words.append(f"{name}: {len(x)} points, {ylabel} {min(y):.2f} to {max(y):.2f}")
        if log_x:
            axes.set_xscale("log")
            _decimals(axes.xaxis)
        axes.margins(0.12)
        axes.set(xlabel=_wrapped(xlabel, 48), ylabel=ylabel.replace(" (", "\n("))
        _label_lines(figure, axes, labels, notes)
        return _finish(figure, axes, title, f"Chart. {title}. " + "; ".join(words) + ".")


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, tuple[float, float]] | None = None,
    at: Mapping[str, float] | None = None,
    log_x: Sequence[float] = (),
    alt_parts: Sequence[str] = (),
) -> Figure:
    """Draw smooth lines with their names on them.

    Args:
        lines: name → (x values, y values).
        title: what to see.
        xlabel, ylabel: what the axes measure.
        marks: single points with a text beside them, as text → (x, y).
        at: vertical lines by name, such as a threshold.
        log_x: values to name on a logarithmic x axis; nothing for a linear one.
        alt_parts: what the figure shows, in words, for readers who cannot see it.
    """
    import matplotlib

    labels: dict[str, Any] = {}
    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, HEIGHT + 0.2)
        for index, (name, (x, y)) in enumerate(lines.items()):
            # Not the second colour, which is nearly that of the vertical lines; and dashes, for readers who see no colours.
            colour, _ = (OTHERS[0], *OTHERS[2:])[index % (len(OTHERS) - 1)]
            axes.plot(x, y, color=colour, lw=2.2, ls=("-", "--", ":", "-.")[index % 4])
            labels[_wrapped(name, 22)] = (x, y, colour)
        for text, (x_at, y_at) in (marks or {}).items():
            axes.plot([x_at], [y_at], marker="D", ms=8, ls="", color=MARK, zorder=5)
            labels[_wrapped(text, 24)] = ([x_at], [y_at], MARK)
        if log_x:
            from matplotlib.ticker import NullFormatter, NullLocator

            axes.set_xscale("log")
            axes.set_xticks(list(log_x), [decimal(x) for x in log_x])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
        _limit_lines(axes, at or {})
        axes.margins(0.04, 0.08)
        axes.set(xlabel=_wrapped(xlabel, 48), ylabel=ylabel.replace(" (", "\n("))
        _label_lines(figure, axes, labels)
        return _finish_above(figure, title, _told(f"Lines. {title}", list(alt_parts)), len(at or {}))


# Parts of a bar: colour and hatching, so that they differ without colour too.
PARTS = (("#52606d", ""), ("#0072B2", "//"), ("#e0a100", ".."), ("#cbd2d9", "xx"))


def _named_rows(axes: Any, names: Sequence[str]) -> None:
    """Names of horizontal bars, the first on top."""
    axes.set_yticks(range(len(names)), [_wrapped(name, 21) for name in names])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _limit_lines(axes: Any, limits: Mapping[str, float]) -> None:
    """Vertical lines, named above the frame, one name over the other."""
    named = sorted(limits.items(), key=lambda item: item[1])
    for index, (name, at) in enumerate(named):
        axes.axvline(at, color="#8f3a00", ls="--", lw=1.8)
        axes.annotate(
            name, (at, 1), xycoords=("data", "axes fraction"), xytext=(0, 5 + 16 * (len(named) - 1 - index)),
            textcoords="offset points", color="#8f3a00", fontsize=11,
        )  # fmt: skip


def _values_at_ends(axes: Any, texts: Sequence[str], ends: Sequence[float], limits: Mapping[str, float] | None) -> None:
    """A text at the end of each bar, or beyond the vertical lines that it would touch; call it when the limits are set."""
    low, high = axes.get_xlim()
    per_point = (high - low) / (72 * axes.get_position().width * axes.figure.get_size_inches()[0])
    for row, (text, end) in enumerate(zip(texts, ends)):
        at = end
        for line in sorted((limits or {}).values()):
            if at - 3 * per_point <= line <= at + (5 + 6.8 * len(text)) * per_point:
                at = line
        axes.annotate(text, (at, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=11)


def _finish_above(figure: Any, title: str, alt: str, names: int) -> Figure:
    """As `_finish`, with the title above so many lines of names over the frame."""
    height = figure.get_size_inches()[1]
    top = figure.axes[0].get_position().y1 + (names * 16 + 10) / 72 / height
    text = _wrapped(title, 52)
    figure.suptitle(text, x=0.02, y=top, ha="left", va="bottom", fontsize=12.5, fontweight="bold")
    return Figure(figure, alt[:300])


def bars(
    values: Mapping[str, float], title: str, unit: str, limits: Mapping[str, float] | None = None, decimals: int = 1,
    highlight: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """Draw horizontal bars with their values at the end.

    Args:
        values: name → value, from top to bottom.
        title: what to see.
        unit: unit of the values.
        limits: vertical lines by name, such as a card's memory.
        decimals: number of decimals of the values as written.
        highlight: names of bars in the accent colour; with `limits` the bars that keep to all of them.
    """
    import matplotlib

    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, 0.9 + 0.52 * len(values))
        accent = [name in highlight or (bool(limits) and v <= min((limits or {}).values())) for name, v in values.items()]
        axes.barh(
            range(len(values)), list(values.values()), height=0.6, color=["#0072B2" if a else "#8894a0" for a in accent]
        )
        _named_rows(axes, list(values))
        _limit_lines(axes, limits or {})
        axes.set_xlim(min(0, *values.values()), 1.18 * max([*values.values(), *(limits or {}).values()]))
        _values_at_ends(axes, [f"{v:,.{decimals}f}" for v in values.values()], [max(v, 0) for v in values.values()], limits)
        axes.set(xlabel=unit)
        words = ", ".join(f"{name} {value:,.{decimals}f}" for name, value in values.items())
        lines = "".join(f"; line: {name}, {at:,.1f}" for name, at in (limits or {}).items())
        return _finish_above(figure, title, f"Bar chart. {title}. {unit}: {words}{lines}.", len(limits or {}))


def stacked(
    rows: Mapping[str, Mapping[str, float]], title: str, unit: str, limits: Mapping[str, float] | None = None
) -> Figure:
    """Draw horizontal bars made of parts, with their sums at the end.

    Args:
        rows: name → part → value, the same parts in each row.
        title: what to see.
        unit: unit of the values.
        limits: vertical lines by name, such as a card's memory.
    """
    import matplotlib

    parts = list(next(iter(rows.values())))
    totals = {name: sum(row.values()) for name, row in rows.items()}
    with matplotlib.rc_context(LARGE | {"hatch.linewidth": 0.6}):
        figure, axes = _new(WIDTH, 1.6 + 0.62 * len(rows))
        start = [0.0] * len(rows)
        for part, (colour, hatch) in zip(parts, PARTS):
            lengths = [row[part] for row in rows.values()]
            axes.barh(
                range(len(rows)), lengths, left=start, height=0.6, color=colour, hatch=hatch, edgecolor="white", lw=0.6,
                label=part,
            )  # fmt: skip
            start = [a + b for a, b in zip(start, lengths)]
        _named_rows(axes, list(rows))
        _limit_lines(axes, limits or {})
        axes.set_xlim(0, 1.16 * max([*totals.values(), *(limits or {}).values()]))
        _values_at_ends(axes, [f"{total:,.1f}" for total in totals.values()], list(totals.values()), limits)
        axes.set(xlabel=unit)
        under = axes.get_position().y0 - 0.5 / figure.get_size_inches()[1]  # inches
        figure.legend(loc="upper center", bbox_to_anchor=(0.5, under), ncols=2, frameon=False, fontsize=10.5)
        words = ", ".join(f"{name} {total:,.1f}" for name, total in totals.items())
        lines = "".join(f"; {name} has {at:,.1f}" for name, at in (limits or {}).items())
        return _finish_above(figure, title, f"Stacked bars. {title}. In {unit}: {words}{lines}.", len(limits or {}))


def code_books(scaled: Sequence[float], books: Mapping[str, Sequence[float]], title: str, xlabel: str) -> Figure:
    """Draw how values are distributed, and below it where the values of each code book lie.

    Args:
        scaled: values from -1 to 1.
        books: name → the values that can be stored.
        title: what to see.
        xlabel: what the values are.
    """
    import matplotlib
    import numpy as np

    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, HEIGHT)
        height, edges = np.histogram(np.asarray(scaled), bins=81, range=(-1, 1))
        share = 100 * height / height.sum()
        axes.bar(edges[:-1], share, width=np.diff(edges), align="edge", color="#b9c4ce")
        top, row = float(share.max()), 0.16 * float(share.max())
        for index, (name, values) in enumerate(books.items()):
            colour, _ = OTHERS[index % len(OTHERS)]
            at = -(index + 1) * row
            axes.vlines(values, at - 0.3 * row, at + 0.45 * row, color=colour, lw=2)
            axes.text(-1.06, at, name, color=colour, ha="right", va="center", fontsize=11)
        axes.set_ylim(-(len(books) + 0.7) * row, 1.05 * top)
        axes.set_xlim(-1.03, 1.03)
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=xlabel, ylabel="% of the weights")
        inside = 100 * float(np.mean(np.abs(np.asarray(scaled)) < 0.5))
        words = "; ".join(f"{name}: {sum(abs(v) < 0.5 for v in values)} of {len(values)}" for name, values in books.items())
        return _finish(
            figure, axes, title,
            f"Histogram. {title}. {inside:.0f} % of the weights lie between -0.5 and 0.5. Values in that range: {words}.",
        )  # fmt: skip


# Lesson 01's ways to answer; dark enough for text beside the line.
WAYS: dict[str, tuple[str, str]] = {
    "frontier model, long prompt": ("#a0457f", "D"),
    "small model, long prompt": ("#7a5d00", "v"),
    "fine-tuned, hosted": ("#0072B2", "o"),
    "fine-tuned, own GPU": ("#52606d", "s"),
}


def shares(rows: Mapping[str, Mapping[str, Any] | None], title: str, spread: str = "its 95 % interval") -> Figure:
    """Draw shares with their intervals: a row for each system, and a marker for each kind of share.

    Args:
        rows: system → kind of share → `evaluation.Score`; None for a system that has not been measured.
        title: what to see.
        spread: what the line through a mark shows.
    """
    import matplotlib

    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row or {}))
    free = [place for place in range(len(OTHERS)) if place not in map(MEASURES.get, kinds)]
    others = cycle(free or range(len(OTHERS)))
    looks = {kind: OTHERS[MEASURES[kind] if kind in MEASURES else next(others)] for kind in kinds}
    words = []
    with matplotlib.rc_context(LARGE):
        high = sum(30 + (20 * len(row) if row else 6) for row in rows.values())  # hundredths of an inch, as are all y
        figure, axes = _new(WIDTH, (high + 120) / 100)
        y = float(high)
        for name, row in rows.items():
            y -= 14
            axes.text(0, y, name, fontsize=11, va="center")
            if row is None:
                axes.text(100, y, "not recorded yet", fontsize=11, va="center", ha="right", color="#52606d", style="italic")
                words.append(f"{name}: not recorded yet")
            for kind, score in (row or {}).items():
                y -= 20
                colour, marker = looks[kind]
                at, low, high_end = 100 * score.value, 100 * score.low, 100 * score.high
                around = [[at - low], [high_end - at]]
                axes.errorbar(at, y, xerr=around, color=colour, marker=marker, ms=7, capsize=3, lw=1.6)
            if row:
                words.append(f"{name}: " + ", ".join(f"{kind} {100 * score.value:.0f} %" for kind, score in row.items()))
            y -= 16 if row else 22
            axes.axhline(y, color="#cbd2d9", lw=0.8)
        for kind, (colour, marker) in looks.items():
            axes.plot([], [], color=colour, marker=marker, ls="", label=kind)
        axes.set(xlim=(-2, 102), ylim=(y, high), yticks=[], xlabel=f"share of answers, %, with {spread}")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.grid(axis="x", alpha=0.4)
        columns = max(1, min(3, len(kinds)))
        figure.legend(
            loc="lower left", bbox_to_anchor=(0.04, -0.02), ncols=columns, fontsize=11, handletextpad=0.1, columnspacing=1
        )
        foot = 60 + 20 * -(-len(kinds) // columns)
        figure.subplots_adjust(left=0.06, right=0.98, top=1 - 40 / (high + 120), bottom=foot / (high + 120))
        return _finish(figure, axes, title, _told(f"Chart. {title}", words))


def _told(start: str, parts: Sequence[str], max_length: int = 300) -> str:
    """Two sentences: the start, and as many parts as fit."""
    shown_parts, start = list(parts), start.rstrip("?.!")
    while shown_parts and len(f"{start}. {'; '.join(shown_parts)}; and {len(parts) - len(shown_parts)} more.") > max_length:
        shown_parts.pop()
    more = [f"and {len(parts) - len(shown_parts)} more"] if len(shown_parts) < len(parts) else []
    return f"{start}. {'; '.join([*shown_parts, *more])}."


def volumes(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Draw dollars per day by requests per day, both on logarithmic axes, with the names on the lines.

    Args:
        lines: way → (requests per day, dollars per day).
        title: what to see.
        marks: text → the point (requests, dollars) at which two lines cross.
    """
    import matplotlib
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with matplotlib.rc_context(LARGE):
        figure, axes = _new(WIDTH, HEIGHT + 0.9)
        # Where a line has room for its name: flat ones at their left end, steep ones near their right end.
        for index, (name, (x, y)) in enumerate(lines.items()):
            colour, marker = WAYS.get(name, OTHERS[index % len(OTHERS)])
            axes.plot(x, y, color=colour, lw=2, marker=marker, ms=6, markevery=max(1, len(x) // 6))
            highest, below = y[-1] == max(line[-1] for _, line in lines.values()), index == 1
            at = (x[-3], y[-3]) if highest else (x[0], y[0])
            axes.annotate(
                _wrapped(name, 18) if highest else name, at, xytext=(-10, 0) if highest else (0, -18 if below else 8),
                textcoords="offset points", ha="right" if highest else "left", color=colour, fontsize=11,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="requests a day", ylabel="dollars a day")
        axes.set_xticks([10, 1e3, 1e5, 1e7], ["10", "1,000", "100,000", "10 million"])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
        for text, point in (marks or {}).items():
            axes.plot(*point, marker="o", ms=13, mfc="none", mec="#1f2933", mew=2)
            axes.annotate(
                text, point, xytext=(16, -50), textcoords="offset points", ha="left", fontsize=11, fontweight="bold",
                arrowprops={"arrowstyle": "-", "color": "#1f2933", "shrinkB": 7},
            )  # fmt: skip
        axes.margins(0.06, 0.14)
        words = [
            f"{name}: ${y[0]:,.2f} at {x[0]:,.0f} to ${y[-1]:,.0f} at {x[-1]:,.0f} requests"
            for name, (x, y) in lines.items()
        ]
        return _finish(figure, axes, title, _told(f"Lines. {title}", words))
