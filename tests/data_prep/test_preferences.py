"""The preference pairs are what their card says: house style against five kinds of worse."""

import json
import re
from collections import Counter

import pytest

from course_utils import assets
from course_utils.data_prep import load_preferences
from course_utils.errors import CourseError

KINDS = {"verbose", "cold", "hedging", "off_format", "wrong"}
SPLITS = {"train": 400, "validation": 60, "test": 100}


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
    def runs(row, n=6):
        found = re.findall(r"\w+", row["message"].casefold())
        return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}

    seen = set().union(*(runs(row) for row in pairs["train"]))
    for split in ("validation", "test"):
        assert [row["id"] for row in pairs[split] if runs(row) & seen] == []


def test_pairs_come_as_prompts_and_two_replies(pairs):
    loaded = load_preferences()
    for split, rows in pairs.items():
        made = getattr(loaded, split)
        assert [row["id"] for row in made] == [row["id"] for row in rows]
        for row, plain in zip(made, rows):
            assert [message["role"] for message in row["prompt"]] == ["system", "user"]
            assert row["prompt"][1]["content"] == plain["message"]
            assert (row["chosen"], row["rejected"], row["kind"]) == (plain["chosen"], plain["rejected"], plain["kind"])


@pytest.mark.parametrize("key", ["message", "chosen", "rejected"])
def test_a_broken_pair_is_named_by_file_line_and_field(tmp_path, monkeypatch, pairs, key):
    rows = [dict(pairs["train"][0]), dict(pairs["train"][1])]
    rows[1][key] = " "
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.setattr(assets, "path", lambda name: tmp_path / name.rsplit("/", 1)[1])
    with pytest.raises(CourseError, match=f"train.jsonl, line 2, field {key}"):
        load_preferences()
