"""The stored outputs of notebook 03 say what the course promises of it; they come from a real run of the present source.

`course build 03` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.
"""

import re

from support import SLOW, judged

from course_utils.claims import CONDITIONAL, FAILS

NOTEBOOK = "03_qlora"  # whose outputs the fixtures give


def test_it_runs_in_four_minutes_on_two_quick_cores(notebook):
    """Notices what makes the lesson slow: more steps, a slower loop. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 240 * SLOW


def test_the_librarys_bytes(printed):
    """Notices a change of the lesson's quantisation, or of bitsandbytes, after which one code, scale or weight differs."""
    assert "random: bytes, scales, weights that differ: [0, 0, 0]" in printed
    assert re.search(r"106,168,320 real weights of 210 layers: \[0, 0, 0\]", printed)
    assert re.search(r"scales: 0 codes differ with the table", printed)
    assert "counted: 4.127 bits a weight" in printed


def test_qlora_reaches_loras_format(printed):
    """Notices a change of training, guard or fused functions after which a 4-bit base learns less than a 16-bit one."""
    found = {
        name: float(share) for name, share in re.findall(r"^(LoRA|QLoRA) +valid format ([\d.]+) %", printed, re.MULTILINE)
    }
    assert found.keys() == {"LoRA", "QLoRA"}
    assert found["QLoRA"] >= found["LoRA"] - 3
    assert found["QLoRA"] >= 90


def test_nf4_loses_least_on_prose(printed):
    """Notices a wrong table of values, block or scale: then NF4 is no better than FP4 and INT4."""
    rows = re.findall(
        r"^(NF4|FP4|INT4) +([\d.]+) +([\d.]+) +([\d.]+) +([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]", printed, re.MULTILINE
    )
    found = {row[0]: list(map(float, row[1:])) for row in rows}
    assert found.keys() == {"NF4", "FP4", "INT4"}
    for other in ("FP4", "INT4"):
        assert all(ours < theirs for ours, theirs in zip(found["NF4"][:3], found[other][:3]))
        assert found["NF4"][5] < found[other][4]  # intervals apart


def test_the_guard_mends_the_gradients(printed):
    """Notices a `quantization.guard` that lets bitsandbytes repack, which turns the gradients."""
    assert float(re.search(r"with the guard the cosine of all gradients is ([\d.]+)", printed)[1]) > 0.999


def test_every_claim_has_a_verdict(printed):
    """Notices a claim that is no longer judged; of those that are arithmetic, a change of estimates that turns one."""
    found = judged(printed)
    assert found.keys() == {"L1", "L2", "Q1", "Q2", "Q3", "Q4", "Q5"}
    arithmetic = {"L1": FAILS, "L2": CONDITIONAL, "Q1": FAILS, "Q3": FAILS, "Q4": FAILS}
    assert {id: found[id].verdict for id in arithmetic} == arithmetic
