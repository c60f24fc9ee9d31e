"""The closed form for the course's own loop, against a trace of the very functions that `fit` calls."""

import functools
import itertools
from dataclasses import replace

import pytest
from support import GRANITE, small_config

from benchmarks import training_step as step
from course_utils import attention, memory, training
from course_utils.batching import Encoded
from course_utils.memory import formula
from course_utils.memory.shape import shape
from course_utils.training.fused import fused

config = functools.partial(small_config, vocab_size=8192, num_hidden_layers=6)


def traced(settings, plan, batch, sizes, objective):
    """Trace of two steps of `fit` on fake tensors."""
    import torch

    attention.register()
    with torch.device("meta"):
        model = step.build(settings, replace(plan, attention="eager"))
    (model if plan.method == "full" else model.get_base_model()).set_attn_implementation(plan.attention)

    def run(model, tracker):
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        with fused(model):
            for _ in range(2):
                tracker.phase = "forward"
                loss = objective.loss(model, batch, sizes).value
                tracker.phase = "backward"
                loss.backward()
                del loss
                tracker.phase = "optimizer"
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    with step.without_packing():
        return step.trace(model, run)


def both(settings, plan, examples, objective=None):
    """What a step adds to weights and adapter: (predicted, traced)."""
    objective = objective or training.SFT()
    batch, sizes = objective.collate(examples, 0), objective.normalizers(examples)
    rows, length = batch["input_ids"].shape
    scored = len(batch["label"]) if plan.method != "full" else rows * len(batch["keep"])
    mask = "table" if batch["attention_mask"].dim() == 4 else True
    plan = replace(plan, batch_size=rows, length=length, padded=mask, scored=scored / (rows * length))
    found, parts = traced(settings, plan, batch, sizes, objective), formula.parts(shape(settings), plan)
    there = parts.weights + parts.adapter
    assert found.at_peak["weights"] + found.at_peak["adapter"] == pytest.approx(there, rel=0.01)
    return parts.peak - there, found.peak - there


def plan(method, precision, kernel, **more):
    return memory.StepPlan(method, rank=8, precision=precision, attention=kernel, loop="course", device="cpu", **more)


SHAPES = [(attention.NAME, 4, 96, 24), (attention.NAME, 1, 320, 40), (attention.NAME, 2, 512, 40), ("sdpa", 4, 96, 24)]


def answers(rows, length, scored):
    return [Encoded([5] * (length - scored - i % 3), [[7] * scored]) for i in range(rows)]


ARCHITECTURES = ("llama", "qwen2", "qwen3")
TARGETS = ("all-linear", ("q_proj", "v_proj"), ("o_proj", "down_proj"))


def cases():
    """Numbers of architecture, targets and shape; every pair of the three is in the third that `make test` runs."""
    soak = pytest.mark.soak("`make test` has every pair of architecture, targets and shape")
    for case in itertools.product(range(3), range(3), range(4)):
        yield pytest.param(*case, marks=[soak] if sum(case) % 3 else [])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("architecture", "targets", "sizes"), list(cases()))
def test_lora(architecture, targets, sizes, precision):
    kernel, *batch = SHAPES[sizes]
    how = plan("lora", precision, kernel, target_modules=TARGETS[targets])
    predicted, real = both(config(ARCHITECTURES[architecture]), how, answers(*batch))
    assert predicted == pytest.approx(real, rel=0.04)


@pytest.mark.parametrize("kernel, rows, length, scored", SHAPES)
def test_granites_factors_are_not_kept(kernel, rows, length, scored):
    """It multiplies the embedding, what each block adds and the logits: autograd keeps the factors, not their inputs."""
    how = plan("lora", "bf16", kernel)
    predicted, real = both(config("granite", **GRANITE), how, answers(rows, length, scored))
    assert predicted == pytest.approx(real, rel=0.04)


def test_the_copies_of_a_large_adapter_are_counted():
    """The fused feed-forward block keeps its adapters' matrices in 16 bits for the backward pass."""
    how = replace(plan("lora", "bf16", attention.NAME), rank=128)
    predicted, real = both(config("llama"), how, answers(1, 96, 24))
    assert predicted == pytest.approx(real, rel=0.03)


@pytest.mark.parametrize(("tied", "precision"), [(True, "bf16"), (False, "fp32")])
@pytest.mark.parametrize("kernel, rows, length, scored", SHAPES)
def test_full_fine_tuning(tied, precision, kernel, rows, length, scored):
    settings = config("llama", tie_word_embeddings=tied)
    predicted, real = both(settings, plan("full", precision, kernel), answers(rows, length, scored))
    assert predicted == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "kernel, pairs, prompt, answer", [(attention.NAME, 2, 60, 30), (attention.NAME, 1, 400, 40), ("sdpa", 2, 60, 30)]
)
def test_two_answers_that_share_a_prompt(precision, kernel, pairs, prompt, answer):
    examples = [
        Encoded([5] * (prompt - i), [[7] * answer, [8] * (answer - 3)], reference_log_probabilities=(0.0, 0.0))
        for i in range(pairs)
    ]
    predicted, real = both(config("llama"), plan("lora", precision, kernel), examples, training.DPO())
    assert predicted == pytest.approx(real, rel=0.06)


def test_a_table_that_is_made_in_pieces():
    """Above 2**24 entries the head's table is made piece by piece: more scored tokens then take no more at the output."""
    settings = config("llama", vocab_size=65536, num_hidden_layers=1)
    predicted, real = both(settings, plan("lora", "bf16", attention.NAME), answers(4, 320, 200))
    assert predicted == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_the_table_at_the_loss_is_what_torch_makes_of_it_on_a_card(precision):
    """Traced on a card's tensors without values: only of float16 does CUDA's softmax read 16 bits and write 32."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    sizes = shape("SmolLM2-135M")
    rows, dtype = 64, {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    tracker = step.Tracker(sizes.vocabulary)
    with FakeTensorMode():
        with tracker.mode():
            logits = torch.empty(rows, sizes.vocabulary, dtype=dtype, device="cuda")
            table = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    assert table.device.type == "cuda"
    plan = memory.StepPlan("lora", loop="course", precision=precision, device="cuda")
    assert formula.head_bytes(sizes, plan, rows) == tracker.peak
