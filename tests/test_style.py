"""Text that lessons show is readable: each colour on its background, in light and dark themes alike."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from support import contrast

from course_utils import style


def test_the_measure_of_contrast_itself():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # just too little


@pytest.mark.parametrize("name", style.TONES)
def test_every_tone_can_be_read(name):
    text, background = style.TONES[name]
    assert contrast(text, background) >= 4.5
    assert contrast("#ffffff", text) >= 4.5  # the badge of a card


@pytest.mark.parametrize("colour", sorted({colour for colour, _ in [*style.LOOKS.values(), *style.SERIES]}))
def test_labels_of_lines_can_be_read_on_white(colour):
    assert contrast(colour, "#ffffff") >= 4.5


def test_the_lines_of_a_chart_differ_without_colour_vision():
    """The first four stand side by side: they differ for the three kinds of colour blindness."""
    # Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB
    blindness = {
        "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
        "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
        "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
    }
    shown = [to_rgb(colour) for colour, _ in style.SERIES[:4]]
    for kind, matrix in blindness.items():
        seen = [np.clip(np.array(matrix) @ np.array(colour) ** 2.2, 0, 1) ** (1 / 2.2) for colour in shown]
        for one, other in itertools.combinations(seen, 2):
            assert np.abs(one - other).max() > 0.1, kind  # several times what is just seen
