"""Lesson 04: the code that readers see against TRL's losses, and the programs for work as they stand."""

import ast
import csv
import json
import re
from pathlib import Path

import pytest
import trl
from support import conversation, tiny_llama, with_lora

from course_utils import assets
from course_utils.data_prep import load_preferences, shortcuts
from course_utils.exercises import lesson_04 as exercises

SOURCE = Path(assets.path("notebooks/source/04_dpo.py")).read_text(encoding="utf-8")
TAGGED = re.compile(r'^# %% tags=\["dpo-from-scratch"\]\n(.*?)(?=^# %%)', re.MULTILINE | re.DOTALL)
PAIRS = [
    {
        "prompt": conversation(prompt)[:2],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
    for prompt, chosen, rejected in [
        ("Where is my parcel?", "On its way", "I do not know and I will not look"),
        ("Is it blue?", "It is blue, yes", "No"),
        ("The kettle leaks and the floor is wet, what now?", "Sorry! We send you a new one today", "Mop it"),
    ]
]


@pytest.fixture(scope="module")
def lesson():
    """The functions of the cells that are written from scratch, as they stand there."""
    import torch

    space = {"torch": torch}
    for code in TAGGED.findall(SOURCE):
        functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
        exec(compile(ast.Module(functions, []), "lesson 04", "exec"), space)
    return space


@pytest.fixture
def tokenizer():
    from transformers import AutoTokenizer

    from course_utils import models

    tokenizer = AutoTokenizer.from_pretrained(models.resolve(models.PACKAGED.name))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # not the stop token
    return tokenizer


def arguments(kind, folder, **more):
    settings = {
        "output_dir": str(folder), "per_device_train_batch_size": 3, "use_cpu": True, "bf16": False, "report_to": "none",
        "gradient_checkpointing": False,
    }  # fmt: skip
    return kind(**settings | more)


def nudge(model, scale=0.05):
    """Move the adapter away from where it began."""
    import torch

    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += scale * torch.randn(weight.shape, generator=made)


def test_dpo_from_scratch_is_trls(lesson, tokenizer, tmp_path):
    import datasets
    import torch

    trl = pytest.importorskip("trl")
    trainer = trl.DPOTrainer(
        model=with_lora(tiny_llama()), args=arguments(trl.DPOConfig, tmp_path, beta=0.3),
        train_dataset=datasets.Dataset.from_list(PAIRS), processing_class=tokenizer,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    model, log_probability = trainer.model.eval(), lesson["reply_log_probability"]

    def pairs():
        return log_probability(model, batch["input_ids"], batch["completion_mask"]).view(2, -1).T

    with torch.no_grad():
        reference = pairs()
    nudge(model)
    ours, theirs = lesson["dpo_loss"](pairs(), reference, beta=0.3), trainer.compute_loss(model, dict(batch))
    assert abs(theirs.item() - 0.6931) > 1e-3
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for a, b in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights)):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_exercise_on_odds_is_the_packages_loss():
    import torch

    from benchmarks.objectives import odds_ratio_loss

    chosen, rejected = torch.tensor([-0.5, -1.0, -0.2]), torch.tensor([-0.9, -2.0])
    ratio = exercises.log_odds_ratio(chosen, rejected)
    means = torch.stack([chosen.mean(), rejected.mean()])[None]
    assert torch.allclose(-torch.nn.functional.logsigmoid(ratio), odds_ratio_loss(means)[0])


def test_the_exercise_on_the_batch_is_the_lessons_function(lesson):
    import torch

    model = tiny_llama().eval()
    ids, mask = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 0]]), torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 1, 0]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        found = lesson["reply_log_probability"](model, ids, mask)
    assert torch.allclose(exercises.log_probabilities_of_batch(logits, ids, mask), found, atol=1e-5)


def blocks():
    """The programs for one's own pairs, as they stand in the text."""
    found = re.findall(r"^# ```python\n(.*?)^# ```", SOURCE, re.MULTILINE | re.DOTALL)
    return [re.sub(r"^# ?", "", block, flags=re.MULTILINE) for block in found]


def test_the_program_for_work_runs_as_it_stands(tokenizer, tmp_path, monkeypatch, capsys):
    program, counting, _ = blocks()
    assert program.count("bf16=bf16") == 2  # a card could be there
    program = program.replace("bf16=bf16", "bf16=False, use_cpu=True").replace("max_new_tokens=200", "max_new_tokens=20")
    monkeypatch.chdir(tmp_path)
    base = tiny_llama()
    base.save_pretrained("base")
    tokenizer.save_pretrained("base")
    adapted = with_lora(base)
    adapted.peft_config["default"].base_model_name_or_path = "base"
    adapted.save_pretrained("sft-adapter")
    tokenizer.save_pretrained("sft-adapter")
    rows = [row | {"group": f"customer {number // 2}"} for number, row in enumerate(PAIRS * 12)]
    Path("pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    space: dict = {}
    first_loss = []
    monkeypatch.setattr("trl.DPOTrainer.save_model", keeping(first_loss, trl.DPOTrainer.save_model))
    exec(program, space)
    test = space["test"]
    assert len(space["train"]) + len(test) == len(rows) and len(test) >= 2
    printed = capsys.readouterr().out
    for title in ("[before]", "[after]", "[control]"):
        assert printed.count(title) == min(5, len(test))
    assert first_loss == [pytest.approx(0.6931, abs=1e-3)]
    assert "KL from the start, nats per token: " in printed
    saved = json.loads(Path("dpo-adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert saved["base_model_name_or_path"] == "sft-merged" and Path("dpo-adapter/tokenizer_config.json").exists()

    # the sheet: each answer once, its letter only in the other file; DPO marked better everywhere wins all, a tie is a half
    with open("blind.csv", encoding="utf-8-sig") as file:
        sheet = list(csv.DictReader(file))
    whose = json.loads(Path("whose.json").read_text())
    groups, whose = zip(*whose)
    assert len(set(groups)) < len(groups) and set(groups) == space["held_out"]  # several answers of a group
    assert [row[letter] for row, letter in zip(sheet, whose, strict=True)] == space["by_dpo"]
    assert [row["ab".replace(letter, "")] for row, letter in zip(sheet, whose)] == space["by_control"]
    for marks, wins in ((whose, "DPO wins 100%"), (["tie"] * len(whose), "DPO wins 50% (95 % interval 50% to 50%)")):
        with open("blind.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(sheet[0]), delimiter=",;"[marks[0] == "tie"])  # as European Excel saves it
            writer.writeheader()
            marked = [row | {"better": mark} for row, mark in zip(sheet, marks)]
            writer.writerows(reversed(marked))  # whoever marks may sort the rows
        exec(counting, {})
        assert wins in capsys.readouterr().out
    with open("blind.csv", "w", newline="", encoding="utf-8") as file:  # a blank and a typing error are no verdicts
        writer = csv.DictWriter(file, list(sheet[0]))
        writer.writeheader()
        marks = ["", "c", *(mark.upper() for mark in whose[2:])]
        writer.writerows(row | {"better": mark} for row, mark in zip(sheet, marks))
    exec(counting, {})
    printed = capsys.readouterr().out
    assert printed.count("not marked, so not counted") == 2 and "DPO wins 100%" in printed


def keeping(losses, save_model):
    """`save_model` of a trainer, which also puts the run's first loss into a list: the program lets go of its trainer."""

    def save(trainer, *arguments):
        losses.append(trainer.state.log_history[0]["loss"])
        return save_model(trainer, *arguments)

    return save


@pytest.mark.parametrize("name", ["balanced", "confounded"])
def test_the_program_that_looks_for_shortcuts_finds_what_the_course_finds(name, tmp_path, monkeypatch, capsys):
    data = load_preferences(name)
    groups = [(row, f"g{1 + number % 9}") for number, row in enumerate(data.train)] + [(row, "g0") for row in data.test]
    rows = [
        {key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")} | {"group": group}
        for row, group in groups
    ]
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    exec(blocks()[2], {})
    length, words, opening = [int(share) for share in re.findall(r"(\d+)%", capsys.readouterr().out)]
    expected = shortcuts.shortcut_scores(data.train, data.test)
    assert length == pytest.approx(100 * expected["length, one number"].value, abs=1)
    assert words == pytest.approx(100 * expected["single words"].value, abs=4)  # other words, another penalty
    assert opening == pytest.approx(100 * expected["the first three words"].value, abs=8)
