"""What decides about lesson 05's claims, and the figures and tables that the lesson shows."""

import numpy as np
import pytest

from course_utils import claims, data_prep
from course_utils.data_prep import similarity, truth
from course_utils.evidence import lesson_05

RUNS = ("raw", "cleaned", "a hundred good", "mediocre", "cleaned, 60 rows repeated", "synthetic")


def made(**shares):
    """A record in which each run has these shares, the same in three seeds."""
    runs = {name.replace("_", " "): share for name, share in shares.items()}
    seed = lambda share: {
        side: {"both": [share], "category": [share], "escalation": [share], "valid": [1.0]}
        for side in ("test", "its own test")
    }
    sizes = dict.fromkeys(("raw", "cleaned", "hundred", "mediocre", "duplicated", "synthetic"), 100)
    full = {name: [seed(runs.get(name, 0.5))] * 3 for name in RUNS}
    return {"runs": full, "rows": sizes, "labels wrong by keyword": 0.6, "examples": 300, "seeds": [0, 1, 2], "date": "d"}


def test_every_claim_of_the_lesson_has_a_judge_and_a_source():
    ids = [id for id in claims.CLAIMS if id.startswith("P")]
    assert all(hasattr(lesson_05, f"judge_{id}") for id in ids)
    assert set(ids) <= claims.SOURCES.keys()


@pytest.mark.parametrize(
    ("id", "shares", "word"),
    [
        ("P1", {"a_hundred_good": 0.6, "mediocre": 0.4}, claims.UNDER_A_CONDITION),
        ("P1", {"a_hundred_good": 0.4, "mediocre": 0.4}, claims.FAILS),
        ("P2", {"cleaned": 0.9}, claims.NOT_TESTED),
        ("P2", {"cleaned": 0.1}, claims.NOT_TESTED),
        ("P3", {"synthetic": 0.5}, claims.FAILS),
        ("P4", {"cleaned": 0.6, "raw": 0.3}, claims.UNDER_A_CONDITION),
        ("P4", {"cleaned": 0.3, "raw": 0.3}, claims.FAILS),
        ("P5", {}, claims.NOT_TESTED),
    ],
)
def test_evidence_that_refutes_a_claim_refutes_it(monkeypatch, id, shares, word):
    monkeypatch.setattr(lesson_05, "record", lambda: made(**shares))
    verdict = getattr(lesson_05, f"judge_{id}")()
    assert verdict.word == word and verdict.sentence


def test_a_format_that_was_not_learned_refutes_the_size_table(monkeypatch):
    found = made()
    for seed in found["runs"]["a hundred good"]:
        seed["test"]["valid"] = [0.5]
    monkeypatch.setattr(lesson_05, "record", lambda: found)
    assert lesson_05.judge_P5().word == claims.FAILS


def test_verdicts_say_that_quantity_was_not_tested():
    for id in ("P1", "P2", "P3", "P4"):
        assert "quantity itself was not tested" in getattr(lesson_05, f"judge_{id}")().scope


def test_bands_meet_as_often_as_the_formula_says():
    generator = np.random.default_rng(0)
    for share in (0.3, 0.6):
        agree = generator.random((4000, lesson_05.BANDS, lesson_05.ROWS)) < share
        assert agree.all(axis=2).any(axis=1).mean() == pytest.approx(lesson_05.meets(share), abs=0.03)
    assert lesson_05.BANDS * lesson_05.ROWS == similarity.PERMUTATIONS


def test_the_curve_of_meeting_says_what_the_formula_says():
    assert f"at 0.4 the package's bands meet in {100 * lesson_05.meets(0.4):.0f} %" in lesson_05.meeting_curve().alt


def test_a_limit_cuts_the_rows_that_are_longer():
    alt = lesson_05.cut_by_limit([90, 96, 97, 200, 300]).alt
    assert "a limit of 96 cuts 3 of 5 rows" in alt and "a limit of 256 cuts 1 of 5 rows" in alt


class Letters:
    """A tokenizer of letters: so many tokens as characters."""

    def apply_chat_template(self, messages, return_dict):
        return {"input_ids": [0] * sum(len(message["content"]) for message in messages)}


def test_the_longest_row_is_among_the_ten_and_found_by_its_limit():
    rows = [{"messages": [{"role": "user", "content": "x" * n}]} for n in (*range(10, 22), 90)]
    ten = lesson_05.ten_rows(rows, Letters())
    assert len(ten) == 10 and ten.count(rows[-1]) == 1 and ten[:6] == rows[:6]
    assert lesson_05.row_without_end(ten, Letters(), 50) == 7
    with pytest.raises(lesson_05.CourseError, match="choose a limit that cuts one"):
        lesson_05.row_without_end(ten, Letters(), 12)


def test_mistakes_are_put_where_they_are_said_to_be():
    right = ["returns"] * 30 + ["billing"] * 30 + ["defect"] * 30
    swapped = lesson_05.with_mistakes(right, 20, 0, ("returns", "billing"))
    changed = [(a, b) for a, b in zip(right, swapped) if a != b]
    assert changed == [("returns", "billing")] * 20
    anything = lesson_05.with_mistakes(right, 20, 0)
    assert sum(a != b for a, b in zip(right, anything)) == 20
    assert len({(a, b) for a, b in zip(right, anything) if a != b}) > 3
    assert lesson_05.with_mistakes(right, 999, 0, ("returns", "billing")).count("returns") == 0


def test_the_curve_of_suspects_counts_the_wrong_ones():
    from types import SimpleNamespace

    export = truth.load_raw_export()
    lines = sorted(export.rows())
    wrong = truth.wrong_labels(export, lines)
    fine = [i for i in range(len(lines)) if i not in set(wrong)]
    check = SimpleNamespace(suspects=wrong[:15] + fine[:30], by_published_rule=[wrong[0], *fine[:3]])
    alt = lesson_05.suspects_curve(export, lines, check).alt
    assert f"15 of {len(wrong)} after 20 rows" in alt and "15 after all 45" in alt and "accuses 4, 1 rightly" in alt


def test_the_version_is_of_the_content_and_not_of_the_order(tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_text("x")
    other.write_text("y")
    before = lesson_05.version_of([one, other])
    assert lesson_05.version_of([other, one]) == before
    other.write_text("z")
    assert lesson_05.version_of([one, other]) != before


def test_packing_keeps_every_row_once_and_no_sequence_is_too_long():
    lengths = [int(n) for n in np.random.default_rng(1).integers(10, 300, 200)]
    packed = lesson_05.pack(lengths, 512)
    assert sorted(i for members in packed for i in members) == list(range(200))
    assert max(sum(lengths[i] for i in members) for members in packed) <= 512
    assert 512 * len(packed) < 1.1 * sum(lengths)


def test_the_most_common_pair_is_what_a_program_without_eyes_reaches():
    references = [{"a": 1, "b": 2}] * 3 + [{"b": 9, "a": 1}] * 2
    assert lesson_05.commonest_pair(references).value == 0.6


def test_rows_that_are_known_from_training_are_counted():
    def row(text, name=None):
        return {"messages": [{"role": "user", "content": text} | ({"name": name} if name else {})]}

    rows = [row("the kettle leaks at the base", "c1"), row("the kettle leaks at the base now", "c2"),
            row("hello lamp", "c1"), row("a different thing")]  # fmt: skip
    assert lesson_05.torn_apart(rows, [0], [1, 2, 3]).value == pytest.approx(2 / 3)


def test_decisions_correct_only_what_is_wrong():
    export = truth.load_raw_export()
    lines = sorted(export.rows())
    wrong = truth.wrong_labels(export, lines)
    fine = next(i for i in range(len(lines)) if i not in wrong)
    found = lesson_05.decisions(export, lines, [wrong[0], fine])
    assert list(found) == [wrong[0]]


def test_judges_are_compared_with_keeping_everything():
    table = lesson_05.judges_table([True, True, False], {"perfect": [True, True, False]})
    assert table.rows["keep everything"]["kappa"] == 0 and table.rows["perfect"]["kappa"] == 1
    assert table.rows["perfect"]["bad rows rejected"] == "1 of 1"


def test_a_model_that_says_none_catches_nobody():
    from course_utils.evaluation import evaluate

    task = data_prep.load_task("support_tickets", ["category", "escalation"])
    answers = ['{"category": "question", "escalation": "none"}'] * 100
    table = lesson_05.comparison({"lazy": evaluate(answers, task.references(), task.schema)}, task)
    assert table.rows["lazy"]["valid"].value == 1 and table.rows["lazy"]["escalations caught"].value == 0
    assert table.rows[lesson_05.COMMONEST]["both fields right"].value >= table.rows["lazy"]["both fields right"].value


def test_padding_makes_a_good_reply_longer_and_not_better():
    for pair in lesson_05.pairs("padded", 3):
        assert pair.worse == pair.better + lesson_05.PADDING


def test_without_a_record_the_repair_is_said_to_be_missing(monkeypatch):
    from course_utils.errors import CourseError

    def missing(name):
        raise CourseError("none")

    monkeypatch.setattr(lesson_05.assets, "benchmark_results", missing)
    assert list(lesson_05.recorded_repair().rows) == ["not recorded yet"]


def test_a_record_of_the_repair_is_shown_by_treatment(monkeypatch, tmp_path):
    import json

    run = [{"scores": {"category": [share, 0, 1]}} for share in (0.5, 0.6, 0.7)]
    found = {"date": "2026-01-01", "examples": 400, "seeds": [0, 1, 2], "runs": {"forty wrong | as they are": run}}
    (tmp_path / "r.json").write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setattr(lesson_05.assets, "benchmark_results", lambda name: tmp_path / "r.json")
    table = lesson_05.recorded_repair()
    assert list(table.rows["forty wrong, as they are"].values()) == ["60 % (50 to 70)"]


def test_the_model_judge_is_read_from_its_answers(monkeypatch):
    monkeypatch.setattr(
        lesson_05.judging, "compare_here", lambda pairs, *_: [lesson_05.judging.PairVerdict(p, 0.9, 0.1) for p in pairs]
    )
    table = lesson_05.bias_table(None, None, 3)
    assert table.rows["worse: facts wrong"]["takes what is shown first"] == "100 %"
    assert table.rows["worse: the same reply, padded"]["same reply in both orders"] == "0 %"
