"""The script of section 9, taken from the lesson: what its steps do and say of broken exports, and that it runs alone."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from course_utils import assets, data_prep
from course_utils.data_prep import quality, truth
from course_utils.data_prep.validation import validate
from course_utils.evidence import lesson_05
from course_utils.lessons import source_file

NAMES = ("usable", "without_copies", "redact", "split", "corrected", "doubtful", "write", "main")
ELSEWHERE = """import json
from pathlib import Path

import numpy as np
from course_utils.data_prep import pii
from sklearn.model_selection import cross_val_predict
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The lesson's functions as a module; what its cells run is left out."""
    text = source_file("05_dataset_prep").read_text(encoding="utf-8")
    cells = text[text.index("# %%\nimport hashlib") : text.index("print(lesson_05.take_away")]
    parts = []
    for cell in re.split(r"^# %%.*\n", cells, flags=re.MULTILINE):
        for node in ast.parse(cell).body:
            code = ast.get_source_segment(cell, node)
            if not isinstance(node, ast.Expr) and 'main("mine' not in code and not code.startswith(("top", "steps")):
                parts.append(code)
    file = tmp_path_factory.mktemp("script") / "cells.py"
    file.write_text(ELSEWHERE + "\n\n".join(parts), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("cells_of_section_9", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A spreadsheet of three hundred rows of the export, and its table."""
    rows = list(truth.load_raw_export().rows().values())
    reasons = quality.assess(rows, language="en", schema=data_prep.load_task("support_tickets").schema)
    file = lesson_05.spreadsheet(tmp_path_factory.mktemp("export") / "mine.csv", rows, reasons)
    return pd.read_csv(file, dtype=str).head(300)


def small(texts, labels=None, customers=None):
    return pd.DataFrame({"message": texts, "category": labels or ["billing"] * len(texts),
                         "customer": customers or [f"c{i}" for i in range(len(texts))]})  # fmt: skip


def test_rows_that_cannot_be_used_are_counted(script):
    rows, report = script.usable(small(["a", " ", None, "b", "c"], ["billing", "billing", "billing", "Billing", None]))
    assert list(rows["row"]) == [1]
    assert report == "5 rows: 2 empty, 2 unknown labels {'Billing': 1}"


def test_one_of_each_group_of_copies_stays_and_none_that_contradicts(script):
    leaks = "my kettle leaks at the base since monday"
    texts = [leaks, leaks + " please", "where is my parcel", "where is my parcel now", "gift wrap?"]
    labels = ["defect", "defect", "delivery", "billing", "question"]
    rows, report = script.without_copies(script.usable(small(texts, labels))[0])
    assert list(rows["row"]) == [1, 5] and report == "1 copies, 2 rows contradict a copy"


def test_personal_data_are_replaced_and_counted(script):
    rows, report = script.redact(small(["write to selin@mail.example please", "where is my parcel"]))
    assert "selin@mail.example" not in rows["message"][0] and rows["message"][1] == "where is my parcel"
    assert report == "1 EMAIL found in 1 of 2 rows"


def test_no_customer_is_in_two_parts(script, table):
    rows, report = script.split(script.usable(table)[0])
    assert (rows.groupby("who")["part"].nunique() == 1).all()
    shares = rows["part"].value_counts(normalize=True)
    assert set(shares.index) == {"train", "validation", "test"} and 0.06 < shares["test"] < 0.14
    assert f"{rows['who'].nunique()} customers" in report


def test_what_somebody_corrected_is_applied(script, tmp_path):
    rows = script.usable(small(["a", "b", "c"]))[0]
    assert script.corrected(rows, tmp_path / "read.csv")[0] is rows
    pd.DataFrame({"row": [1, 2, 3], "right": ["Defects", "defect", None]}).to_csv(tmp_path / "read.csv", index=False)
    new, report = script.corrected(rows, tmp_path / "read.csv")
    assert list(new["category"]) == ["billing", "defect", "billing"] and report == "1 labels corrected"


def test_broken_exports_are_reported_and_only_one_stops(script, table, tmp_path):
    table.to_csv(tmp_path / "mine.csv", index=False)
    steps = (script.usable, script.without_copies, script.redact, script.split, script.doubtful)
    reports = {
        step: row["what the step says"] for step, row in lesson_05.gone_wrong(steps, tmp_path / "mine.csv").rows.items()
    }
    assert [step for step, report in reports.items() if report.startswith("stops")] == ["split"]
    unknown = re.search(r"(\d+) rows: 0 empty, (\d+) unknown", reports["usable"])
    assert unknown[1] == unknown[2]
    assert int(re.search(r"(\d+) rows contradict", reports["without_copies"])[1]) > 12
    assert reports["redact"].startswith("nothing found in 0 of")
    agrees, guessing = map(int, re.findall(r"(\d+)%", reports["doubtful"]))
    assert abs(agrees - guessing) < 12


def test_it_runs_alone_and_says_what_the_notebook_says(script, table, tmp_path, monkeypatch):
    """Written to a file as the lesson does, on a CSV file and on a JSONL file with the same rows."""
    monkeypatch.chdir(tmp_path)
    top = {name: getattr(script, name) for name in ("TEXT", "LABEL", "WHO", "LABELS", "ASKED", "SEED")}
    said = lesson_05.take_away("clean_export.py", top, [getattr(script, name) for name in NAMES])
    assert "python clean_export.py YOUR_FILE.csv" in said
    table.to_csv("mine.csv", index=False)
    table.to_json("mine.jsonl", orient="records", lines=True)
    reports = []
    for file in ("mine.csv", "mine.jsonl"):
        environment = os.environ | {"PYTHONPATH": str(assets.root())}
        run = subprocess.run(
            [sys.executable, "clean_export.py", file], capture_output=True, text=True, env=environment, check=False
        )
        assert run.returncode == 0, run.stderr[-2000:]
        reports.append(run.stdout)
    assert reports[0] == reports[1] and [line.split()[0] for line in reports[0].splitlines()] == [
        "usable", "without_copies", "redact", "split", "corrected", "doubtful", "version"
    ]  # fmt: skip
    for part in ("train", "validation", "test"):
        assert validate(f"mine-ready/{part}.jsonl", "chat").ok
        for line in Path(f"mine-ready/{part}.jsonl").read_text(encoding="utf-8").splitlines():
            assert [message.keys() for message in json.loads(line)["messages"]] == [{"role", "content"}] * 3
    card = Path("mine-ready/README.md").read_text(encoding="utf-8")
    assert "**version**" in card and card.startswith("---\nlicense")
    to_read = pd.read_csv("to_read.csv")
    assert list(to_read) == ["row", "right", "category", "says", "message"] and to_read["right"].isna().all()
