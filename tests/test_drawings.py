import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from course_utils import drawings, figures

DRAWINGS = {
    "training step": drawings.training_step,
    "training step, nearly sure": lambda: drawings.training_step({"clear": 0.02, "blue": 0.95, "falling": 0.01}),
    "LoRA": drawings.lora,
    "LoRA, square": lambda: drawings.lora(4096, 4096, 8, 16),
    "LoRA, upright": lambda: drawings.lora(1536, 576, 64, 16),
    "LoRA, long": lambda: drawings.lora(256, 4096, 1, 1),
    "memory": drawings.memory_parts,
    "memory, 135M": lambda: drawings.memory_parts(134_515_008, 4_884_480, 49152 * 576, "SmolLM2-135M"),
    "memory, much trained": lambda: drawings.memory_parts(10**9, 4 * 10**8, 10**8, "a large adapter"),
    "merging": drawings.merging,
    "banding": drawings.banding,
    "a layer in 4 bits": drawings.four_bit_layer,
    "bits of a weight": drawings.four_bit_storage,
    "bits of a weight, small blocks": lambda: drawings.four_bit_storage(32, 128),
    "decision tree": drawings.decision_tree,
    "causes of an error": drawings.error_chain,
    "a hosted job": drawings.hosted_job,
    "twins": drawings.twins,
    "four roads": drawings.alignment_roads,
    "a group in GRPO": drawings.grpo_group,
    "a group in GRPO, one right": lambda: drawings.grpo_group((0.0, 0.0, 1.0, 0.0)),
    "a rollout in PPO": drawings.ppo_rollout,
}
PHONE = 390  # CSS pixels across
FREE = 4  # pixels around a letter in which no line may be


@pytest.fixture(scope="module")
def drawn():
    """Name → (figure, its canvas), each drawn once."""
    kept = []

    class Kept(figures.Figure):
        def __init__(self, canvas, alt, width=None):
            kept.append(canvas)
            super().__init__(canvas, alt, width)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "Figure", Kept)
        return {name: (draw(), kept.pop()) for name, draw in DRAWINGS.items()}


def texts(canvas):
    return [text for axes in canvas.axes for text in axes.texts if text.get_text().strip()]


def words(canvas):
    return "\n".join(text.get_text() for text in texts(canvas))


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    """WCAG 2's contrast of two colours."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast(to_rgb("#767676"), (1, 1, 1)) == pytest.approx(4.54, abs=0.01)  # the well-known lightest grey


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_small_and_said_in_two_sentences(drawn, name):
    figure, _ = drawn[name]
    assert len(figure.png) < 90_000
    assert 80 < len(figure.alt) <= 300
    assert len(re.findall(r"[.!?](?= |$)", figure.alt)) <= 2
    picture = Image.open(io.BytesIO(figure.png))
    assert picture.width == drawings.WIDTH * drawings.DPI / 100 > drawings.SHOWN
    assert f'width="{drawings.SHOWN}" style="max-width:100%"' in figure._repr_html_()


@pytest.mark.parametrize("name", DRAWINGS)
def test_letters_can_be_read_on_a_phone(drawn, name):
    _, canvas = drawn[name]
    across = canvas.get_figwidth() * canvas.dpi
    assert min(text.get_fontsize() / 72 * canvas.dpi * PHONE / across for text in texts(canvas)) >= 11


def pixels(canvas):
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB")) / 255


def widened(mask, by):
    """A mask with all pixels at most so far from it, in both directions."""
    return np.max([np.roll(mask, (x, y), (0, 1)) for x in range(-by, by + 1) for y in range(-by, by + 1)], axis=0)


@pytest.mark.parametrize("name", DRAWINGS)
def test_text_stands_free_on_one_colour_with_contrast(drawn, name):
    """Nothing overlaps: under each text is one colour, which differs from its own as the standard asks."""
    _, canvas = drawn[name]
    found = texts(canvas)
    boxes = [text.get_window_extent() for text in found]
    for (one, a), (other, b) in itertools.combinations(zip(found, boxes), 2):
        assert not a.overlaps(b), (one.get_text(), other.get_text())
    written = pixels(canvas)
    for text in found:
        text.set_visible(False)
    bare = pixels(canvas)
    for text in found:
        text.set_visible(True)
    high, wide, _ = bare.shape
    ink = widened(np.abs(written - bare).max(axis=2) > 0.02, by=FREE)
    for text, box in zip(found, boxes):
        assert box.x0 >= 8 and box.x1 <= wide - 8 and box.y0 >= 8 and box.y1 <= high - 8, text.get_text()
        place = (slice(int(high - box.y1) - FREE, int(high - box.y0) + FREE), slice(int(box.x0) - FREE, int(box.x1) + FREE))
        under = bare[place][ink[place]]
        assert np.ptp(under, axis=0).max() < 0.02, text.get_text()
        assert contrast(to_rgb(text.get_color()), under[0]) >= 4.5, text.get_text()


def test_each_method_looks_like_no_other():
    colours = {to_rgb(colour) for colour in drawings.METHOD_COLOURS.values()}  # as matplotlib takes them
    assert len(colours) == len(drawings.METHOD_COLOURS)


def test_neighbours_in_the_course_differ_without_colour_vision():
    """Full fine-tuning, LoRA and QLoRA stand side by side: they differ for the three kinds of colour blindness."""
    # Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB
    blindness = {
        "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
        "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
        "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
    }
    shown = [drawings.METHOD_COLOURS[method] for method in ("base model", "full fine-tuning", "LoRA", "QLoRA")]
    for kind, matrix in blindness.items():
        seen = [np.clip(np.array(matrix) @ np.array(to_rgb(colour)) ** 2.2, 0, 1) ** (1 / 2.2) for colour in shown]
        for one, other in itertools.combinations(seen, 2):
            assert np.abs(one - other).max() > 0.1, kind  # several times what is just seen


@pytest.mark.parametrize(("rank", "d_out", "d_in"), [(16, 576, 1536), (32, 576, 1536), (8, 4096, 11008)])
def test_lora_counts_what_it_is_given(monkeypatch, rank, d_out, d_in):
    said = []
    monkeypatch.setattr(figures, "Figure", lambda canvas, alt, width: said.append((words(canvas), alt)))
    drawings.lora(d_out, d_in, rank, 2 * rank)
    drawn, alt = said[0]
    for number in (d_out * d_in, rank * (d_out + d_in)):
        assert f"{number:,}" in drawn and f"{number:,}" in alt
    assert "α/r = 2." in drawn


def test_twice_the_rank_is_twice_the_adapter(drawn):
    once, twice = (
        int(re.search(r"have ([\d,]+) numbers", drawings.lora(rank=rank).alt)[1].replace(",", "")) for rank in (16, 32)
    )
    assert (once, twice) == (33_792, 2 * 33_792)


def test_the_loss_is_that_of_the_probability_drawn(drawn):
    assert "loss = −ln 0.20 = 1.61" in words(drawn["training step"][1])
    assert "0.05" in drawn["training step, nearly sure"][0].alt


def test_memory_is_what_lesson_02_counts(drawn):
    file = Path(drawings.__file__).parent / "memory" / "architectures.json"
    shape = json.loads(file.read_text(encoding="utf-8"))["Llama-2-7B"]
    wide, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    tables = 2 * shape["vocab_size"] * wide
    base = tables + layers * (4 * wide**2 + 3 * wide * inner + 2 * wide) + wide
    adapter = 16 * layers * (4 * (wide + wide) + 3 * (wide + inner))
    states = drawings.memory_states(base, adapter, tables)
    gb = {method: sum(part.gb for part in parts) for method, parts in states.items()}
    nf4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
    assert gb == pytest.approx(
        {
            "full fine-tuning": 16 * base / 1e9,
            "LoRA": (2 * base + 16 * adapter) / 1e9,
            "QLoRA": (nf4 * (base - tables) + 2 * tables + 16 * adapter) / 1e9,
        }
    )
    figure, canvas = drawn["memory"]  # the defaults are that model's
    for size in gb.values():
        assert f"{size:.1f} GB" in words(canvas) and f"{size:.1f} GB" in figure.alt


def test_stacks_are_as_high_as_their_gigabytes(drawn):
    _, canvas = drawn["memory"]
    blocks = [patch.get_path().get_extents() for patch in canvas.axes[0].patches]
    blocks = [block for block in blocks if block.width == pytest.approx(156, abs=1)]
    high = {x: sum(block.height for block in blocks if round(block.x0) == x) for x in {round(block.x0) for block in blocks}}
    ratios = [height / drawings.HIGHEST for _, height in sorted(high.items())]
    assert ratios == pytest.approx([1, 14.116 / 107.815, 4.505 / 107.815], abs=0.001)


def test_the_advantages_drawn_are_those_of_the_loss(drawn):
    from course_utils.exercises.lesson_04 import advantages

    shown = [text.get_text() for text in texts(drawn["a rollout in PPO"][1])]
    expected = advantages([-0.05, -0.2, -0.01, 1.48], [0.6, 0.8, 1.2, 1.3], 0.0, 1.0, 0.95)
    assert [f"{advantage:+.2f}" for advantage in expected] == shown[-4:]


def test_importing_drawings_does_not_import_matplotlib():
    code = "import sys, course_utils.drawings; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
