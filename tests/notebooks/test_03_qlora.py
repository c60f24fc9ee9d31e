"""The code that learners read in notebook 03, against bitsandbytes on weights that are meant to hurt."""

import pytest

from course_utils.publishing import builder

bnb = pytest.importorskip("bitsandbytes.functional")


@pytest.fixture(scope="module")
def lesson():
    """nf4_values, quantise, dequantise_codes, pack, eight_bit_values and double_quantise as they stand in the notebook."""
    import torch

    space = {"torch": torch}
    for cell in builder.learner_edition("03").cells:
        if "nf4-from-scratch" in cell.metadata.get("tags", []):
            exec(cell.source, space)
    return space


def weights(kind):
    import torch

    made = torch.Generator().manual_seed(3)
    if kind == "wide":  # magnitudes over twenty decades
        return torch.randn(6400, generator=made) * 10 ** torch.linspace(-10, 10, 6400)
    if kind == "bfloat16":
        return torch.randn(64_000, generator=made).bfloat16()
    if kind == "float16":
        return torch.randn(64_000, generator=made).half()
    if kind == "heavy tails":
        return torch.distributions.StudentT(torch.tensor(2.0)).sample((64_000,))
    if kind == "one outlier a block":
        w = torch.randn(64_000, generator=made)
        w[::64] = 100
        return w
    return torch.randn(1_000_000, generator=made)


@pytest.mark.parametrize("kind", ["normal", "wide", "bfloat16", "float16", "heavy tails", "one outlier a block"])
def test_codes_and_scales_are_the_librarys(lesson, kind):
    import torch

    values, w = bnb.get_4bit_type("nf4", device="cpu"), weights(kind)
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
    codes, scales = lesson["quantise"](w, values)
    assert torch.equal(scales, state.absmax)
    assert torch.equal(lesson["pack"](codes), packed.flatten())
    back = lesson["dequantise_codes"](codes, scales, values, w)
    assert torch.equal(back, bnb.dequantize_4bit(packed, state).reshape(w.shape))


def test_the_values_are_the_quantiles(lesson):
    assert (lesson["nf4_values"]() - bnb.get_4bit_type("nf4", device="cpu")).abs().max() < 2e-7
    assert len(lesson["nf4_values"]()) == 16
    assert 0.0 in lesson["nf4_values"]().tolist()


@pytest.mark.parametrize("size", [64 * 256, 64 * 300, 64 * 7])
def test_double_quantisation_is_the_librarys(lesson, size):
    import torch

    w = torch.randn(size, generator=torch.Generator().manual_seed(size))
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
    codes, scales = lesson["quantise"](w, bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(lesson["pack"](codes), packed.flatten())
    eight, second, mean = lesson["double_quantise"](scales, lesson["eight_bit_values"](), table=65535)
    assert torch.equal(eight, state.absmax)
    assert torch.equal(second, state.state2.absmax)
    assert torch.equal(mean, state.offset)


def test_a_wrong_table_would_be_seen(lesson):
    """The comparison must be able to fail: FP4's values give other bytes."""
    import torch

    w = weights("normal")
    packed, _ = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
    codes, _ = lesson["quantise"](w, bnb.get_4bit_type("fp4", device="cpu").sort().values)
    assert not torch.equal(lesson["pack"](codes), packed.flatten())
