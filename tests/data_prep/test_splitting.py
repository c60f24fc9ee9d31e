"""Nothing that belongs together is torn apart; what stands on both sides is found."""

import itertools
import random
import re

import pytest
from data_prep.test_similarity import LONG, by_definition, chat, texts

from course_utils.data_prep import answer_of, contamination, formats, split
from course_utils.errors import CourseError

POOL = [
    start + end
    for start in "ba ke li mo nu pra sto tri vel zan".split()
    for end in "den fol gar hip jas kel lom mur nix pod rut sav tek win yor zub ack orn ist ull".split()
]


def shares(parts, values):
    """Each value's share of the training rows and of the validation rows."""
    train, validation = ([values[i] for i in part] for part in (parts.train, parts.validation))
    return [(train.count(value) / len(train), validation.count(value) / len(validation)) for value in set(values)]


def halves(*arguments, **settings):
    parts = split(*arguments, **settings)
    return parts.train, parts.validation


def customers(rows):
    return [row["messages"][1].get("name") for row in rows]


def pairs_across(made, train, validation):
    sets = [frozenset({*t.split(), *zip(t.split(), t.split()[1:])}) for t in made]
    return [
        (i, j) for i, j in itertools.product(validation, train) if len(sets[i] & sets[j]) >= 0.5 * len(sets[i] | sets[j])
    ]


def test_by_brute_force_on_2000_rows():
    made = texts(2000, seed=9)
    rows = [chat(text) for text in made]
    train, validation = halves(rows, 0.1, seed=4)
    assert sorted(train + validation) == list(range(2000))
    assert len(validation) == 200 and len(halves(rows[:200], 0.25)[1]) == 50
    assert pairs_across(made, train, validation) == []
    # Without the rule there would be many: the test could fail.
    torn = random.Random(4).sample(range(2000), 2000)
    assert any(by_definition(made[i], made[j]) >= 0.5 for i, j in itertools.product(torn[:60], torn[200:]))


def test_customers_stay_together_and_chains_of_similar_rows_are_cut_and_told():
    rng = random.Random(1)
    rows = [chat(text, name=f"c-{rng.randrange(900)}") for text in texts(2000, seed=9)]
    parts = split(rows, 0.1, customers(rows), seed=4)
    owners = customers(rows)
    assert not {owners[i] for i in parts.train} & {owners[i] for i in parts.validation}
    assert len(parts.validation) == 200
    (note,) = (note for note in parts.notes if "similar prompts" in note)
    one, other = re.search("for example '(.+?)[…'] and '(.+?)[…']$", note).groups()
    assert one != other and all(any(text in formats.prompt_of(row) for row in rows) for text in (one, other))


def many(template, count, answer=lambda n: f"answer {n}"):
    return [chat(template.format(n * 7919 % 100_003), answer(n)) for n in range(count)]


def test_a_label_that_is_more_frequent_in_one_part_or_lacks_in_the_other_is_told():
    """Each customer has one label, so that the groups allow no better sample."""
    rows = [chat(f"message {n * 7919} about thing {n * 31}") for n in range(40)]
    groups = [min(n // 10, 3) for n in range(40)]
    parts = split(rows, 0.25, groups, label=["a"] * 10 + ["b"] * 29 + ["c"])
    assert any(note.startswith("label: ") and "shares" in note for note in parts.notes), parts.notes
    assert any("label have no row in validation" in note and "c (1 row)" in note for note in parts.notes), parts.notes
    even = split([chat(f"message {n * 7919} about {n * 31}") for n in range(40)], 0.25, label=["a", "b"] * 20)
    assert not [note for note in even.notes if "label" in note], even.notes


def test_the_held_out_rows_are_a_sample_of_labels_and_sources():
    rng = random.Random(2)
    rows = many("Where is my order {}?", 300, lambda n: "On its way.")
    rows += [chat(" ".join(rng.choices(POOL, k=9)), f"label {n % 4}") for n in range(200)]
    sources = ["web" if n % 5 else "mail" for n in range(500)]
    parts = split(rows, 0.1, source=sources)
    assert len(parts.validation) == 50
    held = [sum(i < 300 for i in parts.validation), *(sum(answer_of(rows[i]) == f"label {n}" for i in parts.validation)
            for n in range(4)), sum(sources[i] == "mail" for i in parts.validation)]  # fmt: skip
    assert held == pytest.approx([30, 5, 5, 5, 5, 10], abs=1)
    assert all(abs(one - other) < 0.03 for one, other in shares(parts, sources))
    assert parts.notes == []


def test_77_labels_with_large_and_small_customers_are_all_held_out():
    rng = random.Random(3)
    rows = [
        chat(" ".join(rng.choices(POOL, k=8)), f"intent {rng.randrange(77)}", f"c-{int(rng.expovariate(0.005))}")
        for _ in range(3000)
    ]
    parts = split(rows, 0.1, customers(rows))
    labels = {answer_of(rows[i]) for i in parts.validation}
    assert len(labels) == 77 and len(parts.validation) == pytest.approx(300, abs=5)
    assert max(abs(one - other) for one, other in shares(parts, [answer_of(row) for row in rows])) < 0.01


def test_a_column_may_be_named_for_the_label():
    rows = many("thing {} of its own", 100)
    labels = ["rare" if n % 10 == 0 else "frequent" for n in range(100)]
    assert sum(labels[i] == "rare" for i in halves(rows, 0.2, label=labels)[1]) == 2


@pytest.mark.parametrize(
    "rows",
    [
        [
            chat(f"What is the capital of {c}?", c)
            for c in "France Spain Italy Poland Norway Chad Peru Cuba Mali Oman".split()
        ],
        [chat(f"What is {a} times {b}?", str(a * b)) for a in range(2, 12) for b in range(2, 12)],
        [chat("Write a joke.", f"joke {n}") for n in range(30)],
        [chat("same words here")] * 5,
    ],
)
def test_templates_are_split_like_other_rows(rows):
    train, validation = halves(rows)
    assert len(validation) == max(1, round(0.1 * len(rows)))
    assert len(train) + len(validation) == len(rows)


def test_the_seed_decides_and_nothing_else():
    rows = [chat(text) for text in texts(100)]
    assert halves(rows, seed=1) == halves(rows, seed=1)
    assert halves(rows, seed=1) != halves(rows, seed=2)


@pytest.mark.parametrize(
    ("rows", "share", "words"),
    [
        ([], 0.1, "can't be split"),
        ([chat("a")], 0.1, "can't be split"),
        ([chat("a b"), chat("c d")], 0.0, "between 0 and 1"),
        ([chat("a b"), chat("c d")], 1.5, "between 0 and 1"),
        ([chat(f"row {n}", name="a") for n in range(5)], 0.1, "--group"),
    ],
)
def test_what_cannot_be_split(rows, share, words):
    with pytest.raises(CourseError, match=words):
        halves(rows, share, customers(rows))


def test_two_groups_of_one_customer_each():
    rows = [chat(text, name="a") for text in texts(10)] + [chat("a thing of its own", name="b")]
    train, validation = halves(rows, 0.1, customers(rows))
    assert validation == [10]
    assert len(train) == 10


def test_contamination_finds_copies_edits_and_phrases():
    train = [
        chat(LONG),
        chat("something else entirely about a lamp"),
        chat("we were told that the parcel would come on the second of may, so far nothing"),
    ]
    test = [
        chat("Hi. " + LONG + "!"),
        chat("a chair, broken"),
        chat(
            "A neighbour said we were told that the parcel would come by ship and that the captain has a parrot of his own"
        ),
    ]
    hits = contamination(train, test)
    assert [(hit.test, hit.train, hit.kind) for hit in hits] == [(0, 0, "near-duplicate"), (2, 2, "phrase")]
    assert hits[1].evidence == "we were told that the parcel would come"
    assert contamination(train, test[1:2]) == []


def test_contamination_looks_at_answers_too():
    rng = random.Random(3)
    questions = [f"question {n} " + " ".join(rng.sample(POOL, 12)) for n in range(200)]
    test = [chat(question, "label") for question in questions]
    # The test question stands in the middle of a training answer, or the test answer does.
    train = [
        chat(f"exercise sheet {n}", " ".join([*rng.sample(POOL, 9), *question.split()[2:], "and so on"]))
        for n, question in enumerate(questions)
    ]
    assert {(hit.test, hit.train) for hit in contamination(train, test)} == {(n, n) for n in range(200)}
    keys = [" ".join(rng.sample(POOL, 10)) for _ in range(50)]
    asked = [chat(f"test about {n}", key) for n, key in enumerate(keys)]
    given = [chat("lesson of the day", f"As we said: {key}!") for key in keys]
    assert {(hit.test, hit.train) for hit in contamination(given, asked)} >= {(n, n) for n in range(50)}
    # Short ones as a whole.
    short = [chat("why do cats purr loudly", "x")]
    assert contamination([chat("cats", "They asked: why do cats purr loudly? Nobody knows.")], short)
    assert contamination([chat("cats", "They asked why dogs purr loudly.")], short) == []


def test_a_formula_of_many_training_rows_is_no_contamination():
    formula = "Please do not hesitate to contact us again if you have any further questions."
    train = [chat(f"{text} and thing {n}", f"It is {n}. {formula}") for n, text in enumerate(texts(40))]
    asked = [chat("is the roof open", f"Yes. {formula}"), chat("a new one: " + LONG, "no")]
    assert contamination(train, asked) == []
    found = contamination([*train, *(chat(LONG, f"{n}") for n in range(20))], asked)
    assert {hit.test for hit in found} == {1} and len(found) == 20  # copies of one prompt are no formula


def test_the_form_of_answers_and_instructions_is_no_contamination():
    instruction = "Sort into one of these five groups by what is asked for: "
    form = '{"category": "delivery", "escalation": "none", "order_id": null, "product": null, "summary": "Item %d"}'
    rows = lambda *numbers: [
        chat(instruction + " ".join(random.Random(n).sample(POOL, 12)), form.replace("%d", str(n))) for n in range(*numbers)
    ]
    assert [hit for hit in contamination(rows(60), rows(900, 920)) if hit.kind == "phrase"] == []
