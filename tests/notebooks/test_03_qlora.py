"""The code that readers of lesson 03 see, beside bitsandbytes on weights meant to hurt, and beside the estimator."""

import pytest
from support import lesson_code

from course_utils import memory

bnb = pytest.importorskip("bitsandbytes.functional")


@pytest.fixture(scope="module")
def lesson():
    space = lesson_code("03")
    space["nf4"] = space["nf4_values"]()
    return space


def weights(kind):
    import torch

    made = torch.Generator().manual_seed(3)
    if kind == "wide":  # magnitudes over twenty decades
        return torch.randn(6400, generator=made) * 10 ** torch.linspace(-10, 10, 6400)
    if kind == "bfloat16":
        return torch.randn(64_000, generator=made).bfloat16()
    if kind == "one outlier a block":
        w = torch.randn(64_000, generator=made)
        w[::64] = 100
        return w
    return torch.randn(64 * 300, generator=made)


@pytest.mark.parametrize("kind", ["normal", "wide", "bfloat16", "one outlier a block"])
def test_codes_scales_and_weights_are_the_librarys(lesson, kind):
    import torch

    w, values = weights(kind), bnb.get_4bit_type("nf4", device="cpu")
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
    codes, scales = lesson["quantize"](w, values)
    assert torch.equal(scales, state.absmax)
    assert torch.equal(lesson["pack"](codes), packed.flatten())
    back = lesson["dequantize"](codes, scales, values).reshape(w.shape).to(w.dtype)
    assert torch.equal(back, bnb.dequantize_4bit(packed, state).reshape(w.shape))


def test_the_values_are_the_librarys(lesson):
    assert (lesson["nf4"] - bnb.get_4bit_type("nf4", device="cpu")).abs().max() < 2e-7


def test_small_changes_are_rounded_away_and_large_ones_are_not(lesson):
    import torch

    w = torch.randn(64, 128, generator=torch.Generator().manual_seed(4))
    base = lesson["dequantize"](*lesson["quantize"](w, lesson["nf4"]), lesson["nf4"]).reshape(w.shape)
    changed = []
    for size in (1e-3, 1.0):
        update = size * torch.randn(w.shape, generator=torch.Generator().manual_seed(5))
        codes = [lesson["nf4_codes"](weight)[0] for weight in (base + update, base)]
        changed.append((codes[0] != codes[1]).float().mean())
    assert changed[0] < 0.05 < 0.8 < changed[1]


def test_the_layer_stores_four_bits_and_keeps_no_restored_copy_for_the_way_back(lesson):
    import torch

    w = torch.randn(96, 128, generator=torch.Generator().manual_seed(2))
    layer, kept = lesson["FourBitLoRA"](w, rank=8, alpha=16), []
    assert sum(b.numel() * b.element_size() for b in layer.buffers()) < 96 * 128 * 4.6 / 8 + 64
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(torch.randn(3, 128, requires_grad=True)).sum()
    assert kept and w.shape not in kept and w.T.shape not in kept


def test_the_layers_gradients_are_those_of_the_restored_matrix(lesson):
    """The lesson itself compares them with bitsandbytes and PEFT; here against a plain linear layer."""
    import torch

    w = torch.randn(96, 128, generator=torch.Generator().manual_seed(2))
    layer = lesson["FourBitLoRA"](w, rank=8, alpha=16)
    torch.nn.init.normal_(layer.B, std=0.05)
    x = torch.randn(5, 128)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(ours).square().sum().backward()
    (theirs @ (layer.restore() + 2 * layer.B @ layer.A).T).square().sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3)


SHAPES = {
    "Llama-3.1-8B": (128_256, 4096, 14_336, 32, 32, 8),
    "Mistral-7B-v0.1": (32_000, 4096, 14_336, 32, 32, 8),
    "Llama-3.1-70B": (128_256, 8192, 28_672, 80, 64, 8),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        (8 * 1024, {"checkpointing": False}),
        (1024, {"checkpointing": False}),
        (1024, {}),
        (1024, {"four_bit": True}),
        (4096, {"four_bit": True}),
        (256, {"four_bit": True, "checkpointing": False}),
    ],
)
def test_the_twenty_lines_give_what_the_estimator_gives(lesson, name, tokens, options):
    from transformers import LlamaConfig

    vocab, hidden, inner, layers, heads, kv_heads = SHAPES[name]
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads,
    )  # fmt: skip
    total = sum(lesson["step_memory"](config, tokens, **options).values())
    four_bit = {"embeddings": "float32"} if options.get("four_bit") else {}
    estimate = memory.estimate(
        name, "qlora" if four_bit else "lora", length=tokens, accumulation=8,
        checkpointing=options.get("checkpointing", True), **four_bit,
    ).total  # fmt: skip
    # The estimator counts autocast's copies of the adapters as well.
    assert total == pytest.approx(estimate / 1e9, rel=0.015)
