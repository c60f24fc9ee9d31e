"""Charts of the second edition: what they say in words, and that they can be read on a phone."""

import io
import re

import pytest

from course_utils import charts

RUNS = {2e-5: [1.9, 2.0, 2.1], 2e-4: [0.5, 0.6, 0.4], 2e-3: [0.2, 0.21, 0.19]}


def figures():
    yield charts.loss_curve([3.0, 2.0, 1.0], "Three steps", {1: 2.5, 2: 1.9, 3: 2.2})
    yield charts.knob(RUNS, "The rate decides", "learning rate", "validation loss", {"rival": 0.15})
    yield charts.trade_off({"LoRA": ([0.1, 0.2], [3.0, 3.1]), "other": ([0.3], [4.0])}, "Both", "x", "y", log_x=True)


@pytest.mark.parametrize("figure", list(figures()), ids=["loss_curve", "knob", "trade_off"])
def test_they_are_described_and_wide_enough_for_their_text(figure):
    from PIL import Image

    assert 20 < len(figure.alt) <= 300
    width, _ = Image.open(io.BytesIO(figure.png)).size
    pixels_high = charts.LARGE["font.size"] / 72 * charts.LARGE["figure.dpi"] * 390 / width
    assert pixels_high >= 9  # the smallest usual text, shown 390 pixels wide
    assert len(figure.png) < 90_000


def test_a_loss_curve_names_the_best_step():
    alt = charts.loss_curve([3.0, 2.0, 1.0], "Three steps", {1: 2.5, 2: 1.9, 3: 2.2}).alt
    assert "from 3.00 to 1.00 in 3 steps" in alt and "lowest at step 2 with 1.90, at the end 2.20" in alt


def test_a_knob_tells_the_mean_of_its_seeds():
    assert re.search(r"2e-05: 2\.000, 0\.0002: 0\.500, 0\.002: 0\.200", charts.knob(RUNS, "Rate", "rate", "loss").alt)


def test_methods_look_the_same_everywhere_and_differ_by_marker_too():
    looks = list(charts.METHODS.values())
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(looks)
