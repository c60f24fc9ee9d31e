"""Nothing that belongs together is torn apart; what stands on both sides is found."""

import itertools
import random

import pytest
from data_prep.test_similarity import LONG, by_definition, chat, texts

from course_utils.data_prep import contamination, kinship, split
from course_utils.errors import CourseError


def customer(row):
    return row["messages"][1].get("name")


def test_by_brute_force_on_2000_rows():
    rng = random.Random(1)
    made = texts(2000, seed=9)
    rows = [chat(text, name=f"c-{rng.randrange(900)}") for text in made]
    train, validation = split(rows, 0.1, customer, seed=4, threshold=0.5)
    assert sorted(train + validation) == list(range(2000))
    assert 0.06 <= len(validation) / 2000 <= 0.1
    assert not {customer(rows[i]) for i in train} & {customer(rows[i]) for i in validation}
    sets = [frozenset({*t.split(), *zip(t.split(), t.split()[1:])}) for t in made]
    close = [
        (i, j) for i, j in itertools.product(validation, train) if len(sets[i] & sets[j]) >= 0.5 * len(sets[i] | sets[j])
    ]
    assert close == []
    # Without the rule there would be many: the test could fail.
    torn = split(rows, 0.1, None, seed=4, threshold=1)
    assert any(by_definition(made[i], made[j]) >= 0.5 for i, j in itertools.product(torn[1][:60], torn[0]))


def test_the_seed_decides_and_nothing_else():
    rows = [chat(text) for text in texts(100)]
    assert split(rows, seed=1) == split(rows, seed=1)
    assert split(rows, seed=1) != split(rows, seed=2)


def test_share_is_met_where_groups_allow():
    rows = [chat(f"message {i} about thing {i * 7} and {i * 13}") for i in range(200)]
    assert len(split(rows, 0.1)[1]) == 20
    assert len(split(rows, 0.25)[1]) == 50


@pytest.mark.parametrize(
    ("rows", "share", "words"),
    [
        ([], 0.1, "can't be split"),
        ([chat("a")], 0.1, "can't be split"),
        ([chat("a b"), chat("c d")], 0.0, "between 0 and 1"),
        ([chat("a b"), chat("c d")], 1.5, "between 0 and 1"),
        ([chat("same words here")] * 5, 0.1, "all rows belong together"),
    ],
)
def test_what_cannot_be_split(rows, share, words):
    with pytest.raises(CourseError, match=words):
        split(rows, share)


def test_two_groups_of_one_customer_each():
    rows = [chat(text, name="a") for text in texts(10)] + [chat("a thing of its own", name="b")]
    train, validation = split(rows, 0.1, customer)
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


def test_the_form_of_answers_and_instructions_is_no_contamination():
    form = lambda n: (
        '{"category": "delivery", "escalation": "none", "order_id": null, "product": null, "summary": "Item %d"}' % n  # noqa: UP031 - the text has braces
    )
    train = [
        chat(
            f"Sort into one of these five groups by what is asked for: {' '.join(random.Random(n).sample(POOL, 12))}",
            form(n),
        )
        for n in range(60)
    ]
    test = [
        chat(
            f"Sort into one of these five groups by what is asked for: {' '.join(random.Random(n).sample(POOL, 12))}",
            form(n),
        )
        for n in range(900, 920)
    ]
    assert [hit for hit in contamination(train, test) if hit.kind == "phrase"] == []


POOL = [
    f"{a}{b}"
    for a in ("ba", "ke", "li", "mo", "nu", "pra", "sto", "tri", "vel", "zan")
    for b in (
        "den",
        "fol",
        "gar",
        "hip",
        "jas",
        "kel",
        "lom",
        "mur",
        "nix",
        "pod",
        "rut",
        "sav",
        "tek",
        "win",
        "yor",
        "zub",
        "ack",
        "orn",
        "ist",
        "ull",
    )
]


def test_kinship_sees_one_writer():
    rng = random.Random(0)
    openings = [
        "I am writing to report that",
        "I would like to ask whether",
        "I recently purchased",
        "Could you please confirm that",
    ]
    things = [
        f"the {a} {b}"
        for a in ("blue", "red", "small", "large", "new")
        for b in ("lamp", "desk", "kettle", "chair", "shelf", "rug")
    ]
    ends = [
        "has not arrived yet.",
        "arrived with a scratch.",
        "can be returned within thirty days.",
        "stopped working after a week.",
    ]
    generated = [chat(f"{rng.choice(openings)} {rng.choice(things)} {rng.choice(ends)}") for _ in range(200)]
    people = [chat(" ".join(rng.choices(WORDS_OF_PEOPLE, k=rng.randint(4, 15)))) for _ in range(60)]
    one_generator = kinship(generated[:150], generated[150:], people)
    assert one_generator.suspicious
    assert one_generator.test > 0.8
    assert not kinship(generated[:150], people[:30], people[30:]).suspicious


WORDS_OF_PEOPLE = (
    "where is my stuff ordered ages ago no reply lamp broken again want money back now pls desk leg wobbly help the a it "
).split()
