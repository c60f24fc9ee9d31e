"""Text that lessons show is readable: each colour on its background, in light and dark themes alike."""

import pytest

from course_utils import style


def contrast(one, other):
    """WCAG 2's contrast ratio of two colours like #1f2933."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_the_measure_of_contrast_itself():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # just too little


@pytest.mark.parametrize("name", style.TONES)
def test_every_tone_can_be_read(name):
    text, background = style.TONES[name]
    assert contrast(text, background) >= 4.5
    assert contrast("#ffffff", text) >= 4.5  # the badge of a card


@pytest.mark.parametrize("name", style.TONES)
def test_text_never_comes_without_its_background(name):
    assert "color:" in style.tone(name) and "background:" in style.tone(name)


def test_four_parts_stand_two_by_two():
    assert "40%" in style.columns(["<p>1</p>"] * 4)
    assert "40%" not in style.columns(["<p>1</p>"] * 3)
