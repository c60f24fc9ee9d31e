"""Lesson 01: the programs in its text, as they stand there."""

import json
import re
import sys
import types

from course_utils.lessons import source_file


def program_with(words):
    text = re.sub(r"^# ?", "", source_file("01_decision_framework").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if words in block]
    return program


def test_similar_past_answers_come_into_the_prompt(tmp_path, monkeypatch):
    """The block of section 4, as it stands: the nearest past message first, the question last."""
    program = program_with("answered.jsonl")
    past = [("my parcel is late", "delivery"), ("the kettle leaks", "defect"), ("the invoice is wrong", "billing")]
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in past]
    (tmp_path / "answered.jsonl").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    space = {"json": json, "instructions": "Sort."}
    exec(compile(program, "section 4", "exec"), space)
    made = space["messages"]("my kettle leaks again", count=2)
    assert [turn["role"] for turn in made] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert made[1]["content"] == "the kettle leaks" and made[2]["content"] == "defect"
    assert made[-1]["content"] == "my kettle leaks again"


def test_the_program_for_work_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """The block of section 4, against a client that answers one question of three right."""
    block = program_with("OpenAI()")

    def create(model, messages):
        text = "It is 19 Days." if "one" in messages[1]["content"] else "No idea."
        return types.SimpleNamespace(choices=[types.SimpleNamespace(message=types.SimpleNamespace(content=text))])

    client = types.SimpleNamespace(chat=types.SimpleNamespace(completions=types.SimpleNamespace(create=create)))
    monkeypatch.setitem(sys.modules, "openai", types.SimpleNamespace(OpenAI=lambda: client))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.txt").write_text("Be brief.")
    cases = [{"question": q, "answer": "19 days"} for q in ("one", "two", "three")]
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, cases)))
    exec(block, {})
    said = capsys.readouterr().out
    assert "two -> No idea." in said and "33 % right; 95 % interval 6 to 79 %" in said
