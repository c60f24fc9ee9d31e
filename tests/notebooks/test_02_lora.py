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


SCHEMA = {
    "type": "object",
    "properties": {"category": {"enum": ["defect", "billing"]}, "product": {"type": ["string", "null"]}},
    "required": ["category", "product"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("reply", "grades"),
    [
        ('{"category": "defect", "product": null}', [1, 1, 1, 1]),
        ('{"product": null, "category": "billing"}', [1, 0, 1, 0]),
        ('{"category": "broken", "product": null}', [0, 0, 0, 0]),
        ('{"category": "defect"}', [0, 0, 0, 0]),  # a field that should be null is not right because it is not there
        ("I am sorry to hear that.", [0, 0, 0, 0]),
        ("[1, 2]", [0, 0, 0, 0]),
        ("{}", [0, 0, 0, 0]),
    ],
)
def test_the_grades_give_nothing_for_what_is_no_record(reply, grades):
    import json
    from types import SimpleNamespace

    import jsonschema
    import pandas

    cell = next(c.source for c in builder.learner_edition("02").cells if "def grade_replies" in c.source)
    space = {"json": json, "jsonschema": jsonschema, "pd": pandas, "task": SimpleNamespace(schema=SCHEMA)}
    space["write_replies"] = lambda model, prompts: [reply for _ in prompts]
    exec(cell.partition("\nvalidation = ")[0], space)
    row = {"prompt": [], "completion": [{"content": json.dumps({"category": "defect", "product": None})}]}
    table = space["grade_replies"](None, [row] * 12)
    assert list(table.columns) == ["valid", "category", "product", "all fields", "reply"]
    assert table.drop(columns="reply").astype(int).values.tolist() == [grades] * 12
