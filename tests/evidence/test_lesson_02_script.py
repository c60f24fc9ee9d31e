"""The program of lesson 02 as one file: its cells, and that it trains, saves and scores without the course's package."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from course_utils import models
from course_utils.data_prep import load_task
from course_utils.evidence import lesson_02
from course_utils.lessons import source_file

FIELDS = ["category", "escalation", "product", "order_id"]


def test_it_takes_its_functions_and_settings_from_the_lesson(tmp_path):
    lesson_02.train_script(tmp_path / "mine.py", base="some/model")
    tree = ast.parse((tmp_path / "mine.py").read_text(encoding="utf-8"))
    functions = {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}
    cells = [cell for cell in jupytext.read(source_file("02_lora")).cells if "program" in cell.metadata.get("tags", [])]
    in_lesson = [node for cell in cells for node in ast.parse(cell.source).body]
    for node in in_lesson:
        if isinstance(node, ast.FunctionDef):
            assert functions[node.name] == ast.unparse(node)
    trained = {ast.unparse(node) for node in in_lesson if isinstance(node, (ast.Assign, ast.Expr))}
    (training,) = (node for node in tree.body if getattr(node, "name", "") == "train")
    assert {ast.unparse(node) for node in training.body[1:-1]} <= trained and len(training.body) > 8
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == set("functools json os sys jsonschema pandas torch datasets peft transformers trl".split())


def test_a_tier_is_its_model(tmp_path):
    for tier in ("cpu", "laptop"):
        lesson_02.train_script(tmp_path / f"{tier}.py", base=tier)
        text = (tmp_path / f"{tier}.py").read_text(encoding="utf-8")
        assert f'"{models.fetch() if tier == "cpu" else models.TIERS[tier].name}"' in text and f'base = "{tier}"' not in text


PROMPT, COMPLETION = [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": '{"instrument": "lute"}'}]


@pytest.fixture
def start(tmp_path, tiny_model, monkeypatch):
    """Runs the program on a row, in this process: starting another one takes longer than all that these tests ask of it."""
    monkeypatch.chdir(tmp_path)

    def start(row, schema, *arguments):
        for name in ("train", "validation", "test"):
            Path(f"{name}.jsonl").write_text(json.dumps(row), encoding="utf-8")
        if schema:  # which the program reads when it is loaded
            Path("schema.json").write_text(schema, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["train_adapter.py", *arguments])
        lesson_02.train_script("train_adapter.py", base=tiny_model)
        spec = importlib.util.spec_from_file_location("train_adapter", "train_adapter.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main()

    return start


@pytest.mark.parametrize(
    ("schema", "row", "said"),
    [
        ("", {"prompt": PROMPT, "completion": COMPLETION}, ""),  # unlike the lesson's records
        ('{"required": ["key"]}', {"messages": PROMPT + COMPLETION}, "has messages in place of prompt and completion"),
        ('{"required": ["key"]}', {"prompt": PROMPT, "completion": COMPLETION}, "'key' is a required property"),
    ],
)
def test_rows_that_cannot_be_learned_are_named_before_training(start, schema, row, said):
    with pytest.raises(SystemExit, match=f"^train.jsonl, row 1: {said}"):
        start(row, schema)
    assert not Path("ticket-adapter").exists()


def test_scoring_before_training_says_what_to_do(start):
    with pytest.raises(SystemExit, match="There is no ticket-adapter here yet. Run this file without a name"):
        start(
            {"prompt": PROMPT, "completion": [{"role": "assistant", "content": '{"category": "returns"}'}]},
            "{}",
            "test.jsonl",
        )


def test_the_rate_is_the_models_and_not_the_machines(tmp_path):
    lesson_02.train_script(tmp_path / "mine.py", base="ibm-granite/granite-4.1-8b")
    assert "learning_rate, tickets_a_step, answer_tokens = 0.0003, 4" in (tmp_path / "mine.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_trains_saves_and_scores_alone(tmp_path, tiny_model):
    task = load_task("support_tickets", FIELDS)
    for name, chats in {"train": task.train[:4], "validation": task.validation[:4], "test": task.test[:2]}.items():
        rows = [json.dumps({"prompt": chat[:-1], "completion": chat[-1:]}) for chat in chats]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    lesson_02.train_script(tmp_path / "train_adapter.py", base=tiny_model)
    printed = [
        subprocess.run(
            [sys.executable, "-I", "train_adapter.py", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for arguments in ([], ["test.jsonl"])
    ]
    assert (tmp_path / "ticket-adapter" / "adapter_model.safetensors").stat().st_size > 10_000
    assert [text.count("wanted:") for text in printed] == [4, 2]
    for text in printed:
        assert re.search(r"\d rows of \w+.jsonl, 0% wholly right; from 0% to [3-9]\d% of such messages", text)
        assert all(name in text for name in ("your model", "always the most common value", *FIELDS, "all fields"))
