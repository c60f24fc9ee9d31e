"""Figures have a picture and an alt text, and can be told apart without colours."""

import itertools
import re

import pytest

from course_utils import figures

FIGURES = {
    "lines": lambda: figures.lines({"a": ([1, 2, 4], [3, 2, 1])}, "t", "x", "y", log_x=True),
    "points": lambda: figures.points({"a": ([1, 2, 4], [3, 2, 1])}, "t", "x", "y", log_x=True),
    "bars": lambda: figures.bars({"a": 1.5, "b": 2.5}, "t", "GB", limits={"T4": 15}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_picture_and_an_alt_text_that_tells_it(name):
    figure = FIGURES[name]()
    assert figure.png.startswith(b"\x89PNG")
    assert len(figure.png) < 60_000
    assert len(figure.alt) > 40
    html = figure._repr_html_()
    assert re.search(r'<img src="data:image/png;base64,[^"]+" alt="[^"]{40,}"', html)
    assert repr(figure).startswith("Figure: ")


def test_alt_texts_give_the_values():
    assert "a: 1.5; b: 2.5" in FIGURES["bars"]().alt
    assert "4 → 1" in FIGURES["lines"]().alt
    assert "a: 3 points from 1 to 3" in FIGURES["points"]().alt


def test_a_figure_without_alt_text_is_refused():
    from matplotlib.figure import Figure as Canvas

    with pytest.raises(ValueError, match="alt text"):
        figures.Figure(Canvas(), "  ")


# What is drawn, and whether a reader who sees no colours can tell it apart.

SEVEN = [f"series {i}" for i in range(7)]
SEVERAL = {
    "lines": lambda: figures.lines({name: ([1, 2, 4], [i, 2, 1]) for i, name in enumerate(SEVEN)}, "t", "x", "y"),
    "points": lambda: figures.points({name: ([1, 2, 4], [i, 2, 1]) for i, name in enumerate(SEVEN)}, "t", "x", "y"),
    "histograms": lambda: figures.histograms({name: [1, 2, i, 9] for i, name in enumerate(SEVEN)}, "t", "x"),
    "limits": lambda: figures.bars({"a": 1.5}, "t", "GB", limits={"T4": 15, "L4": 24, "A100": 40, "H100": 80}),
}
ENOUGH = 15  # of a hundred steps from black to white, CIE L*; two or three are seen where colours touch, and these do not


@pytest.fixture
def drawn(monkeypatch):
    """The canvases of the figures that are made, which `figures.Figure` does not keep."""
    canvases = []

    class Kept(figures.Figure):
        def __init__(self, canvas, alt):
            canvases.append(canvas)
            super().__init__(canvas, alt)

    monkeypatch.setattr(figures, "Figure", Kept)
    return canvases


def lightness(colour, alpha=None) -> float:
    """CIE L* of a colour on white paper: what is left of it where there is grey only."""
    from matplotlib.colors import to_rgba

    *rgb, alpha = to_rgba(colour, alpha)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (alpha * c + 1 - alpha for c in rgb)]
    y = sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def look(artist):
    """(whatever is no colour, lightness) of what stands for a series: a line, points, bars or an outline."""
    from matplotlib.container import BarContainer, ErrorbarContainer
    from matplotlib.patches import StepPatch

    if isinstance(artist, BarContainer):
        return ("bar", artist.patches[0].get_hatch() or ""), lightness(artist.patches[0].get_facecolor())
    if isinstance(artist, StepPatch):
        assert artist.get_linewidth() >= 1
        return ("outline", artist.get_linestyle()), lightness(artist.get_edgecolor())
    line = artist.lines[0] if isinstance(artist, ErrorbarContainer) else artist
    marker, dash = line.get_marker(), line.get_linestyle()
    marker, dash = ("" if what in (None, "None", " ") else what for what in (marker, dash))
    assert (dash and line.get_linewidth() >= 1) or (marker and line.get_markersize() >= 4), "there is nothing to see"
    return (marker, dash), lightness(line.get_color(), line.get_alpha())


@pytest.mark.parametrize("name", SEVERAL)
def test_what_is_drawn_can_be_told_apart_in_grey(drawn, name):
    """Every two series of a picture differ in dash, marker or hatch, or else clearly in lightness."""
    SEVERAL[name]()
    (canvas,) = drawn
    artists, labels = canvas.axes[0].get_legend_handles_labels()
    assert len(set(labels)) == len(labels) == {"limits": 4}.get(name, 7)
    assert canvas.axes[0].get_legend() is not None
    looks = {label: look(artist) for label, artist in zip(labels, artists)}
    for one, other in itertools.combinations(labels, 2):
        (shape, light), (other_shape, other_light) = looks[one], looks[other]
        assert shape != other_shape or abs(light - other_light) >= ENOUGH, (one, other, shape, light, other_light)
