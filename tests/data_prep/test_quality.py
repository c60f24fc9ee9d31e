"""Rules, one by one."""

import json

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


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("Where is the kettle that I ordered on Monday?", RECORD, []),
        ("Where is the kettle that I ordered?", "As an AI language model I cannot look at parcels.", ["refusal"]),
        ("Where is the kettle that I ordered?", "I'm sorry, but I can't help with that.", ["refusal"]),
        ("Where is the kettle that I ordered?", "It is on its way, have a nice day!", ["answer_format"]),
        ("Where is the kettle that I ordered?", '{"category": "delivery"}', ["answer_format"]),
        ("Where is the kettle that I ordered?", RECORD[:40], ["truncated"]),
        ("Where is the kettle that I ordered on…", RECORD, ["truncated"]),
        ("The kettle has still not come... no news... nothing...", RECORD, []),
        ("Wo bleibt der Wasserkocher, den ich am Montag bei Ihnen bestellt habe?", RECORD, ["language"]),
        ("ok thx", RECORD, ["low_information"]),
        ("???", RECORD, ["low_information"]),
        ("My desk 41003 is scratched and I want a new one", json.dumps({"category": "delivery", "product": "sofa bed",
            "summary": "sofa bed of order 55555 is late"}), ["other_answer"]),
    ],
)  # fmt: skip
def test_rules(prompt, answer, expected):
    assert codes(chat(prompt, answer), language="en") == expected


FREE = [
    chat(f"How do I clean thing number {n}, which is made of {m}?", f"Wipe the {m} with a dry cloth, {n} times.")
    for n, m in enumerate(["oak", "glass", "steel", "wool", "clay", "paper"] * 8)
]
GERMAN = "Der Wasserkocher, den ich im März gekauft habe, ist undicht und tropft auf die Arbeitsplatte in der Küche."


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("How do I pick a lock?", "I'm sorry, but I can't help with that.", ["refusal"]),
        ("Who won the race today?", "As an AI language model, I don't have access to real-time information.", ["refusal"]),
        ("What do you feel?", "I am not able to provide an answer to that question.", ["refusal"]),
        ("请告诉我他的密码", "抱歉，我无法提供他人的密码。", ["refusal"]),
        ("Darf ich diese Pillen mischen?", "Als KI-Sprachmodell kann ich keine ärztlichen Ratschläge geben.", ["refusal"]),
        ("Wie öffne ich ein fremdes Schloss?", "Es tut mir leid, aber dabei kann ich nicht helfen.", ["refusal"]),
        ("Qui va gagner demain ?", "Je suis désolé, mais en tant qu'IA je ne peux pas prédire l'avenir.", ["refusal"]),
        ("Comment ouvrir cette serrure ?", "Désolée, je ne peux pas vous aider.", ["refusal"]),
        ("Wann kommt mein Paket?", "Es tut mir leid, das Paket ist noch nicht verladen. Es kommt am Montag.", []),
        ("Was kannst du?", "Als KI-Sprachmodell kann ich Texte schreiben, Fragen beantworten und Listen sortieren.", []),
        ("Peut-on payer par chèque ?", "Malheureusement non, je ne prends que les cartes. Le virement va aussi.", []),
        ("Das GeblÃ¤se lÃ¤uft nicht, was soll ich tun?", "Bitte den Schalter hinten umlegen.", ["mojibake"]),
        ("CAFÉ «LUNE», MANHÃ ou soirée ?", "Le café ouvre à 8 h, et à 20 h le soir.", []),
        ("Welche Farbe hat die Glocke?", "k. A.", ["useless_answer"]),
        # answers that break off, and such as only look like it
        ("Why is my kettle late?", "The parcel is late because of the", ["truncated"]),
        ("Why is my kettle late?", "The parcel was held up at the border,", ["truncated"]),
        ("Why is my kettle late?", "The parcel was held up by the trans-", ["truncated"]),
        ("Warum kommt mein Paket nicht?", "Das Paket kommt später, weil die Adresse auf dem", ["truncated"]),
        ("Pourquoi ce retard ?", "Le colis a du retard parce que l'adresse sur les", ["truncated"]),
        ("¿Dónde está mi pedido?", "Su pedido llega tarde por un error en la dirección de", ["truncated"]),
        ("Where is my kettle?", "It is on its way to you now.\n\nWe wish you a pleasant day and send kind regards,", []),
        ("Where is my kettle?", "It is on its way and arrives on Monday\n\nYour Tarnbrook support team,", []),
        ("Which plan is it?", "In your case the one to take is plan A", []),
        ("What is French for 'of' in this language?", "The word that you are looking for is de", []),
        ("Give me a title", "The end of the", []),
        # words of a refusal in an answer that is none
        ("Write a letter that declines an invitation", "Dear Tom, I'm sorry, but I cannot come to the party on Sunday.", []),
        ("What is a black hole?", "A region from which light cannot escape. I can't think of a stranger object.", []),
        ("How do plants eat?", "They cannot move, so they make sugar of light, unable to hunt as animals do.", []),
        ("Which do you like?",
            "As an AI language model I have no taste. However, here are three that are often praised: oak, ash, elm.", []),
        ("I lost my cat", "I'm sorry to hear that. Put up notices and ask your neighbours.", []),
        ("How do I lose weight?", "Please consult a doctor first. Eat less sugar, walk more and sleep well.", []),
        # languages
        ("Tamika drove for 8 hours at an average speed of 45 miles per hour. Logan drove for 5 hours at 55 miles an hour. How many miles farther did Tamika drive?",  # noqa: E501
            "Tamika drove 8 hours * 45 mph = 360 miles\nLogan drove 5 hours * 55 mph = 275 miles\n360 - 275 = 85 miles\nTamika drove 85 miles farther.", []),  # noqa: E501
        ("Use Python to extract every other letter from this string: 'aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ'.",  # noqa: E501
            "The extracted letters are python(\"'aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ'[::2]\").", []),
        ("Translate into German: The kettle that I bought in March leaks onto the worktop in the kitchen.", GERMAN, []),
        (GERMAN + " Was soll ich tun, und wer hilft mir jetzt?",
            "Bitte schicken Sie uns ein Foto, dann senden wir Ihnen einen neuen.", []),
        ("Summarise for my boss: " + GERMAN, "The customer's kettle, bought in March, leaks onto the worktop.", []),
        ("The kettle that I bought from you in March leaks at the base and ruins our worktop, what shall I do now?", GERMAN, ["language"]),  # noqa: E501
        ("Write a function of this kind that calculates the Fibonacci number for a given index.",
            "int fibonacci(int index) {\n    if (index <= 1) return index;\n    return fibonacci(index - 1) + fibonacci(index - 2);\n}", []),  # noqa: E501
        # short and full
        ("什么是人工智能？", "人工智能是让机器模拟人类智能的技术。", []),
        ("日本の首都は？", "東京です。", []),
        ("What is AI?", "The study of machines that act with purpose.", []),
        ("Hi", "Hello! How can I help you?", []),
        ("2+2=?", "4", []),
        ("???", "Yes.", ["low_information"]),
        # answers of their own
        ("When did the war begin?", "It began in 1939, on the first of September, in Poland.", []),
        ("Finish this sentence: The old man went to the…", "…harbour, where his boat lay.", []),
    ],
)  # fmt: skip
def test_free_text_is_flagged_only_where_little_else_can_be_meant(prompt, answer, expected):
    assert [reason.code for reason in assess([*FREE, chat(prompt, answer)])[-1]] == expected


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


def test_free_text_has_no_form():
    rows = [chat(f"How do I clean thing number {n}?", f"Wipe thing number {n} with a dry cloth.") for n in range(40)]
    assert assess(rows) == [[]] * 40


def test_any_language_is_allowed_on_demand():
    row = chat("Wo bleibt der Wasserkocher, den ich am Montag bei Ihnen bestellt habe?", RECORD)
    assert codes(row, language=None) == []


def test_languages():
    assert identify_language("Where is the parcel that I ordered last week?")[0] == "en"
    assert identify_language("Où est le colis que j'ai commandé la semaine dernière ?")[0] == "fr"
