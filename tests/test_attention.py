"""Grouped attention is eager attention without the copies."""

import pytest
from support import tiny_llama

from course_utils.models import attention


@pytest.mark.parametrize("long", [384, 4], ids=["short", "long"])  # 11 tokens: eager, or SDPA as for long sequences
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (4, 1)])
def test_logits_and_gradients_equal_eagers(heads, long, monkeypatch):
    import torch

    sdpa, calls = torch.nn.functional.scaled_dot_product_attention, []
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or sdpa(*a, **k)
    )
    monkeypatch.setattr(attention, "LONG", long)

    results = []
    ids = torch.randint(0, 49152, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0  # padded on the left
    for name in ("eager", attention.register()):
        model = tiny_llama(num_attention_heads=heads[0], num_key_value_heads=heads[1])
        model.set_attn_implementation(name)
        logits = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        logits.square().mean().backward()
        results.append((logits.detach(), model.model.layers[0].self_attn.k_proj.weight.grad))
    for a, b in zip(*results):
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    assert bool(calls) == (long == 4)


def test_generation_with_a_cache_equals_without():
    import torch

    model = tiny_llama()
    model.set_attn_implementation(attention.register())
    ids = torch.randint(0, 49152, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        cached = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=2, eos_token_id=None)
        plain = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=2, eos_token_id=None, use_cache=False)
    assert cached.equal(plain)


def test_the_cpu_model_in_16_bits_uses_it(packaged):
    import torch

    model, _ = packaged
    expected = attention.NAME if model.dtype == torch.bfloat16 else "sdpa"
    assert model.config._attn_implementation == expected
