"""4-bit bases: loaded, guarded against bitsandbytes' repacking on CPU, and trained with the right gradients."""

import warnings

import pytest
from support import conversation, tiny_llama, with_lora

from course_utils import models, quantization, training
from course_utils.errors import CourseError
from course_utils.training.fused import fused

bnb_functional = pytest.importorskip("bitsandbytes.functional")
CPU_REPACKS = bnb_functional.has_avx512bf16()
ON_CPUS_THAT_REPACK = pytest.mark.skipif(not CPU_REPACKS, reason="bitsandbytes repacks on CPUs with AVX512-BF16 only")


def four_bit(tmp_path, guarded=True, double=True, kind="nf4"):
    """Two layers in 4 bits with a LoRA whose B is not zero. Widths as the trap needs them: several blocks a row."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if not (tmp_path / "config.json").exists():
        tiny_llama(hidden_size=128, intermediate_size=256, vocab_size=512).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, dtype=torch.float32)
    model = with_lora(model)
    if guarded:
        quantization.guard(model)
    return model


def step(model):
    """Logits, and the gradient of every LoRA matrix, on one fixed batch."""
    import torch

    ids = torch.arange(3, 67).view(2, 32)
    model.train()
    model.zero_grad()
    out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    return out.logits.detach(), {n: p.grad.flatten() for n, p in model.named_parameters() if p.grad is not None}


def evaluation(model):
    import torch

    model.eval()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 35)[None])


def generation(model):
    import torch

    model.eval().generate(input_ids=torch.arange(3, 11)[None], max_new_tokens=4, do_sample=False, pad_token_id=2)


def reference_pass(model):
    import torch

    model.eval()
    with torch.no_grad(), model.disable_adapter():
        model(input_ids=torch.arange(3, 35)[None])


DISTURBANCES = [evaluation, generation, reference_pass]


def cosines(before: dict, after: dict) -> list:
    import torch

    assert before.keys() == after.keys()
    return [torch.cosine_similarity(before[n].double(), after[n].double(), dim=0).item() for n in before]


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda f: f.__name__)
def test_gradients_are_the_same_after_an_evaluation(tmp_path, disturb, double):
    import torch

    model = four_bit(tmp_path / "m", double=double)
    logits, gradients = step(model)
    disturb(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, again = step(model)
    assert min(cosines(gradients, again)) > 0.999
    assert not any(
        getattr(m.weight.quant_state, "packing_format_for_cpu", False) for m in quantization.four_bit_layers(model).values()
    )
    model.save_pretrained(tmp_path / "adapter")  # bitsandbytes "unpacks" here what was packed, wrongly
    assert torch.equal(step(model)[0], logits)


@ON_CPUS_THAT_REPACK
@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda f: f.__name__)
def test_without_the_guard_they_are_not(tmp_path, disturb):
    """If this fails with a newer bitsandbytes, the trap is gone, and the guard can go too."""
    model = four_bit(tmp_path / "m", guarded=False)
    _, gradients = step(model)
    disturb(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, again = step(model)
    assert min(cosines(gradients, again)) < 0.9


@ON_CPUS_THAT_REPACK
def test_fit_refuses_a_base_that_was_repacked(tmp_path, packaged):
    model = four_bit(tmp_path / "m", guarded=False)
    evaluation(model)
    with pytest.raises(CourseError, match=r"layer .*q_proj.* was repacked .* load the base again"):
        training.fit(model, packaged[1], [conversation()])


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("names", [("lora",), ("lora", "mlp", "norm")], ids=str)
def test_fused_functions_cover_four_bit_layers(tmp_path, kind, names):
    import torch

    model = four_bit(tmp_path / "m", kind=kind)
    logits, gradients = step(model)
    with fused(model, names) as covered:
        fused_logits, fused_gradients = step(model)
    assert covered["lora"] == 14
    assert torch.allclose(logits, fused_logits, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        assert (gradient - fused_gradients[name]).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.model
def test_a_model_loads_in_four_bits_and_learns(tiny_model):
    """Lesson 03 does it with the packaged model, and shows what it takes."""
    import torch

    model, tokenizer = models.load(tiny_model, quantization="nf4")
    layers = quantization.four_bit_layers(model)
    assert len(layers) == 14  # seven in each of two blocks
    assert all(m.weight.dtype == torch.uint8 for m in layers.values())
    assert not any(m.support_avx512bf16_for_cpu for m in layers.values())
    settings = training.Settings(learning_rate=2e-2, max_steps=12, batch_size=2, schedule="constant", evaluate_every=6)
    tuned = with_lora(model, random_b=False)
    history = training.fit(tuned, tokenizer, [conversation()] * 2, [conversation()], settings=settings)
    assert history.validation_losses[-1] < history.validation_losses[0] - 0.1


def test_an_unknown_kind_is_named():
    with pytest.raises(CourseError, match=r"unknown quantization 'int3'; choose one of nf4, fp4"):
        models.load(tier="cpu", quantization="int3")


def test_without_bitsandbytes_the_sentence_says_what_to_install(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a))
    with pytest.raises(CourseError, match=r"pip install 'finetuning-course\[qlora\]'"):
        models.load(tier="cpu", quantization="nf4")
