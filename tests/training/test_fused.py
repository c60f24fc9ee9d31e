"""The fused functions change time and memory, nothing else."""

import contextlib

import pytest
from support import conversation, tiny_granite, tiny_llama, with_lora

from course_utils import training
from course_utils.scoring import log_probabilities
from course_utils.training import fused as module
from course_utils.training.fused import FUNCTIONS, fused
from course_utils.training.settings import FUSED

ALL = tuple(FUNCTIONS)


def _step(model, batch):
    loss = training.SFT().loss(model, batch, {"tokens": 10}).value
    model.zero_grad()
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def batch(packaged):
    objective = training.SFT()
    rows = [conversation("Hi", "Yes, sir, it is"), conversation("Where is the thing I bought?", "No"), conversation()]
    return objective.collate([objective.encode(packaged[1], row, 1024, "x") for row in rows], pad_id=2)


def test_settings_name_the_functions_that_exist():
    assert FUSED == ALL


@pytest.mark.parametrize("names", [*[(name,) for name in ALL], ALL])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
@pytest.mark.parametrize("build", [tiny_llama, tiny_granite])
def test_loss_and_gradients_equal_the_librarys_in_float32(batch, names, targets, build):
    model = with_lora(build(), target_modules=targets)
    loss, gradients = _step(model, batch)
    with fused(model, names) as covered:
        fused_loss, fused_gradients = _step(model, batch)
    layers = model.config.num_hidden_layers
    expected = {
        "head": 1,
        "lora": sum("lora_A" in name for name in gradients),
        "mlp": layers if targets == "all-linear" else 0,
        "norm": 2 * layers + 1,
    }
    assert covered == {name: expected[name] for name in names}
    assert fused_loss == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == fused_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - fused_gradients[name]).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("name", ALL)
def test_each_function_is_really_used(batch, name, monkeypatch):
    """A fault planted in the function's backward must show: otherwise the equality above compares a thing with itself."""
    import torch

    functions = {"head": "LogProbabilities", "lora": "LoraLinear", "mlp": "GatedBlock", "norm": "RMSNorm"}
    function = getattr(module, functions[name])
    backward = function.backward
    faulty = staticmethod(lambda ctx, *g: tuple(x * 1.5 if torch.is_tensor(x) else x for x in backward(ctx, *g)))
    model = with_lora(tiny_llama())
    _, gradients = _step(model, batch)
    monkeypatch.setattr(function, "backward", faulty)
    with fused(model, (name,)):
        _, wrong = _step(model, batch)
    assert any((gradients[name] - wrong[name]).norm() > 1e-2 * gradients[name].norm() for name in gradients)


@pytest.mark.parametrize("names", [*[(name,) for name in ALL], ALL])
def test_gradients_stay_close_in_bfloat16(batch, names):
    import torch

    model = with_lora(tiny_llama().to(torch.bfloat16))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    _, gradients = _step(model, batch)
    with fused(model, names):
        _, fused_gradients = _step(model, batch)
    for name, gradient in gradients.items():
        assert torch.cosine_similarity(gradient.flatten(), fused_gradients[name].flatten(), dim=0) > 0.99, name


def test_a_table_too_large_to_keep_is_computed_again(batch, monkeypatch):
    model = with_lora(tiny_llama())
    loss, gradients = _step(model, batch)
    three_positions = 3 * model.config.vocab_size
    monkeypatch.setattr("course_utils.training.fused.MAX_TABLE_ENTRIES", three_positions)
    with fused(model, ("head",)):
        fused_loss, fused_gradients = _step(model, batch)
    assert fused_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - fused_gradients[name]).norm() <= 1e-4 * gradient.norm(), name


def test_modules_go_back_to_their_own_forward_afterwards():
    model = with_lora(tiny_llama())
    with pytest.raises(ZeroDivisionError), fused(model):
        1 / 0
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("trained", ["everything", "norms", "head"])
def test_what_trains_itself_is_left_alone(batch, trained):
    """Head and norms that train need gradients for their weights, which the functions do not give: the same loss and the
    same gradients come out, to the value, and what is frozen beside them is covered all the same."""
    model = tiny_llama(tie_word_embeddings=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained == "everything" or {"norms": "norm", "head": "lm_head"}.get(trained, "") in name)
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    loss, gradients = _step(model, batch)
    with fused(model) as covered:
        again, same = _step(model, batch)
    assert covered["lora"] == covered["mlp"] == 0
    assert (covered["norm"] == 0) == (trained != "head") and (covered["head"] == 0) == (trained != "norms")
    assert again == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == same.keys() == wanted
    for name, gradient in gradients.items():
        assert gradient.norm() > 0, name
        assert (gradient - same[name]).norm() <= 1e-5 * gradient.norm(), name


def test_an_architecture_that_caps_its_logits_keeps_its_own_head(batch):
    model = with_lora(tiny_llama())
    model.config.model_type = "gemma2"
    with fused(model) as covered:
        assert covered["head"] == covered["mlp"] == covered["norm"] == 0
        assert covered["lora"] > 0


@pytest.mark.parametrize("case", ["dropout", "dora", "disabled"])
def test_what_it_does_not_cover_is_left_to_peft(batch, case):
    import torch
    from peft import LoraConfig, get_peft_model

    dropout = 0.5 if case == "dropout" else 0.0
    names = ["q_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=names, use_dora=case == "dora", lora_dropout=dropout)
    model = get_peft_model(tiny_llama(), config).train(case == "dropout")
    ids = batch["input_ids"]

    def output():
        torch.manual_seed(0)
        with torch.no_grad():
            return model(input_ids=ids).logits

    with model.disable_adapter() if case == "disabled" else contextlib.nullcontext():
        expected = output()
        with fused(model, ("lora", "mlp")):
            assert torch.equal(output(), expected)


def test_the_head_takes_hidden_states_that_were_turned_into_float32():
    """As Accelerate does with every output of a model in float16."""
    import torch

    model = with_lora(tiny_llama().to(torch.bfloat16))
    hidden = torch.randn(5, 32, dtype=torch.float32, requires_grad=True)
    labels = torch.arange(5)
    expected, _ = log_probabilities(model, hidden.bfloat16() @ model.get_output_embeddings().weight.T, labels)
    with fused(model, ("head",)):
        found, _ = log_probabilities(model, hidden, labels)
    assert torch.allclose(found, expected, atol=1e-2)
    found.sum().backward()
    assert hidden.grad.dtype == torch.float32
    assert hidden.grad.abs().sum() > 0
