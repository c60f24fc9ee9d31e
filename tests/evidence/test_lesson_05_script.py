"""The script of section 9, taken from the lesson: what its steps do and say of broken exports, and that it runs alone."""

import ast
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from support import SLOW

from course_utils import assets, data_prep
from course_utils.data_prep import quality, truth
from course_utils.data_prep.validation import validate
from course_utils.evidence import lesson_05
from course_utils.lessons import source_file

NAMES = ("stop_unless", "opened", "usable", "corrected", "decided", "without_copies", "secret_key", "safe", "redact",
         "part_of", "split", "doubtful", "write", "left_out", "to_read", "card",
         "all_steps", "main")  # fmt: skip
TOP = ("TEXT", "LABEL", "WHO", "LABELS", "RENAME", "ASKED", "ALLOW", "NUMBERS", "NOBODY", "SEED", "STOP")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The lesson's functions as a module, in the file that `course clean-script` writes."""
    file = tmp_path_factory.mktemp("script") / "clean_export.py"
    lesson_05.clean_script(file)
    spec = importlib.util.spec_from_file_location("clean_export", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("PSEUDONYM_KEY", "of the tests")


def kept(rows):
    return rows[rows["why"] == ""].reset_index(drop=True)


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


def test_rows_that_cannot_be_used_are_counted(script, monkeypatch):
    monkeypatch.setitem(script.STOP, "unusable", 1)
    labels = ["billing ", "billing", None, "Billing", None]  # a blank behind a label is no other label
    rows, report = script.usable(small(["a", " ", None, "b", "c"], labels))
    assert list(rows["why"]) == ["", "no message", "no message", "unknown label", "unknown label"]
    assert report == "5 rows: 2 empty, 2 unknown labels {'Billing': 1, 'no label': 1}"
    monkeypatch.setattr(script, "RENAME", {"Billing": "billing"})
    assert script.usable(small(["a", "b"], ["Billing", "billing"]))[1] == "2 rows: 0 empty, 0 unknown labels "


LEAKS = "my kettle leaks at the base since monday"
COPIES = [LEAKS, LEAKS + " please", "where is my parcel", "where is my parcel now", "gift wrap?"]


def test_one_of_each_group_of_copies_stays_and_none_that_contradicts(script, monkeypatch):
    monkeypatch.setitem(script.STOP, "contradict", 1)
    labels = ["defect", "defect", "delivery", "billing", "question"]
    rows, report = script.without_copies(script.usable(small(COPIES, labels))[0])
    assert list(kept(rows)["row"]) == [1, 5] and report == "1 copies, 2 rows contradict a copy"
    assert list(rows["why"]) == ["", "a copy", "contradicts a copy", "contradicts a copy", ""]


def test_copies_are_not_found_by_way_of_a_third_and_marks_make_a_difference(script, monkeypatch):
    monkeypatch.setitem(script.STOP, "contradict", 1)
    words = [f"w{chr(97 + n)}" for n in range(24)]
    chain = [" ".join(words[start : start + 16]) for start in (0, 3, 6)]
    prices = [f"{LEAKS} and it cost me {price}" for price in ("€1", "$1")]
    rows, _ = script.without_copies(script.usable(small([*chain, *prices, "gift wrap?", "Gift  wrap?"]))[0])
    assert list(rows["why"]) == ["", "a copy", "", "", "", "", "a copy"]


def test_an_instruction_that_all_messages_share_changes_nothing(script, monkeypatch):
    monkeypatch.setitem(script.STOP, "contradict", 1)
    rng = random.Random(0)
    texts = [" ".join(f"word{rng.randrange(3000)}" for _ in range(8)) for _ in range(200)]
    texts += [f"{text} please" for text in texts[:9]]
    before = "Read the message of the customer and answer with the name of the category, and with nothing else. " * 2
    for instruction in ("", before):
        _, report = script.without_copies(script.usable(small([instruction + text for text in texts]))[0])
        assert report == "9 copies, 0 rows contradict a copy"


def test_twenty_thousand_rows_take_seconds_and_little_memory(script):
    rng = random.Random(1)
    usual = [f"usual{n}" for n in range(12)]
    texts = [" ".join([*rng.sample(usual, 8), *(f"word{rng.randrange(20_000)}" for _ in range(8))]) for _ in range(20_000)]
    rows = script.usable(small(texts))[0]
    tracemalloc.start()
    started = time.monotonic()
    try:
        script.without_copies(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500e6 and time.monotonic() - started < 60 * SLOW


def test_blank_customers_are_nobody_and_texts_like_none_are_texts(script, tmp_path, monkeypatch):
    monkeypatch.setitem(script.STOP, "unusable", 1)
    texts = ["None", "NA", "my unknown parcel", "it says n/a", "null"]
    small(texts, customers=[" ", "-", "unknown", "N/A", "c-1"]).to_csv(tmp_path / "mine.csv", index=False)
    rows, report = script.usable(script.opened(tmp_path / "mine.csv"))
    assert "0 empty" in report and list(rows["message"]) == texts
    assert list(rows["person"]) == [*texts[:4], "c-1"]
    monkeypatch.setitem(script.STOP, "redacted", 0)
    assert list(script.redact(rows)[0]["message"]) == texts


def test_a_contradiction_goes_to_a_person_whose_decision_counts(script, table, tmp_path, monkeypatch):
    """`conflicts.csv`, filled in and saved as `decided.csv`: one of the two rows is left, with that label."""
    monkeypatch.chdir(tmp_path)
    leaks = "I'm Selin Karagöz, my kettle leaks at the base since monday"
    more = small([leaks, leaks + " please"], ["defect", "returns"])
    pd.concat([table, more]).to_csv("mine.csv", index=False)
    number = len(table) + 1
    script.main("mine.csv")
    conflicts = pd.read_csv("conflicts.csv")
    assert {number, number + 1} <= set(conflicts["row"]) and not conflicts["message"].str.contains("Selin").any()
    assert conflicts["right"].isna().all() and conflicts.groupby("group").size().min() >= 2
    rejects = pd.read_csv("rejects.csv").set_index("row")["why"]
    assert rejects[number] == rejects[number + 1] == "contradicts a copy"
    copies = pd.read_csv("copies.csv")
    assert (
        list(copies) == ["group", "row", "why", "message"] and copies["row"].is_unique and not copies["message"].isna().any()
    )
    assert (copies.groupby("group")["why"].agg(lambda why: (why == "this one stayed").sum()) == 1).all()
    assert (rejects == "a copy").sum() == (copies["why"] == "a copy").sum() > 0
    conflicts.assign(right="defect").to_csv("decided.csv", index=False)
    _, reports = script.main("mine.csv")
    rejects = pd.read_csv("rejects.csv").set_index("row")["why"]
    assert number not in rejects and rejects[number + 1] == "a copy" and "0 rows contradict" in reports["without_copies"]


def test_every_row_is_written_or_has_a_reason(script, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table.to_csv("mine.csv", index=False)
    data, _ = script.main("mine.csv")
    rejects = pd.read_csv("rejects.csv")
    assert list(rejects) == ["row", "why"] and rejects["row"].is_unique
    assert len(rejects) + sum(map(len, data.values())) == len(table)


def test_the_key_is_made_once_and_for_nobody_else(script, tmp_path, monkeypatch):
    assert script.secret_key() == "of the tests"
    monkeypatch.delenv("PSEUDONYM_KEY")
    file = tmp_path / "key"
    made = script.secret_key(file)
    assert len(made) == 32 and script.secret_key(file) == made and file.stat().st_mode & 0o077 == 0
    assert script.secret_key(tmp_path / "other") != made


def test_order_numbers_stay_in_and_the_line_of_the_text_takes_them_out(script, monkeypatch):
    rows, _ = script.redact(small(["order TB-40512 of selin@mail.example", "TB 40512, tb40512"]))
    assert rows["message"].str.contains("40512").all()
    text = source_file("05_dataset_prep").read_text(encoding="utf-8")
    (line,) = re.findall(r"`NUMBERS = (\{.*\})`", text)
    monkeypatch.setattr(script, "NUMBERS", ast.literal_eval(line))
    out = script.redact(small(["order TB-40512 of selin@mail.example", "TB 40512, tb40512"]))[0]["message"]
    assert not out.str.contains("40512").any() and list(out)[1] == "[ORDER], [ORDER]"


def test_the_customers_own_name_goes_and_a_product_that_is_allowed_stays(script, monkeypatch):
    """A name that no list has is known from WHO; a product with a person's name is in ALLOW."""
    texts, who = (
        ["it is lamplover77, my lamp flickers", "write to a@mail.example, yours Selin Karagöz"],
        ["lamplover77", "c-2"],
    )
    rows, _ = script.redact(small(texts, customers=who))
    assert rows["message"][0] == "it is [CUSTOMER], my lamp flickers" and "Selin" not in rows["message"][1]
    monkeypatch.setattr(script, "ALLOW", ["Selin Karagöz"])
    assert "Selin Karagöz" in script.redact(small(texts, customers=who))[0]["message"][1]


def test_a_few_wrong_labels_stop_nothing(script, table):
    """The lesson says so: with one label in twenty that has slipped, every report looks healthy."""
    rows = script.split(kept(script.without_copies(kept(script.usable(table)[0]))[0]))[0]
    slipped = rows.index % 20 == 0
    script.doubtful(rows.assign(category=rows["category"].where(~slipped, rows["category"].shift(-1).fillna("billing"))))


def test_personal_data_are_replaced_and_counted(script):
    rows, report = script.redact(small(["write to selin@mail.example please", "where is my parcel"]))
    assert "selin@mail.example" not in rows["message"][0] and rows["message"][1] == "where is my parcel"
    assert report == "1 EMAIL found in 1 of 2 rows"


def test_no_customer_is_in_two_parts(script, table):
    rows, report = script.split(kept(script.usable(table)[0]))
    assert (rows.groupby("person")["part"].nunique() == 1).all()
    shares = rows["part"].value_counts(normalize=True)
    assert set(shares.index) == {"train", "validation", "test"} and 0.05 < shares["test"] < 0.16
    assert f"{rows['person'].nunique()} customers" in report


def test_parts_that_are_too_small_stop(script, monkeypatch):
    """Few customers fall unevenly; each seed deals anew, and some leave a part almost empty."""
    rows = small([f"message {n}" for n in range(99)], customers=[f"c{n % 33}" for n in range(99)])
    rows, reports = rows.assign(row=range(99), why="", person=rows["customer"]), set()
    for seed in range(20):
        monkeypatch.setattr(script, "SEED", seed)
        try:
            reports.add("fine" if script.split(rows)[0]["part"].value_counts().min() >= 5 else "small")
        except ValueError as error:
            numbers = [int(n) for n in re.findall(r"(\d+) (?:train|validation|test)", str(error))]
            assert len(numbers) == 3 and sum(numbers) == 99 and min(numbers) < 5 and "another SEED" in str(error)
            reports.add("stops")
    assert reports == {"fine", "stops"}


def test_the_test_set_stays_when_rows_are_added_or_decided(script, table):
    """Next month's export has the customers of this one in the parts in which they were."""
    rows = kept(script.usable(table)[0])
    now = script.split(rows.iloc[::2].reset_index(drop=True))[0].groupby("person")["part"].first()
    later = script.split(rows)[0].groupby("person")["part"].first()
    assert (later.loc[now.index] == now).all() and len(later) > len(now)


@pytest.mark.parametrize(
    ("encoding", "separator"), [("utf-8", ","), ("utf-8-sig", ";"), ("cp1252", ";"), ("cp1252", "\t"), ("utf-16", "\t")]
)
def test_an_export_opens_whatever_its_encoding_and_separator(script, encoding, separator, tmp_path):
    rows = small(["Die Lampe kostet 5 €, war aber billiger", "it's “broken”; really", None])
    rows.to_csv(tmp_path / "mine.csv", index=False, encoding=encoding, sep=separator)
    assert script.opened(str(tmp_path / "mine.csv")).equals(rows.astype("str").where(rows.notna()).astype("str"))


def test_an_export_without_the_named_columns_says_which_it_has(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small(["a"]).rename(columns={"customer": "who"}).to_csv("mine.csv", index=False)
    with pytest.raises(ValueError, match=r"no column \{'customer'\}, but \['message', 'category', 'who'\]"):
        script.main("mine.csv")


@pytest.mark.parametrize(
    ("text", "labels", "report"),
    [
        ("row,right\n1,Faults\n2,defect\n3,\n", ["billing", "defect", "billing"], "1 labels corrected; ignored: ['Faults']"),
        # as a spreadsheet saves it, with a second round's header pasted in between and a row corrected twice
        ("row;right\n1;defect\nrow;right\n1;account \n3;\n", ["account", "billing", "billing"],
         "1 labels corrected; ignored: ['right']"),
        ("row,right\n2,Defect\n", ["billing", "defect", "billing"], "1 labels corrected; ignored: nothing"),  # RENAME
        (None, ["billing"] * 3, None),
    ],
)  # fmt: skip
def test_what_somebody_corrected_is_applied(script, tmp_path, monkeypatch, text, labels, report):
    monkeypatch.setattr(script, "RENAME", {"Defect": "defect"})
    rows = script.usable(small(["a", "b", "c"]))[0]
    if text:
        (tmp_path / "read.csv").write_text(text, encoding="cp1252")
    new, said = script.corrected(rows, tmp_path / "read.csv")
    assert list(new["category"]) == labels and said == (report or said)


@pytest.mark.parametrize("line", ["1,Defects", "7,defect"])
def test_corrections_of_which_none_fits_stop(script, tmp_path, line):
    rows = script.usable(small(["a", "b", "c"]))[0]
    (tmp_path / "read.csv").write_text(f"row,right\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no line of .* fits"):
        script.corrected(rows, tmp_path / "read.csv")


def test_a_customers_name_goes_out_as_a_word_and_not_within_others(script):
    assert script.safe("zorvik and Zorvik of Zorviktown", "Zorvik")[0] == "zorvik and [CUSTOMER] of Zorviktown"
    assert script.safe("yours, zorvik blumm", "Zorvik Blumm")[0] == "yours, [CUSTOMER]"


def test_copies_whose_labels_are_all_right_stay_both(script, tmp_path, monkeypatch):
    """Near-copies that rightly differ, such as "has arrived" and "has not arrived": "both" in `decided.csv`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(script.STOP, "contradict", 1)
    texts = ["my parcel for the garden room has arrived today", "my parcel for the garden room has not arrived today"]
    rows = script.usable(small(texts, ["question", "delivery"]))[0]
    assert list(script.without_copies(rows)[0]["why"]) == ["contradicts a copy"] * 2
    (tmp_path / "decided.csv").write_text("row,right\n1,both\n2,both\n", encoding="utf-8")
    rows, report = script.decided(rows)
    assert report == "0 labels corrected; ignored: nothing" and list(script.without_copies(rows)[0]["why"]) == ["", ""]


def test_who_has_no_name_is_dealt_by_the_message_as_it_came(script, table):
    """And not by the redacted one, which changes with ALLOW: as the lines for `prepare` in the lesson's text do it."""
    rows = kept(script.usable(table.assign(customer=None))[0])
    dealt = script.split(script.redact(rows)[0])[0]
    assert list(dealt["part"]) == [script.part_of(text) for text in rows["message"]]


def test_what_somebody_has_read_is_not_asked_again(script, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table.to_csv("mine.csv", index=False)
    script.main("mine.csv")
    first = pd.read_csv("to_read.csv")
    first.assign(right=first["category"]).to_csv("read.csv", index=False)
    _, reports = script.main("mine.csv")
    assert not set(first["row"]) & set(pd.read_csv("to_read.csv")["row"])
    assert reports["corrected"] == "0 labels corrected; ignored: nothing"


def test_what_is_left_out_can_be_read_although_a_later_step_stops(script, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table.assign(customer="web form").to_csv("mine.csv", index=False)
    with pytest.raises(ValueError, match=r"(?s)one customer has 100%.*\nusable: 300 rows.*\nredact: "):
        script.main("mine.csv")
    rejects, copies = pd.read_csv("rejects.csv"), pd.read_csv("copies.csv")
    assert (rejects["why"] == "a copy").sum() == (copies["why"] == "a copy").sum() > 0


def test_few_rows_stop_nothing_for_their_labels(script):
    """A classifier of a hundred rows may know nothing; that is no proof that the labels have slipped."""
    rows = small([f"word{n} word{n + 1}" for n in range(100)], ["billing", "defect"] * 50)
    assert script.doubtful(rows.assign(person=rows["customer"]))[1].endswith("too few rows to tell")


def test_an_export_of_almost_one_label_is_no_slipped_one(script):
    """Nine in ten rows have one label, and the classifier tells the others apart: guessing is right nearly as often."""
    texts = [f"where is parcel {n}, it should be here by now" for n in range(180)]
    texts += [f"smoke comes out of heater {n}, it is burning" for n in range(20)]
    rows = small(texts, ["delivery"] * 180 + ["defect"] * 20)
    rows = rows.assign(person=[f"c{n % 67}" for n in range(200)])
    assert "kappa" in script.doubtful(rows)[1]


def test_broken_exports_stop_and_say_why(script, table, tmp_path):
    table.to_csv(tmp_path / "mine.csv", index=False)
    steps = (script.usable, script.without_copies, script.redact, script.split, script.doubtful)
    reports = {
        step: row["what the step says"] for step, row in lesson_05.gone_wrong(steps, tmp_path / "mine.csv").rows.items()
    }
    assert all(report.startswith("stops: ") for report in reports.values()), reports
    unknown = re.search(r"(\d+) rows: 0 empty, (\d+) unknown", reports["usable"])
    assert unknown[1] == unknown[2]
    assert int(re.search(r"(\d+) rows contradict", reports["without_copies"])[1]) > 12
    assert "nothing found in 0 of" in reports["redact"] and "one customer has 100%" in reports["split"]
    agrees, guessing = map(int, re.findall(r"(\d+)%", reports["doubtful"]))
    assert abs(agrees - guessing) < 12


def test_it_runs_alone_and_says_what_the_notebook_says(script, table, tmp_path, monkeypatch):
    """Written to a file as the lesson does, on a CSV file and on a JSONL file with the same rows."""
    monkeypatch.chdir(tmp_path)
    top = {name: getattr(script, name) for name in TOP}
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
        "usable", "decided", "without_copies", "redact", "split", "corrected", "doubtful", "version"
    ]  # fmt: skip
    for part in ("train", "validation", "test"):
        assert validate(f"mine-ready/{part}.jsonl", "chat").ok
        for line in Path(f"mine-ready/{part}.jsonl").read_text(encoding="utf-8").splitlines():
            assert [message.keys() for message in json.loads(line)["messages"]] == [{"role", "content"}] * 3
    table.assign(customer="web form").to_csv("broken.csv", index=False)
    command = [sys.executable, "clean_export.py", "broken.csv"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 1 and run.stderr.startswith("Stopped: one customer has 100%")
    assert "The reports until then:\nusable: 300 rows" in run.stderr
    card = Path("mine-ready/README.md").read_text(encoding="utf-8")
    assert "**version**" in card and card.startswith("---\nlicense")
    to_read = pd.read_csv("to_read.csv")
    assert list(to_read) == ["row", "right", "category", "says", "message"] and to_read["right"].isna().all()


def test_columns_become_rows_for_prepare_with_a_test_set_apart(script, tmp_path, monkeypatch):
    """The block that makes records of several columns, as it stands in the lesson."""
    monkeypatch.chdir(tmp_path)
    lesson = re.sub(r"^# ?", "", source_file("05_dataset_prep").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", lesson, re.DOTALL) if "mine-test" in b]
    count = 200
    table = small([f"message {n} about something else {n * n}" for n in range(count)])
    table.assign(product="lamp").to_csv("mine.csv", index=False, sep=";", encoding="cp1252")
    exec(block, vars(script))
    train, test = (Path(f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in ("mine", "mine-test"))
    assert len(train) + len(test) == count and 8 < len(test) < 35
    assert validate("mine.jsonl", "chat").bad_rows == 0
    done = data_prep.prepare("mine.jsonl", test=[json.loads(line) for line in test], steps=["validate", "split"])
    assert len(done.rows) == len(train) and json.loads(data_prep.answer_of(done.rows[0])) == {
        "category": "billing", "product": "lamp"
    }  # fmt: skip
