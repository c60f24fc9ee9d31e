"""The code that learners read in notebook 02, on whole models."""

import copy

import pytest
from support import lesson_code, tiny_llama, with_lora

from course_utils.publishing import builder

NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def lesson():
    """LoRALinear and inject as they stand in the notebook."""
    import torch

    return lesson_code("02", "lora-from-scratch", torch=torch, nn=torch.nn)


def test_from_scratch_equals_peft_on_a_whole_model(lesson):
    """The lesson compares them on the real model's weights."""
    import torch

    base = tiny_llama()
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


@pytest.fixture
def grading():
    """The schema and the functions of section 2 that grade replies."""
    import json

    import jsonschema
    import pandas

    space = {"json": json, "jsonschema": jsonschema, "pd": pandas}
    exec(next(c.source for c in builder.learner_edition("02").cells if "def grade_replies" in c.source), space)
    return space


RIGHT = {"category": "defect", "escalation": "none", "product": None, "order_id": "TB-12345"}
WRONG = [0] * 6


@pytest.mark.parametrize(
    ("changed", "grades"),
    [
        ({}, [1] * 6),
        ({"category": "billing"}, [1, 0, 1, 1, 1, 0]),
        ({"product": "kettle", "order_id": None}, [1, 1, 1, 0, 0, 0]),
        ({"category": "broken"}, WRONG),
        ({"order_id": "12345"}, WRONG),
        ({"summary": "a kettle"}, WRONG),
        ({"product": ...}, WRONG),  # a field that should be null is not right because it is not there
        ("I am sorry to hear that.", WRONG),
        ("[1, 2]", WRONG),
        ("{}", WRONG),
    ],
)
def test_the_grades_give_nothing_for_what_is_no_record(grading, changed, grades, tmp_path):
    import json

    record = (
        {name: value for name, value in (RIGHT | changed).items() if value is not ...} if isinstance(changed, dict) else None
    )
    reply = json.dumps(record) if record else changed
    grading["write_replies"] = lambda model, prompts: [reply for _ in prompts]
    row = {"prompt": [], "completion": [{"content": json.dumps(RIGHT)}]}
    (tmp_path / "rows.jsonl").write_text(12 * (json.dumps(row) + "\n"))
    table = grading["grade_replies"](None, tmp_path / "rows.jsonl")
    assert list(table.columns) == ["valid", *RIGHT, "all fields", "reply"]
    assert table.drop(columns="reply").astype(int).values.tolist() == [grades] * 12


def test_the_schema_in_the_lesson_is_the_tasks(grading):
    from course_utils.data_prep import load_task

    theirs, ours = load_task("support_tickets", list(RIGHT)).schema, grading["schema"]
    assert ours["required"] == theirs["required"] and ours["additionalProperties"] is theirs["additionalProperties"] is False
    for field in RIGHT:
        assert set(ours["properties"][field].get("enum", [])) == set(theirs["properties"][field].get("enum", []))
