"""The script of section 2, taken from the lesson: what its steps do and say of broken exports, and that it runs alone."""

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import SLOW, cpu_below

from course_utils import assets, preflight
from course_utils.data_prep.validation import validate
from course_utils.errors import CourseError
from course_utils.evidence import lesson_02, lesson_05
from course_utils.lessons import source_file

NOUNS = (
    "bookcase lamp sofa kettle toaster drill router webcam monitor keyboard armchair rug mirror cot stroller helmet".split()
)


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
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PSEUDONYM_KEY", "of the tests")
    monkeypatch.chdir(tmp_path)


def kept(rows):
    return rows[rows["why"] == ""].reset_index(drop=True)


@pytest.fixture(scope="module")
def table(script, tmp_path_factory):
    """Three hundred usable rows of the export."""
    file = tmp_path_factory.mktemp("export") / "tickets.csv"
    lesson_05.write_export(file)
    usable = kept(script.flag_unusable(script.read_table(file))[0])
    return usable.head(300)[["ticket", "customer", "message", "category", "escalation", "order_id", "note"]]


def random_texts(count, words=8, vocabulary=3000):
    """Messages that have nothing in common."""
    rng = random.Random(0)
    return [" ".join(f"word{rng.randrange(vocabulary)}" for _ in range(words)) for _ in range(count)]


def correct(*lines, file="corrections.csv"):
    """Write what a person decided: lines of ticket, field and right."""
    Path(file).write_text("\n".join(["ticket,field,right", *lines]), encoding="utf-8")


def small(texts, labels=None, customers=None, **columns):
    number = len(texts)
    rows = {"ticket": [f"t{i}" for i in range(1, number + 1)], "message": texts, "category": labels or ["billing"] * number,
            "escalation": ["none"] * number, "customer": customers or [f"c{i}" for i in range(number)],
            "order_id": [None] * number, "note": [f"note {i}" for i in range(number)]}  # fmt: skip
    return pd.DataFrame(rows | columns)


def readable(script, rows):
    """The rows that steps 1 and 2 leave, as step 3 gets them."""
    return kept(script.flag_unusable(script.apply_corrections(rows)[0])[0])


def test_rows_that_cannot_be_used_have_a_reason(script, monkeypatch):
    monkeypatch.setitem(script.STOP, "unusable", 1)
    says = "where is my parcel"
    labels = ["billing ", "billing", None, "Billing", "billing", "billing"]  # a blank behind a label is no other label
    rows = small([says, " ", says, says, "hi there", says], labels, order_id=[None] * 5 + ["TB-12345"])
    flagged, report = script.flag_unusable(rows)
    unknown = "unknown label"
    assert list(flagged["why"]) == ["", "no message", unknown, unknown, "says nothing", "another ticket's number"]
    assert "6 rows: " in report and "'unknown label': 2" in report
    monkeypatch.setattr(script, "RENAME", {"category": {"Billing": "billing"}})
    assert list(script.flag_unusable(small([says] * 2, ["Billing", "billing"]))[0]["why"]) == ["", ""]
    copied = small(["tb 12345 is late again"], order_id=["TB-12345"])
    assert list(script.flag_unusable(copied)[0]["why"]) == [""]


def test_a_form_that_nobody_filled_in_is_known_by_its_note(script, monkeypatch):
    monkeypatch.setitem(script.STOP, "unusable", 1)
    rows = small([f"where is parcel number {n}" for n in range(9)], note=["customer wrote"] * 8 + ["parcel late"])
    assert list(script.flag_unusable(rows)[0]["why"]) == ["form left as it opened"] * 8 + [""]
    monkeypatch.setattr(script, "NOTE", None)
    assert set(script.flag_unusable(rows)[0]["why"]) == {""}


LEAKS = "my kettle leaks at the base since monday"
COPIES = [LEAKS, LEAKS + " please", "where is my parcel", "where is my parcel now", "gift wrap for presents?"]


def test_many_notes_or_one_under_many_labels_are_no_unfilled_forms(script):
    """A column of notes in which people choose among texts, as IT desks do when they close a ticket."""
    texts = [f"where is parcel number {n}" for n in range(80)]
    rows = small(texts, ["billing", "defect", "account", "returns"] * 20, note=["Resolved"] * 80)
    assert set(script.flag_unusable(rows)[0]["why"]) == {""}
    rows = small(texts, ["billing"] * 80, note=[f"Closed: {n % 5}" for n in range(80)])
    assert set(script.flag_unusable(rows)[0]["why"]) == {""}
    flagged, report = script.flag_unusable(small(texts, note=["As it opens"] * 20 + [f"n{n}" for n in range(60)]))
    assert list(flagged["why"]) == ["form left as it opened"] * 20 + [""] * 60 and "As it opens" in report


def test_it_counts_every_unknown_label_and_what_it_leaves_in(script, monkeypatch):
    monkeypatch.setitem(script.STOP, "unusable", 1)
    texts = [f"where is parcel number {n}" for n in range(30)]
    labels = [f"wrong {n % 15}" for n in range(29)] + ["billing"]
    texts[0], texts[1] = "<p>where is my parcel</p>", "where is my parcel\n-- \nJ. Doe\nThis e-mail is confidential"
    _, report = script.flag_unusable(small(texts, labels))
    assert "'wrong 0': 2" in report and "and 6 others, in 11 rows" in report and "2 rows hold HTML" in report


def test_one_of_each_group_of_copies_stays_and_none_that_contradicts(script):
    rows, report = script.flag_copies(
        readable(script, small(COPIES, ["defect", "defect", "delivery", "billing", "question"]))
    )
    assert list(rows["why"]) == ["", "a copy", "contradicts a copy", "contradicts a copy", ""]
    assert re.findall(r"\d+", report) == ["0", "0", "1", "0", "2"] and report.endswith("2 contradict a copy")


def test_a_clear_majority_of_copies_settles_a_contradiction(script):
    texts = [f"{LEAKS}{' please' * (n % 2)}" for n in range(4)] + ["where is my parcel"] * 3
    rows, report = script.flag_copies(
        readable(script, small(texts, ["defect", "returns", "defect", "defect", "billing", "delivery", "billing"]))
    )
    assert list(rows["why"]) == ["", "a copy", "a copy", "a copy"] + ["contradicts a copy"] * 3
    assert rows["category"][0] == "defect" and "3 copies (1 outvoted)" in report


def test_labels_that_contradict_more_often_than_by_chance_stop_and_templates_do_not(script):
    """Half of the rows are copies whose people disagree now and then, and that is no wrong join."""
    rng, texts = random.Random(1), random_texts(100, words=9)
    labels = [rng.choice(["billing", "defect", "returns"]) for _ in texts]
    others = [label if rng.random() < 0.7 else "account" for label in labels]
    rows, _ = script.flag_copies(readable(script, small(texts * 2, labels + others)))
    assert (rows["why"] == "contradicts a copy").mean() > 0.2
    with pytest.raises(ValueError, match="joined wrongly"):
        script.flag_copies(readable(script, small(texts * 2, labels + labels[1:] + labels[:1])))


def test_a_persons_decision_settles_a_contradiction(script):
    """One row decided: it stays and the others are its copies. Both decided, with different labels: both stay."""
    rows = small(COPIES, ["defect", "defect", "delivery", "billing", "question"])
    correct("t4,category,delivery")
    decided, _ = script.flag_copies(readable(script, rows))
    assert list(decided["why"]) == ["", "a copy", "a copy", "", ""] and decided["category"][3] == "delivery"
    correct("t4,category,delivery", "t3,category,billing")
    assert list(script.flag_copies(readable(script, rows))[0]["why"]) == ["", "a copy", "", "", ""]


def test_a_field_that_somebody_read_decides_no_other_field_of_the_copies(script):
    """The label that a person wrote holds for all copies of the message; the rest of the record is as open as before."""
    rows = small([LEAKS, LEAKS + " please"], ["defect", "returns"], escalation=["none", "money"])
    correct("t1,category,defect", file="corrections-1.csv")
    flagged, report = script.flag_copies(readable(script, rows))
    assert list(flagged["why"]) == ["contradicts a copy"] * 2 and report.endswith("2 contradict a copy")
    assert list(flagged["category"]) == ["defect"] * 2
    correct("t2,escalation,money", file="corrections-2.csv")
    flagged, report = script.flag_copies(readable(script, rows))  # each field was read, in another copy
    assert list(flagged["why"]) == ["", "a copy"] and report.endswith("0 contradict a copy")
    assert list(flagged.loc[0, ["category", "escalation"]]) == ["defect", "money"]


def test_a_majority_settles_the_fields_that_nobody_read(script):
    rows = small([LEAKS] * 4, ["defect"] * 2 + ["returns"] * 2, escalation=["none"] * 3 + ["money"])
    correct("t4,category,returns")
    stays = kept(script.flag_copies(readable(script, rows))[0])
    assert stays[["ticket", "category", "escalation"]].values.tolist() == [["t1", "returns", "none"]]


def test_whoever_wrote_a_test_message_is_not_trained_on(script):
    pd.DataFrame({"message": ["gift wrap please now"], "customer": ["c2"]}).to_csv("test.csv", index=False)
    rows, report = script.flag_copies(
        readable(script, small([*COPIES, "my lamp is too dark"], customers=["c1", "c1", "c2", "c1", "c1", "c2"]))
    )
    tested = "its customer is in the test set"
    assert list(rows["why"]) == ["", "a copy", tested, "", "", tested]  # a copy of a message that goes stays
    assert "0 rows are in the test set, 2 more are of its customers" in report and "names no customers" not in report
    with pytest.raises(ValueError, match="from fewer customers"):
        script.flag_copies(readable(script, small(COPIES, customers=["c1", *["c2"] * 4])))
    pd.DataFrame({"message": ["gift wrap please now"]}).to_csv("test.csv", index=False)
    assert "names no customers" in script.flag_copies(readable(script, small(COPIES[:1])))[1]


def test_what_a_reader_drops_goes_with_its_copies(script):
    correct("t1,category, Drop", "t3,category,drop", "t4,category,delivery")
    read, report = script.apply_corrections(small(COPIES, ["defect", "defect", "delivery", "billing", "question"]))
    assert report == "1 rows read, 1 labels corrected, 2 rows to drop"
    rows, _ = script.flag_copies(script.prepare(read))
    assert list(rows["why"]) == ["dropped by a reader"] * 3 + ["", ""]  # t4 was read, so it is no copy to go
    correct("t2,category,drop", "t2,escalation,money")  # dropped by who read the one field, labelled by who read the other
    flagged = script.flag_copies(script.apply_corrections(small(COPIES))[0])[0].set_index("ticket")
    assert flagged.loc["t2", "why"] == "dropped by a reader"


def test_messages_of_the_test_set_and_their_copies_go(script):
    pd.DataFrame({"message": [LEAKS]}).to_csv("test.csv", index=False)
    rows, report = script.flag_copies(readable(script, small(COPIES[:3])))
    assert list(rows["why"]) == ["in the test set"] * 2 + [""] and report.startswith("2 rows are in the test set")
    pd.DataFrame({"message": [f"Any news on this? On 3 March I wrote:\n> {ASKED['en']}"]}).to_csv("test.csv", index=False)
    rows, _ = script.flag_copies(readable(script, small([ASKED["en"], "where is my parcel"])))
    assert list(rows["why"]) == ["in the test set", ""]  # a test message quotes it


def test_copies_are_not_found_by_way_of_a_third_and_marks_make_a_difference(script):
    words = [f"w{chr(97 + n)}" for n in range(24)]
    chain = [" ".join(words[start : start + 16]) for start in (0, 3, 6)]
    prices = [f"{LEAKS} and it cost me {price}" for price in ("€1", "$1")]
    rows, _ = script.flag_copies(readable(script, small([*chain, *prices, "gift wrap please now", "Gift  wrap please now"])))
    assert list(rows["why"]) == ["", "a copy", "", "", "", "", "a copy"]


ASKED = {
    "en": "The left ear of the headphones I bought in January is dead.\nDo I send them back to you or to the shop?",
    "de": "Mein Paket wurde laut Verfolgung zugestellt, aber bei mir\nist bis heute nichts angekommen.",
    "fr": "L'écran de ma tablette reste noir depuis la mise à jour,\nque dois-je faire pour qu'elle soit réparée ?",
}
QUOTES = [
    ("en", "Fwd: headphones\n\n{text}"),
    ("en", "FW: ear\n\n-----Original Message-----\nFrom: Lee\nSent: 3 March 2025\nTo: Service\nSubject: ear\n\n{text}"),
    ("en", "Any news on this?\n\nOn Wed, 5 Mar 2025 at 17:45, Lee\n<lee@example.com> wrote:\n{quoted}\n\nPlease answer."),
    ("en", "---------- Forwarded message ---------\nFrom: Lee <lee@example.com>\nDate: 4 Mar 2025\nSubject: ear\n\n{text}"),
    ("de", "WG: Paket\n\n-----Ursprüngliche Nachricht-----\nVon: Eva\nGesendet: 3. März 2025\nBetreff: Paket\n\n{text}"),
    ("de", "Noch keine Antwort!\n\nAm 03.03.2025 um 10:12 schrieb Eva Klein:\n>> {quoted}"),
    ("fr", "TR : tablette\n\nDe : Jean\nEnvoyé : lundi 3 mars 2025 09:14\nÀ : Service\nObjet : tablette\n\n{text}"),
    ("fr", "Je relance ma demande.\n\nLe 3 mars 2025 à 10:12, Jean a écrit :\n{quoted}"),
]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("language", "form"), QUOTES)
def test_a_forward_or_a_quotation_is_a_copy_of_what_it_holds(script, language, form, flat):
    text = ASKED[language]
    other = form.format(text=text, quoted=text.replace("\n", "\n> "))
    texts = [" ".join(one.split()) if flat else one for one in (text, other)]
    assert script.nearest_before(texts) == script.nearest_before(texts[::-1]) == [0, 0]


def test_messages_above_the_same_quotation_are_no_copies(script):
    """People answer the desk's own mails, some of which stand in the export too."""
    sent = "Thank you for your message. We have received it and will answer within two working days. Your service team"
    sides = ("left", "right", "upper", "lower")
    asked = [f"the {noun} has a scratch on its {side} side" for noun in NOUNS for side in sides]
    answers = [f"{text}\n\nOn 3 May, Service wrote:\n> {sent}" for text in asked]
    assert script.nearest_before([*answers, sent]) == list(range(len(answers) + 1))
    few = ["it is late\n> and I have paid for express delivery", "it is late\n> and I need another one by Monday"]
    assert script.nearest_before(few) == [0, 1]
    assert script.nearest_before(["where is my parcel", f"where is my parcel? {asked[0]}"]) == [0, 1]  # short, so anybody's


OTHERS, CALL = random_texts(200), "please call me back about my request"
PETITION = "Please give the bicycles of the station at the park a roof, because they rust in the rain. "
SIGNED = [f"{PETITION}{one} {other}" for one in "Ana Ben Cleo Dov Eda Fay Gus Hal".split()
          for other in "Ruiz Stone Turk Unger Vale Wirth Xu Young".split()]  # fmt: skip
INSTRUCTION = "Read the message of the customer and answer with the name of the category, and with nothing else. " * 2
FOOTER = " This message and what is attached to it are confidential and meant for its reader only."
THINGS = [f"{color} {thing}" for color in ("red", "blue", "black", "white", "green") for thing in NOUNS]
ASKINGS = [f"{start} {thing}" for thing in THINGS for start in ("where is my", "please cancel my")]
ALIKE = {
    "nine copies": ([*OTHERS, *(f"{text} please" for text in OTHERS[:9])], [*range(200), *range(9)]),
    "the same below an instruction that all share": (
        [INSTRUCTION + text for text in [*OTHERS, *(f"{text} please" for text in OTHERS[:9])]],
        [*range(200), *range(9)],
    ),
    "a template that is sent every day": ([*OTHERS, *[CALL] * 60], [*range(200), *[200] * 60]),
    # all pieces of its text are often there, so that only the names under it are left
    "a mass mailing, whoever signs it": ([*OTHERS, *SIGNED], [*range(200), *[200] * 64]),
    "the same footer below all": ([text + FOOTER for text in OTHERS], [*range(200)]),
    "requests that share a product, and no request": ([*ASKINGS, ASKINGS[3] + " today"], [*range(len(ASKINGS)), 3]),
    "tags and entities": (
        ["Die Biotonne in der Schulstraße wurde am Montag nicht geleert",
         "<p>Die Biotonne in der Schulstra&szlig;e wurde am <b>Montag</b> nicht geleert</p>"],
        [0, 0],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALIKE)
def test_what_is_a_copy_and_what_is_none(script, case):
    texts, places = ALIKE[case]
    assert script.nearest_before(texts) == places


def test_thousands_of_rows_take_seconds(script):
    texts = random_texts(4_000, words=16, vocabulary=20_000)
    with cpu_below(12 * SLOW):  # 20,000 in a minute
        script.nearest_before(texts)


def test_customers_are_told_apart_blank_ones_are_nobody_and_texts_like_none_are_texts(script, monkeypatch):
    rows = script.prepare(small(["a", "b", "c"], customers=["R-1", "r-1 ", "R-2"]))
    assert rows["person"].nunique() == 2
    monkeypatch.setitem(script.STOP, "unusable", 1)
    texts = ["None", "NA", "my unknown parcel", "it says n/a", "null"]
    small(texts, customers=[" ", "-", "k.A.", "Anonym", "c-1"]).to_csv("mine.csv", index=False)
    rows, _ = script.flag_unusable(script.read_table("mine.csv"))
    assert "no message" not in set(rows["why"]) and list(rows["message"]) == texts
    assert list(rows["person"]) == ["alone t1", "alone t2", "alone t3", "alone t4", "c-1"]
    monkeypatch.setitem(script.STOP, "redacted", 0)
    assert list(script.redact(rows)[0]["message"]) == texts


def test_every_row_is_written_or_has_a_reason(script, table):
    table.to_csv("mine.csv", index=False)
    script.main("mine.csv")
    rejects = pd.read_csv("rejects.csv", dtype=str)
    assert list(rejects) == ["ticket", "why", "copy_of"] and rejects["ticket"].is_unique
    copies = rejects[rejects["why"] == "a copy"]
    assert len(copies) and not set(copies["copy_of"]) & set(rejects["ticket"])  # what stayed was not left out itself
    assert rejects["copy_of"].notna().sum() == len(copies)
    written = sum(
        len(Path("mine-ready", f"{part}.jsonl").read_text().splitlines()) for part in ("train", "validation", "test")
    )
    assert len(rejects) + written == len(table)


def test_a_contradiction_goes_to_a_person_without_names(script, table):
    leaks = "I'm Selin Karagöz, my kettle leaks at the base since monday"
    more = small([leaks, leaks + " please"], ["defect", "returns"])
    pd.concat([table, more]).to_csv("mine.csv", index=False)
    script.main("mine.csv")
    first = pd.read_csv("contradictions.csv", dtype=str)
    assert list(first["copies"]) == ["1", "1"] and set(first["field"]) == {"category"}  # they agree on the escalation
    assert set(first["ticket"]) == {"t1", "t2"} and set(first["label"]) == {"defect", "returns"}
    assert not first["message"].str.contains("Selin").any() and first["right"].isna().all()
    first.head(1).assign(right=first["label"]).to_csv("corrections.csv", index=False)
    _, reports = script.main("mine.csv")
    assert "0 contradict" in reports["flag_copies"]


def test_contradictions_leave_out_the_fields_that_were_read(script, table):
    """The category of one message is disputed, as in the lesson's example, and of another one both fields are."""
    fuse, more = "The toaster trips the fuse, I want my money back", " please"
    disputed = small(
        [fuse, fuse + more, fuse, LEAKS, LEAKS + more], ["defect", "returns", "defect", "defect", "returns"],
        ticket=["2801", "2802", "2803", "t1", "t2"], escalation=["none"] * 4 + ["money"],
    )  # fmt: skip
    pd.concat([table, disputed]).to_csv("mine.csv", index=False)
    lines = pd.DataFrame({"ticket": ["t1"], "field": "category", "right": "returns"})
    lines.to_csv("corrections-1.csv", index=False)
    script.main("mine.csv")
    written = Path("contradictions.csv").read_text(encoding="utf-8").splitlines()
    example = "\n".join(f"# {line}" for line in ["```text", *written[:3], "```"])
    assert example in source_file("05_dataset_prep").read_text(encoding="utf-8"), example
    assert [line.split(",")[:5] for line in written[3:]] == [
        ["t1", "escalation", "", "none", "1"], ["t2", "escalation", "", "money", "1"]
    ]  # fmt: skip
    lines.assign(ticket="t2", right="defect").to_csv("corrections-2.csv", index=False)  # a second reader disagrees
    script.main("mine.csv")
    assert Path("contradictions.csv").read_text(encoding="utf-8").splitlines() == written


def test_the_key_is_made_once_and_for_nobody_else(script, tmp_path, monkeypatch):
    assert script.read_key() == "of the tests"
    monkeypatch.delenv("PSEUDONYM_KEY")
    file = tmp_path / "key"
    made = script.read_key(file)
    assert len(made) == 32 and script.read_key(file) == made and file.stat().st_mode & 0o077 == 0
    assert script.read_key(tmp_path / "other") != made


def test_personal_data_are_replaced_and_counted(script):
    rows, report = script.redact(small(["write to selin@mail.example please", "where is my parcel"]))
    assert "selin@mail.example" not in rows["message"][0] and rows["message"][1] == "where is my parcel"
    assert report.startswith("personal data in 1 of 2 rows: {'EMAIL': 1}. NOT looked for: ")


def test_order_numbers_stay_in_until_they_are_listed(script, monkeypatch):
    assert script.hide_people("order TB-40512", "c-1")[0] == "order TB-40512"
    monkeypatch.setattr(script, "NUMBERS", {r"\bTB[- ]?\d{5}\b": "[ORDER]"})
    assert script.hide_people("TB-40512, tb40512", "c-1")[0] == "[ORDER], [ORDER]"
    monkeypatch.setattr(script, "NUMBERS", {r"\b\d{15}\b": "[CHIP]"})  # else some of them are phone numbers
    assert script.hide_people("call me about chip 276098102345678", "c-1")[0] == "call me about chip [CHIP]"


def test_messages_that_differed_only_in_what_was_hidden_are_copies(script, monkeypatch):
    monkeypatch.setattr(script, "NUMBERS", {r"\bTB[- ]?\d{5}\b": "[ORDER]"})
    monkeypatch.setitem(script.STOP, "redacted", 0)
    pd.DataFrame({"message": ["where is TB-11111 please"]}).to_csv("test.csv", index=False)
    texts = ["where is TB-40512 please", "TB-40512 came broken in two", "TB-77777 came broken in two", "it never came"]
    rows, report = script.redact(small(texts))
    assert list(rows["why"]) == ["in the test set", "", "a copy", ""] and report.endswith("2 rows now read like another")


def test_a_customers_name_goes_out_as_a_word_and_not_within_others(script, monkeypatch):
    assert script.hide_people("zorvik and Zorvik of Zorviktown", "Zorvik")[0] == "zorvik and [CUSTOMER] of Zorviktown"
    assert script.hide_people("yours, zorvik blumm", "Zorvik Blumm")[0] == "yours, [CUSTOMER]"
    text = "write to a@mail.example, yours Selin Karagöz"
    assert "Selin" not in script.hide_people(text, "c-2")[0]
    monkeypatch.setattr(script, "ALLOW", ["Selin Karagöz"])
    assert "Selin Karagöz" in script.hide_people(text, "c-2")[0]


def test_without_the_courses_package_it_says_what_to_install(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "course_utils.data_prep", None)
    with pytest.raises(ValueError, match="pip install"):
        script.hide_people("write to selin@mail.example", "c-1")


def test_no_customer_is_in_two_parts(script, table):
    rows, report = script.split(readable(script, table))
    assert (rows.groupby("person")["part"].nunique() == 1).all()
    shares = rows["part"].value_counts(normalize=True)
    assert set(shares.index) == {"train", "validation", "test"} and 0.05 < shares["test"] < 0.16
    assert f"{rows['person'].nunique()} customers" in report


def test_parts_that_are_too_small_stop(script, monkeypatch):
    """Few customers fall unevenly; each seed deals anew, and some leave a part almost empty."""
    rows = readable(script, small([f"message {n} is here" for n in range(99)], customers=[f"c{n % 33}" for n in range(99)]))
    found = set()
    for seed in range(20):
        monkeypatch.setattr(script, "SEED", seed)
        try:
            found.add("fine" if script.split(rows)[0]["part"].value_counts().min() >= 5 else "small")
        except ValueError as error:
            assert "another SEED" in str(error)
            found.add("stops")
    assert found == {"fine", "stops"}


def test_the_test_set_stays_when_rows_are_added_or_decided(script, table):
    """Next month's export has the customers of this one in the parts in which they were."""
    rows = readable(script, table)
    now = script.split(rows.iloc[::2].reset_index(drop=True))[0].groupby("person")["part"].first()
    later = script.split(rows)[0].groupby("person")["part"].first()
    assert (later.loc[now.index] == now).all() and len(later) > len(now)


@pytest.mark.parametrize(
    ("encoding", "separator"), [("utf-8", ","), ("utf-8-sig", ";"), ("cp1252", ";"), ("cp1252", "\t"), ("utf-16", "\t")]
)
def test_an_export_opens_whatever_its_encoding_and_separator(script, encoding, separator):
    rows = small(["Die Lampe kostet 5 €, war aber billiger", "it's “broken”; really", None])
    rows.to_csv("mine.csv", index=False, encoding=encoding, sep=separator)
    assert script.read_table("mine.csv").fillna("").to_dict("list") == rows.fillna("").to_dict("list")


def test_a_line_of_excels_and_bytes_of_another_encoding_are_no_trouble(script, capsys):
    rows = small(["Die Lampe kostet 5 €, Grüße", "één überraschung", "wáár blijft hij", "plain"])
    lines = rows.to_csv(index=False, sep=";").splitlines()
    data = [line.encode("cp1252" if "wáár" in line else "utf-8") for line in ["sep=;", *lines]]
    Path("mine.csv").write_bytes(b"\r\n".join(data))
    assert list(script.read_table("mine.csv")["message"]) == list(rows["message"])
    assert "2 bytes are not UTF-8" in capsys.readouterr().out
    rows.loc[0, "message"] = "CAFÉ” und Ü…"  # in Windows-1252 these two are also UTF-8, of other letters
    rows.to_csv("mine.csv", index=False, encoding="cp1252")
    assert list(script.read_table("mine.csv")["message"]) == list(rows["message"])
    assert "read as Windows-1252" in capsys.readouterr().out  # it may be another encoding of bytes


@pytest.mark.parametrize("separator", [";", ","])
@pytest.mark.parametrize("header", ["with", "without"])
def test_a_separator_at_the_end_of_each_line_makes_no_column(script, separator, header):
    rows = small(["where is my parcel", "the lamp; it's broken, alas", None], right=[None] * 3)  # empty, but it has a name
    first, *lines = rows.to_csv(index=False, sep=separator).splitlines()
    lines = [first + separator * (header == "with"), *(line + separator for line in lines)]
    Path("mine.csv").write_text("\n".join(lines), encoding="utf-8")
    assert script.read_table("mine.csv").fillna("").to_dict("list") == rows.fillna("").to_dict("list")


def test_an_export_without_the_named_columns_says_which_it_has(script):
    small(["a"]).rename(columns={"customer": "who"}).to_csv("mine.csv", index=False)
    with pytest.raises(ValueError, match=r"no column \{'customer'\}, but \[.*'who'"):
        script.main("mine.csv")


@pytest.mark.parametrize(
    ("text", "labels", "report"),
    [
        ("ticket,field,right\nt1,category,Faults\nt2,category,defect\n", ["billing", "defect", "billing"],
         "1 rows read, 1 labels corrected, 0 rows to drop; not in LABELS: {'Faults': 1}"),
        # as a spreadsheet saves it, with a second round's header pasted in between and a row corrected twice
        ("ticket;field;right\nt1;category;defect\nticket;field;right\nt1;category;account \n",
         ["account", "billing", "billing"], "1 rows read, 1 labels corrected, 0 rows to drop"),
        ("ticket,field,right\nt2,category,Defect\n", ["billing", "defect", "billing"],
         "1 rows read, 1 labels corrected, 0 rows to drop"),
        ("ticket,field,right\nt1,Category,defect\nt2,category,defect\n", ["billing", "defect", "billing"],
         "1 rows read, 1 labels corrected, 0 rows to drop; no such field: {'Category'}"),
        ("ticket,field,right\nt2,category,billing\n", ["billing"] * 3, "1 rows read, 0 labels corrected, 0 rows to drop"),
        (None, ["billing"] * 3, "nobody has read any row: there is no corrections*.csv"),
    ],
)  # fmt: skip
def test_what_somebody_corrected_is_applied(script, monkeypatch, text, labels, report):
    monkeypatch.setattr(script, "RENAME", {"category": {"Defect": "defect"}})
    if text:
        Path("corrections.csv").write_text(text, encoding="cp1252")
    rows, said = script.apply_corrections(small(["a", "b", "c"]))
    assert list(rows["category"]) == labels and said == report


def test_spaces_around_a_ticket_do_not_matter_and_unknown_tickets_are_named(script):
    correct("  t2 ,category,defect", "T-9 ,category,defect")
    rows, report = script.apply_corrections(small(["a", "b", "c"]))
    assert list(rows["category"]) == ["billing", "defect", "billing"]
    assert report == "1 rows read, 1 labels corrected, 0 rows to drop; 1 tickets are not in the table: ['T-9']"
    correct("t2,category,defect", ",category,defect", *(f"x{n},category,defect" for n in range(7)))
    assert "8 tickets are not in the table: ['', 'x0', 'x1', 'x2', 'x3']" in script.apply_corrections(rows)[1]


def test_labels_written_by_hand_need_neither_an_old_label_nor_a_filled_in_form(script, monkeypatch):
    """The hundred tickets that somebody labels for training are drawn from all of them, unlabelled ones too."""
    monkeypatch.setitem(script.STOP, "unusable", 1)
    texts = [f"where is parcel number {n}" for n in range(49)] + [" "]
    rows = small(texts, [None] + ["billing"] * 49, note=["customer wrote"] * 50)
    fields = [("category", "delivery"), ("escalation", "none")]
    lines = [f"t{n},{field},{right}" for n in (1, 2, 50, 99) for field, right in fields] + ["t3,category,delivery"]
    correct(*lines, file="corrections-0.csv")
    corrected, report = script.apply_corrections(rows)
    assert "1 tickets are not in the table" in report
    why = script.flag_unusable(corrected)[0].set_index("ticket")["why"]
    assert list(why.index[why == ""]) == ["t1", "t2"]
    assert why["t3"] == "form left as it opened" and why["t50"] == "no message"


def test_every_round_of_corrections_counts_and_each_field_is_read_apart(script, table):
    table.to_csv("mine.csv", index=False)
    script.main("mine.csv")
    first = pd.read_csv("to_read.csv", dtype=str)
    assert list(first["field"][:4]) == ["category", "escalation"] * 2  # the worst of each first
    read = first.groupby("field").head(1).iloc[:1]
    read.assign(right=read["label"]).to_csv("corrections-1.csv", index=False)
    script.main("mine.csv")
    again = pd.read_csv("to_read.csv", dtype=str)
    both = again.head(1)
    both.assign(right=both["label"]).to_csv("corrections-2.csv", index=False)
    rows, _ = script.main("mine.csv")
    asked = set(map(tuple, pd.read_csv("to_read.csv", dtype=str)[["ticket", "field"]].values))
    assert not asked & {*map(tuple, read[["ticket", "field"]].values), *map(tuple, both[["ticket", "field"]].values)}
    other = next(name for name in script.LABELS if name != read["field"].iloc[0])
    assert not rows.set_index("ticket")[f"{other} read"].get(read["ticket"].iloc[0], False)


def test_a_ticket_that_stands_twice_stops(script, table):
    pd.concat([table, table.head(1)]).to_csv("mine.csv", index=False)
    with pytest.raises(ValueError, match=f"ticket is empty or stands twice in 1 rows: .*'{table['ticket'][0]}'"):
        script.main("mine.csv")


@pytest.mark.parametrize("label", ["Sperrgut", "", "N/A"])
def test_a_test_message_whose_label_nobody_knows_stops(script, table, label):
    test = table.tail(20).assign(category=["billing"] * 19 + [label])
    test.to_csv("test.csv", index=False)
    table.head(200).to_csv("mine.csv", index=False)
    with pytest.raises(ValueError, match=f"test.csv: 1 labels are not in LABELS: .*'{label}'"):
        script.main("mine.csv")


def test_it_names_the_customer_that_the_test_set_takes_most_rows_of(script):
    small(["where is my kettle, it never came"], customers=["web form"]).to_csv("test.csv", index=False)
    customers = ["web form"] * 3 + ["c-9"] * 4
    rows = readable(script, small([f"my {noun} never came, please help" for noun in NOUNS[:7]], customers=customers))
    assert "3 more are of its customers (most: 'web form')" in script.flag_copies(rows)[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ticket,field,Right\nt1,category,defect\n", r"corrections\.csv has no column {'right'}"),
        ("ticket,field,right\nt1,category,Defects\n", "0 rows read"),
        ("ticket,field,right\nt7,category,defect\n", "0 rows read"),
    ],
)
def test_corrections_of_which_none_can_be_used_stop(script, text, said):
    Path("corrections.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        script.apply_corrections(small(["a", "b", "c"]))


def test_neither_a_few_wrong_labels_nor_few_rows_stop_anything(script, table):
    """The lesson says so: with one label in twenty that has slipped, every report looks healthy."""
    rows = kept(script.flag_copies(readable(script, table))[0])
    slipped = rows["category"].where(rows.index % 20 != 0, rows["category"].shift(-1).fillna("billing"))
    script.check_labels(rows.assign(category=slipped))
    # a classifier of a hundred rows may know nothing; that is no proof that the labels have slipped
    rows = small(
        [f"word{n} word{n + 1}" for n in range(100)], ["billing", "defect"] * 50, escalation=["none", "danger"] * 50
    )
    script.check_labels(rows.assign(person=rows["customer"], note=None))


def test_broken_exports_stop_and_say_why(script, table):
    """The cell of section 3, as it stands in the lesson."""
    lesson_05.write_export("tickets.csv")
    source = source_file("05_dataset_prep").read_text(encoding="utf-8")
    cell = next(cell for cell in source.split("# %%\n") if cell.startswith("healthy = ")).partition("\n# %%")[0]
    space = {**vars(script)}
    exec(cell, space)
    reports = {name: row["what it says"] for name, row in space["said"].items()}
    assert len(reports) == 5 and all(report.startswith("stops: ") for report in reports.values()), reports
    assert "'DELIVERY'" in reports["labels in capitals"]
    assert int(re.search(r"(\d+) contradict", reports["a wrong join, every message twice"])[1]) > 200
    assert "in 0 of 400" in reports["TEXT names the wrong column"] and "100%" in reports["every row has the same customer"]
    assert abs(float(re.search(r"kappa (\S+)\.", reports["labels have slipped by one row"])[1])) < 0.1


def test_it_runs_alone_on_several_columns(table, script):
    with pytest.raises(CourseError, match="exists"):
        Path("there.py").write_text("mine")
        lesson_05.clean_script("there.py")
    assert "python clean_export.py YOUR_FILE.csv" in lesson_05.clean_script("clean_export.py")
    table.to_csv("mine.csv", index=False)
    environment = os.environ | {"PYTHONPATH": str(assets.root())}
    command = [sys.executable, "clean_export.py", "mine.csv"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert [line.split()[0] for line in run.stdout.splitlines()] == [
        "apply_corrections", "flag_unusable", "flag_copies", "redact", "split", "check_labels", "write"
    ]  # fmt: skip
    for part in ("train", "validation", "test"):
        assert validate(f"mine-ready/{part}.jsonl", "prompt_completion", target="trl").ok
        for line in Path(f"mine-ready/{part}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            messages = row["prompt"] + row["completion"]
            assert row["ticket"] in set(table["ticket"]) and len(row["completion"]) == 1
            assert [message.keys() for message in messages] == [{"role", "content"}] * 3
            assert list(json.loads(messages[-1]["content"])) == ["category", "escalation"]
    table.assign(customer="web form").to_csv("mine.csv", index=False)
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 1 and run.stderr.startswith("Stopped: one customer has 100%") and "Traceback" not in run.stderr
    assert run.stdout.count("\n") == 4  # what the steps before it found
    Path("sheet.csv").write_bytes(b"PK\x03\x04rest")
    for file, message in (("nowhere.csv", "there is no nowhere.csv"), ("sheet.csv", "as CSV")):
        with pytest.raises(ValueError, match=message):
            script.main(file)


@pytest.mark.slow
def test_its_files_go_through_preflight_into_lesson_02s_program(script, table, tiny_model):
    """The chain at work, in which nobody edits anything: export, files, check, adapter, score on one's own test messages."""
    test = table.tail(6).assign(message=lambda rows: rows["message"] + " write to selin@mail.example")
    test.to_csv("test.csv", index=False)
    table.head(150).to_csv("mine.csv", index=False)
    script.main("mine.csv")
    found = preflight.check("mine-ready/train.jsonl", tiny_model, evaluation="mine-ready/test.jsonl")
    assert found.ok and not {finding.code for finding in found.findings} & {"invalid-rows", "evaluation-in-training"}, found
    assert "selin" not in Path("mine-ready/test.jsonl").read_text(encoding="utf-8")
    lesson_02.train_script("mine-ready/train_adapter.py", base=tiny_model)
    for arguments, number in (([], "validation.jsonl"), (["test.jsonl"], "6 rows of test.jsonl")):
        command = [sys.executable, "-I", "train_adapter.py", *arguments]
        run = subprocess.run(command, cwd="mine-ready", capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr[-2000:]
        assert number in run.stdout and "escalation" in run.stdout and "product" not in run.stdout.partition("message:")[0]


def test_a_test_set_without_the_column_of_messages_stops(script, table):
    """Or it would be written with empty messages, and its copies trained on."""
    table.to_csv("mine.csv", index=False)
    table.head(40).rename(columns={"message": "text"}).to_csv("test.csv", index=False)
    with pytest.raises(ValueError, match=r"test.csv has no column \{'message'\}, but \[.*'text'"):
        script.main("mine.csv")


def test_the_tenth_round_of_corrections_counts_more_than_the_second(script):
    correct("t1,category,defect", file="corrections-2.csv")
    correct("t1,category,returns", file="corrections-10.csv")
    assert script.apply_corrections(small(["the lamp is broken"]))[0]["category"][0] == "returns"


@pytest.mark.parametrize("line", [2, 4])
def test_a_separator_within_a_text_that_is_not_quoted_stops(script, line):
    lines = [f"t{n},c{n},where is my parcel,billing,none" for n in range(1, 6)]
    lines[line - 2] = lines[line - 2].replace("where", "hello, where")
    Path("mine.csv").write_text("\n".join(["ticket,customer,message,category,escalation", *lines]), encoding="utf-8")
    with pytest.raises(ValueError, match=f"1 rows have more cells than the header, the first is row {line}"):
        script.read_table("mine.csv")


def test_a_name_that_is_also_a_word_stays_and_spaces_within_a_customers_name_do_not_matter(script):
    text = "Bill is wrong again, the Bill says 90"
    assert script.hide_people(text, "Bill")[0] == text
    rows = script.prepare(small(["a"] * 2, customers=["Anna  Smith", "anna smith "]))
    assert rows["person"].nunique() == 1


def test_a_form_whose_note_is_left_empty_is_known_too(script, monkeypatch):
    monkeypatch.setitem(script.STOP, "unusable", 1)
    texts = [f"where is parcel number {n}" for n in range(40)]
    rows = small(texts, ["question"] * 20 + ["billing"] * 20, note=[None] * 20 + [f"n{n}" for n in range(20)])
    assert list(script.flag_unusable(rows)[0]["why"]) == ["form left as it opened"] * 20 + [""] * 20


def test_texts_without_spaces_between_words_say_something(script):
    assert not script.says_nothing("我的水壶漏水了请退款") and script.says_nothing("你好")


def test_labels_filled_in_where_the_next_run_would_lose_them_stop(script, table):
    table.to_csv("mine.csv", index=False)
    script.main("mine.csv")
    lines = pd.read_csv("to_read.csv", dtype=str)
    lines.assign(right=lines["label"]).to_csv("to_read.csv", index=False)
    with pytest.raises(ValueError, match=r"to_read.csv has \d+ labels filled in.*corrections-1.csv"):
        script.main("mine.csv")


def test_every_kind_of_personal_data_is_in_the_report(script):
    texts = ["mail a@mail.example", "call +44 7911 123456", "card 4111 1111 1111 1111", "IBAN DE89370400440532013000",
             "from 192.168.13.7", "Kind regards,\nSelin Karagöz"]  # fmt: skip
    _, report = script.redact(readable(script, small([f"please help soon, {text}" for text in texts])))
    assert "CARD" in report and report.split("NOT")[0].count("': ") >= 6, report
