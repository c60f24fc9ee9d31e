"""`prepare`, its files, its report, and the command `course check-data`."""

import csv
import json
import os
import random
import re

import pytest
from data_prep import malformed
from data_prep.test_similarity import chat

from course_utils import cli, data_report
from course_utils.data_prep import prepare
from course_utils.data_prep.pipeline import PREPARED, STEPS, rows_of
from course_utils.errors import CourseError

THINGS = ["kettle", "lamp", "sofa bed", "desk", "monitor", "shelf", "carpet", "toaster", "chair", "blender"]


def rows(n=60):
    """Messages that share hardly more than their thing."""
    rng, made = random.Random(0), []
    words = (
        "since weeks nobody answers courier left neighbour refused parcel torn box empty label wrong street invoice missing "
        "paid twice card blocked screen flickers cable short leg wobbles colour faded switch sticks lid cracked smell burnt "
        "noise loud handle loose"
    ).split()
    for i in range(n):
        thing, number = THINGS[i % 10], 40_000 + 7 * i
        record = {"category": "delivery", "product": thing, "summary": f"Customer asks for {thing} of order {number}"}
        text = f"The {thing} of order {number}: {' '.join(rng.sample(words, 9))}, is anyone there?"
        made.append(chat(text, json.dumps(record), f"c-{i}"))
    return made


def write(folder, lines, name="export.jsonl"):
    path = folder / name
    path.write_bytes(b"".join(malformed.line_of(line) + b"\n" for line in lines))
    return path


def record(product, summary):
    return json.dumps({"category": "delivery", "product": product, "summary": summary})


@pytest.fixture
def export(tmp_path):
    """60 good rows and one of each kind of trouble."""
    good = rows()
    return write(
        tmp_path,
        [
            *good,
            b"not json",
            {"conversations": [{"from": "human", "value": "My stapler from order 77777 jams, send another"},
                               {"from": "gpt", "value": record("stapler", "Stapler of order 77777 jams")}]},
            chat("Where is the rug of order 55555 that I bought?", "As an AI I cannot say."),
            good[3],
            chat("Hello there. " + good[5]["messages"][1]["content"], good[5]["messages"][2]["content"], "c-5"),
            chat("My radio of order 66666 hums.\nRegards,\nSelin Karagöz, selin@example.org",
                 record("radio", "Radio of order 66666 hums"), "c-99"),
        ],
    )  # fmt: skip


def test_each_trouble_has_its_reason(export):
    done = prepare(export)
    assert {line: change.code for line, change in done.dropped.items()} == {
        61: "not_json", 64: "exact_duplicate", 65: "near_duplicate"}  # fmt: skip
    assert {line: [change.code for change in changes] for line, changes in done.flagged.items()} == {63: ["refusal"]}
    assert {(change.line, change.code) for change in done.changes if change.action == "changed"} >= {
        (62, "other_shape"), (66, "name"), (66, "email"), (66, "customer")}  # fmt: skip
    assert [n for _, n in done.counts] == [66, 65, 65, 63, 63]
    text = json.dumps(done.rows, ensure_ascii=False)
    assert "Karagöz" not in text
    assert "c-99" not in text  # served the split, and is gone
    assert "[NAME], [EMAIL]" in text


def test_conflicts_stay_and_are_told_unless_they_are_dropped(tmp_path):
    again = [
        chat(rows()[0]["messages"][1]["content"], record("lamp", f"Another summary of the lamp, number {n % 2}"), f"c-{n}")
        for n in range(3)
    ]
    path = write(tmp_path, [*rows(), *again])
    done = prepare(path)
    assert {line: change.code for line, change in done.dropped.items()} == {63: "exact_duplicate"}
    assert [conflict.members for conflict in done.conflicts] == [(1, 61, 62)]
    assert {line for line, changes in done.flagged.items() if "conflict" in {c.code for c in changes}} == {1, 61, 62}
    chosen = prepare(path, drop=["conflict"])
    assert {line: change.code for line, change in chosen.dropped.items()} == {
        1: "conflict",
        62: "conflict",
        63: "exact_duplicate",
    }


def test_values_do_not_stand_in_the_list_of_changes(export):
    assert not any("Karagöz" in change.reason or "selin@" in change.reason for change in prepare(export).changes)


@pytest.mark.parametrize("left_out", STEPS)
def test_every_step_can_be_left_out(export, left_out):
    acted = lambda done: {change.action for change in done.changes if change.step == left_out}
    held_out = [rows()[7]]
    whole, done = (prepare(export, steps=steps, test=held_out) for steps in (STEPS, [s for s in STEPS if s != left_out]))
    # Lines that are no rows are dropped in any case; what is left out is the fixing.
    assert acted(done) == ({"dropped"} if left_out == "validate" else set())
    assert (acted(whole) > acted(done)) == (left_out != "split")  # which changes nothing
    assert (len(done.validation) == 0) == (left_out == "split") and len(whole.validation) > 0


def test_files(export, tmp_path):
    done = prepare(export)
    folder = tmp_path / "out"
    names = {path.name for path in done.write(folder)}
    assert names == set(PREPARED) == set(os.listdir(folder))
    assert rows_of(folder / "train.jsonl") == [done.rows[i] for i in done.train]
    rejects = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejects] == [61, 64, 65]
    assert rejects[0]["text"] == "not json"
    assert all(r["reason"] for r in rejects)


def test_a_product_with_a_persons_name_is_told_of_and_can_be_allowed(tmp_path):
    """A car called Zoe became Sara in message and label, and nothing said so."""
    rows = [
        {"messages": [{"role": "user", "content": f"My Zoe lost a mirror on day {n}, says Selin Karagöz"},
                      {"role": "assistant", "content": json.dumps({"vehicle": "Zoe", "day": n})}]}
        for n in range(12)
    ]  # fmt: skip
    file = tmp_path / "claims.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    steps = ["validate", "redact"]
    done = prepare(file, steps=steps, redaction="pseudonym")
    assert done.redacted_labels == {"Zoe": 12}
    assert "replaced in fields of answers: Zoe (12 rows); if these are none, put them into allow" in done.last_word()
    allowed = prepare(file, steps=steps, redaction="pseudonym", allow=["Zoe"])
    assert not allowed.redacted_labels and "allow" not in allowed.last_word()


def test_an_interrupted_write_leaves_nothing_half(export, tmp_path, monkeypatch):
    done = prepare(export)

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        done.write(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_test_rows_are_taken_out(export):
    held_out = rows()[7]
    done = prepare(export, test=[held_out])
    assert done.dropped[8].code == "test_set"
    assert {hit.train for hit in done.contaminated} == {8}


def test_messages_written_as_text_are_read_for_trl_too(tmp_path):
    made = [row | {"messages": json.dumps(row["messages"])} for row in rows()]
    held_out = write(tmp_path, [made[7]], "held_out.jsonl")
    done = prepare(write(tmp_path, made), target="trl", test=rows_of(held_out))
    assert done.dropped[8].code == "test_set"
    assert all(isinstance(row["messages"], list) for row in done.rows)


def test_nothing_left_says_why(tmp_path):
    with pytest.raises(CourseError, match=r"nothing is left of 2 lines"):
        prepare(write(tmp_path, [b"x", b"y"]))


def test_preferences_are_validated_fixed_and_redacted(tmp_path):
    first = malformed.preference()
    first["input"]["messages"][0]["content"] = "I am Selin Karagöz, selin@example.org"
    path = write(tmp_path, [*[first] * 3, {"prompt": "hi", "chosen": "ho", "rejected": "no"}, {"x": 1}])
    done = prepare(path, kind="preference")
    assert len(done.rows) == 2
    assert done.rows[0]["input"]["messages"][0]["content"] == "I am [NAME], [EMAIL]"
    assert done.rows[1]["preferred_output"] == [{"role": "assistant", "content": "ho"}]
    assert sorted(done.dropped) == [2, 3, 5]


def completion(n, **more):
    return {"prompt": f"What is the name of thing {n * 7919}?", "completion": f"It is called {n} of {n * 31}.", **more}


def judged(n, label):
    return completion(n, label=label)


def pair(n, turned=False):
    sides = [f"It is called {n} of {n * 31}.", f"I have no clue, maybe {n}."]
    chosen, rejected = reversed(sides) if turned else sides
    return {"prompt": completion(n)["prompt"], "chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize(
    ("kind", "make"),
    [("prompt_completion", completion), ("unpaired_preference", lambda n: judged(n, n % 2 == 0)), ("preference", pair)],
)
def test_every_kind_is_cleaned_of_copies_and_split(tmp_path, kind, make):
    made = [make(n) for n in range(30)]
    near = {key: value.replace("What", "And what") if key == "prompt" else value for key, value in make(4).items()}
    path = write(tmp_path, [*made, make(3), near])
    done = prepare(path, kind, target="trl")
    assert {line: change.code for line, change in done.dropped.items()} == {31: "exact_duplicate", 32: "near_duplicate"}
    assert len(done.validation) == 3 and len(done.train) == 27
    out = tmp_path / "out"
    assert cli.main(["check-data", str(path), "--fix", str(out)]) == 0
    assert (out / "validation.jsonl").stat().st_size > 0
    assert len(rows_of(out / "train.jsonl")) == 27
    contaminated = prepare(path, kind, target="trl", test=[make(5)])
    assert contaminated.dropped[6].code == "test_set"


def test_copies_are_found_once_their_personal_data_are_gone(tmp_path):
    question = "The lift in our house has been out of order since Friday. When will somebody repair it?"
    answer = "The spare part is ordered, and our technician comes as soon as it is here."
    other = "The washing machine in the cellar takes coins and gives nothing back. Whom may I call about it?"
    letters = [
        f"Dear team,\n\n{question}\n\nKind regards\nSelin Karagöz\n0151 23456789",
        f"Hello!\n{question}\nThanks,\nJan de Boer\n+44 7700 900123",
        question.replace("Friday", "Fridya").replace("order", "ordre") + "\n\nBest wishes\nMaria Silva",
        question + "\nmaria.silva@example.org",
        f"Dear team,\n\n{other}",
    ]
    rows = [chat(letter, answer) for letter in letters]
    done = prepare(write(tmp_path, rows), steps=("validate", "deduplicate", "redact"))
    assert {line: change.code for line, change in done.dropped.items()} == {
        2: "normalised_duplicate",  # a letter's greeting and signature don't count
        3: "near_duplicate",
        4: "exact_duplicate",
    }
    exact = prepare(write(tmp_path, rows), steps=("validate", "deduplicate", "redact"), copies="exact")
    assert not exact.dropped


def test_two_answers_to_one_question_in_two_letters_are_a_conflict(tmp_path):
    question = "Is the garage included in the rent of the flat?"
    rows = [
        chat(f"Dear team,\n\n{question}\n\nKind regards\nSelin Karagöz", "Yes, it is included."),
        chat(
            f"To whom it may concern,\n{question}\n\nAll the best,\nJan de Boer (Flat 3)", "No, it costs 60 euros a month."
        ),
        chat("Dear team,\n\nMay I keep a dog in the flat?\n\nThanks", "Yes, if it is small."),
    ]
    assert set(prepare(write(tmp_path, rows)).flagged) == {1, 2}


def test_judgements_that_contradict_each_other_are_told(tmp_path):
    path = write(tmp_path, [*(judged(n, True) for n in range(12)), judged(5, False), judged(5, True)])
    done = prepare(path, "unpaired_preference", target="trl")
    assert [conflict.members for conflict in done.conflicts] == [(6, 13)] or done.conflicts[0].members == (6, 13, 14)
    assert done.dropped[14].code == "exact_duplicate" and {6, 13} <= set(done.flagged)
    path = write(tmp_path, [*(pair(n) for n in range(12)), pair(5, turned=True)])
    assert set(prepare(path, "preference", target="trl").flagged) == {6, 13}
    several = [pair(1) | {"chosen": f"Another good answer, number {n}."} for n in range(4)]  # as in UltraFeedback
    assert prepare(write(tmp_path, [*several, pair(9)]), "preference", target="trl").conflicts == []


def test_no_row_held_out_means_no_empty_file_and_a_word(tmp_path):
    path = write(tmp_path, [chat(f"question {n} of mine", record("lamp", f"answer {n}"), "c-1") for n in range(12)])
    done = prepare(path)
    assert done.validation == [] and len(done.train) == 12
    assert any("--group" in note for note in done.notes)
    out = tmp_path / "out"
    out.mkdir()
    (out / "validation.jsonl").write_text("of an earlier run")
    done.write(out, overwrite=True)
    assert not (out / "validation.jsonl").exists()
    assert len(prepare(path, group="none").validation) == 1


def test_a_named_field_is_the_group_and_blank_values_are_none(tmp_path):
    made = rows()
    for n, row in enumerate(made):
        del row["messages"][1]["name"]
        row["metadata"] = {"user": ["", "-", "unknown", None][n % 4] if n < 20 else f"user {n % 8}", "channel": "ab"[n % 2]}
    done = prepare(write(tmp_path, made), group="metadata.user", source="metadata.channel", validation=0.2)
    known = [owner for owner in done.owners if owner is not None]
    assert len(known) == 40 and len(set(known)) == 8
    held, trained = ({done.owners[i] for i in part} - {None} for part in (done.validation, done.train))
    assert not held & trained
    assert len(done.validation) == 12
    channels = {
        part: [made[done.lines[i] - 1]["metadata"]["channel"] for i in getattr(done, part)]
        for part in ("train", "validation")
    }
    train, validation = (part.count("a") / len(part) for part in channels.values())
    assert train == pytest.approx(validation, abs=0.1)
    with pytest.raises(CourseError, match="'customer'"):
        prepare(write(tmp_path, made), group="customer")


def test_a_customer_spelled_otherwise_is_the_same_customer(tmp_path):
    made = rows()
    for n, row in enumerate(made):
        del row["messages"][1]["name"]
        row["tenant"] = ("T-%d", " T-%d ", "t-%d")[n % 3] % (n // 3)
    done = prepare(write(tmp_path, made), group="tenant", validation=0.2)
    held, trained = ({done.owners[i] for i in part} for part in (done.validation, done.train))
    assert held and not held & trained and len(held | trained) == len(made) / 3


def test_a_ticket_systems_names_for_the_speakers_are_understood(tmp_path):
    made = rows()
    for message in made[3]["messages"]:
        message["role"] = {"user": "Customer", "assistant": "agent"}.get(message["role"], message["role"])
    done = prepare(write(tmp_path, made))
    assert 4 not in done.dropped and {message["role"] for message in done.rows[3]["messages"]} <= {
        "system",
        "user",
        "assistant",
    }


def test_a_row_is_dropped_for_what_cannot_be_repaired(tmp_path):
    made = [row | {"ticket": str(n)} for n, row in enumerate(rows())]
    made[3]["messages"][-1]["content"] = ""
    done = prepare(write(tmp_path, made))
    assert done.dropped[4].code != "extra_key" and "content" in done.dropped[4].reason


def test_the_list_of_changes_has_a_field_once_and_says_where_something_was_masked(tmp_path):
    made = [row | {"ticket": str(n)} for n, row in enumerate(rows())]
    made[3]["messages"][1]["content"] = "Write to jana.adler@example.org, please: it still drips."
    prepare(write(tmp_path, made)).write(tmp_path / "out")
    changes = [json.loads(line) for line in (tmp_path / "out" / "changes.jsonl").read_text().splitlines()]
    (ticket,) = [change for change in changes if change["field"] == "ticket"]
    assert ticket["line"] == 1 and ticket["reason"].endswith(f"; in {len(made)} rows")
    (masked,) = [change for change in changes if change["line"] == 4 and change["code"] == "email"]
    assert masked["reason"] == "messages[1].content, characters 9 to 31"


@pytest.mark.parametrize(
    "field", ["customer", "metadata.client_id", "customer.ref", "TenantNo", "metadata.userId", "Kunden-Nr"]
)
def test_a_field_that_names_the_customer_is_the_group_unasked(tmp_path, field):
    made = rows()
    for n, row in enumerate(made):
        del row["messages"][1]["name"]
        owner = f"no. {n % 15}" if n > 4 else "unknown"
        outer, _, inner = field.partition(".")
        row |= {outer: {inner: owner} if inner else owner}
    done = prepare(write(tmp_path, made), validation=0.2)
    held, trained = ({done.owners[i] for i in part} - {None} for part in (done.validation, done.train))
    assert held and not held & trained
    assert any(f"the same {field!r} stay in one part" in note for note in done.notes)
    assert set(prepare(write(tmp_path, made), group="none").owners) == {None}


def test_a_field_without_customers_is_no_group(tmp_path):
    for value in (lambda n: f"only {n}", lambda n: "all", lambda n: None if n % 3 else "few"):
        made = [row | {"user_id": value(n)} for n, row in enumerate(rows())]
        assert not any("stay in one part" in note for note in prepare(write(tmp_path, made)).notes)
    for row in made:
        row["messages"][1].pop("name", None)
    assert any("no field was taken for the customer" in note for note in prepare(write(tmp_path, made)).notes)


@pytest.mark.parametrize("name", ["TenantName", "customer_since", "account_manager", "thread_subject"])
def test_what_only_begins_like_a_customers_number_is_no_group(tmp_path, name):
    made = [row | {name: f"value {n % 15}"} for n, row in enumerate(rows())]
    assert not any("stay in one part" in note for note in prepare(write(tmp_path, made)).notes)


@pytest.mark.parametrize("name", ["id", "mail_id"])
def test_kept_rows_can_be_found_in_the_export(tmp_path, name):
    export = tmp_path / "export.csv"
    lines = [f'{n + 100},"question {n}\nof two lines","answer, {n}",p-{n % 3}' for n in range(12)]
    export.write_text("\n".join([f"{name},prompt,completion,product_id", *lines]))
    done = prepare(export, "prompt_completion")
    done.write(tmp_path / "out")
    with (tmp_path / "out" / "lines.csv").open() as file:
        origins = list(csv.DictReader(file))
    written = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    text = export.read_text().splitlines()
    for origin in origins[: len(written)]:
        number = written[int(origin["row"]) - 1]["prompt"].split()[1]
        assert text[int(origin["line"]) - 1].startswith(f'{origin["id"]},"question {number}')


ANSWERS = {
    "useless_answer": ["-", ".", "...", "N/A", "None", "TODO", "[deleted]", "[removed]", "null", "{{ticket.reply}}",
        "[insert your answer here]", "[Antwort hier einfügen]", "<réponse>"],
    "stub": ["Done.", "Erledigt, siehe Ticket 4711", "Merged into #4712", "closing, duplicate", "spam, closed", "asdf",
        "asdfjklö", "Weitergeleitet an Tier 2", "Forwarded to the second level.", "see above", "s. Anhang", "fatto",
        "Wie besprochen.", "Ich bin bis zum 27.12. nicht im Büro und habe keinen Zugriff.",
        "We have received your request (WO303527/2)."],
    "refusal": ["I don't know.", "Sorry, no.", "I refuse to answer.", "Cannot answer.", "No idea."],
    "": ["Done: the lamp is on its way to you.", "Closed on Sunday.", "[1, 2]", "Fixed costs 12", "See above the lamp.",
        "Forwarded to Anna, who writes to you today.", "We have received your request and sent the lamp.", '{"answer": 1}',
        "+", "😀", "7", "No"],
}  # fmt: skip


def test_answers_that_are_none_are_dropped_and_notes_and_refusals_are_flagged(tmp_path):
    """And those that only begin like such answers, or are a sign, stay."""
    expected = {answer: code for code, answers in ANSWERS.items() for answer in answers}
    asked = [{"prompt": f"Say {answer}?", "completion": answer} for answer in expected]
    path = write(tmp_path, [*(completion(n) for n in range(12)), *asked])
    prepare_with = lambda **more: prepare(path, "prompt_completion", steps=["validate", "quality"], **more)
    done, flagged = prepare_with(), prepare_with(drop=[]).flagged
    found = {row["completion"]: [c.code for c in flagged.get(line, ())] for line, row in enumerate(asked, 13)}
    assert found == {answer: [code] if code else [] for answer, code in expected.items()}
    assert [expected[asked[line - 13]["completion"]] for line in done.dropped] == ["useless_answer"] * 13
    assert "5 with a refusal" in done.last_word()


def test_codes_to_drop_are_added_to_the_usual_ones(tmp_path):
    lines = [*(completion(n) for n in range(12)), {"prompt": "What is a lamp?", "completion": "N/A"},
             {"prompt": "What is a desk?", "completion": "I'm sorry, but I can't help with that."}]  # fmt: skip
    path = write(tmp_path, lines)
    for codes, left in (("refusal", 12), ("none", 14), ("none,refusal", 13)):
        assert cli.main(["check-data", str(path), "--fix", str(tmp_path / codes), "--drop", codes]) == 0
        assert len((tmp_path / codes / "lines.csv").read_text().splitlines()) == left + 1, codes


def test_rows_that_differ_only_in_what_is_written_around_them_are_copies(tmp_path):
    spelled = [{**chat("The lamp flickers at night.", "Tighten the bulb."), "label": label, "ticket": n}
               for n, label in enumerate(["lamp", " Lamp ", "desk"])]  # fmt: skip
    done = prepare(write(tmp_path, [*rows(), *spelled]), target="trl")
    assert {line: change.code for line, change in done.dropped.items()} == {62: "exact_duplicate"}


def test_rows_that_become_the_same_without_personal_data_are_copies(tmp_path):
    named = [
        chat("You sent two lamps on 3 May.", f"Hi {name}, keep the second one.") for name in ("Anna Miller", "Peter Smith")
    ]
    done = prepare(write(tmp_path, [*rows(), *named]))
    assert [(c.step, c.code) for c in done.dropped.values()] == [("redact", "exact_duplicate")]
    assert done.conflicts == [] and "conflict" not in {change.code for change in done.changes}
    assert "Peter Smith" in done.texts[62]  # rejects are as they came
    assert len(done.rows) == len(done.lines) == len(done.owners) == 61


QUOTED = [
    "Still broken.\n\nOn Mon, 3 Mar 2025 at 10:00, Ana Berg <ana@example.org> wrote:\n> Dear customer",
    "Danke!\nAm 3. März 2025 um 10:00 schrieb Service <hilfe@example.org>:\nSehr geehrte Frau Berg",
    "See below.\n-----Original Message-----\nFrom: Ana",
    "Siehe unten\n-----Ursprüngliche Nachricht-----\nVon: Ana",
    "Yes, that one.\n> the red kettle\n> or the blue one?",
]
NOT_QUOTED = ["On Monday she wrote: it broke.", "> is a sign, and 3 > 2", ">>> import os\n>>> os.getcwd()", "a\n--- b ---"]


def test_the_result_tells_of_quoted_mails(tmp_path):
    """A reply that quotes the mail before it teaches the answer to a question that is not the customer's."""
    made = rows(20) + [chat(text, "We see to it.") for text in (*QUOTED, *NOT_QUOTED)]
    notes = prepare(write(tmp_path, made), steps=["validate"]).notes
    assert [note for note in notes if "quote" in note and note.endswith(f"rows: {len(QUOTED)}")], notes
    assert not any("quote" in note for note in prepare(write(tmp_path, rows(20)), steps=["validate"]).notes)


def test_the_result_tells_of_html_and_of_spellings_of_labels(tmp_path):
    lines = [{**row, "label": " Desk" if n % 2 else "desk"} for n, row in enumerate(rows(12))]
    lines[3]["messages"][1]["content"] = "<p>The lamp&nbsp;flickers<br>" + lines[3]["messages"][1]["content"]
    notes = prepare(write(tmp_path, lines), target="trl", label="label").notes
    assert any("HTML" in note and "rows: 1" in note for note in notes), notes
    assert any("desk" in note and "Desk" in note for note in notes), notes


def test_the_report_has_masked_texts_that_recur_and_no_others(tmp_path):
    lines = rows(12)
    for n, row in enumerate(lines):
        name = "Gerda Lindqvist" if n < 3 else "Tom Baker" if n < 5 else ""
        row["messages"][1]["content"] += f" Mail for Mr {name}, password: Segel#boot" if name else ""
    page = data_report.write_html(prepare(write(tmp_path, lines)), tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Gerda Lindqvist (3)" in page and "Tom Baker (" not in page and "Segel#boot (" not in page


def test_a_label_of_none_is_refused_before_any_work(tmp_path):
    with pytest.raises(CourseError, match="leave out --label"):
        prepare(tmp_path / "there is no file", label="none")


def test_none_may_be_a_label(tmp_path):
    labels = [{"prompt": f"Message {n * 7919}", "completion": ["None", "Refund", "Other"][n % 3]} for n in range(30)]
    assert prepare(write(tmp_path, labels), "prompt_completion").dropped == {}


def test_answers_that_do_not_fit_the_schema_are_dropped(tmp_path):
    schema = {"type": "object", "required": ["category", "product"]}
    path = write(tmp_path, [*rows(), chat("Where is the rug that I bought?", '{"category": "delivery"}')])
    assert prepare(path, schema=schema).dropped[61].code == "answer_format"
    assert prepare(path, schema=schema, drop=[]).dropped == {}


def test_tools_with_names_that_only_openai_refuses_stay_for_trl(tmp_path):
    tool = {"type": "function", "function": {"name": "math.add two", "parameters": {"type": "dict"}}}
    call = {"id": "1", "type": "function", "function": {"name": "math.add two", "arguments": '{"a": 1}'}}
    row = {"tools": [tool], "messages": [{"role": "user", "content": "add"}, {"role": "assistant", "tool_calls": [call]}]}
    path = write(tmp_path, [row])
    assert len(prepare(path, target="trl").rows) == 1
    with pytest.raises(CourseError, match="name_invalid"):
        prepare(path)


def test_an_end_of_text_token_behind_an_answer_is_taken_off(tmp_path):
    path = write(tmp_path, [completion(n) | {"completion": f"It is {n}.<|endoftext|>"} for n in range(12)])
    assert prepare(path, "prompt_completion").rows[3]["completion"] == "It is 3."


def test_a_dry_run_shows_examples_and_writes_nothing(export, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["check-data", str(export), "--fix", str(out), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert not out.exists()
    assert "kept, line 6" in shown.out and "dropped, line 65" in shown.out
    assert re.search(r"deduplicate: 63 rows, [\d.]+ s", shown.err)


def test_each_step_and_each_kind_of_copy_has_a_switch(export, tmp_path):
    run = lambda name, *more: cli.main(["check-data", str(export), "--fix", str(tmp_path / name), *more])
    count = lambda name: sum(
        len((tmp_path / name / part).read_text().splitlines()) for part in ("train.jsonl", "validation.jsonl")
    )
    assert run("all") == run("exact", "--copies", "exact") == run("none", "--skip", "deduplicate,quality") == 0
    assert (count("all"), count("exact"), count("none")) == (63, 64, 65)
    assert run("x", "--skip", "wash") == run("y", "--copies", "some") == 2


def test_two_runs_give_the_same_bytes(export, tmp_path):
    for name in ("one", "two"):
        assert cli.main(["check-data", str(export), "--fix", str(tmp_path / name)]) == 0
    for file in (*PREPARED, "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_answer_that_is_a_name_stays_an_answer(tmp_path):
    """Under a prompt with two people, [NAME] would teach nothing."""
    row = {"prompt": "Selin Karagöz wrote to Marek Nowak. Who wrote?", "completion": "Selin Karagöz"}
    done = prepare(write(tmp_path, [row, *(completion(n) for n in range(12))]), "prompt_completion")
    answer = done.rows[0]["completion"]
    assert "[" not in answer and "Selin" not in answer and answer in done.rows[0]["prompt"]
    assert any("pseudonyms" in note for note in done.notes)


def test_the_report_shows_what_was_kept_beside_what_was_dropped_and_what_was_redacted(tmp_path):
    base = rows()[0]["messages"][1]["content"].replace("anyone", "<b>anyone</b>")
    first = chat(base + " KEPT&SIGNED", rows()[0]["messages"][2]["content"], "c-0")
    copy = chat("Hello, " + base + " KEPT&SIGNED", rows()[0]["messages"][2]["content"], "c-0")
    person = chat(
        "My radio of order 66666 hums.\nRegards,\nSelin <i>Karagöz</i>, selin@example.org",
        record("radio", "Radio hums"),
        "c-9",
    )
    refused = chat("Where is the rug of order 55555 that I bought?", "As an AI <u>I</u> cannot say.")
    done = prepare(write(tmp_path, [*rows()[1:], first, copy, person, refused]))
    text = data_report.write_html(done, tmp_path / "report.html").read_text(encoding="utf-8")
    shown = text[text.index("Examples of what was dropped") :]
    assert "dropped, line 61" in shown and "kept, line 60" in shown
    assert shown.count("&lt;b&gt;anyone&lt;/b&gt;") == 2
    assert shown.count("KEPT&amp;SIGNED") == 2
    assert "As an AI &lt;u&gt;I&lt;/u&gt; cannot say." in shown[shown.index("Rows to check") :]
    assert "email: 1." in shown[shown.index("Personal data") :] and "selin@" not in text
    for markup in ("<b>", "<i>", "<u>"):
        assert markup not in text


# The command


def test_check_data_says_what_is_wrong_and_exits_with_one(export, capsys):
    assert cli.main(["check-data", str(export)]) == 1
    out = capsys.readouterr().out
    assert "line 61: the line starts with 'not json', which does not begin a JSON object" in out
    assert "line 62" in out
    assert cli.main(["check-data", str(export), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["findings"][0].keys() == {"line", "field", "code", "severity", "message", "fix"}


def test_check_data_sends_whoever_has_a_table_to_the_script_for_tables(tmp_path, capsys):
    table = tmp_path / "notes.csv"
    table.write_text("id,text,label\n1,hello there,question\n2,my lamp broke,defect\n")
    assert cli.main(["check-data", str(table)]) == 1
    assert "course clean-script" in capsys.readouterr().out.splitlines()[-1]
    cli.main(["check-data", str(write(tmp_path, rows()))])
    assert "clean-script" not in capsys.readouterr().out


def test_check_data_on_a_good_file(tmp_path, capsys):
    assert cli.main(["check-data", str(write(tmp_path, rows()))]) == 0
    assert "60 chat rows, 0 errors, 0 warnings" in capsys.readouterr().out


def test_check_data_fix(export, tmp_path, capsys):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "required": ["category", "product"]}))
    out = tmp_path / "clean"
    test = write(tmp_path, rows()[:2], "test.jsonl")
    command = ["check-data", str(export), "--fix", str(out), "--schema", str(schema)]
    command += ["--test", str(test), "--redact", "pseudonym", "--tokenizer", "cpu", "--drop", "refusal,low_information"]
    assert cli.main(command) == 0
    assert {path.name for path in out.iterdir()} == {*PREPARED, "report.html"}
    out_text = capsys.readouterr().out
    assert re.search(r"contamination +dropped +test_set +2", out_text)
    assert re.search(r"quality +dropped +refusal +1", out_text)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(word in page for word in ("near_duplicate", "As an AI I cannot say.", "dollars", "not json"))
    assert cli.main(["check-data", str(out / "train.jsonl")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jsonl"], "there is no file"),
        (["{export}", "--kind", "chats"], "unknown kind"),
        (["{export}", "--target", "azure"], "unknown target"),
        (["{export}", "--fix", "{folder}/out", "--schema", "none.json"], "cannot read none.json"),
        (["{export}", "--fix", "{folder}/out", "--redact", "blur"], "unknown mode"),
        (["{export}", "--fix", "{folder}/out", "--drop", "rudeness"], "unknown code 'rudeness' to drop"),
        (["{export}", "--fix", "{folder}/out", "--test", "none.jsonl"], "there is no file"),
        (["{export}", "--fix", "{export}/out"], "cannot write"),
    ],
)
def test_check_data_says_in_one_sentence_what_it_cannot_do(export, tmp_path, capsys, arguments, words):
    arguments = [a.format(export=export, folder=tmp_path) for a in arguments]
    assert cli.main(["check-data", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_rows_in_a_script_without_names_are_counted_for_the_reader(tmp_path, capsys):
    """Nobody may believe that names were removed where they weren't looked for."""
    questions = [f"您好，我叫王小明，第{n}个{thing}没有到，电话1381234567{n}，请回复。" for n, thing in enumerate(THINGS)]
    foreign = [
        chat(question, "Спасибо, ждите на ул. Ленина." if n < 2 else "好的。") for n, question in enumerate(questions)
    ]
    assert cli.main(["check-data", str(write(tmp_path, [*rows(), *foreign])), "--fix", str(tmp_path / "clean")]) == 0
    printed, report = capsys.readouterr().out, (tmp_path / "clean" / "report.html").read_text(encoding="utf-8")
    (note,) = [line for line in printed.splitlines() if "names and addresses" in line]
    assert note.endswith(": 10") and "Chinese" in note and note.partition("note: ")[2] in report
    assert "1381234567" not in (tmp_path / "clean" / "train.jsonl").read_text(encoding="utf-8")


def test_numbers_of_the_exports_own_that_stay_in_the_texts_are_named(tmp_path):
    rng, made = random.Random(0), rows()
    for row in made:
        row["messages"][1]["content"] += f" Contract CN-{rng.randrange(10**6):06}, meter 1ESY{rng.randrange(10**10):010}."
        row["messages"][1]["content"] += f" See ISO-9001 and model SM-2200, ticket {rng.randrange(10**5)}"
    (note,) = (note for note in prepare(write(tmp_path, made)).notes if "numbers of your own" in note)
    assert note.endswith("CN-###### (60 rows), #ESY########## (60)")
    assert "ISO" not in note and "SM" not in note, "the same in every row, so it names a thing"
    assert not any("numbers of your own" in note for note in prepare(write(tmp_path, rows())).notes)


def test_what_a_shared_instruction_names_is_the_exporters_own(tmp_path):
    lines = [
        {
            "messages": [
                {
                    "role": "system",
                    "content": "You answer for the bicycle rental Marlowe Fairbrook, 14 Mill Lane, Bibury GL7 5NW.",
                },
                {
                    "role": "user",
                    "content": f"{row['messages'][1]['content']} It is from Marlowe Fairbrook. I am Selin Karagöz.",
                },
                {"role": "assistant", "content": f"It is on its way, number {number}.\n\nMarlowe Fairbrook"},
            ]
        }
        for number, row in enumerate(rows(20))
    ]
    done = prepare(write(tmp_path, lines))
    assert all("Marlowe Fairbrook" in row["messages"][1]["content"] for row in done.rows)
    assert not any("Selin" in json.dumps(row) for row in done.rows)
    assert any("left as your own" in note and "14 Mill Lane" in note for note in done.notes)
    assert "[NAME]" in json.dumps(prepare(write(tmp_path, lines[:5])).rows)  # few rows are no company's export
