"""The code that learners read in notebook 02, on whole models."""

import copy

import pytest
from support import tiny_llama, with_lora

from course_utils.publishing import builder

NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def lesson():
    """LoRALinear and inject as they stand in the notebook."""
    import torch

    space = {"torch": torch, "nn": torch.nn}
    for cell in builder.learner_edition("02").cells:
        if "lora-from-scratch" in cell.metadata.get("tags", []):
            exec(cell.source, space)
    return space


def small_real_model(packaged):
    """The packaged model's first four layers in float32: real weights, quick."""
    config = copy.deepcopy(packaged[0].config)
    config.num_hidden_layers = 4
    model = type(packaged[0])(config).float()
    model.load_state_dict(packaged[0].state_dict(), strict=False)
    return model.eval()


@pytest.mark.parametrize("which", ["random", "real"])
def test_from_scratch_equals_peft_on_a_whole_model(lesson, packaged, which):
    import torch

    base = tiny_llama() if which == "random" else small_real_model(packaged)
    ours, theirs = copy.deepcopy(base), with_lora(copy.deepcopy(base), rank=8, alpha=16, target_modules=NAMES)
    ours.requires_grad_(False)
    lesson["inject"](ours, NAMES, rank=8, alpha=16)
    pairs = []
    for name, module in ours.named_modules():
        if isinstance(module, lesson["LoRALinear"]):
            layer = theirs.get_submodule(f"base_model.model.{name}")
            layer.lora_B["default"].weight.data.mul_(0.1)
            module.A.data.copy_(layer.lora_A["default"].weight.data)
            module.B.data.copy_(layer.lora_B["default"].weight.data)
            pairs.append((module, layer))
    assert len(pairs) == 7 * base.config.num_hidden_layers

    ids = torch.randint(0, 49152, (2, 12), generator=torch.Generator().manual_seed(0))
    outputs = [model(input_ids=ids, labels=ids) for model in (ours, theirs)]
    assert (outputs[0].logits - outputs[1].logits).abs().max() <= 1e-6 * outputs[1].logits.abs().max()
    for output in outputs:
        output.loss.backward()
    for module, layer in pairs:
        for mine, peft in ((module.A, layer.lora_A), (module.B, layer.lora_B)):
            assert (mine.grad - peft["default"].weight.grad).abs().max() < 1e-6
        layer.merge()
        assert (module.merged() - layer.base_layer.weight).abs().max() < 1e-6
    assert all(p.grad is None for n, p in ours.named_parameters() if not n.endswith((".A", ".B")))


def test_a_new_layer_starts_as_the_base(lesson):
    import torch

    base = torch.nn.Linear(6, 5)
    x = torch.randn(3, 6)
    assert torch.equal(lesson["LoRALinear"](base, rank=2, alpha=4)(x), base(x))


@pytest.mark.slow
def test_the_program_for_ones_own_file_runs(tmp_path, monkeypatch):
    """The block in section 8, as it stands, but for the model, which is the packaged one, and two steps instead of all."""
    import json
    import re

    from course_utils import models
    from course_utils.data_prep import load_task

    text = next(c.source for c in builder.learner_edition("02").cells if "trainer.save_model" in c.source)
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    packaged = models.prepare_packaged_model(report=lambda _: None)
    shorter = program.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(packaged))
    shorter = shorter.replace("num_train_epochs=2", "max_steps=2")
    assert shorter.count("max_steps=2") == 1 and "HuggingFaceTB" not in shorter
    rows = [
        json.dumps({"messages": chat}) for chat in load_task("support_tickets").train[:60]
    ]  # a tenth is held out, five of it answered
    (tmp_path / "tickets.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    exec(compile(shorter, "section 8", "exec"), {"__name__": "section_8"})
    assert json.loads((tmp_path / "tickets-adapter" / "adapter_config.json").read_text())["r"] == 16


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"category": "defect", "product": null}', "100% of the fields right, 100% of the records"),
        ('{"category": "billing", "product": null}', "50% of the fields right, 0% of the records"),
        ("I am sorry to hear that.", "0% of the fields right, 0% of the records"),
        ("[1, 2]", "0% of the fields right, 0% of the records"),
        ("{}", "0% of the fields right, 0% of the records"),
    ],
)
def test_the_score_to_take_away_gives_nothing_for_what_is_no_record(answer, said, tmp_path, monkeypatch, capsys):
    """A field that should be null is not right because the answer has no such field."""
    import json
    import re

    text = next(c.source for c in builder.learner_edition("02").cells if "fields_right" in c.source)
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "fields_right" in block]
    chat = [
        {"role": "user", "content": "My kettle leaks."},
        {"role": "assistant", "content": json.dumps({"category": "defect", "product": None})},
    ]
    (tmp_path / "test.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    monkeypatch.chdir(tmp_path)

    def ask(prompt, **_):
        return [{"generated_text": [*prompt, {"role": "assistant", "content": answer}]}]

    split = lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
    exec(compile(program, "section 7", "exec"), {"ask": ask, "split": split})
    assert capsys.readouterr().out.strip() == said
