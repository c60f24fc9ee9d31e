"""The stored outputs of notebook 03 say what the course promises of it; they come from a real run of the present source.

`course build 03` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.
"""

import re

from support import cards, table_rows

from course_utils import claims

NOTEBOOK = "03_qlora"  # whose outputs the fixtures give


def number(cell):
    return float(cell.split()[0].replace(",", ""))


def test_it_runs_in_six_minutes_on_two_cores(notebook):
    """Notices what makes the lesson slow: more steps, a slower loop. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 360


def test_the_librarys_bytes(printed):
    """Notices a change of the lesson's quantization, or of bitsandbytes, after which one code or scale differs."""
    rows = table_rows(printed, "The lesson's code beside bitsandbytes")
    assert len(rows) >= 4
    for row in rows.values():
        assert row["bytes of codes that differ"] == row["8-bit scales that differ"] == "0"
    assert "4.127 bits per weight" in printed


def test_the_layer_is_the_librarys(printed):
    """Notices a layer whose output or gradients are not those of bitsandbytes with PEFT."""
    rows = table_rows(printed, "The lesson's layer beside")
    assert len(rows) == 4
    assert all(number(row["largest difference"]) <= 1e-5 * number(row["largest value"]) for row in rows.values())


def test_qlora_learns_what_lora_learns(printed):
    """Notices a change of training, guard or fused functions after which a 4-bit base learns less than a 16-bit one."""
    rows = table_rows(printed, "The same examples, once")
    losses = {name: number(row["validation loss"]) for name, row in rows.items()}
    assert losses.keys() == {"QLoRA, SFTTrainer", "LoRA, training.fit", "QLoRA, training.fit"}
    assert max(losses.values()) < 0.4
    assert abs(losses["LoRA, training.fit"] - losses["QLoRA, training.fit"]) < 0.1


def test_nf4_loses_least(printed):
    """Notices a wrong table of values, block or scale: then NF4 is no better than FP4 and INT4."""
    rows = table_rows(printed, "Error of the restored weights")
    for column in ("this matrix: error, % of their size", "normal weights: error, % of their size"):
        errors = {name: number(row[column]) for name, row in rows.items()}
        assert min(errors, key=errors.get) == "NF4" and len(errors) == 3


def test_a_merge_in_four_bits_loses_most_and_one_in_sixteen_bits_little(printed):
    """Notices a story that the build no longer tells: what section 9 says of the two ways."""
    assert int(re.search(r"easured: (\d+) % of the gain lost", printed)[1]) >= 30


def test_every_claim_has_a_verdict(printed):
    """Notices a claim that is no longer judged; of those that are arithmetic, a change of estimates that turns one."""
    found = cards(printed)
    assert found.keys() == {"Q1", "Q2", "Q3", "Q4", "Q5"}
    fails = {"Q1", "Q3", "Q4"}
    assert {id: found[id].word for id in fails} == dict.fromkeys(fails, claims.FAILS)
    assert found["Q2"].word == claims.NOT_TESTED
    assert found["Q5"].word in {claims.NOT_TESTED, claims.FAILS}
