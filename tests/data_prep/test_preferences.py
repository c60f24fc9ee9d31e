"""The preference pairs are what their cards say.

House style against five kinds of worse; and the balanced pairs, in which no length, form or word tells chosen from rejected.
"""

import json
import re
import runpy
from collections import Counter

import pytest

from course_utils import assets
from course_utils.data_prep import load_preferences
from course_utils.errors import CourseError
from course_utils.evidence import house_style

KINDS = {"verbose", "cold", "hedging", "off_format", "wrong"}
SPLITS = {"train": 400, "validation": 60, "test": 100}
BALANCED = {"train": 240, "validation": 40, "test": 100}


def runs(message, n=6):
    found = re.findall(r"\w+", message.casefold())
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


@pytest.fixture(scope="module")
def pairs():
    folder = assets.path("data/preferences")
    return {
        s: [json.loads(line) for line in (folder / f"{s}.jsonl").read_text(encoding="utf-8").splitlines()] for s in SPLITS
    }


def test_enough_pairs_of_every_kind(pairs):
    for split, least in SPLITS.items():
        assert len(pairs[split]) >= least
        assert len({row["id"] for row in pairs[split]}) == len(pairs[split])
        counts = Counter(row["kind"] for row in pairs[split])
        assert counts.keys() == KINDS
        assert min(counts.values()) >= 0.15 * len(pairs[split])
        for row in pairs[split]:
            assert row.keys() == {"id", "message", "chosen", "rejected", "kind"}
            assert row["chosen"] != row["rejected"]


def test_no_message_of_the_test_set_has_its_like_in_training(pairs):
    seen = set().union(*(runs(row["message"]) for row in pairs["train"]))
    for split in ("validation", "test"):
        assert [row["id"] for row in pairs[split] if runs(row["message"]) & seen] == []


def test_pairs_come_as_prompts_and_two_replies(pairs):
    loaded = load_preferences()
    for split, rows in pairs.items():
        made = getattr(loaded, split)
        assert [row["id"] for row in made] == [row["id"] for row in rows]
        for row, plain in zip(made, rows):
            assert [message["role"] for message in row["prompt"]] == ["system", "user"]
            assert row["prompt"][1]["content"] == plain["message"]
            assert (row["chosen"], row["rejected"], row["kind"]) == (plain["chosen"], plain["rejected"], plain["kind"])


def test_an_unknown_set_is_refused():
    with pytest.raises(CourseError, match="the course has confounded, balanced"):
        load_preferences("triplets")


def every(pairs):
    return [row for split in BALANCED for row in getattr(pairs, split)]


@pytest.fixture(scope="module")
def balanced():
    return load_preferences("balanced")


def test_pairs_have_the_same_sentences_or_are_twins(balanced):
    def sentences(text):
        return re.split(r"(?<=[.!?]) ", text)

    for split, least in BALANCED.items():
        pairs = getattr(balanced, split)
        assert len(pairs) >= least
        groups = {}
        for row in pairs:
            if row["kind"] == "order":
                assert sentences(row["chosen"]) == sentences(row["rejected"])[::-1] and "twins" not in row
            else:
                groups.setdefault(row["twins"], []).append(row)
        for one, other in groups.values():
            assert one["kind"] == other["kind"] and one["prompt"] != other["prompt"]
            assert (one["chosen"], one["rejected"]) == (other["rejected"], other["chosen"])
            assert one["chosen"] != one["rejected"]


def test_pairs_about_something_else_mostly_begin_with_a_courtesy(balanced):
    """What the lesson says of the desk's habit, and why imitating chosen replies teaches it."""
    others = [row for row in balanced.train if row["kind"] != "order"]
    share = sum(not house_style.judge(row, row["chosen"])["step first"] for row in others) / len(others)
    assert 0.6 < share < 0.8


def test_each_sentence_is_chosen_as_often_as_rejected(balanced):
    counts = {key: Counter() for key in ("chosen", "rejected")}
    for row in every(balanced):
        for key, counter in counts.items():
            counter.update(re.split(r"(?<=[.!?]) ", row[key]))
    assert counts["chosen"] == counts["rejected"]


def test_all_kinds_and_cases_are_in_every_split(balanced):
    for split in BALANCED:
        pairs = getattr(balanced, split)
        kinds, cases = Counter(row["kind"] for row in pairs), Counter(row["case"] for row in pairs)
        assert kinds.keys() == {"order", "step", "tone", "item"}
        assert kinds["order"] == 0.4 * len(pairs) and min(kinds.values()) >= 0.08 * len(pairs)
        assert len(cases) == 6 and min(cases.values()) >= 0.08 * len(pairs)


def test_a_reply_keeps_to_its_message(balanced):
    for row in every(balanced):
        message = row["prompt"][1]["content"]
        assert row["order"] in message and row["order"] in row["chosen"], row["id"]
        assert row["product"] in message, row["id"]
        assert 10 <= len(row["chosen"].split()) <= 55, row["id"]


def test_messages_are_not_repeated_and_those_of_the_test_are_new(balanced):
    messages = [row["prompt"][1]["content"] for row in every(balanced)]
    assert len(set(messages)) == len(messages)
    seen = set().union(*(runs(row["prompt"][1]["content"]) for row in [*balanced.train, *balanced.validation]))
    assert [row["id"] for row in balanced.test if runs(row["prompt"][1]["content"]) & seen] == []
    products = {row["product"] for row in balanced.train}
    assert not products & {row["product"] for row in balanced.test}


def test_the_files_are_what_the_builder_writes():
    built = runpy.run_path(str(assets.path("data/preference_balanced/build.py")))
    for split in BALANCED:
        lines = assets.path(f"data/preference_balanced/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == built["pairs"](split)
