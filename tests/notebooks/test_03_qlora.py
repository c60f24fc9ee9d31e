"""The code that readers of lesson 03 see, against bitsandbytes on weights that are meant to hurt."""

import re

import pytest

from course_utils.evidence import lesson_03
from course_utils.lessons import source_file
from course_utils.publishing import builder

bnb = pytest.importorskip("bitsandbytes.functional")
SOURCE = source_file("03_qlora")
TAG = re.compile(r'^# %% tags=\["(?:nf4|qlora)-from-scratch"[^\]]*\]\n(.*?)(?=^# %%)', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def lesson():
    """nf4_values, quantize, dequantize, eight_bit_values, quantize_scales, pack and FourBitLoRA, as they stand there."""
    import torch

    space = {"torch": torch, "nf4": lesson_03.nf4_table()}
    for code in TAG.findall(SOURCE.read_text(encoding="utf-8")):
        exec(code, space)
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

    w = weights(kind)
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
    codes, scales = lesson["quantize"](w, lesson_03.nf4_table())
    assert torch.equal(scales, state.absmax)
    assert torch.equal(lesson["pack"](codes), packed.flatten())
    back = lesson["dequantize"](codes, scales, lesson_03.nf4_table()).reshape(w.shape).to(w.dtype)
    assert torch.equal(back, bnb.dequantize_4bit(packed, state).reshape(w.shape))


@pytest.mark.parametrize("size", [64 * 256, 64 * 300, 64 * 7])
def test_double_quantization_is_the_librarys(lesson, size):
    import torch

    w = torch.randn(size, generator=torch.Generator().manual_seed(size))
    compared = lesson_03.compare_with_bitsandbytes(lesson["quantize"], lesson["pack"], {"w": w}, lesson["quantize_scales"])
    assert set(compared.rows["w"].values()) == {size, 0}
    _, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
    _, second, mean = lesson["quantize_scales"](lesson["quantize"](w, lesson_03.nf4_table())[1], table=65535)
    assert torch.equal(second, state.state2.absmax)
    assert torch.equal(mean, state.offset)


def test_a_wrong_table_is_seen(lesson, monkeypatch):
    values = bnb.get_4bit_type("fp4", device="cpu").sort().values
    monkeypatch.setattr(lesson_03, "nf4_table", lambda: values)
    compared = lesson_03.compare_with_bitsandbytes(lesson["quantize"], lesson["pack"], {"w": weights("normal")})
    assert compared.rows["w"]["bytes of codes that differ"] > 0


def test_the_values_are_the_quantiles_and_the_256_are_the_librarys(lesson):
    import torch

    assert (lesson["nf4_values"]() - lesson_03.nf4_table()).abs().max() < 2e-7
    assert torch.equal(lesson["eight_bit_values"](), bnb.create_dynamic_map())


def test_nf4_loses_least_on_normal_weights(lesson):
    import torch

    w = torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    table = lesson_03.code_book_errors(w, lesson["quantize"], lesson["dequantize"])
    errors = [row["normal weights: error, % of their size"] for row in table.rows.values()]
    assert errors[0] == min(errors) and errors[0] < 10


def test_the_layer_computes_what_bitsandbytes_and_peft_compute(lesson):
    import torch

    w = torch.randn(96, 128, generator=torch.Generator().manual_seed(2))
    for row in lesson_03.compare_with_peft(lesson["FourBitLoRA"], w).rows.values():
        assert row["largest difference"] <= 1e-5 * max(1, row["largest value"])


def test_small_updates_do_not_survive_and_large_ones_do(lesson):
    import torch

    w = torch.randn(64, 128, generator=torch.Generator().manual_seed(4))
    base = lesson["dequantize"](*lesson["quantize"](w, lesson_03.nf4_table()), lesson_03.nf4_table()).reshape(w.shape)
    arrives = []
    for size in (1e-3, 1.0):
        update = size * torch.randn(w.shape, generator=torch.Generator().manual_seed(5))
        table = lesson_03.update_after_rounding(update, base, lesson["quantize"], lesson["dequantize"])
        arrives.append(float(table.rows["share of the update that arrives"]["value"].split()[0]))
    assert arrives[0] < 50 < 90 < arrives[1]


def test_the_layer_stores_four_bits_and_keeps_no_restored_copy_for_the_way_back(lesson):
    import torch

    w = torch.randn(96, 128, generator=torch.Generator().manual_seed(2))
    layer, kept = lesson["FourBitLoRA"](w, rank=8, alpha=16), []
    assert sum(b.numel() * b.element_size() for b in layer.buffers()) < 96 * 128 * 4.6 / 8 + 64
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(torch.randn(3, 128, requires_grad=True)).sum()
    assert kept and w.shape not in kept and w.T.shape not in kept


@pytest.mark.slow
def test_the_programs_for_work_run_as_they_stand(tmp_path, monkeypatch, capsys):
    """The blocks in section 2, but for the model, which is the packaged one, its format, and two steps instead of all."""
    import json

    from course_utils import models
    from course_utils.data_prep import load_task

    text = next(c.source for c in builder.learner_edition("03").cells if "load_dataset" in c.source)
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    packaged = models.prepare_packaged_model(report=lambda _: None)
    shorter = program.replace("meta-llama/Llama-3.1-8B-Instruct", str(packaged)).replace("torch.bfloat16", "torch.float32")
    shorter = shorter.replace("num_train_epochs=2", "max_steps=2, use_cpu=True, report_to='none'")
    shorter = shorter.replace('optim="paged_adamw_8bit"', 'optim="adamw_torch"').replace("bf16=True", "bf16=False")
    shorter = shorter.replace('device_map={"": 0}', 'device_map={"": "cpu"}').replace(
        "gradient_accumulation_steps=8", "gradient_accumulation_steps=2"
    )
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (7, 5))  # a T4's: the programs ask for it
    shorter = shorter.replace("torch.float16", "torch.float32").replace("fp16=not ampere", "fp16=False")
    assert shorter.count("max_steps=2") == 1 and "meta-llama" not in shorter and "paged" not in shorter
    rows = [json.dumps({"prompt": chat[:-1], "completion": chat[-1:]}) for chat in load_task("support_tickets").train[:30]]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    exec(compile(shorter, "section 2", "exec"), {"__name__": "section_2"})
    assert json.loads((tmp_path / "my-adapter" / "adapter_config.json").read_text())["r"] == 16

    use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1].replace("torch.bfloat16", "torch.float32")
    use = use.replace("torch.float16", "torch.float32")
    use = use.replace('device_map={"": 0}', 'device_map={"": "cpu"}').replace("max_new_tokens=200", "max_new_tokens=4")
    exec(compile(use, "section 2, use", "exec"), {"__name__": "use"})
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_paired_loss_to_take_away_is_the_lessons(tmp_path):
    """The block in section 7, as it stands: per message the loss that the lesson's own function gives."""
    import numpy as np

    from course_utils import models
    from course_utils.data_prep import load_task

    text = next(c.source for c in builder.learner_edition("03").cells if "def loss_of_answers" in c.source)
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    model, tokenizer = models.load(tier="cpu")
    chats = load_task("support_tickets").validation[:4]
    rows = [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats]
    space = {"qlora": model, "lora": model, "tokenizer": tokenizer, "held_out": rows}
    exec(compile(program, "section 7", "exec"), space)
    assert np.all(space["difference"] == 0)
    assert space["loss_of_answers"](model, tokenizer, rows) == pytest.approx(
        lesson_03.answer_losses(model, tokenizer, chats), rel=0.02
    )
