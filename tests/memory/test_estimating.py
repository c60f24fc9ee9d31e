"""The memory of a training step: closed form and trace against each other and against the real allocator."""

import json
import subprocess
import sys

import pytest
from support import cpu_of, small_config, tiny_experts

from benchmarks import training_step as step
from course_utils import cli, memory
from course_utils.errors import CourseError
from course_utils.memory import formula
from course_utils.memory.estimating import what_fits
from course_utils.memory.shape import configuration, read_shape, shape


def real_peak(config, plan):
    """Highest sum of the allocations that PyTorch's profiler reports, with the model's own."""
    import gc

    import torch
    from torch.profiler import ProfilerActivity, profile

    gc.collect()  # what an earlier test has left would be freed in the middle of the measurement
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = step.build(config, plan)
        if plan.method == "qlora":
            gc.collect()
        with torch.profiler.record_function("training starts"):
            step.run(model, plan)
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    live = peak = 0
    for event in events:
        if event.name() == "training starts":
            peak = live
        elif event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def traced(config, plan, run=None):
    """What a step takes on tensors without values."""
    import torch

    with torch.device("meta"):
        built = step.build(config, plan)
    return step.trace(built, run or (lambda model, tracker: step.run(model, plan, tracker)))


STEPS = [
    ("llama", {"method": "lora"}),
    ("granite", {"method": "lora"}),
    ("qwen3", {"method": "full", "attention": "eager"}),
    ("llama", {"method": "qlora"}),
    # together more than twenty seconds
    pytest.param("llama", {"method": "lora", "precision": "amp", "checkpointing": True}, marks=pytest.mark.slow),
    pytest.param(
        "qwen2", {"method": "lora", "precision": "fp32", "accumulation": 2, "padded": True}, marks=pytest.mark.slow
    ),
    pytest.param("llama", {"method": "full", "checkpointing": True, "optimizer": "sgd"}, marks=pytest.mark.slow),
    pytest.param("llama", {"method": "lora", "objective": "dpo"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("architecture, options", STEPS, ids=str)
def test_trace_and_closed_form_meet_the_real_allocator(architecture, options):
    if options["method"] == "qlora":
        pytest.importorskip("bitsandbytes")
    config, plan = small_config(architecture), memory.StepPlan(batch_size=4, length=64, device="cpu", **options)
    trace, real = traced(config, plan), real_peak(config, plan)
    assert trace.peak == pytest.approx(real, rel=0.01)
    assert sum(trace.at_peak.values()) == trace.peak
    assert formula.parts(shape(config), plan).peak == pytest.approx(real, rel=0.04)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_large_vocabulary_has_its_highest_moment_at_either_end(tied, accumulation):
    config = small_config(vocab_size=65536, tie_word_embeddings=tied)
    plan = memory.StepPlan("full", length=32, checkpointing=True, optimizer="sgd", accumulation=accumulation, device="cpu")
    parts = formula.parts(shape(config), plan)
    assert parts.phase == ("loss" if accumulation == 2 and not tied else "embedding")
    assert parts.peak == pytest.approx(traced(config, plan).peak, rel=0.03)


def test_a_step_that_keeps_more_is_seen():
    """The comparison above must be able to fail: a graph that lives on into the next step costs what it keeps."""
    import torch

    config, plan = small_config(), memory.StepPlan(method="lora", batch_size=4, length=64, device="cpu")

    def hoarding(model, tracker):
        step.run(model, plan, tracker)
        model.kept = step.loss_of(model, torch.ones(4, 64, dtype=torch.long), plan)
        step.run(model, plan, tracker)

    assert traced(config, plan, hoarding).peak > 1.2 * traced(config, plan).peak


@pytest.mark.parametrize("architecture, options", STEPS, ids=str)
def test_the_estimates_parts_add_up(architecture, options):
    found, larger = (
        memory.estimate(small_config(architecture), batch_size=size, length=64, device="cpu", **options) for size in (4, 8)
    )
    assert found.total == found.tensors == sum(size for _, size in found.rows()) < larger.total
    assert found.weights > 0 and found.logits >= 0 and found.activations >= 0


@pytest.mark.parametrize("name", memory.ARCHITECTURES)
def test_kept_shapes_are_what_the_configurations_give(name):
    """If this fails, `python benchmarks/shapes.py` is due."""
    assert shape(name) == read_shape(name)


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", "SMOLLM2-135M-Instruct"])
def test_a_kept_model_is_found_under_its_other_names_and_keeps_the_one_it_was_asked_by(name):
    key = "SmolLM2-135M" if "smol" in name.casefold() else "Llama-3.1-8B"
    found = memory.estimate(name, "qlora")
    assert found.model == name and found.total == memory.estimate(key, "qlora").total


LIBRARIES = ("torch", "transformers", "numpy", "peft")


@pytest.mark.parametrize(
    "code",
    [
        "from course_utils import memory; memory.estimate('Llama-3.1-8B', 'qlora'); memory.estimate('Qwen3-8B').fits('t4')",
        "from course_utils import cli; cli.main(['estimate', '--model', 'Llama-3.1-70B', '--gpu', 't4'])",
    ],
)
def test_an_estimate_of_a_kept_model_imports_no_library(code):
    code += f"; import sys; print([name for name in {LIBRARIES} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_four_bit_weights_take_4_127_bits():
    """Dettmers et al., 2023: 4 + 8/64 + 32/(64 * 256)."""
    values = 64 * 256 * 1000
    assert 8 * formula.four_bit(values) / values == 4 + 8 / 64 + 32 / (64 * 256)


def stored_bytes(parameters):
    """Bytes of parameters and, of those in 4 bits, of their scales."""
    total = 0
    for parameter in parameters:
        total += parameter.numel() * parameter.element_size()
        if (state := getattr(parameter, "quant_state", None)) is not None:
            more = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
            total += sum(t.numel() * t.element_size() for t in more)
    return total


def test_a_quantised_model_takes_the_bytes_that_bitsandbytes_takes():
    pytest.importorskip("bitsandbytes")
    plan = memory.StepPlan(method="qlora")
    model = step.build(small_config(), plan).get_base_model()
    assert formula.weight_bytes(shape(small_config()), plan) == stored_bytes(
        p for p in model.parameters() if not p.requires_grad
    )


def test_70b_takes_under_a_second_and_no_weights(monkeypatch):
    """No longer than 135M: two blocks are built for either, on the meta device."""
    import psutil
    import torch

    # as configurations, whose sizes are read and not kept
    small_model, large_model = configuration("SmolLM2-135M"), configuration("Llama-3.1-70B")
    built = []
    register = torch.nn.Module.register_parameter

    def counted(module, name, parameter):
        built.append((module, name, parameter))
        register(module, name, parameter)

    cpu_of(lambda: memory.estimate(small_model))  # imports
    before = psutil.Process().memory_info().rss
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.Module, "register_parameter", counted)
        found = memory.estimate(large_model, "qlora", checkpointing=True, length=512)
    assert psutil.Process().memory_info().rss - before < 100e6
    assert built and all(parameter is None or parameter.is_meta for *_, parameter in built)
    assert len({id(module) for module, *_ in built if type(module).__name__ == "LlamaRMSNorm"}) == 2 * 2 + 1
    seconds = cpu_of(lambda: memory.estimate(large_model, "qlora", checkpointing=True, length=512))
    assert seconds < 1 and seconds < 3 * cpu_of(lambda: memory.estimate(small_model, "qlora", checkpointing=True))
    assert 39e9 < found.weights < 41e9  # embeddings and head stay in 16 bits
    assert not found.fits("a100-40gb") and found.fits("a100")


def test_advice_fits():
    found = memory.estimate("Llama-3.1-8B", "full", batch_size=4, length=1024)
    text = memory.advice(found, "Llama-3.1-8B", "t4")
    assert (
        text.startswith("does not fit on t4 (15.8 GB)")
        and "it would with batch size 1, method qlora: " in text
        and "to spare" not in text
    )
    changed, after = what_fits("Llama-3.1-8B", "t4", "full", batch_size=4, length=1024)
    assert after.fits("t4")
    for name in changed:  # each of the changes is needed
        fewer = {n: v for n, v in changed.items() if n != name}
        rest = {"method": "full", "batch_size": 4, "length": 1024} | fewer
        assert not memory.estimate("Llama-3.1-8B", **rest).fits("t4"), name
    assert (
        memory.estimate("Llama-3.1-8B", **({"method": "full", "batch_size": 4, "length": 1024} | changed)).total
        == after.total
    )
    assert "no change of settings helps" in memory.advice(memory.estimate("Llama-3.1-70B", "full"), "Llama-3.1-70B", "t4")
    assert "to spare" in memory.advice(memory.estimate("SmolLM2-135M"), "SmolLM2-135M", "T4")
    assert what_fits("SmolLM2-135M", "t4")[0] == {}
    with pytest.raises(CourseError, match="unknown GPU 't5'; known are t4"):
        memory.estimate("SmolLM2-135M").fits("t5")


def test_a_separate_reference_is_counted():
    one = memory.estimate("Llama-2-7B", "lora")
    dpo = memory.estimate("Llama-2-7B", "lora", objective="dpo", separate_reference=True)
    assert dpo.other_models == one.weights
    assert memory.estimate("Llama-2-7B", "lora", objective="dpo").other_models == 0


def test_an_unknown_architecture_gets_a_warning():
    found = memory.estimate(small_config("phi", tie_word_embeddings=False), "lora", batch_size=4, length=64, device="cpu")
    assert "was not tested on the architecture of phi" in found.warnings[0]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"rank": -1}, "rank=-1: must be a whole number of at least 1"),
        ({"rank": 1.5}, "rank=1.5: must be a whole number"),
        ({"length": 0}, "length=0: must be"),
        (
            {"target_modules": ("q_proj", "qproj")},
            "target module 'qproj' matches no linear layer; there are down_proj, gate",
        ),
        ({"method": "dora"}, "method='dora': choose one of full, lora, qlora"),
        ({"optimizer": "lion"}, "optimizer='lion': choose one of adamw"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'; options are method, rank"),
        ({"method": "qlora", "precision": "fp32"}, "4-bit base computes in 16 bits"),
        ({"method": "full", "objective": "dpo"}, "separate_reference=True"),
        ({"model": "nobody"}, r"unknown model 'nobody'.*[^.]\. Configurations included here: granite-4.1-3b"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(change, sentence):
    options = {"model": "SmolLM2-135M", "method": "lora"} | change
    with pytest.raises(CourseError, match=sentence.replace("(", r"\(")):
        memory.estimate(**options)


def test_command_line(capsys):
    assert cli.main(["estimate", "--method", "qlora"]) == 2 and "course estimate Llama-3.1-8B" in capsys.readouterr().err
    assert cli.main(["estimate", "Llama-3.1-8B", "--method", "qlora", "--gpu", "t4", "--checkpointing"]) == 0
    said = capsys.readouterr().out
    assert "total" in said and "fits on t4" in said
    assert (
        cli.main(["estimate", "--model", "Llama-3.1-8B", "--gpu", "t4", "--json", "--target-modules", "q_proj, v_proj"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (
        found["fits"] is False
        and "would with" in found["advice"]
        and found["plan"]["target_modules"] == ["q_proj", "v_proj"]
    )
    assert found["adapter"] == 4 * 6_815_744
    assert cli.main(["estimate", "--model", "meta-llama/LLAMA-3.1-8b-instruct", "--json"]) == 0
    shown, expected = json.loads(capsys.readouterr().out), memory.estimate("Llama-3.1-8B").as_dict()
    assert shown["plan"] == json.loads(json.dumps(expected["plan"]))  # the same defaults
    assert shown["total"] == expected["total"]
    assert cli.main(["estimate", "--model", "Llama-3.1-8B", "--rank", "-1"]) == 2
    assert capsys.readouterr().err == "course estimate: rank=-1: must be a whole number of at least 1\n"


@pytest.mark.slow
def test_a_gated_name_offline_says_what_to_do():
    done = subprocess.run(
        [sys.executable, "-m", "course_utils.cli", "estimate", "--model", "some-owner/some-gated-model"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**__import__("os").environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "Configurations included here" in done.stderr


def test_embeddings_of_a_4_bit_base_may_be_in_float32():
    """Two bytes more for each weight that is not in 4 bits; other bases have no such choice."""
    size = shape("Llama-3.1-8B")
    linears = size.layers * sum(x.weights for x in size.linears)
    loaded, upcast = (memory.estimate("Llama-3.1-8B", "qlora", embeddings=kind).weights for kind in ("bfloat16", "float32"))
    assert upcast - loaded == 2 * (size.parameters - linears)
    with pytest.raises(CourseError, match="is for a 4-bit base"):
        memory.estimate("Llama-3.1-8B", "lora", embeddings="float32")


@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("embeddings", ["bfloat16", "float32"])
def test_experts_take_the_bytes_that_4_bit_loading_and_preparing_leave_them(tmp_path, architecture, embeddings):
    pytest.importorskip("bitsandbytes")
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    from course_utils import quantization

    config = tiny_experts(architecture)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    settings = quantization.config("nf4", torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings, dtype=torch.bfloat16)
    if embeddings == "float32":
        model = prepare_model_for_kbit_training(model)
    plan = memory.StepPlan(method="qlora", embeddings=embeddings)
    assert formula.weight_bytes(shape(config), plan) == stored_bytes(model.parameters())


@pytest.mark.parametrize(
    "architecture, options",
    [
        ("qwen3_moe", {}),
        ("qwen3_moe", {"checkpointing": True, "batch_size": 16}),
        ("gpt_oss", {"checkpointing": True, "attention": "eager"}),
        pytest.param("qwen3_moe", {"target_modules": ("q_proj", "v_proj")}, marks=pytest.mark.slow),
        pytest.param("qwen3_moe", {"method": "qlora", "checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_closed_form_is_a_rough_guide_to_experts(architecture, options):
    config = tiny_experts(architecture, vocab_size=512)
    plan = memory.StepPlan(**{"batch_size": 4, "length": 64, "device": "cpu"} | options)
    real = real_peak(config, plan)
    assert formula.parts(shape(config), plan).peak == pytest.approx(real, rel=0.1)
    assert traced(config, plan).peak == pytest.approx(real, rel=0.05)


def test_an_estimate_says_what_becomes_of_the_experts():
    """4 bits don't shrink them, preparing doubles them, and adapters on them cost more than the rest of the adapter."""
    loaded = memory.estimate("Qwen3-30B-A3B", "qlora")
    prepared = memory.estimate("Qwen3-30B-A3B", "qlora", embeddings="float32")
    attention = memory.estimate("Qwen3-30B-A3B", "qlora", target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    dense = memory.estimate("Llama-3.1-8B", "qlora")
    assert 57e9 < loaded.weights < 61e9 and 117e9 < prepared.weights < 120e9
    assert "58 GB" in loaded.warnings[0] and "116 GB" in prepared.warnings[0]
    assert loaded.adapter > 50 * attention.adapter and attention.activations < loaded.activations
    assert not any("expert" in warning for warning in dense.warnings)
    gpt_oss = memory.estimate("gpt-oss-20b", "lora", length=1024, checkpointing=True)
    assert gpt_oss.plan.attention == "eager" and 41e9 < gpt_oss.weights < 42e9
    assert sum("expert" in warning for warning in gpt_oss.warnings) == 1
