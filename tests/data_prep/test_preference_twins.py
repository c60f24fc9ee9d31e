"""Twins can only be told apart by reading the message; the older pairs can be told apart without."""

import json
import re
import runpy
from collections import Counter

import pytest

from course_utils import assets
from course_utils.data_prep import load_preferences
from course_utils.data_prep.shortcuts import RULES, overlap, shortcut_scores
from course_utils.errors import CourseError

SPLITS = {"train": 220, "validation": 40, "test": 106}


@pytest.fixture(scope="module")
def twins():
    return load_preferences("balanced")


@pytest.fixture(scope="module")
def confounded():
    return load_preferences()


def rows(pairs):
    return [row for split in SPLITS for row in getattr(pairs, split)]


@pytest.mark.parametrize("every", [1, 2, 3], ids=["all pairs", "one of each twins", "every third pair"])
@pytest.mark.parametrize("rule", RULES)
def test_no_shortcut_ranks_the_test_pairs(twins, rule, every):
    # With one of each twins only, the rules have something to fit; the test pairs are complete.
    assert shortcut_scores(twins.train[::every], twins.test)[rule].value <= 0.6


@pytest.mark.parametrize("rule", RULES)
def test_the_same_shortcuts_rank_the_older_pairs(confounded, rule):
    assert shortcut_scores(confounded.train, confounded.test)[rule].value > 0.85


def test_words_in_common_with_the_message_rank_few_pairs(twins):
    scores = [overlap(row) for row in twins.test]
    assert sum(1 if s > 0 else 0.5 if s == 0 else 0 for s in scores) / len(scores) <= 0.6


def test_every_two_rows_are_twins(twins):
    for split, least in SPLITS.items():
        pairs = getattr(twins, split)
        assert len(pairs) >= least and len(pairs) % 2 == 0
        for one, other in zip(pairs[::2], pairs[1::2]):
            assert one["twins"] == other["twins"] and one["kind"] == other["kind"]
            assert (one["chosen"], one["rejected"]) == (other["rejected"], other["chosen"])
            assert one["chosen"] != one["rejected"] and one["prompt"] != other["prompt"]


def test_each_sentence_is_chosen_as_often_as_rejected(twins):
    counts = {key: Counter() for key in ("chosen", "rejected")}
    for row in rows(twins):
        for key, counter in counts.items():
            counter.update(re.split(r"(?<=[.!?]) ", row[key]))
    assert counts["chosen"] == counts["rejected"]


def test_all_kinds_and_cases_are_in_every_split(twins):
    for split in SPLITS:
        pairs = getattr(twins, split)
        kinds, cases = Counter(row["kind"] for row in pairs), Counter(case for row in pairs for case in row["wants"])
        assert kinds.keys() == {"step", "promise", "item", "asked", "tone"}
        assert min(kinds.values()) >= 0.1 * len(pairs) and max(kinds.values()) <= 0.5 * len(pairs)
        assert len(cases) == 10
        if split != "validation":
            assert min(cases.values()) >= 0.04 * len(pairs)


def test_a_reply_keeps_to_its_message(twins):
    for row in rows(twins):
        message = row["prompt"][1]["content"]
        assert row["order"] in message and row["order"] in row["chosen"], row["id"]
        assert row["product"] in message, row["id"]
        assert 10 <= len(row["chosen"].split()) <= 55, row["id"]


def test_messages_are_not_repeated_and_those_of_the_test_are_new(twins):
    def runs(row, n=6):
        found = re.findall(r"\w+", row["prompt"][1]["content"].casefold())
        return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}

    messages = [row["prompt"][1]["content"] for row in rows(twins)]
    assert len(set(messages)) == len(messages)
    seen = set().union(*(runs(row) for row in [*twins.train, *twins.validation]))
    assert [row["id"] for row in twins.test if runs(row) & seen] == []
    products = {row["product"] for row in twins.train}
    assert not products & {row["product"] for row in twins.test}


def test_the_files_are_what_the_builder_writes():
    built = runpy.run_path(str(assets.path("data/preference_balanced/build.py")))
    for split in SPLITS:
        lines = assets.path(f"data/preference_balanced/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == built["pairs"](split)


def test_an_unknown_set_is_refused():
    with pytest.raises(CourseError, match="the course has confounded, twins"):
        load_preferences("triplets")
