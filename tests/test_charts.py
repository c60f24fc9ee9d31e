"""The lessons' charts: what they say in words, and that they can be read on a phone."""

import io
import re

import pytest

from course_utils import charts
from course_utils.evaluation import Score

RUNS = {2e-5: [1.9, 2.0, 2.1], 2e-4: [0.5, 0.6, 0.4], 2e-3: [0.2, 0.21, 0.19]}


def figures():
    yield charts.loss_curve([3.0, 2.0, 1.0], "Three steps", {1: 2.5, 2: 1.9, 3: 2.2})
    yield charts.setting_curve(RUNS, "The rate decides", "learning rate", "validation loss", {"rival": 0.15})
    yield charts.trade_off({"LoRA": ([0.1, 0.2], [3.0, 3.1]), "other": ([0.3], [4.0])}, "Both", "x", "y", log_x=True)

    yield charts.curves(
        {"one": ([1, 10, 100], [0, 5, 9])},
        "It goes up",
        "x",
        "y",
        {"a point": (10, 3)},
        {"here": 50},
        (1, 10, 100),
        ["9 at 100"],
    )
    found = Score(0.5, 0.4, 0.6, 100)
    yield charts.shares({"RAG": {"right fact": found, "valid form": found}, "unknown": None}, "Two systems")
    lines = {"frontier model, long prompt": ([10, 1e3, 1e5, 1e7], [5, 6, 200, 1e4]), "other": ([10, 1e7], [5, 900])}
    yield charts.volumes(lines, "Costs", {"pays from 900": (900, 6)})


@pytest.mark.parametrize(
    "figure", list(figures()), ids=["loss_curve", "setting_curve", "trade_off", "curves", "shares", "volumes"]
)
def test_they_are_described_and_wide_enough_for_their_text(figure):
    from PIL import Image

    assert 20 < len(figure.alt) <= 300
    width, _ = Image.open(io.BytesIO(figure.png)).size
    pixels_high = charts.LARGE["font.size"] / 72 * charts.LARGE["figure.dpi"] * 390 / width
    assert pixels_high >= 9  # the smallest usual text, shown 390 pixels wide
    assert len(figure.png) < 90_000


def test_curves_say_what_they_were_told_to_say_and_keep_names_apart_from_the_vertical_line():
    figure = charts.curves({"one": ([1, 2], [0, 9])}, "Up", "x", "y", alt_parts=["9 at 2", "0 at 1"])
    assert figure.alt == "Lines. Up. 9 at 2; 0 at 1."
    assert charts.curves({"one": ([1, 2], [0, 9])}, "Up", "x", "y", at={"here": 1.5}).png != figure.png


def test_a_loss_curve_names_the_best_step():
    alt = charts.loss_curve([3.0, 2.0, 1.0], "Three steps", {1: 2.5, 2: 1.9, 3: 2.2}).alt
    assert "from 3.00 to 1.00 in 3 steps" in alt and "lowest at step 2 with 1.90, at the end 2.20" in alt


def test_a_setting_curve_tells_the_mean_of_its_seeds():
    alt = charts.setting_curve(RUNS, "Rate", "rate", "loss").alt
    assert re.search(r"2e-05: 2\.000, 0\.0002: 0\.500, 0\.002: 0\.200", alt)


def test_methods_look_the_same_everywhere_and_differ_by_marker_too():
    looks = list(charts.METHODS.values())
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(looks)


def test_labels_cover_neither_each_other_nor_leave_the_frame():
    """Two lines that meet at their ends, where a label at the last point would lie on the other."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(charts.LARGE):
        figure = Canvas(figsize=(charts.WIDTH, charts.HEIGHT))
        axes = figure.subplots()
        lines = {"our task": ([1, 2, 3], [80, 95, 100]), "shuffled answers, by heart": ([1, 2, 3], [70, 90, 100])}
        for x, y in lines.values():
            axes.plot(x, y)
        charts._label_lines(figure, axes, {name: (x, y, "black") for name, (x, y) in lines.items()})
        renderer, frame = figure.canvas.get_renderer(), axes.get_window_extent()
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == list(lines)
    assert not boxes[0].overlaps(boxes[1])
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


BARS = {"LoRA": 19.0, "QLoRA": 8.7}


def test_bars_say_their_values_and_their_line():
    figure = charts.bars(BARS, "QLoRA fits", "GB", {"T4, 16 GB": 15.8})
    assert "GB: LoRA 19.0, QLoRA 8.7; line: T4, 16 GB, 15.8" in figure.alt
    assert "LoRA 19.00" in charts.bars(BARS, "Two", "GB", decimals=2, highlight=["LoRA"]).alt


def test_stacked_bars_say_their_sums():
    rows = {"LoRA": {"weights": 16.0, "rest": 3.0}, "QLoRA": {"weights": 6.0, "rest": 2.7}}
    alt = charts.stacked(rows, "QLoRA fits", "GB", {"T4": 15.8, "RTX 3060": 12.6}).alt
    assert "LoRA 19.0, QLoRA 8.7; T4 has 15.8; RTX 3060 has 12.6" in alt and len(alt) <= 300


def test_code_books_say_how_many_values_lie_where_most_weights_are():
    books = {"dense": [-1, -0.4, -0.2, 0, 0.2, 0.4, 1], "even": [-1, -0.66, -0.33, 0, 0.33, 0.66, 1]}
    alt = charts.code_books([0.1, -0.1, 0.2, 0.9], books, "Dense near zero", "weight").alt
    assert "75 % of the weights lie between -0.5 and 0.5" in alt
    assert "dense: 5 of 7; even: 3 of 7" in alt


@pytest.mark.parametrize("limits", [{}, {"T4": 15.8}, {"T4": 15.8, "RTX 3060": 12.6}])
def test_the_names_of_lines_do_not_lie_on_the_title(limits, monkeypatch):
    from course_utils import figures

    kept = []
    monkeypatch.setattr(charts, "Figure", lambda canvas, alt: kept.append(canvas) or figures.Figure(canvas, alt))
    charts.bars(BARS, "A title of one line", "GB", limits)
    canvas = kept[0]
    title = canvas._suptitle.get_window_extent()
    names = [text.get_window_extent() for text in canvas.axes[0].texts if text.get_text() in limits]
    assert len(names) == len(limits)
    assert not any(title.overlaps(name) for name in names)
    assert not any(a.overlaps(b) for i, a in enumerate(names) for b in names[i + 1 :])


def test_an_alt_text_ends_with_a_whole_part():
    found = Score(0.5, 0.4, 0.6, 100)
    alt = charts.shares({f"system number {n}": {"right fact": found} for n in range(20)}, "Many systems").alt
    assert len(alt) <= 300 and re.search(r"; and \d+ more\.$", alt)
