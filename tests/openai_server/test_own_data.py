"""The block of lesson 06 that takes the folder of lesson 05's script through a job, as it stands in the text."""

import ast
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from openai import OpenAI

from course_utils.lessons import source_file

LABELS = ["billing", "defect", "defect"]  # the most common one is right for two thirds


@pytest.fixture
def block():
    """The block's code."""
    text = re.sub(r"^# ?", "", source_file("06_openai_api").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "mine-ready" in code]
    return found


@pytest.fixture
def lesson(client):
    """What the block takes from section 1."""
    # The block starts the service again, as section 9 has switched it off; here the fixture's is running.
    started = SimpleNamespace(base_url=str(client.base_url), api_key=client.api_key)
    space = {"local_server": lambda folder, rows: started, "folder": None, "OpenAI": OpenAI}
    space |= {"BASE": "tiny", "json": json, "time": time, "ThreadPoolExecutor": ThreadPoolExecutor}
    for node in ast.parse(source_file("06_openai_api").read_text(encoding="utf-8")).body:
        names = {getattr(node, "name", ""), *(getattr(t, "id", "") for t in getattr(node, "targets", ()))}
        if names & {"WAITING", "wait", "ask", "ask_all"}:
            exec(ast.unparse(node), space)
    return space


def test_a_folder_goes_through_a_job_to_a_score_for_each_field(block, lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine-ready"
    folder.mkdir()
    for part, count in (("train", 12), ("validation", 3), ("test", 6)):
        rows = []
        for n in range(count):
            answer = json.dumps({"category": LABELS[n % 3], "order": n if n % 2 else None})
            rows.append({"messages": [{"role": role, "content": text} for role, text in
                                      (("system", "Sort."), ("user", f"message {n}"), ("assistant", answer))]})  # fmt: skip
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    *code, last = ast.parse(block).body
    exec(ast.unparse(code), lesson)
    table = eval(ast.unparse(last), lesson)
    assert list(table.rows) == ["tuned", "not trained", "no model: always the most common value"]
    usual = table.rows["no model: always the most common value"]
    assert usual["category"].value == pytest.approx(4 / 6) and usual["order"].value == pytest.approx(3 / 6)
    assert table.rows["not trained"]["category"].value == table.rows["not trained"]["order"].value == 0
