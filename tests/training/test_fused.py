"""The fused LoRA function changes time and memory, nothing else."""

import pytest
from conftest import tiny_llama, with_lora

from course_utils.training.fused import fused_lora


def _step(model, ids):
    import torch

    logits = model(input_ids=ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return logits.detach(), gradients


@pytest.fixture
def ids():
    import torch

    return torch.randint(0, 49152, (3, 17), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_logits_and_gradients_equal_pefts_in_float32(ids, targets):
    model = with_lora(tiny_llama(), target_modules=targets)
    logits, gradients = _step(model, ids)
    with fused_lora(model) as covered:
        fused_logits, fused_gradients = _step(model, ids)
    assert covered == sum("lora_A" in name for name in gradients)
    assert (logits - fused_logits).abs().max() < 1e-6
    for name, gradient in gradients.items():
        assert (gradient - fused_gradients[name]).norm() <= 1e-5 * gradient.norm(), name


def test_gradients_stay_close_in_bfloat16(ids):
    import torch

    model = with_lora(tiny_llama().to(torch.bfloat16))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    _, gradients = _step(model, ids)
    with fused_lora(model):
        _, fused = _step(model, ids)
    for name, gradient in gradients.items():
        assert torch.cosine_similarity(gradient.flatten(), fused[name].flatten(), dim=0) > 0.99, name


def test_layers_go_back_to_pefts_forward_afterwards(ids):
    model = with_lora(tiny_llama())
    with pytest.raises(ZeroDivisionError), fused_lora(model):
        1 / 0
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("case", ["dropout", "dora", "disabled"])
def test_what_it_does_not_cover_is_left_to_peft(ids, case):
    import torch
    from peft import LoraConfig, get_peft_model

    dropout = 0.5 if case == "dropout" else 0.0
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], use_dora=case == "dora", lora_dropout=dropout)
    model = get_peft_model(tiny_llama(), config).train(case == "dropout")

    def output():
        torch.manual_seed(0)
        with torch.no_grad():
            return model(input_ids=ids).logits

    if case == "disabled":
        with model.disable_adapter():
            expected = output()
            with fused_lora(model):
                assert torch.equal(output(), expected)
        return
    expected = output()
    with fused_lora(model):
        assert torch.equal(output(), expected)
