"""Two ways to the same pairs, held against brute force; and which of them are copies."""

import itertools
import json
import random
from pathlib import Path

import pytest

from course_utils.data_prep import deduplicate, similarity
from course_utils.data_prep.similarity import Groups, jaccard, shingles, similar_pairs

WORDS = [f"word{i}" for i in range(400)]


def texts(n, seed=0):
    """Texts of which some are edited copies of others, a little or a lot."""
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        if made and rng.random() < 0.5:
            words = rng.choice(made).split()
            for _ in range(rng.randint(1, 1 + len(words) // 3)):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
        else:
            words = rng.choices(WORDS, k=rng.randint(4, 40))
        made.append(" ".join(words))
    return made


def by_definition(one: str, other: str) -> float:
    """The Jaccard index of words and pairs of words, without hashes."""
    a, b = ({*t.split(), *zip(t.split(), t.split()[1:])} for t in (one, other))
    return len(a & b) / len(a | b)


def test_the_index_is_the_definitions():
    for one, other in itertools.pairwise(texts(200)):
        assert jaccard(shingles(one), shingles(other)) == pytest.approx(by_definition(one, other))


def test_exact_finds_all_and_nothing_else():
    made = texts(300) + texts(5)
    brute = {(i, j): by_definition(made[i], made[j]) for i, j in itertools.combinations(range(305), 2)}
    for threshold in (0.3, 0.5, 0.6, 0.8, 1.0):
        found = {(i, j): index for i, j, index in similar_pairs(made, threshold, "exact")}
        assert found and found == pytest.approx({pair: index for pair, index in brute.items() if index >= threshold})


def test_minhash_finds_the_same_groups():
    made = texts(600, seed=3)
    groups = {}
    for method in ("exact", "minhash"):
        joined = Groups(600)
        for i, j, _ in similar_pairs(made, 0.7, method):
            joined.join(i, j)
        groups[method] = {tuple(g) for g in joined.members() if len(g) > 1}
    assert len(groups["exact"]) > 30
    assert len(groups["exact"] ^ groups["minhash"]) <= 0.05 * len(groups["exact"])


def test_empty_and_strange_texts():
    assert similar_pairs([], 0.5) == []
    assert similar_pairs(["one text"], 0.5) == []
    for method in ("exact", "minhash"):
        assert similar_pairs(["???", "!!!", "a b", "a b"], 0.5, method) == [(2, 3, 1.0)]
    rows = [chat(text) for text in ("", "???", "!!!", "???", "🙂", "a")]
    assert deduplicate(rows).dropped == {3: ("exact", 1)}


def chat(prompt, answer="yes", name=None):
    user = {"role": "user", "content": prompt, **({"name": name} if name else {})}
    return {"messages": [{"role": "system", "content": "s"}, user, {"role": "assistant", "content": answer}]}


LONG = "the kettle that I bought from you in March leaks at the base and has ruined the worktop in our kitchen"


def test_kinds_of_copies():
    rows = [
        chat(LONG),
        chat(LONG),
        chat(LONG.upper() + "!!"),
        chat("And " + LONG),
        chat("a lamp with a red shade please"),
    ]
    found = deduplicate(rows)
    assert found.kept == [0, 4]
    assert found.dropped == {1: ("exact", 0), 2: ("normalised", 0), 3: ("near", 0)}
    similarities = found.similarities
    assert similarities[1] == similarities[2] == 1
    assert similarities[3] == pytest.approx(by_definition("and " + LONG.lower(), LONG.lower()))
    assert found.conflicts == []


def test_the_same_question_with_another_answer_is_a_conflict_and_stays():
    rows = [chat(LONG, "wrong"), chat(LONG + " now", "right"), chat("Hello " + LONG, "right")]
    found = deduplicate(rows)
    assert found.kept == [0, 1]
    assert found.dropped == {2: ("near", 1)}
    assert [(conflict.members, conflict.preferred) for conflict in found.conflicts] == [((0, 1), 1)]


def test_an_answer_that_says_more_is_another_answer():
    """Read in a public set: the answers differ by what one of them adds, and teach different calls."""
    tool = "Here is a tool, wolfram(query), that answers questions about mathematics, physics, places and quantities. "
    asked, found = "the distance between Earth and Mars", "The distance between Earth and Mars is wolfram('{}')."
    plain = chat(f"{tool}What is {asked}?", found.format("distance between Earth and Mars"))
    for more in ("in kilometers", "with interesting facts"):
        asks_more = chat(f"{tool}What is {asked} {more}?", found.format(f"distance between Earth and Mars {more}"))
        assert deduplicate([plain, asks_more]).dropped == {}
    says_the_same = chat(f"{tool}So what is {asked}?", found.format("the distance between Earth and Mars"))
    assert deduplicate([plain, says_the_same]).dropped == {1: ("near", 0)}


def test_conflicting_questions_are_the_same_without_a_third():
    """The first and the last resemble the one between them, and are two questions."""
    asked = [
        f"Where can I find the {word} that came with my order of last week?"
        for word in ("telephone", "tolephone", "tolephona")
    ]
    rows = [chat(question, f"answer {number}") for number, question in enumerate(asked)]
    (conflict,) = deduplicate(rows).conflicts
    assert conflict.members == (0, 1)


def test_what_all_rows_share_does_not_make_them_alike():
    """A constant instruction before each message: the same rows go as without it."""
    rng = random.Random(4)
    messages = [" ".join(rng.sample(WORDS, 7)) for _ in range(60)]
    messages += [f"{message} please" for message in messages[:5]]
    instruction = "Read the customer's message below and answer with the name of the intent, and nothing else. Message: "
    plain, instructed = (
        [chat(before + m, f"intent {n % 60 % 4}") for n, m in enumerate(messages)] for before in ("", instruction)
    )
    assert deduplicate(plain).dropped == deduplicate(instructed).dropped == {60 + n: ("near", n) for n in range(5)}


@pytest.mark.parametrize("answer", ["Paris", "It is the seat of the government and the largest city of the country by far."])
def test_another_name_in_a_short_question_is_another_question(answer):
    countries = ["France", "Spain", "Italy", "Poland", "Norway", "Chad"]
    rows = [chat(f"What is the capital of {country}?", answer) for country in countries]
    assert deduplicate(rows).kept == list(range(6))
    assert deduplicate(rows).conflicts == []


def test_each_copy_is_compared_with_the_row_that_stays():
    """Each is near the one before, the last shares little with the first: through others nothing is a copy."""
    words = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(4) for j in range(20)]
    texts = [" ".join([*words[40 : 40 + 3 * step], *words[3 * step : 40]]) for step in range(5)]
    rows = [chat(text, "a reply that is long enough to tell that two messages are one") for text in texts]
    found = deduplicate(rows)
    assert found.kept == [0, 2, 4]
    for member, (_, kept) in found.dropped.items():
        told = found.similarities[member]
        assert told == pytest.approx(by_definition(texts[member], texts[kept])) and told >= 0.6


def test_a_translation_set_keeps_all_its_sentences():
    rng = random.Random(2)
    subject, verb, thing, place = (
        ["The old teacher", "My little sister", "A tired farmer", "The new doctor", "Our kind neighbour"],
        ["buys", "paints", "loses", "repairs", "forgets"], ["the bicycle", "the letter", "the clock", "the window", "the jacket"],  # noqa: E501
        ["in the garden", "at the station", "behind the school", "near the river"])  # fmt: skip
    sentences = [" ".join(parts) for parts in itertools.product(subject, verb, thing, place)]
    rows = [
        chat(f"Translate the following sentence into Norwegian: {s}.", " ".join(rng.sample(WORDS, 6))) for s in sentences
    ]
    assert len(deduplicate(rows + rows[:20]).kept) == len(rows) == 500


def test_the_same_words_in_other_surroundings_are_another_example():
    one, other = chat(LONG), chat(LONG)
    other["messages"][0]["content"] = "Answer in French."
    picture = lambda url: {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]},  # noqa: E501
        {"role": "assistant", "content": "A cat"}]}  # fmt: skip
    assert deduplicate([one, other]).kept == [0, 1]
    assert deduplicate([picture("https://a.example/1.png"), picture("https://a.example/2.png")]).kept == [0, 1]


def test_a_slip_of_the_finger_is_no_difference():
    reply = "The kettle will be replaced, and the worktop is a matter for our insurance."
    rows = [chat(LONG, reply), chat(LONG.replace("kitchen", "kitchn").replace("worktop", "wroktop"), reply)]
    assert deduplicate(rows).kept == [0]


def test_different_cases_in_the_same_words_stay():
    """Orders of the same form about different things share their frame and nothing else."""
    one = "Hello, my order TB-12345 has not arrived, I ordered a blue kettle for my mother in Leeds"
    other = "Hello, my order TB-99887 has not arrived, please cancel the standing lamp and refund my card"
    assert deduplicate([chat(one), chat(other)]).dropped == {}


def test_normalised_means_case_width_and_punctuation():
    assert similarity.normalise("  Ｈello,\tWORLD! ") == "hello world"
    assert similarity.normalise("Café") == similarity.normalise("Cafe\u0301")


# Two messages with the same answer, whether they are copies, and the threshold: the lower, the more pairs are compared.
@pytest.mark.parametrize("footer", ["Sent from my iPhone", "Von meinem iPhone gesendet", "Envoyé de mon iPhone"])
def test_the_footer_of_a_telephone_is_no_part_of_a_message(footer):
    asked, answer = "Where is the lamp that I ordered in May?", "It leaves the house tomorrow."
    assert deduplicate([chat(asked, answer), chat(f"{asked}\n\n{footer}", answer)]).kept == [0]
    assert deduplicate([chat(asked, answer), chat(f"{asked}\n\nSent it back", answer)]).kept == [0, 1]


def test_a_typing_error_in_the_answer_is_no_contradiction():
    asked, answer = (
        "Where is the lamp?",
        "The lamp left our house on Monday, and the parcel service brings it within three days.",
    )
    found = deduplicate(
        [chat(asked, answer), chat(asked, answer.replace("parcel", "pracel")), chat(asked, answer.replace("three", "four"))]
    )
    assert (found.kept, found.dropped[1]) == ([0, 2], ("near", 0))
    assert [conflict.members for conflict in found.conflicts] == [(0, 2)]


PAIRS = [json.loads(line) for line in Path(__file__).with_name("copies.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair['kind']}: {pair['other'][:40]}" for pair in PAIRS])
def test_only_what_asks_the_same_is_a_copy(pair):
    if pair["kind"].startswith("numbers"):  # all of them share most of their words
        assert jaccard(shingles(pair["one"]), shingles(pair["other"])) >= pair["threshold"]
    rows = [chat(pair[side], pair["answer"]) for side in ("one", "other")]
    assert deduplicate(rows, pair["threshold"]).kept == ([0] if pair["copies"] else [0, 1])
