"""The lessons' charts and drawings: what they say in words, and that they can be read on a phone and without colours."""

import io
import itertools
import json
import math
import re
from xml.etree import ElementTree

import pytest
from support import contrast

from course_utils import charts, decision
from course_utils.assets import PACKAGE
from course_utils.errors import CourseError
from course_utils.evaluation import Score
from course_utils.style import SERIES

FOUND = Score(0.5, 0.4, 0.6, 100)
RUNS = ([2e-5, 2e-4, 2e-3], [[1.9, 2.0, 2.1], [0.5, 0.6, 0.4], [0.2, 0.21, 0.19]])
MEMORY = {"LoRA": {"weights": 16.0, "rest": 3.0}, "QLoRA": {"weights": 6.0, "rest": 2.7}}
CHARTS = {
    "loss": lambda: charts.loss_curve([3.0, 2.0, 1.0], "Three steps", {1: 2.5, 2: 1.9, 3: 2.2}),
    "runs": lambda: charts.lines({"LoRA": RUNS}, "Rate", "rate", "loss", log_x=RUNS[0], log_y=True, levels={"rival": 0.15}),
    "curves": lambda: charts.lines(
        {"one": (range(100), range(100))}, "It goes up", "x", "y", marks={"a point": (10, 3)},
    ),
    "shares": lambda: charts.shares({"RAG": {"right fact": FOUND, "valid form": FOUND}}, "One system"),
    "bars": lambda: charts.bars({"LoRA": 19.0, "QLoRA": 8.7}, "QLoRA fits", "GB", {"T4, 16 GB": 15.8}),
    "parts": lambda: charts.bars(MEMORY, "QLoRA fits", "GB", {"T4": 15.8}),
    "histogram": lambda: charts.histogram({"a": [1, 2, 2, 9], "b": [3, 3, 4]}, "Lengths", "words"),
    "code books": lambda: charts.histogram({"w": [-1, -0.1, 0.1, 1]}, "Dense", "weight", {"even": [-1, 0, 1]}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
def test_they_are_described_and_wide_enough_for_their_text(name):
    from PIL import Image

    figure = CHARTS[name]()
    assert 20 < len(figure.alt) <= charts.LONGEST_ALT and len(re.findall(r"[.?!](?= [A-Z])", figure.alt)) <= 2
    width, _ = Image.open(io.BytesIO(figure.data)).size
    assert charts.STYLE["font.size"] / 72 * charts.STYLE["figure.dpi"] * 390 / width >= 9  # shown 390 pixels wide
    assert len(figure.data) < 90_000
    assert re.search(r'<img src="data:image/png;base64,[^"]+" alt="[^"]{20,}"', figure._repr_html_())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("loss", "from 3.00 to 1.00 in 3 steps; validation loss lowest at step 2 with 1.90, at the end 2.20"),
        ("runs", "LoRA: 2 at 2e-05, 0.5 at 0.0002, 0.2 at 0.002; line at 0.15: rival"),
        ("curves", "Lines. It goes up. one: 0 at 0, 99 at 99."),
        ("bars", "line at 15.8: T4, 16 GB; LoRA: 19.0; QLoRA: 8.7."),
        ("parts", "line at 15.8: T4; LoRA: 19.0; QLoRA: 8.7."),
        ("code books", "even has 1 of 3 values there"),
    ],
)
def test_alt_texts_give_the_values(name, told):
    assert told in CHARTS[name]().alt


def test_a_figure_without_alt_text_is_refused():
    from matplotlib.figure import Figure as Canvas

    with pytest.raises(ValueError, match="alt text"):
        charts.from_canvas(Canvas(), "  ")


def test_an_alt_text_ends_with_a_whole_part():
    alt = charts.shares({f"system number {n}": {"right fact": FOUND} for n in range(20)}, "Many systems").alt
    assert len(alt) <= charts.LONGEST_ALT and re.search(r"; and \d+ more\.$", alt)


def test_series_differ_by_marker_too():
    assert len({colour for colour, _ in SERIES}) == len({marker for _, marker in SERIES}) == len(SERIES)


@pytest.fixture
def canvases(monkeypatch):
    """The canvases of the charts that are drawn."""
    drawn, from_canvas = [], charts.from_canvas
    monkeypatch.setattr(charts, "from_canvas", lambda canvas, alt: drawn.append(canvas) or from_canvas(canvas, alt))
    return drawn


def test_labels_cover_neither_each_other_nor_leave_the_frame(canvases):
    """Two lines that meet at their ends, where a label at the last point would lie on the other."""
    lines = {"our task": ([1, 2, 3], [80, 95, 100]), "shuffled answers, by heart": ([1, 2, 3], [70, 90, 100])}
    charts.lines(lines, "Two", "x", "y")
    (axes,) = canvases[0].axes
    boxes, frame = [text.get_window_extent() for text in axes.texts], axes.get_window_extent()
    assert {text.get_text() for text in axes.texts} == set(lines)
    assert not boxes[0].overlaps(boxes[1])
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_the_name_of_a_line_does_not_lie_on_the_title(canvases):
    charts.bars({"LoRA": 19.0, "QLoRA": 8.7}, "A title of one line", "GB", {"T4": 15.8})
    (name,) = (text.get_window_extent() for text in canvases[0].axes[0].texts if text.get_text() == "T4")
    assert not canvases[0]._suptitle.get_window_extent().overlaps(name)


def test_smooth_lines_and_outlines_differ_in_dash(canvases):
    charts.lines({name: (range(50), [i] * 50) for i, name in enumerate("abcd")}, "t", "x", "y")
    charts.histogram({name: [1, 2, i, 9] for i, name in enumerate("abcd")}, "t", "x")
    for drawn in (canvases[0].axes[0].lines, canvases[1].axes[0].patches):
        looks = [(artist.get_linestyle(), artist.get_linewidth() >= 1) for artist in drawn]
        assert len(set(looks)) == len(looks) == 4 and all(seen for _, seen in looks)


# -- drawings -----------------------------------------------------------------------------------------------------------

DRAWINGS = sorted(file.stem for file in charts.DRAWINGS.glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def texts(name):
    """Texts of a drawing as (class, text)."""
    tree = ElementTree.fromstring(charts.drawing(name).data)
    return [(text.get("class", ""), "".join(text.itertext())) for text in tree.iter(f"{SVG}text")]


def words(name):
    return "\n".join(text for _, text in texts(name))


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_described_and_large_enough_on_a_phone(name):
    figure = charts.drawing(name)
    assert 80 < len(figure.alt) <= charts.LONGEST_ALT and len(re.findall(r"[.!?](?= [A-Z]|$)", figure.alt)) <= 2
    svg = figure.data.decode()
    wide = float(re.search(r'viewBox="0 0 (\d+) \d+"', svg)[1])
    assert min(float(size) for size in re.findall(r"([\d.]+)px", svg)) * 390 / wide >= 11
    assert len(figure.data) < 10_000 and re.findall(r"(?:href|src)=|@import|<script", svg) == []
    assert '<img src="data:image/svg+xml;base64,' in figure._repr_html_() and 'width="624"' in figure._repr_html_()


@pytest.mark.parametrize("name", DRAWINGS)
def test_text_on_a_drawing_stands_within_it_and_on_a_light_ground(name):
    """Ink on every fill that has text on it: 4.5:1 or more. Widths are those of DejaVu Sans, the widest of the fonts."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    tree = ElementTree.fromstring(charts.drawing(name).data)
    _, _, wide, high = map(float, tree.get("viewBox").split())
    fills = [r for r in tree.iter(f"{SVG}rect") if r.get("fill", "").startswith("#") and r.get("x")]
    sizes, boxes = {"h": 19.4, "n": 16.7}, []
    for text in tree.iter(f"{SVG}text"):
        classes, x, y = text.get("class", "").split(), float(text.get("x")), float(text.get("y"))
        size = next((sizes[one] for one in classes if one in sizes), 15.3)
        weight = "bold" if {"b", "h"} & set(classes) else "normal"
        font = FontProperties(family="DejaVu Sans", weight=weight)
        length = TextPath((0, 0), text.text, size, prop=font).get_extents().width
        left = x if "l" in classes else x - length if "r" in classes else x - length / 2
        box = (left, y - 0.72 * size, left + length, y)
        assert box[0] >= 8 and box[2] <= wide - 8 and box[1] >= 8 and box[3] <= high - 4, text.text
        boxes.append((box, text.text))
        for fill in fills:
            x0, y0, w, h = (float(fill.get(key)) for key in ("x", "y", "width", "height"))
            if x0 < x < x0 + w and y0 < y < y0 + h:
                assert contrast(fill.get("fill"), "#1b1f23") >= 4.5, text.text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1], (a, b)


def test_an_unknown_drawing_is_named():
    with pytest.raises(CourseError, match="no drawing 'laura'; there are .*lora"):
        charts.drawing("laura")


def test_the_tree_has_the_helpers_limits():
    assert f"right on {100 * decision.GOOD_ENOUGH:.0f} % of" in words("decision-tree")
    assert f"{decision.ENOUGH_EXAMPLES} good examples" in words("decision-tree")


def test_memory_is_what_lesson_02_counts():
    shape = json.loads((PACKAGE / "memory" / "architectures.json").read_text(encoding="utf-8"))["Llama-2-7B"]
    wide, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    tables = 2 * shape["vocab_size"] * wide
    base = tables + layers * (4 * wide**2 + 3 * wide * inner + 2 * wide) + wide
    adapter = 16 * layers * (4 * (wide + wide) + 3 * (wide + inner))
    nf4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
    for size in (
        16 * base,
        2 * base + 16 * adapter,
        nf4 * (base - tables) + 2 * tables + 16 * adapter,
    ):
        assert f"{size / 1e9:.1f} GB" in words("memory")
        assert f"{size / 1e9:.1f} GB" in charts.drawing("memory").alt
    assert f"{16 * base / (2 * base + 16 * adapter):.1f} times" in words("memory")


def test_numbers_of_other_drawings_are_computed_right():
    assert f"loss = −ln 0.20 = {-math.log(0.2):.2f}" in words("training-step")
    assert f"{576 * 1536:,}" in words("lora") and f"{16 * (576 + 1536):,}" in words("lora")
    for bits in (4 + 32 / 64, 4 + 8 / 64 + 32 / (64 * 256)):
        assert f"= {bits:.3f} bits" in words("four-bit-storage")


def test_the_advantages_drawn_for_a_group_are_computed_right():
    import torch

    rewards = torch.tensor([1.0, 0.3, 0.3, 0.8])
    group = (rewards - rewards.mean()) / rewards.std()
    assert re.findall(r"A = ([+-][\d.]+)", words("grpo-group")) == [f"{advantage:+.1f}" for advantage in group.tolist()]
