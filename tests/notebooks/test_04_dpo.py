"""Lesson 04: the code that readers see against TRL's losses, its figures in prose."""

import ast
import csv
import inspect
import json
import re
import statistics
from pathlib import Path

import pytest
import trl
from support import conversation, tiny_llama, with_lora

from course_utils import assets, plans
from course_utils.data_prep import load_preferences, shortcuts
from course_utils.evidence import house_style, lesson_04
from course_utils.exercises import lesson_04 as exercises

SOURCE = Path(assets.path("notebooks/source/04_dpo.py")).read_text(encoding="utf-8")
TAGGED = re.compile(r'^# %% tags=\["(?:dpo|grpo)-from-scratch"\]\n(.*?)(?=^# %%)', re.MULTILINE | re.DOTALL)
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


def cells():
    """The source as a notebook's cells, exercises as their answers' cells are."""
    found = []
    for part in re.split(r"^# %%", SOURCE, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        metadata: dict = {"tags": ["install"]} if "# INSTALL" in body else {}
        if "# EXERCISE:" in body:
            metadata = {"nbgrader": {"solution": True}}
        markdown = "[markdown]" in head
        text = "\n".join(re.sub(r"^# ?", "", line) for line in body.splitlines()) if markdown else body.strip("\n")
        found.append({"cell_type": "markdown" if markdown else "code", "source": text, "metadata": metadata, "outputs": []})
    return found


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


def test_grpo_from_scratch_is_trls(lesson, tokenizer, tmp_path):
    import datasets
    import torch

    trl = pytest.importorskip("trl")
    # Newer versions weight the KL term by the ratio, too; the lesson says that it leaves this out.
    plain = {"use_bias_correction_kl": False} if hasattr(trl.GRPOConfig, "use_bias_correction_kl") else {}
    trainer = trl.GRPOTrainer(
        model=with_lora(tiny_llama()), reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments(
            trl.GRPOConfig, tmp_path, beta=0.04, loss_type="grpo", num_generations=3, temperature=1.0,
            max_completion_length=8, **plain,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in PAIRS]), processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    made = torch.Generator().manual_seed(3)
    prompts, answers = torch.randint(5, 200, (6, 4), generator=made), torch.randint(5, 200, (6, 7), generator=made)
    mask = torch.ones(6, 7, dtype=torch.long)
    mask[1, 4:] = mask[4, 2:] = 0
    rewards = torch.rand(2, 3, generator=made)
    advantages = lesson["group_advantages"](rewards).flatten()
    model = trainer.model.eval()
    ids = torch.cat([prompts, answers], 1)
    logs = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[:, 3:, 0]
    old, reference = (logs.detach() + 0.3 * torch.randn(logs.shape, generator=made) for _ in range(2))
    inputs = {
        "prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts), "completion_ids": answers, "completion_mask": mask,
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    theirs = trainer._compute_loss(model, inputs)
    ours = lesson["grpo_loss"](logs, old, reference, advantages, mask, clip=0.2, beta=0.04)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert ((logs - old).exp() - 1).abs().max() > 0.2  # something is clipped
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    assert torch.allclose(expected.flatten(), advantages)


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


# -- figures in prose -------------------------------------------------------------------------------------------------------


def ranked_by_the_first_edition():
    record = json.loads(assets.benchmark_results("alignment").read_text(encoding="utf-8"))
    return statistics.mean(run["ranks test pairs"]["implicit reward of DPO"][0] for run in record["runs"])


NEAR = ("DPO, β = 1", lesson_04.WITH_SFT, lesson_04.CONTROL)


ORDER = "order is the customer's"
BALANCED = load_preferences("balanced")


def seed_means(method, what):
    return [statistics.mean(row) for row in lesson_04.per_seed(method, what)]


def ranked_of_kind(run, method, kind):
    """Share of one seed's test pairs of a kind that a method ranks right."""
    right = run["methods"][method]["right"]
    kinds = [row["kind"] for row in BALANCED.test]
    return statistics.mean(hit for hit, other in zip(right, kinds) if other == kind)


def share(method, what):
    """Mean over the recorded seeds and messages."""
    return statistics.mean(statistics.mean(row) for row in lesson_04.per_seed(method, what))


SENTENCES = {
    "−29.5 − (−31) = +1.5 for chosen, and −2 for rejected": lambda: (
        [row["gain"] for row in lesson_04.gain_table((-31.0, -27.0), (-29.5, -29.0)).rows.values()] == [1.5, -2.0]
    ),
    "0.15 + 0.20 = 0.35": lambda: "Margin 0.35" in lesson_04.gain_table((-31.0, -27.0), (-29.5, -29.0)).caption,
    "$-\\log\\sigma(0.35) = 0.53$": lambda: "loss 0.53" in lesson_04.gain_table((-31.0, -27.0), (-29.5, -29.0)).caption,
    "DPO ranked nine in ten of the test pairs right": lambda: 0.85 < ranked_by_the_first_edition() < 0.95,
    "So a token costs SFT 1 + 1 = 2, and DPO 1 + 1 + 1 = 3 with the reference's pass: 1.5 times as much": lambda: (
        (lesson_04.passes("SFT"), lesson_04.passes("DPO")) == (2, 3)
    ),
    "In full fine-tuning it is 4 to 3": lambda: (lesson_04.passes("DPO", True), lesson_04.passes("SFT", True)) == (4, 3),
    "so we go higher still": lambda: all(plans.plan("04", tier).learning_rate > 5e-5 for tier in ("cpu", "t4", "a100")),
    "The curves of chosen and rejected both fall": lambda: "less likely" in lesson_04.both_fall().alt,
    "from the second step on the pair is wrong every time": lambda: (
        [row["counted as right"] for row in lesson_04.contradiction().rows.values()] == ["undecided"] + [False] * 5
    ),
    "In most pairs both replies name it": lambda: (
        statistics.mean(
            all(house_style.judge(row, row[key])["order is the customer's"] for key in ("chosen", "rejected"))
            for row in BALANCED.train
        )
        > 0.5
    ),
    "A faithful imitator knows that most replies begin with a courtesy": lambda: (
        0.1
        < statistics.mean(
            house_style.judge(row, row[key])["step first"] for row in BALANCED.train for key in ("chosen", "rejected")
        )
        < 0.5
    ),
    "DPO names it in fewer answers than the start did and than the control": lambda: (
        share("DPO", ORDER) < min(share(lesson_04.START, ORDER), share(lesson_04.CONTROL, ORDER))
    ),
    "whose replies begin with the step in more than half of the cases, does so in about one of three": lambda: (
        statistics.mean(house_style.judge(row, row["chosen"])["step first"] for row in BALANCED.train) > 0.5
        and 0.28 < share(lesson_04.CONTROL, "step first") < 0.42
    ),
    "behind the control, whose answers promise the right thing more often": lambda: (
        share("DPO", "right step") < share(lesson_04.CONTROL, "right step") - 0.1
        and share("DPO", "right step") < share(lesson_04.START, "right step")
    ),
    "**The tone: better than at the start,** and level with the control": lambda: (
        share("DPO", "tone fits") > share(lesson_04.START, "tone fits") + 0.1
        and abs(share("DPO", "tone fits") - share(lesson_04.CONTROL, "tone fits")) < 0.06
    ),
    "for answers that keep all the rules it comes to the same, and both are poor": lambda: (
        abs(share("DPO", "all rules") - share(lesson_04.CONTROL, "all rules")) < 0.02 and share("DPO", "all rules") < 0.15
    ),
    "ranks what the desk promises *better* than DPO, with every seed": lambda: all(
        ranked_of_kind(run, lesson_04.CONTROL, "step") > ranked_of_kind(run, "DPO", "step")
        for run in lesson_04.preferences()["runs"]
    ),
    "DPO is hardly ahead of it, and with the SFT term it is a little further": lambda: (
        0.7 < share("DPO", "right") < 0.8 <= share(lesson_04.WITH_SFT, "right") < 0.9
    ),
    "the step still comes first, and in the mean more answers name the order": lambda: all(
        share(name, "step first") > 0.9
        and share("DPO", ORDER) < share(name, ORDER)
        and share(name, "kl") < 0.5 * share("DPO", "kl")
        and min(map(statistics.mean, lesson_04.per_seed(name, ORDER)))
        < max(map(statistics.mean, lesson_04.per_seed("DPO", ORDER)))
        for name in (lesson_04.WITH_SFT, lesson_04.LARGE_BETA)
    ),
    "plain DPO is no better than SFT on the chosen replies and perhaps worse, and with the SFT term it": lambda: (
        lesson_04.over_seeds("DPO", "wins over control").value < 0.5
        and lesson_04.over_seeds(lesson_04.WITH_SFT, "wins over control").value
        > 0.5
        > lesson_04.over_seeds(lesson_04.WITH_SFT, "wins over control").low
    ),
    "It likes all three better": lambda: all(
        lesson_04.over_seeds(name, "wins by judge").value > lesson_04.over_seeds(name, "wins over control").value
        for name in ("DPO", lesson_04.LARGE_BETA, lesson_04.WITH_SFT)
    ),
    "ORPO promises the right step least often": lambda: all(
        share("ORPO", "kl") > 2 * share(name, "kl") and share("ORPO", "right step") < share(name, "right step")
        for name in lesson_04.METHODS
        if name != "ORPO" and lesson_04.per_seed(name, "kl")
    ),
    "the share of the five that it keeps, halved if its step is wrong": lambda: (
        'sum(kept.values()) / len(kept) * (1.0 if kept["right step"] else 0.5)' in inspect.getsource(house_style.score)
    ),
    "DPO with β = 1, DPO with the SFT term and SFT on the chosen replies have gone about equally far": lambda: (
        max(share(name, "kl") for name in NEAR) < 1.5 * min(share(name, "kl") for name in NEAR) < 0.75 * share("DPO", "kl")
    ),
    "Four answers to each of three messages per step, for five steps": lambda: all(
        text in SOURCE
        for text in ("num_generations=4", "gradient_accumulation_steps=3", "max_steps=5", "per_device_train_batch_size=4")
    ),
}


@pytest.fixture(scope="module")
def prose():
    text = re.sub(r"\{\{term:(?:[^}|]*\|)?([^}]*)\}\}", r"\1", SOURCE)
    return re.sub(r"\s+", " ", re.sub(r"^# ?", "", text, flags=re.MULTILINE))


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_is_computed_bears_the_sentence(sentence, prose):
    assert sentence in prose
    assert SENTENCES[sentence]()


def test_the_column_of_fifties():
    table = lesson_04.shortcut_table({"older pairs": load_preferences(), "our pairs": load_preferences("balanced")})
    *rules, opening, shared = table.rows  # without the recorded models
    assert [round(100 * table.rows[rule]["our pairs"].value) for rule in rules] == [50, 50, 50]
    assert round(100 * table.rows[opening]["our pairs"].value) == 70  # two in five wholly, of the others half
    assert all(table.rows[rule]["older pairs"].value > 0.85 for rule in rules)
    assert 0.5 < table.rows[shared]["our pairs"].value <= 0.6  # "its small advantage over a coin"


def test_at_most_ten_sections_and_the_exercises_in_order():
    sections = re.findall(r"^# ## (\d+) ·", SOURCE, re.MULTILINE)
    assert sections == [str(number) for number in range(1, len(sections) + 1)] and len(sections) <= 10
    assert re.findall(r"^# EXERCISE: (\S+)$", SOURCE, re.MULTILINE) == [exercise.id for exercise in exercises.EXERCISES]
