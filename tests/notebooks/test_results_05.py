"""The stored outputs of notebook 05 say what the course promises of it; and so does the record of three seeds.

`course build 05` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.

The record is written by `benchmarks/data_quality.py`: a change of code shows in it after the next run of that.
"""

import json
import re

import pytest
from support import cards, table_rows

from course_utils import assets, claims, evaluation

NOTEBOOK = "05_dataset_prep"  # whose outputs the fixtures give


@pytest.fixture(scope="module")
def record():
    return json.loads(assets.benchmark_results("data-quality").read_text(encoding="utf-8"))


def number(cell):
    """19 of "19", 54 of "54 % (44-63)"."""
    return float(cell.split()[0].replace(",", ""))


def test_it_runs_in_five_minutes_on_two_cores(notebook):
    """Notices what makes the lesson slow: more steps, a slower pipeline or loop. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 300


def pooled(record, run, side="test", what="both"):
    """All seeds together, with their interval."""
    size = 100 if side == "test" else 80
    right = sum(round(size * seed[side][what][0]) for seed in record["runs"][run])
    seen = size * len(record["runs"][run])
    return evaluation.proportion([True] * right + [False] * (seen - right))


def test_cleaned_beats_raw_on_the_test_set(record):
    """Notices a new record in which preparing the data does not help, in all seeds together and in each."""
    assert len(record["seeds"]) >= 3
    raw, cleaned = pooled(record, "raw"), pooled(record, "cleaned")
    assert cleaned.low > raw.high, (str(cleaned), str(raw))
    for one, other in zip(record["runs"]["cleaned"], record["runs"]["raw"]):
        assert one["test"]["both"][0] > other["test"]["both"][0]


def test_prepared_beats_raw_live(printed):
    """Notices a pipeline that drops what is good, keeps what is bad or breaks labels, or a training that learns nothing."""
    gain = re.search(r"both fields right, prepared minus raw: ([+-]\d+) points", printed)
    assert float(gain[1]) > 0


def test_a_leak_raises_the_score_of_what_leaked(printed):
    """Notices a leak that is closed somewhere on the way, so that the lesson would show nothing."""
    before, after = table_rows(printed, "Categories right").values()
    leaked, others, _ = before
    assert number(after[leaked]) >= number(before[leaked]) + 25
    assert abs(number(after[others]) - number(before[others])) < 5


def test_its_own_generators_test_flatters(record):
    """Notices a new record in which the generator's own test set says the truth."""
    assert pooled(record, "synthetic", "its own test").low > pooled(record, "synthetic").high


def test_what_the_steps_find(printed):
    """Notices a validator, recogniser or split that finds less, or more than there is, on the lesson's files."""
    personal = table_rows(printed, "Personal data in the export")
    for kind in ("e-mail addresses", "phone numbers", "card numbers", "bank accounts (IBAN)", "internet addresses"):
        assert number(personal[kind]["recall"]) >= 98 and number(personal[kind]["precision"]) >= 98
    splits = table_rows(printed, "Validation rows whose customer")
    assert number(splits["by chance, row by row"]["of these known from training"]) > 20
    assert number(splits["by customer, with near-copies"]["of these known from training"]) == 0


def test_wrong_labels_are_found_and_their_repair_helps_the_small_classifier(printed):
    """Notices a check of labels that ranks worse, and a repair that reaches nobody."""
    after = {int(rows): int(found) for found, rows in re.findall(r"(\d+) of 40 after (\d+) rows", printed)}
    assert after[20] >= 18 and after[60] >= 34
    trained = table_rows(printed, "A small classifier on the test messages")
    raw, prepared, _, repaired, _ = (number(row["categories right"]) for row in trained.values())
    assert raw + 10 < prepared <= repaired


def test_the_mask_lets_the_model_learn_the_answer_and_its_end(printed):
    """Notices a template or a mask after which the model would learn something else, or ten rows of which none is cut."""
    rows = table_rows(printed, "The label mask of ten rows")
    wrong = [row for row in rows.values() if row["and ends with"] != "<|im_end|>"]
    assert len(rows) == 10 and [row["tokens learned"] for row in wrong] == ["0"]
    assert all(row["learning begins with"].startswith('{"category') for row in rows.values() if row not in wrong)


def test_mistakes_that_people_share_stay_hidden(printed):
    """Notices a check that finds shared mistakes, or accidents no longer: the lesson says the opposite."""
    accidents, *_, everybody = table_rows(printed, "Two kinds of wrong labels").values()
    assert number(accidents["found in the first 60"]) >= 30
    assert number(everybody["found in the first 60"]) <= 1


def test_the_writer_repeats_a_quarter_of_its_word_triples(printed):
    """Notices other synthetic rows or another measure of kinship: the text says "a quarter" and "hardly any"."""
    own, real = table_rows(printed, "How much of each set").values()
    assert 22 < number(own["known triples of words, %"]) < 28 and number(real["known triples of words, %"]) < 6


def test_the_script_reports_what_is_wrong(printed):
    """Notices a step of the script that no longer stops on broken rows; tests/evidence/test_lesson_05_script.py."""
    reports = table_rows(printed, "The same steps on broken exports")
    assert len(reports) == 5 and all(row["what the step says"].startswith("stops: ") for row in reports.values())


def test_the_short_runs_say_what_the_text_says_of_them(printed):
    """Notices short runs after which "most messages", "fewer, and still to many" or "catches no escalation" is wrong."""
    raw, prepared, _ = table_rows(printed, "100 test messages, 30 of which").values()
    left = [number(row["left at “question, none”"]) for row in (raw, prepared)]
    # 75 and 60 in float32, 85 and 29 in bfloat16
    assert left[0] >= 65 and left[0] > left[1] + 10 and left[1] > 20
    assert number(prepared["both fields right"]) > number(raw["both fields right"])


def test_the_script_accounts_for_every_row(printed):
    """Notices a script that leaves rows out without a reason: what it wrote and what it rejected are all rows."""
    healthy = " ".join(row["report"] for row in table_rows(printed, "A healthy run").values())
    rejected = sum(number(row["rows"]) for row in table_rows(printed, "What rejects.csv says").values())
    written = sum(map(int, re.search(r"(\d+) train, (\d+) validation, (\d+) test", healthy).groups()))
    assert written + rejected == int(re.search(r"(\d+) rows: ", healthy)[1])


def test_every_claim_has_a_verdict(printed):
    """Notices a claim that is no longer judged. Verdicts follow from the record: tests/evidence/test_lesson_05.py."""
    found = cards(printed)
    assert found.keys() == {"P1", "P2", "P3", "P4", "P5"}
    assert found["P2"].word == claims.NOT_TESTED and found["P3"].word == claims.HOLDS
