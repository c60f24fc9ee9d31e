"""Rules, one by one."""

import json
from pathlib import Path

import pytest
from data_prep.test_similarity import chat

from course_utils.data_prep.quality import assess, identify_language

RECORD = json.dumps({"category": "delivery", "product": "kettle", "summary": "Kettle has not arrived"})
THINGS = ["kettle", "lamp", "sofa bed", "desk", "monitor", "shelf", "carpet", "toaster"]
FILLER = [
    chat(
        f"The {thing} of order {number} has not arrived yet, I wait since {number} days",
        json.dumps({"category": "delivery", "product": thing, "summary": f"{thing} of order {number} is late"}),
    )
    for number, thing in enumerate(THINGS * 6, 41_000)
]


def codes(row, **settings):
    return [reason.code for reason in assess([*FILLER, row], **settings)[-1]]


FREE = [
    chat(f"How do I clean thing number {n}, which is made of {m}?", f"Wipe the {m} with a dry cloth, {n} times.")
    for n, m in enumerate(["oak", "glass", "steel", "wool", "clay", "paper"] * 8)
]
# Messages, answers, and what is to be said of them: in a file of records, and in free text, where only that may be flagged
# which can hardly mean anything else.
MARKED = [json.loads(line) for line in Path(__file__).with_name("quality.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", MARKED, ids=[f"{row['kind']}: {row['answer'][:40]}" for row in MARKED])
def test_a_message_and_its_answer_are_flagged_for_what_they_are(row):
    others, language = (FREE, None) if row["kind"] == "free text" else (FILLER, "en")
    found = assess([*others, chat(row["prompt"], row["answer"])], language)[-1]
    assert [reason.code for reason in found] == row["codes"]


def test_a_number_that_no_message_has_is_strange_only_where_numbers_are_copied():
    years = [chat(f"In which year was the {thing} number {n} invented, and by whom?", json.dumps({"year": 1500 + 7 * n, "thing": f"the {thing} here"}))  # noqa: E501
             for n, thing in enumerate(THINGS * 6)]  # fmt: skip
    assert [reasons for reasons in assess(years) if "other_answer" in {r.code for r in reasons}] == []


def test_labels_are_no_canned_answers():
    asked = [
        chat(f"Is the {thing} number {n} larger than the house?", "No, it is not.") for n, thing in enumerate(THINGS)
    ] * 2
    assert assess([*FREE, *asked])[-1] == []


def test_a_schema_says_what_an_answer_is():
    schema = {"type": "object", "required": ["category"], "properties": {"category": {"enum": ["delivery", "billing"]}}}
    assert codes(chat("Where is the kettle that I ordered?", '{"category": "shipping"}'), schema=schema) == ["answer_format"]


def test_one_answer_under_many_messages():
    canned = "Thank you, your message has been received."
    things = ["lamp", "desk", "rug", "pan", "bed", "cup", "mug", "jar", "fan"]
    rows = [
        chat(f"How do I clean the {thing} number {n}?", f"Wipe the {thing} number {n} dry.")
        for n, thing in enumerate(things * 4)
    ]
    asked = [chat(f"Where is my {thing} that I ordered in May?", canned) for thing in things]
    found = assess([*rows, *asked])
    assert [[r.code for r in reasons] for reasons in found] == [[]] * len(rows) + [["canned_answer"]] * len(asked)
    # Copies of one message are no different messages, and labels may stand under many.
    assert assess([*rows, *[asked[0]] * 12])[-1] == []
    labels = [chat(f"message about thing {n * 7919}", "yes" if n % 2 else "no") for n in range(40)]
    assert assess(labels) == [[]] * 40


@pytest.mark.parametrize(
    ("last", "code"),
    [("I'm sorry, but I can't help with that request.", "refusal"), ("Bitte warten", "stub"), ("-", "useless_answer")],
)
def test_the_last_answer_of_a_conversation_counts_too(last, code):
    row = chat("How do I clean the oak table?", "Wipe the oak with a dry cloth.")
    row["messages"] += [{"role": "user", "content": "And the glass one?"}, {"role": "assistant", "content": last}]
    assert [reason.code for reason in assess([*FREE, row])[-1]] == [code]


def test_an_answer_with_a_date_or_an_amount_of_its_own_is_no_refusal():
    asked = "When do I get my deposit back?"
    answer = "Unfortunately we cannot provide the 300 euros before the report, which is due on 3 May."
    assert assess([*FREE, chat(asked, answer)])[-1] == []
    refused = "Unfortunately we cannot provide the deposit."
    assert [reason.code for reason in assess([*FREE, chat(asked, refused)])[-1]] == ["refusal"]


def test_any_language_is_allowed_on_demand():
    row = chat("Wo bleibt der Wasserkocher, den ich am Montag bei Ihnen bestellt habe?", RECORD)
    assert codes(row, language=None) == []


def test_languages():
    assert identify_language("Where is the parcel that I ordered last week?")[0] == "en"
    assert identify_language("Où est le colis que j'ai commandé la semaine dernière ?")[0] == "fr"
