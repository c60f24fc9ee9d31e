"""The block of lesson 06 that takes the folder of lesson 05's script through a job, as it stands in the text."""

import ast
import json
import re

import pytest

from course_utils.lessons import source_file

LABELS = ["billing", "defect", "defect"]  # the most common one is right for two thirds
SOURCE = source_file("06_openai_api").read_text(encoding="utf-8")


@pytest.fixture
def block():
    """The block's code."""
    text = re.sub(r"^# ?", "", SOURCE, flags=re.MULTILINE)
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "mine-ready" in code]
    return found


@pytest.fixture
def lesson(client, monkeypatch):
    """The lesson's imports and functions, and the service that the fixture runs in place of the lesson's."""
    space: dict = {}
    for node in ast.parse(SOURCE).body:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
            exec(ast.unparse(node), space)
    monkeypatch.setenv("LOCAL_API_KEY", client.api_key)
    host = {"base_url": str(client.base_url), "key": "LOCAL_API_KEY", "model": "tiny"}
    hosts = {"this machine": host | {"hyperparameters": {"n_epochs": "auto"}, "every": 0.1}}
    return space | {"hosts": hosts, "form": {"json_schema": {"schema": "of the lesson's fields"}}}


def test_a_folder_goes_through_a_job_to_a_score_for_each_field(block, lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine-ready"
    folder.mkdir()
    for part, count in (("train", 12), ("validation", 3), ("test", 6)):
        rows = []
        for n in range(count):
            answer = json.dumps({"category": LABELS[n % 3], "order": n if n % 2 else None})
            prompt = [{"role": "system", "content": "Sort."}, {"role": "user", "content": f"message {n}"}]
            rows.append({"ticket": n, "prompt": prompt, "completion": [{"role": "assistant", "content": answer}]})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    *code, last = ast.parse(block).body
    exec(ast.unparse(code), lesson)
    table = eval(ast.unparse(last), lesson)
    assert lesson["form"]["json_schema"]["schema"]["required"] == [
        "category",
        "order",
    ]  # a prompt is held to the same fields
    usual = table.loc["always the most common value"]
    assert usual["category"] == pytest.approx(4 / 6) and usual["order"] == pytest.approx(3 / 6)
    assert table.loc["trained", ["valid", "category", "order", "all fields"]].tolist() == [0, 0, 0, 0]  # random weights
    assert usual["all fields"] <= usual["order"]
