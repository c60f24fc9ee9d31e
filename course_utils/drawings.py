"""Ideas drawn, not data: a training step, LoRA, what fills the memory, merging, the label mask, when to stop.

Each is laid out for a column of 390 CSS pixels and shown at most `SHOWN` wide: no letter is smaller than `SMALL`, what is
trained has its method's colour, what is frozen is grey, and text is dark on light. Lengths are hundredths of an inch, from
the upper left corner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils import figures

if TYPE_CHECKING:
    from matplotlib.path import Path


# Method → its colour in drawings, of Okabe and Ito's; `charts.METHODS` has the darker ones in which lines are labelled.
METHOD_COLOURS = {
    "base model": "#5b6770",
    "prompting": "#CC79A7",
    "RAG": "#E69F00",
    "full fine-tuning": "#D55E00",
    "LoRA": "#0072B2",
    "QLoRA": "#009E73",
}
INK, PAPER = "#1b1f23", "#ffffff"
FROZEN = METHOD_COLOURS["base model"]
WIDTH, DPI, SHOWN = 520, 150, 624  # hundredths of an inch; dots an inch; CSS pixels at most
MARGIN = 12
# What each trained parameter holds in the usual mixed precision, in bytes. What a frozen one holds in NF4, in bits: its
# code, and its share of an 8-bit scale for each block of 64 and of a 32-bit scale for 256 of those.
TRAINED = {
    "weights: float32\nmaster copy": 4,
    "gradients": 4,
    "Adam: average\nof gradients": 4,
    "Adam: average\nof squares": 4,
}
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
SMALL, NORMAL, HEADING = 11.0, 12.0, 14.0  # points
LINE = 1.3  # a line of text, in its own size
HIGHEST = 430  # the highest stack of memory


def tint(colour: str, strength: float = 0.25) -> str:
    """A colour thinned with white, light enough to write on."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 - strength * (255 - part)):02x}" for part in parts)


class _Board:
    """A sheet to draw on: y goes down; `figure` gives what has been drawn."""

    def __init__(self, height: float, title: str) -> None:
        import matplotlib
        from matplotlib.figure import Figure as Canvas

        with matplotlib.rc_context(figures.STYLE):
            self.canvas = Canvas(figsize=(WIDTH / 100, height / 100), dpi=DPI)
            self.axes = self.canvas.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.text(MARGIN, 10, title, HEADING, ha="left", va="top", weight="bold")

    def text(self, x: float, y: float, words: str, size: float = SMALL, **style: Any) -> float:
        """Lines of words, their middle (or, with va="top", their top) at y; returns where they end."""
        pitch = LINE * size * 100 / 72
        lines = words.split("\n")
        if style.pop("va", "center") == "center":
            y -= pitch * len(lines) / 2
        style = {"ha": "center", "color": INK, "family": "DejaVu Sans", "va": "baseline"} | style
        for row, line in enumerate(lines):
            # Capitals, 0.73 of the size, stand in the middle of their line.
            self.axes.text(x, y + pitch * (row + 0.5) + 0.36 * size * 100 / 72, line, size=size, **style)
        return y + pitch * len(lines)

    def width(self, words: str, size: float = SMALL, **style: Any) -> float:
        """How wide words would be."""
        text = self.axes.text(0, 0, words, size=size, family="DejaVu Sans", **style)
        extent = text.get_window_extent()
        text.remove()
        return extent.width / DPI * 100

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: str,
        strength: float = 0.18,
        corner: float = 6,
        **style: Any,
    ) -> None:
        """A box with round corners, edged in the colour and filled with a tint of it."""
        from matplotlib.patches import FancyBboxPatch

        style = dict[str, Any](fc=tint(colour, strength), ec=colour, lw=1.4) | style
        self.axes.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle=f"round,pad=0,rounding_size={max(corner, 0.01)}", **style)
        )

    def arrow(self, *points: tuple[float, float], colour: str = INK, lw: float = 1.8, head: float = 8, **style: Any) -> None:
        """An arrow along straight pieces with round corners."""
        from matplotlib.patches import FancyArrowPatch

        self.axes.add_patch(
            FancyArrowPatch(
                path=_rounded(points), arrowstyle="-|>,head_length=0.8,head_width=0.45", mutation_scale=head, color=colour,
                lw=lw, joinstyle="miter", capstyle="butt", **style,
            )
        )  # fmt: skip

    def line(self, *points: tuple[float, float], colour: str = INK, lw: float = 1.8, **style: Any) -> None:
        """Straight pieces with round corners."""
        from matplotlib.patches import PathPatch

        self.axes.add_patch(PathPatch(_rounded(points), fc="none", ec=colour, lw=lw, capstyle="butt", **style))

    def plus(self, x: float, y: float) -> None:
        """Where two paths are added."""
        self.axes.plot([x], [y], marker="o", ms=19, mfc=PAPER, mec=INK, mew=1.6)
        self.axes.plot([x], [y], marker="+", ms=10, mec=INK, mew=2)

    def step(self, x: float, y: float, number: int, colour: str) -> None:
        """A step's number on a disc in the upper left of what begins at (x, y)."""
        self.axes.plot([x + 20], [y + 20], marker="o", ms=18.5, mfc=PAPER, mec=colour, mew=1.4)
        self.text(x + 20, y + 20, str(number), weight="bold")

    def figure(self, alt: str) -> figures.Figure:
        """What has been drawn."""
        return figures.Figure(self.canvas, alt, width=SHOWN)


def _rounded(points: Sequence[tuple[float, float]], radius: float = 8) -> Path:
    """A path along the points which takes its corners in a curve."""
    from matplotlib.path import Path

    def towards(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
        far = math.dist(start, end)
        share = min(radius, far / 2) / far
        return (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))

    along, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:]):
        along += [towards(corner, before), corner, towards(corner, after)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*along, points[-1]], [*codes, Path.LINETO])


def training_step(probabilities: Mapping[str, float] | None = None, right: str = "blue") -> figures.Figure:
    """One step of training, there and back: text, tokens, model, probabilities, loss; gradient, optimizer, new weights.

    Args:
        probabilities: next token → what the model gives it before the step; the drawing's own if None.
        right: the token that comes next in the text.
    """
    probabilities = probabilities or {"clear": 0.4, "blue": 0.2, "falling": 0.1}
    loss = -math.log(probabilities[right])
    forward_colour, backward_colour = FROZEN, METHOD_COLOURS["full fine-tuning"]
    left, wide, right_left, right_wide = 12, 290, 340, 168
    middle, at = left + wide / 2, right_left + right_wide / 2
    first, second, third, fourth = 78, 202, 324, 482  # where the boxes begin
    board = _Board(576, "One training step:\nguess, measure, adjust")

    board.box(left, first, wide, 90, FROZEN, 0)
    board.step(left, first, 1, forward_colour)
    board.text(middle + 12, first + 21, "a text, cut into tokens")
    chips, gap = ["The", "sky", "is"], 6
    widths = [board.width(chip) + 18 for chip in chips]
    last, then = board.width(right, weight="bold") + 20, board.width("next:")
    x = middle - (sum(widths) + 3 * gap + 24 + then + last) / 2
    for chip, width in zip(chips, widths):
        board.box(x, first + 44, width, 32, FROZEN)
        board.text(x + width / 2, first + 60, chip)
        x += width + gap
    board.text(x + 12, first + 60, "next:", ha="left")
    x += 24 + then
    board.box(x, first + 44, last, 32, backward_colour, 0, ls="--")
    board.text(x + last / 2, first + 60, right, weight="bold")
    board.arrow((middle, first + 92), (middle, second - 2), colour=forward_colour)

    board.box(left, second, wide, 88, forward_colour)
    board.step(left, second, 2, forward_colour)
    board.text(middle, second + 30, "model", NORMAL, weight="bold")
    board.text(middle, second + 58, "millions of numbers: weights")
    board.arrow((middle, second + 90), (middle, third - 2), colour=forward_colour)

    board.box(left, third, wide, 124, FROZEN, 0)
    board.step(left, third, 3, forward_colour)
    board.text(middle + 14, third + 20, "which token comes next?")
    full = 66 / max(probabilities.values())  # the length of a bar for all of the probability
    for row, (token, share) in enumerate(probabilities.items()):
        y, bold = third + 48 + 28 * row, "bold" if token == right else "normal"
        colour, strength = (backward_colour, 1) if token == right else (FROZEN, 0.4)
        board.text(left + 72, y, token, ha="right", weight=bold)
        board.box(left + 82, y - 9, full * share, 18, colour, strength, 0, lw=0)
        end = left + 89 + full * share
        board.text(end, y, f"{share:.0%}" + (" ← correct" if token == right else ""), ha="left", weight=bold)
    board.arrow((middle, third + 126), (middle, fourth - 2), colour=forward_colour)

    board.box(left, fourth, wide, 82, backward_colour)
    board.step(left, fourth, 4, backward_colour)
    board.text(middle + 10, fourth + 20, f"loss = −ln {probabilities[right]:.2f} = {loss:.2f}", weight="bold")
    board.text(middle, fourth + 55, "high when the correct token\nseemed unlikely")

    board.arrow((left + wide + 2, fourth + 41), (at, fourth + 41), (at, third + 126), colour=backward_colour)
    board.box(right_left, third, right_wide, 124, backward_colour)
    board.step(right_left, third, 5, backward_colour)
    board.text(at + 12, third + 21, "gradient", NORMAL, weight="bold")
    board.text(at, third + 76, "for each weight:\nwhich way does\nthe loss fall?")
    board.arrow((at, third - 2), (at, second + 90), colour=backward_colour)
    board.box(right_left, second, right_wide, 88, backward_colour)
    board.step(right_left, second, 6, backward_colour)
    board.text(at + 14, second + 21, "optimizer", NORMAL, weight="bold")
    board.text(at, second + 59, "moves each weight\na little that way")
    board.arrow((right_left - 2, second + 44), (left + wide + 2, second + 44), colour=backward_colour)
    board.arrow((at, second - 2), (at, first + 45), (left + wide + 2, first + 45))
    board.text((left + wide + at) / 2, first + 28, "next text")
    return board.figure(
        f"""A loop: a text is cut into tokens, the model gives each possible next token a probability, and the loss, here
        {loss:.2f}, says how unlikely the correct one seemed. A gradient leads back, the optimizer moves the weights a
        little, and the next text follows."""
    )


def lora(d_out: int = 576, d_in: int = 1536, rank: int = 16, alpha: int = 32) -> figures.Figure:
    """A linear layer with a LoRA adapter, its matrices to scale: one input, two paths, one sum.

    Args:
        d_out, d_in: numbers that leave and enter the layer.
        rank: the adapter's rank r.
        alpha: its α; what the adapter adds is scaled by α/r.
    """
    frozen, trained = d_out * d_in, rank * (d_out + d_in)
    colour = METHOD_COLOURS["LoRA"]
    scale = min(240 / d_in, 150 / d_out)
    wide, high, thin = scale * d_in, scale * d_out, max(1.2, scale * rank)
    left, top = 92.0, 108.0
    upper, lower = top + high / 2, top + high + 56 + high / 2
    middle, below = (upper + lower) / 2, lower + high / 2
    board = _Board(below + 152, "LoRA trains two thin matrices\nbeside a large frozen one")
    names = [f"W₀, frozen: {d_out:,} × {d_in:,}", f"A, trained: {rank:,} × {d_in:,}"]
    x_fork, x_b, x_plus = 68.0, left + max(wide + 34, board.width(names[1]) + 12), 436.0

    board.text(left, top - 16, names[0], ha="left")
    board.box(left, top, wide, high, FROZEN, 0.35, 0, ec="none", lw=0)
    board.box(left, lower - thin / 2, wide, thin, colour, 1, 0, lw=0)
    board.text(left, lower - 20, names[1], ha="left")
    board.box(x_b, lower - high / 2, thin, high, colour, 1, 0, lw=0)
    board.text(x_b + thin / 2, below + 16, f"B, trained: {d_out:,} × {rank:,}")
    if wide > 180 and high > 40:
        board.text(left + wide / 2, upper, f"{frozen:,} numbers")

    board.text(MARGIN, middle - 16, "input", ha="left")
    board.line((MARGIN, middle), (x_fork, middle))
    board.arrow((x_fork, middle), (x_fork, upper), (left - 2, upper))
    board.arrow((x_fork, middle), (x_fork, lower), (left - 2, lower))
    board.arrow((left + wide + 2, upper), (x_plus, upper), (x_plus, middle - 15))
    board.arrow((left + wide + 2, lower), (x_b - 2, lower))
    board.arrow((x_b + thin + 2, lower), (x_plus, lower), (x_plus, middle + 15))
    board.text((x_b + thin + x_plus) / 2, lower - 16, "× α/r")
    board.plus(x_plus, middle)
    board.arrow((x_plus + 14, middle), (WIDTH - MARGIN, middle))
    board.text(WIDTH - MARGIN, middle - 18, "output", ha="right")

    y = below + 46
    y = board.text(MARGIN, y, f"Frozen: {d_out:,} × {d_in:,} = {frozen:,} numbers", ha="left", va="top")
    words = f"Trained: {rank:,} × ({d_out:,} + {d_in:,}) = {trained:,}"
    y = board.text(MARGIN, y + 2, words, ha="left", va="top", weight="bold")
    words = f"That is {trained / frozen:.1%} of W₀’s numbers" + (", as the areas show." if thin == scale * rank else ".")
    y = board.text(MARGIN, y + 2, words, ha="left", va="top")
    words = f"r, the rank, is {rank:,}; α, for the scale, is {alpha:,}: α/r = {alpha / rank:g}."
    board.text(MARGIN, y + 2, words, ha="left", va="top")
    return board.figure(
        f"""The input goes through a large frozen matrix W0 of {frozen:,} numbers, and beside it through two thin trained
        matrices A and B. At rank {rank:,} these have {trained:,} numbers; their output is scaled by alpha/r and added."""
    )


class Part(NamedTuple):
    """Something that fills memory: what it is, how many bytes for each of how many parameters, and whether it is trained."""

    name: str
    each: float
    parameters: int
    trained: bool

    @property
    def gb(self) -> float:
        """Its size in units of 10⁹ bytes."""
        return self.each * self.parameters / 1e9


def memory_states(base: int, trainable: int, sixteen_bit: int) -> dict[str, list[Part]]:
    """Method → what it keeps in memory, from the ground up; activations are not counted.

    Args:
        base: parameters of the base model.
        trainable: parameters of the adapter.
        sixteen_bit: how many of the base's parameters stay in 16 bits in QLoRA: embedding and output layer.
    """
    adapter = Part("adapter", sum(TRAINED.values()), trainable, True)
    return {
        "full fine-tuning": [Part(name, each, base, True) for name, each in TRAINED.items()],
        "LoRA": [Part("frozen weights", 2, base, False), adapter],
        "QLoRA": [
            Part("frozen, 4-bit", NF4_BITS / 8, base - sixteen_bit, False),
            Part("embeddings", 2, sixteen_bit, False),
            adapter,
        ],
    }


def memory_parts(
    base: int = 6_738_415_616, trainable: int = 39_976_960, sixteen_bit: int = 2 * 32_000 * 4096, model: str = "Llama-2-7B"
) -> figures.Figure:
    """What fills the memory in full fine-tuning, LoRA and QLoRA, heights to scale; activations are not counted.

    Args:
        base: parameters of the base model.
        trainable: parameters of the adapter; the default is rank 16 on all linear layers.
        sixteen_bit: how many of the base's parameters stay in 16 bits in QLoRA: embedding and output layer.
        model: its name.
    """
    states = memory_states(base, trainable, sixteen_bit)
    total = {method: sum(part.gb for part in parts) for method, parts in states.items()}
    ground, wide, gap = 568.0, 156.0, 14.0
    scale = HIGHEST / max(total.values())
    ratio = total["full fine-tuning"] / total["LoRA"]
    board = _Board(ground + 54, f"Before the first example: full fine-tuning\ntakes {ratio:.1f} times the memory of LoRA")
    board.text(MARGIN, 74, f"{model}, activations not counted", ha="left")
    ceiling = ground
    for column, (method, parts) in enumerate(states.items()):
        x, y, colour = MARGIN + column * (wide + gap), ground, METHOD_COLOURS[method]
        board.text(x + wide / 2, ground + 26, method.replace(" ", "\n"), weight="bold")
        too_thin = []
        for part in parts:
            high = scale * part.gb
            roomy = high > 44
            fill = tint(colour, 0.3 if roomy else 1) if part.trained else tint(FROZEN, 0.35)
            y -= high
            board.box(x, y, wide, high, colour, 1, 0, fc=fill, ec=PAPER, lw=1 if high > 8 else 0)
            if roomy:
                board.text(x + wide / 2, y + high / 2, f"{part.name}\n{part.each:.2g} bytes each")
            else:
                too_thin.append((part, fill))
        y -= 16
        board.text(x + wide / 2, y, f"{total[method]:.1f} GB", NORMAL, weight="bold")
        y -= 14
        for part, fill in too_thin:
            y -= 44
            board.box(x, y + 5, 12, 12, colour, 1, 0, fc=fill, lw=0)
            board.text(x + 20, y + 22, f"{part.name}\n{part.each:.2g} bytes each", ha="left")
        ceiling = min(ceiling, y) if column else ground
    top = ground - HIGHEST
    if ceiling > top + 160:  # room above the small stacks
        each, words = sum(TRAINED.values()), " + ".join(map(str, TRAINED.values()))
        x = MARGIN + wide + gap
        board.box(x, top, WIDTH - MARGIN - x, 152, FROZEN, 0)
        y = board.text(
            x + 14, top + 12, f"Each trained parameter takes\n{words} = {each} bytes.", ha="left", va="top", weight="bold"
        )
        words = (
            f"LoRA trains only an adapter:\n{trainable / 1e6:,.0f} million parameters. The rest\n"
            f"is frozen at 2 bytes, in QLoRA\nmost of it at {NF4_BITS / 8:.2g} bytes."
        )
        board.text(x + 14, y + 6, words, ha="left", va="top")
    return board.figure(
        f"""Memory of {model} as three stacks to scale: full fine-tuning {total["full fine-tuning"]:.1f} GB, LoRA
        {total["LoRA"]:.1f} GB, QLoRA {total["QLoRA"]:.1f} GB. Full fine-tuning keeps {sum(TRAINED.values())} bytes for each
        parameter; LoRA and QLoRA only for an adapter beside a frozen base."""
    )


def merging() -> figures.Figure:
    """An adapter kept beside its base, and one merged into it; what each is good for."""
    colour = METHOD_COLOURS["LoRA"]
    board = _Board(528, "Merging turns two paths into one")
    top, end, wide = 64.0, 384.0, 240.0
    for left, name in ((float(MARGIN), "kept apart"), (WIDTH - MARGIN - wide, "merged")):
        board.box(left, top - 12, wide, end - top + 24, FROZEN, 0.06, lw=0)
        board.text(left + wide / 2, top + 8, name, NORMAL, weight="bold")
    left, right = MARGIN + wide / 2, WIDTH - MARGIN - wide / 2
    begin, high, first = top + 52, 120.0, top + 92  # the input; the matrices

    board.text(left, begin - 14, "input")
    base, adapter = left - 46, left + 66
    board.arrow((left, begin), (left, begin + 16), (base, begin + 16), (base, first - 2))
    board.arrow((left, begin), (left, begin + 16), (adapter, begin + 16), (adapter, first - 2))
    board.box(base - 60, first, 120, high, FROZEN, 0.35, 0)
    board.text(base, first + high / 2, "W₀\nfrozen")
    board.box(adapter - 40, first, 80, 44, colour, 0.25, 0)
    board.text(adapter, first + 22, "A")
    board.arrow((adapter, first + 46), (adapter, first + high - 46))
    board.box(adapter - 40, first + high - 44, 80, 44, colour, 0.25, 0)
    board.text(adapter, first + high - 22, "B")
    plus = first + high + 56
    board.arrow((base, first + high + 2), (base, plus), (left - 15, plus))
    board.arrow((adapter, first + high + 2), (adapter, plus), (left + 15, plus))
    board.text(adapter - 8, plus - 28, "× α/r", ha="right")
    board.plus(left, plus)
    board.arrow((left, plus + 14), (left, plus + 36))
    board.text(left, plus + 48, "output")

    board.text(right, begin - 14, "input")
    board.arrow((right, begin), (right, first - 2))
    board.box(right - 60, first, 120, high, FROZEN, 0.35, 0, ec=colour, lw=3)
    board.text(right, first + high / 2, "W₀\n+\nα/r · B · A")
    board.arrow((right, first + high + 2), (right, plus + 36))
    board.text(right, plus + 48, "output")

    for x, words in ((left, "Switch adapters:\none base, many tasks"), (right, "No added latency:\nas fast as the base")):
        heading, line = words.split("\n")
        board.text(x, end + 40, heading, weight="bold")
        board.text(x, end + 64, line)
    words = "W₀: a matrix of the base model.  A and B: its adapter.\nα/r: the adapter’s scale."
    board.text(MARGIN, end + 88, words, ha="left", va="top")
    return board.figure(
        """Left, input goes through the frozen matrix W0 and beside it through the adapter A and B, so that adapters can be
        switched. Right, one matrix W0 + alpha/r B A gives the same output by one path, without added latency."""
    )


def four_bit_layer() -> figures.Figure:
    """A layer in QLoRA: a weight stored in 4 bits, its 16-bit copy for one product, and the trained adapter beside it."""
    frozen, trained, back = FROZEN, METHOD_COLOURS["QLoRA"], METHOD_COLOURS["full fine-tuning"]
    board = _Board(520, "QLoRA: 4 bits in storage,\n16 bits for the product")
    top, high, middle, adapter, plus = 154.0, 150.0, 286.0, 440.0, 362.0

    board.text(middle, 84, "input")
    board.arrow((middle, 98), (middle, top - 2))
    board.arrow((middle, 98), (middle, 116), (adapter, 116), (adapter, top - 2))
    board.box(MARGIN, top, 112, high, frozen, 0.35, 0)
    board.text(MARGIN + 56, top + high / 2, "W, stored:\n4-bit codes\nand scales,\nfrozen")
    board.arrow((MARGIN + 114, top + high / 2), (middle - 58, top + high / 2))
    board.text((MARGIN + 112 + middle - 56) / 2, top + high / 2 - 20, "dequantize")
    board.box(middle - 56, top, 142, high, frozen, 0.12, 0, ls="--")
    board.text(middle, top + high / 2, "W in 16 bits,\nonly for\nthis product")
    board.box(adapter - 42, top, 84, 52, trained, 0.25, 0)
    board.text(adapter, top + 26, "A", weight="bold")
    board.arrow((adapter, top + 54), (adapter, top + high - 54))
    board.box(adapter - 42, top + high - 52, 84, 52, trained, 0.25, 0)
    board.text(adapter, top + high - 26, "B", weight="bold")

    board.arrow((middle, top + high + 2), (middle, plus - 15))
    board.arrow((adapter, top + high + 2), (adapter, plus), (middle + 15, plus))
    board.text(adapter + 36, plus - 30, "× α/r")
    board.plus(middle, plus)
    board.arrow((middle, plus + 14), (middle, plus + 40))
    board.text(middle, plus + 54, "output")
    board.arrow(
        (middle + 30, plus + 54), (middle + 64, plus + 54), (middle + 64, 84), (middle + 30, 84), colour=back, ls="--"
    )
    board.arrow(
        (middle + 64, top + high + 14),
        (adapter - 60, top + high + 14),
        (adapter - 60, top + high - 26),
        (adapter - 44, top + high - 26),
        colour=back,
        ls="--",
    )
    board.arrow((adapter - 60, top + high - 26), (adapter - 60, top + 26), (adapter - 44, top + 26), colour=back, ls="--")
    words = (
        "Dashed: on the way back the gradient goes through the\n16-bit copy to earlier layers, and on the way to A and B."
    )
    y = board.text(MARGIN, plus + 76, words, ha="left", va="top")
    board.text(MARGIN, y + 4, "Only A and B change; they have 16 or 32 bits.", ha="left", va="top", weight="bold")
    return board.figure(
        """A weight matrix stored in 4 bits is turned into 16 bits for one product and then dropped; beside it runs the
        trained adapter A and B, and the two results are added. The gradient passes back through the 16-bit copy to
        earlier layers, and to A and B, which alone change."""
    )


def four_bit_storage(block: int = 64, group: int = 256) -> figures.Figure:
    """How many bits a weight takes: 16-bit numbers, 4-bit codes with 32-bit scales, and with double quantization.

    Args:
        block: weights that share a scale.
        group: scales that share a scale of their own.
    """
    colour, extra = METHOD_COLOURS["QLoRA"], METHOD_COLOURS["full fine-tuning"]
    plain, double = 4 + 32 / block, 4 + 8 / block + 32 / (block * group)
    board = _Board(342, "What one weight takes:\nits code and its share of a scale")
    scale = (WIDTH - 2 * MARGIN) / 16
    y = 84.0
    for name, code, share, words in (
        ("bfloat16", 16.0, 0.0, "16 bits"),
        (f"NF4, a 32-bit scale per {block} weights", 4.0, plain - 4, f"4 + 32/{block} = {plain:.3f} bits"),
        (
            f"NF4, double quantization (8-bit scales,\none 32-bit scale per {group} of them)",
            4.0,
            double - 4,
            f"4 + 8/{block} + 32/({block}·{group}) = {double:.3f} bits",
        ),
    ):
        y = board.text(MARGIN, y, name, ha="left", va="top", weight="bold") + 4
        board.box(MARGIN, y, scale * code, 30, FROZEN if code == 16 else colour, 0.4, 0, lw=0)
        if share:
            board.box(MARGIN + scale * code, y, scale * share, 30, extra, 0.8, 0, lw=0)
        at, side = (MARGIN + scale * code / 2, "center") if code == 16 else (MARGIN + scale * (code + share) + 10, "left")
        board.text(at, y + 15, words, ha=side)
        y += 46
    board.box(MARGIN, y + 4, 14, 14, colour, 0.4, 0, lw=0)
    board.text(MARGIN + 22, y + 11, "4-bit codes", ha="left")
    board.box(MARGIN + 170, y + 4, 14, 14, extra, 0.8, 0, lw=0)
    board.text(MARGIN + 192, y + 11, "scales", ha="left")
    return board.figure(
        f"""Three bars to scale: a weight takes 16 bits in bfloat16, {plain:.3f} bits in NF4 with a 32-bit scale for {block}
        weights, and {double:.3f} bits with double quantization, which stores the scales in 8 bits."""
    )


def decision_tree(good_enough: float = 0.85, enough_examples: int = 100) -> figures.Figure:
    """Which tool to try: three questions from above, an answer beside each.

    Args:
        good_enough: the share of the goal from which a prompt is kept.
        enough_examples: the number of good examples from which training is tried.
    """
    left, wide, right, leaf = float(MARGIN), 286.0, 372.0, 136.0
    middle, top, high, pitch = left + wide / 2, 84.0, 78.0, 134.0
    goal = f"{100 * good_enough:.0f} %"
    rows = [
        (
            f"Best prompt, similar past\nanswers in it: does it\nget {goal} of a test set right?",
            "yes", "keep the\nprompt*", "prompting", "no",
        ),
        ("Sort twenty wrong answers.\nWhat is missing?", "only\nfacts", "look it up:\nRAG", "RAG", "behaviour, or both"),
        (
            f"{enough_examples} good examples, and a\ntarget that stays the same?", "no", "prompt, and\ncollect**",
            "prompting", "yes",
        ),
    ]  # fmt: skip
    board = _Board(622, "Three questions decide\nwhat to try first")
    for number, (question, aside, answer, method, below) in enumerate(rows):
        y = top + pitch * number
        board.box(left, y, wide, high, FROZEN, 0.08)
        board.step(left, y, number + 1, FROZEN)
        board.text(middle + 14, y + high / 2, question)
        board.arrow((left + wide + 2, y + high / 2), (right - 2, y + high / 2))
        board.text((left + wide + right) / 2 - 2, y + high / 2 - (26 if "\n" in aside else 18), aside)
        board.box(right, y + 8, leaf, high - 16, METHOD_COLOURS[method], 0.25)
        board.text(right + leaf / 2, y + high / 2, answer, weight="bold")
        board.arrow((middle, y + high + 2), (middle, y + pitch - 2))
        board.text(middle + 14, y + high + (pitch - high) / 2 - 2, below, ha="left")
    y = top + pitch * len(rows)
    board.box(left, y, wide, 52, METHOD_COLOURS["LoRA"], 0.25)
    board.text(middle, y + 26, "fine-tune**", NORMAL, weight="bold")
    words = "* Unless volume or latency make its length expensive.\n** Where facts are missing too: RAG as well."
    board.text(MARGIN, y + 68, words, ha="left", va="top")
    return board.figure(
        f"""Three questions. A prompt, with similar past answers in it, that reaches {goal} is kept; where only facts are
        missing they are looked up; for behaviour, {enough_examples} good examples and a target that stays the same lead to
        fine-tuning, else the prompt is kept and examples are collected."""
    )


def error_chain() -> figures.Figure:
    """Four questions to a wrong answer, in the order in which it came about; the first "no" names the cause."""
    colour = METHOD_COLOURS["full fine-tuning"]
    left, wide, right, leaf = float(MARGIN), 262.0, 330.0, 178.0
    middle, top, high, pitch = left + wide / 2, 84.0, 56.0, 88.0
    rows = [
        ("Was any source shown?", "knowledge:\nshow it the facts"),
        ("Was it the right source?", "retrieval:\nsearch better"),
        ("Are fact, topic and\nproduct right?", "behaviour:\nprompt, then train"),
        ("Is the form right?", "format:\nstructured output"),
    ]
    board = _Board(top + pitch * len(rows) + 40, "The first “no” names the cause,\nand the cause names the tool")
    for number, (question, cause) in enumerate(rows):
        y = top + pitch * number
        board.box(left, y, wide, high, FROZEN, 0.08)
        board.text(middle, y + high / 2, question)
        board.arrow((left + wide + 2, y + high / 2), (right - 2, y + high / 2), colour=colour)
        board.text((left + wide + right) / 2 - 3, y + high / 2 - 16, "no")
        board.box(right, y, leaf, high, colour, 0.2)
        board.text(right + leaf / 2, y + high / 2, cause, weight="bold")
        board.arrow((middle, y + high + 2), (middle, y + pitch - 2))
        board.text(middle + 14, y + high + (pitch - high) / 2 - 2, "yes", ha="left")
    board.text(middle, top + pitch * len(rows) + 12, "a right answer", weight="bold")
    return board.figure(
        """Four questions to a wrong answer: was a source shown, was it the right one, is the content right, is the form.
        The first no names the cause: knowledge, retrieval, behaviour or format."""
    )


def banding(bands: int = 5, rows: int = 2) -> figures.Figure:
    """Two MinHash signatures of ten numbers, cut into bands: one band that agrees is enough for the two to be compared.

    Args:
        bands: into how many the ten numbers are cut.
        rows: numbers in each.
    """
    one, other = [17, 4, 52, 8, 31, 9, 76, 23, 5, 60], [17, 4, 41, 8, 31, 12, 76, 90, 66, 60]
    agree = METHOD_COLOURS["LoRA"]
    left, top, cell, gap, pitch = 86.0, 118.0, 34.0, 14.0, 96.0
    board = _Board(358, "One band that agrees is enough:\nthen the two texts are compared")
    board.text(MARGIN, 84, f"{bands * rows} numbers a text, cut into {bands} bands of {rows}", ha="left")
    for row, numbers in enumerate((one, other)):
        y = top + pitch * row
        board.text(MARGIN, y + cell / 2, f"text {row + 1}", ha="left", weight="bold")
        for band in range(bands):
            x = left + band * (rows * cell + gap)
            part = slice(band * rows, (band + 1) * rows)
            same = one[part] == other[part]
            board.box(x - 3, y - 3, rows * cell + 6, cell + 6, agree if same else FROZEN, 0.25 if same else 0.06)
            for place, number in enumerate(numbers[part]):
                board.text(x + cell * (place + 0.5), y + cell / 2, str(number), weight="bold" if same else "normal")
            if row:
                x += rows * cell / 2
                middle, hue, dash = (top + cell + y) / 2, agree if same else FROZEN, "-" if same else ":"
                board.line((x, top + cell + 5), (x, middle - 13), colour=hue, ls=dash)
                board.line((x, middle + 13), (x, y - 5), colour=hue, ls=dash)
                board.text(x, middle, "meet" if same else "no", weight="bold")
    alike = sum(a == b for a, b in zip(one, other))
    words = (
        f"{alike} of {len(one)} numbers agree: the estimate of how alike they are is {alike / len(one):.1f}.\n"
        "A band is the key of a drawer. Texts in one drawer are\ncompared; all other pairs are never looked at."
    )
    board.text(MARGIN, top + pitch + cell + 26, words, ha="left", va="top")
    return board.figure(
        f"""Two signatures of ten numbers, cut into five bands of two. {alike} of the ten numbers agree, but only the first
        band agrees as a whole; the two texts meet there and are compared."""
    )


def hosted_job() -> figures.Figure:
    """The states of a hosted fine-tuning job: where it waits, where it works, and the three ways in which it ends."""
    good, bad = METHOD_COLOURS["LoRA"], METHOD_COLOURS["full fine-tuning"]
    left, wide, high, top, pitch = 14.0, 196.0, 46.0, 128.0, 80.0
    right, leaf = 326.0, 180.0
    middle = left + wide / 2
    board = _Board(458, "A job waits, works and ends,\nand only one of its ends is good")
    board.text(middle, 92, "jobs.create(…)", weight="bold")
    board.arrow((middle, 104), (middle, top - 2))
    for number, state in enumerate(("validating_files", "queued", "running")):
        y = top + pitch * number
        board.box(left, y, wide, high, FROZEN, 0.1)
        board.text(middle, y + high / 2, state)
        board.arrow((middle, y + high + 2), (middle, y + pitch - 2))
    last = top + 3 * pitch
    board.box(left, last, wide, high, good, 0.2)
    board.text(middle, last + high / 2, "succeeded", weight="bold")
    board.text(MARGIN, last + high + 22, "fine_tuned_model has a name", ha="left")
    for number, (state, why) in enumerate((("failed", "a bad row"), ("cancelled", "jobs.cancel"), ("failed", "an error"))):
        y = top + pitch * number
        board.box(right, y, leaf, high, bad, 0.18)
        board.text(right + leaf / 2, y + high / 2, state, weight="bold")
        board.arrow((left + wide + 2, y + high / 2), (right - 2, y + high / 2), colour=bad)
        board.text((left + wide + right) / 2 - 3, y + high / 2 - 18, why)
        if state == "cancelled":
            board.text((left + wide + right) / 2 - 3, y + high / 2 + 18, "at any time")
    board.text(right, top + 2 * pitch + high + 22, "job.error says why", ha="left")
    return board.figure(
        """A job goes from validating_files over queued and running to succeeded. On the way it can end as failed, for a bad
        row or an error in training, or at any time as cancelled."""
    )


def twins() -> figures.Figure:
    """Two messages and two replies: what is chosen for the one message is rejected for the other."""
    right, wrong = METHOD_COLOURS["LoRA"], METHOD_COLOURS["full fine-tuning"]
    board = _Board(470, "Twins: the same two replies,\neach of them right once")
    wide, high, left, other = 212, 106, 12.0, 296.0
    texts = [
        (left, 84, FROZEN, "message A\n“The kettle gave me\na shock.”"),
        (left, 256, FROZEN, "message B\n“The kettle has not\ncome yet.”"),
        (other, 84, FROZEN, "reply X\n“Please unplug it;\nwe collect it.”"),
        (other, 256, FROZEN, "reply Y\n“We search for\nthe parcel.”"),
    ]
    for x, y, colour, text in texts:
        board.box(x, y, wide, high, colour, 0.1)
        board.text(x + wide / 2, y + high / 2, text)
    start, end = left + wide + 2, other - 2
    for one, two in ((137, 309), (309, 137)):
        board.arrow(
            (start, one + (12 if one < two else -12)), (end, two + (-12 if one < two else 12)), colour=wrong, ls="--"
        )
    for y in (117, 329):
        board.arrow((start, y), (end, y), colour=right)
    board.line((MARGIN, 392), (MARGIN + 40, 392), colour=right)
    board.text(MARGIN + 50, 392, "chosen for this message", ha="left")
    board.line((MARGIN, 420), (MARGIN + 40, 420), colour=wrong, ls="--")
    board.text(MARGIN + 50, 420, "rejected for this message", ha="left")
    board.text(MARGIN, 448, "Whoever looks at the replies alone is right once in two.", ha="left", weight="bold")
    return board.figure(
        """Two messages and two replies. For message A reply X is chosen and Y rejected, for message B it is the other way
        round, so the replies alone cannot tell which is better."""
    )


def alignment_roads() -> figures.Figure:
    """Four ways to a policy that people prefer: what each learns from, what judges, what holds it near its start."""
    data, trained, judge = FROZEN, METHOD_COLOURS["QLoRA"], METHOD_COLOURS["full fine-tuning"]
    left, between, right = float(MARGIN), 196.0, 372.0
    roads = [
        ("RLHF with PPO: two stages after SFT", "pairs", "reward model,\ntrained first", "policy: each\nanswer scored",
         "Starts as the SFT model. A KL penalty holds it near that."),
        ("DPO: the pairs train the policy", "pairs", "", "policy: gains\nare set apart",
         "Starts as the SFT model, which is the reference too."),
        ("ORPO: one stage from the base model", "pairs", "", "policy: imitates\nand prefers",
         "No SFT before it and no reference."),
        ("GRPO: no pairs, a check", "messages", "a check scores\nsome answers", "policy: those\nabove the mean",
         "Answers of one message are compared with each other."),
    ]  # fmt: skip
    top, high, pitch = 66.0, 56.0, 136.0
    board = _Board(top + pitch * len(roads) + 6, "From preferences or checks to a policy")
    for number, (title, source, middle, policy, note) in enumerate(roads):
        y = top + pitch * number
        board.text(left, y, title, ha="left", va="top", weight="bold")
        y += 26
        board.box(left, y, 110, high, data, 0.12, ls="--")
        board.text(left + 55, y + high / 2, source)
        if middle:
            board.arrow((left + 112, y + high / 2), (between - 2, y + high / 2))
            board.box(between, y, 134, high, judge, 0.18)
            board.text(between + 67, y + high / 2, middle)
        start = between + 136 if middle else left + 112
        board.arrow((start, y + high / 2), (right - 2, y + high / 2))
        board.box(right, y, WIDTH - MARGIN - right, high, trained, 0.25)
        board.text((right + WIDTH - MARGIN) / 2, y + high / 2, policy)
        board.text(left, y + high + 5, note, ha="left", va="top")
    return board.figure(
        """Four ways to a policy: in RLHF pairs train a reward model, which scores the policy's answers; in DPO and ORPO the
        pairs train the policy itself. In GRPO a program checks a group of answers to each message."""
    )


def grpo_group(rewards: Sequence[float] = (1.0, 0.3, 0.3, 0.8)) -> figures.Figure:
    """One prompt, a group of answers, their rewards, and who is made more or less likely.

    Args:
        rewards: one for each answer; four fit well.
    """
    up, down = METHOD_COLOURS["LoRA"], METHOD_COLOURS["full fine-tuning"]
    mean = sum(rewards) / len(rewards)
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) or 1.0
    advantages = [(reward - mean) / spread for reward in rewards]
    board = _Board(430, "GRPO: answers are compared\nwith their siblings")
    board.box(140, 78, 240, 50, FROZEN, 0.1)
    board.text(260, 103, "one message")
    wide, gap, top = 112, 16, 172.0
    for number, (reward, advantage) in enumerate(zip(rewards, advantages), 1):
        x = MARGIN + (number - 1) * (wide + gap)
        middle, colour = x + wide / 2, up if advantage > 0 else down
        board.arrow((260, 130), (260, 150), (middle, 150), (middle, top - 2), colour=FROZEN)
        board.box(x, top, wide, 76, colour, 0.14)
        board.text(middle, top + 38, f"answer {number}\nreward {reward:.1f}")
        board.text(middle, top + 100, f"{reward:.1f} − {mean:.1f}")
        board.text(middle, top + 124, f"A = {advantage:+.1f}", weight="bold")
        ends = (top + 188, top + 146) if advantage > 0 else (top + 146, top + 188)
        board.arrow((middle, ends[0]), (middle, ends[1]), colour=colour, lw=3, head=12)
        board.text(middle, top + 214, "more likely" if advantage > 0 else "less likely")
    return board.figure(
        f"""Four answers to one message have rewards with a mean of {mean:.1f}. Answers above the mean become more likely,
        those below it less likely."""
    )


def ppo_rollout() -> figures.Figure:
    """One answer in PPO, token by token: what moving away costs, the reward at the end, what was expected, the advantage."""
    colour = METHOD_COLOURS["LoRA"]
    tokens = ["Please", "unplug", "it", "."]
    log_ratios, values, reward, coefficient = [0.5, 2.0, 0.1, 0.2], [0.6, 0.8, 1.2, 1.3], 1.5, 0.1
    paid = [-coefficient * ratio for ratio in log_ratios]
    total = [*paid[:-1], paid[-1] + reward]
    advantages, after = [0.0] * len(tokens), 0.0
    for t in reversed(range(len(tokens))):  # generalized advantage estimation without discount, lambda 0.95
        expected_next = values[t + 1] if t + 1 < len(tokens) else 0.0
        after = advantages[t] = total[t] + expected_next - values[t] + 0.95 * after
    board = _Board(432, "PPO: one answer,\nfrom the charge to the advantage")
    rows = [
        ("token", tokens, False),
        ("moved from the\nreference, nats", [f"{ratio:.1f}" for ratio in log_ratios], False),
        (f"KL charge,\n−{coefficient:g} × that", [f"{charge:.2f}" for charge in paid], False),
        ("reward, at\nthe end only", ["", "", "", f"+{reward:g}"], False),
        ("value model\nexpected", [f"{value:.1f}" for value in values], False),
        ("advantage", [f"{advantage:+.2f}" for advantage in advantages], True),
    ]
    left, wide, top, high = 168.0, 84.0, 74.0, 56.0
    for row, (name, cells, last) in enumerate(rows):
        y = top + row * (high + 2)
        board.text(MARGIN, y + high / 2, name, ha="left", weight="bold" if last or not row else "normal")
        for column, cell in enumerate(cells):
            x = left + column * wide
            shade = colour if last else FROZEN
            board.box(x, y, wide - 6, high - 6, shade, 0.22 if last else 0.06 if row else 0.2, 3)
            board.text(x + (wide - 6) / 2, y + (high - 6) / 2, cell or "0", weight="bold" if last else "normal")
    return board.figure(
        f"""A table over the tokens of one answer: each token pays for how far it moved from the reference, the last one gets
        the reward of {reward:g}, and the advantages say where it went better than the value model expected."""
    )
