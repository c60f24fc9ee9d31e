"""Lesson 05: what its data and records must still say for the lesson to be true, and the counts that it shows."""

import json
from functools import cache

import numpy as np
import pytest

from course_utils import assets, data_prep
from course_utils.data_prep import quality, similarity, truth
from course_utils.evidence import lesson_05
from course_utils.evidence.lesson_05 import by_seed
from course_utils.lessons import source_file


@cache
def export():
    return truth.load_raw_export()


@cache
def task():
    return data_prep.load_task("support_tickets")


@cache
def prepared():
    test = [{"messages": conversation} for conversation in task().test]
    steps = ["validate", "quality", "deduplicate", "contamination"]
    return data_prep.prepare(export().path, steps=steps, drop=quality.RULES, language="en", test=test, schema=task().schema)


@cache
def checked():
    return data_prep.check_labels(prepared().rows, "category", group=prepared().owners)


def found(part=1.0):
    """Precision and recall of the wrong labels among the suspects, if this share of all rows is read."""
    number = round(part * len(prepared().rows))
    return truth.score_labels(export(), prepared().lines, checked().suspects[:number])


@cache
def mistakes():
    """Share of the wrong labels that sixty rows find: accidents, then the same confusion more and more often."""
    rows = lesson_05.kinds_of_mistakes(export(), prepared().lines, prepared().rows, prepared().owners).rows.values()
    return [row["found in the first 60"] / row["wrong"] for row in rows]


@cache
def rules():
    return truth.score_quality(export(), task().schema)


def repair(noise, treatment):
    """Share of right categories in each recorded run."""
    (runs,) = (
        runs
        for name, runs in assets.read_record("label-noise")["runs"].items()
        if name.startswith(noise) and name.endswith(treatment)
    )
    return [run["scores"]["category"][0] for run in runs]


def leak():
    """Category scores without and with the leak, of the messages that leaked and of the others."""
    hits = data_prep.contamination(list(export().rows().values()), [{"messages": c} for c in task().test])
    before, after = lesson_05.a_leak(prepared().rows, task(), sorted({hit.test for hit in hits})).rows.values()
    leaked, others, _ = before
    return after[leaked].value - before[leaked].value, after[others].value - before[others].value


def judged():
    _, keep, _ = lesson_05.read_by_hand(export())
    corrections = lesson_05.decisions(export(), prepared().lines, checked().suspects[:60])
    rows = data_prep.repaired(prepared().rows, "category", corrections)
    return lesson_05.judges_table(keep, lesson_05.other_judges(export(), rows, prepared().lines)).rows


FINDINGS = {
    "a third of the lines is left": lambda: 0.30 < len(prepared().rows) / prepared().counts[0][1] < 0.36,
    "rules find what has a form, and less of what depends on wording": lambda: (
        min(rules()[code].recall.value for code in ("answer_format", "canned_answer", "language")) > 0.97
        and max(rules()[code].recall.value for code in ("refusal", "low_information")) < 0.85
    ),
    "a leak raises the score of what leaked and of nothing else": lambda: leak()[0] > 0.25 and abs(leak()[1]) < 0.05,
    "forty wrong labels are left, one row in seven finds nearly all": lambda: (
        found().recall.n == 40 and found(1 / 10).recall.value > 0.8 and found(1 / 7).recall.value >= 0.95
    ),
    "the published rule stops too early": lambda: (
        truth.score_labels(export(), prepared().lines, checked().by_published_rule).recall.value < 0.5
    ),
    "the more people share a mistake, the less of it is found": lambda: mistakes()[1:] == sorted(mistakes()[1:])[::-1],
    "rules and a classifier judge fifty rows as a reader does": lambda: judged()["rules and classifier"]["kappa"] > 0.8,
    "repaired labels help in every run": lambda: all(
        after > before
        for noise in ("forty wrong", "three times as many")
        for before, after in zip(repair(noise, "as they are"), repair(noise, "suspects read"), strict=True)
    ),
    "reading the suspects does as well as correcting every row": lambda: all(
        abs(np.mean(repair(noise, "suspects read")) - np.mean(repair(noise, "all labels right"))) < 0.03
        for noise in ("forty wrong", "three times as many")
    ),
    "prepared rows beat the export in every run, mostly at the category": lambda: (
        min(np.subtract(by_seed("cleaned"), by_seed("raw"))) > 0 and max(by_seed("cleaned", "escalation")) < 0.75
    ),
    "a hundred curated rows do about as well as all prepared ones": lambda: (
        abs(np.mean(by_seed("a hundred good")) - np.mean(by_seed("cleaned"))) < 0.06
    ),
    "a test set of the same writer flatters": lambda: (
        min(by_seed("synthetic", side="its own test")) > max(by_seed("synthetic"))
    ),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_data_and_records_bear(finding):
    assert FINDINGS[finding]()


def test_the_two_rules_and_the_finder_in_sight_find_what_was_planted():
    """The code of sections 2 and 4, taken from the lesson, against the planted truth."""
    source = source_file("05_dataset_prep")
    text = source.read_text(encoding="utf-8")
    space = {}
    for start in ("import re\n", "def foreign_numbers", "IBAN = re"):
        code = text[text.index(f"# %%\n{start}") + 5 :].split("\n# %%")[0]
        exec(code, space)
    rows = export().rows()
    says_nothing = {n for n, row in rows.items() if space["says_nothing"](data_prep.prompt_of(row))}
    foreign = {n for n, row in rows.items() if space["foreign_numbers"](data_prep.prompt_of(row), data_prep.answer_of(row))}
    first, second = (
        truth.DetectionScore.of({n for n in rows if code in export().faults(n)}, finds)
        for code, finds in (("low_information", says_nothing), ("other_answer", foreign))
    )
    assert first.precision.value == 1 and 0.6 < first.recall.value < 0.9
    assert (second.recall.n, round(second.recall.low, 2)) == (70, 0.95)
    assert second.recall.value == 1 and 0.8 < second.precision.value < 1
    there = missed = wrong = 0
    for text, _, marked in truth.marked_texts(export()):
        ibans = [value for kind, value in marked if kind == "IBAN"]
        finds = [code for code in space["IBAN"].findall(text) if space["is_iban"](code)]
        there, missed = there + len(ibans), missed + len(set(ibans) - set(finds))
        wrong += len(set(finds) - set(ibans))
    assert there > 20 and missed == wrong == 0


def test_unseen_messages_lose_their_check_digits_and_most_names():
    """Recall of personal data in rows that the rules were not made for."""
    text = (assets.root() / "tests/data_prep/held_out/rows.jsonl").read_text(encoding="utf-8")
    rows = [row for row in map(json.loads, text.splitlines()) if not (row["exact_duplicate_of"] or row["near_duplicate_of"])]

    def marked(row):
        texts = ["", *(message["content"] for message in row["messages"])]
        for index, before in enumerate(texts[:-1]):
            yield texts[index + 1], before, [(p["kind"], p["text"]) for p in row["pii"] if p["message"] == index]

    recall = {k: s.recall.value for k, s in truth.score_pii(text for row in rows for text in marked(row)).items()}
    assert min(recall[kind] for kind in ("CARD", "IBAN", "NATIONAL_ID")) == 1
    assert all(0.84 < recall[kind] < 0.91 for kind in ("NAME", "ADDRESS"))  # "about seven times in eight"


def test_bands_meet_as_often_as_the_formula_says():
    generator = np.random.default_rng(0)
    for share in (0.3, 0.6):
        agree = generator.random((4000, lesson_05.BANDS, lesson_05.ROWS)) < share
        assert agree.all(axis=2).any(axis=1).mean() == pytest.approx(lesson_05.meets(share), abs=0.03)
    assert lesson_05.BANDS * lesson_05.ROWS == similarity.PERMUTATIONS


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
