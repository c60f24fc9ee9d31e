"""Lesson 01: the programs in its text, as they stand there."""

import json
import re

from course_utils.lessons import source_file


def test_similar_past_answers_come_into_the_prompt(tmp_path, monkeypatch):
    """The block of section 4, as it stands: the nearest past message first, the question last."""
    source = source_file("01_decision_framework").read_text(encoding="utf-8")
    text = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "answered.jsonl" in block]
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
