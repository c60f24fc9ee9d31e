"""No length, form or word tells chosen from rejected in the balanced pairs; the older pairs give themselves away."""

import json
import re
import runpy
from collections import Counter

import pytest

from course_utils import assets
from course_utils.data_prep import load_preferences
from course_utils.errors import CourseError
from course_utils.evidence import house_style

SPLITS = {"train": 240, "validation": 40, "test": 100}


@pytest.fixture(scope="module")
def balanced():
    return load_preferences("balanced")


@pytest.fixture(scope="module")
def confounded():
    return load_preferences()


def rows(pairs):
    return [row for split in SPLITS for row in getattr(pairs, split)]


OPENING = "the first three words"


def test_pairs_have_the_same_sentences_or_are_twins(balanced):
    def sentences(text):
        return re.split(r"(?<=[.!?]) ", text)

    for split, least in SPLITS.items():
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
    for row in rows(balanced):
        for key, counter in counts.items():
            counter.update(re.split(r"(?<=[.!?]) ", row[key]))
    assert counts["chosen"] == counts["rejected"]


def test_all_kinds_and_cases_are_in_every_split(balanced):
    for split in SPLITS:
        pairs = getattr(balanced, split)
        kinds, cases = Counter(row["kind"] for row in pairs), Counter(row["case"] for row in pairs)
        assert kinds.keys() == {"order", "step", "tone", "item"}
        assert kinds["order"] == 0.4 * len(pairs) and min(kinds.values()) >= 0.08 * len(pairs)
        assert len(cases) == 6 and min(cases.values()) >= 0.08 * len(pairs)


def test_a_reply_keeps_to_its_message(balanced):
    for row in rows(balanced):
        message = row["prompt"][1]["content"]
        assert row["order"] in message and row["order"] in row["chosen"], row["id"]
        assert row["product"] in message, row["id"]
        assert 10 <= len(row["chosen"].split()) <= 55, row["id"]


def test_messages_are_not_repeated_and_those_of_the_test_are_new(balanced):
    def runs(row, n=6):
        found = re.findall(r"\w+", row["prompt"][1]["content"].casefold())
        return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}

    messages = [row["prompt"][1]["content"] for row in rows(balanced)]
    assert len(set(messages)) == len(messages)
    seen = set().union(*(runs(row) for row in [*balanced.train, *balanced.validation]))
    assert [row["id"] for row in balanced.test if runs(row) & seen] == []
    products = {row["product"] for row in balanced.train}
    assert not products & {row["product"] for row in balanced.test}


def test_the_files_are_what_the_builder_writes():
    built = runpy.run_path(str(assets.path("data/preference_balanced/build.py")))
    for split in SPLITS:
        lines = assets.path(f"data/preference_balanced/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == built["pairs"](split)


def test_an_unknown_set_is_refused():
    with pytest.raises(CourseError, match="the course has confounded, balanced"):
        load_preferences("triplets")
