"""The stored outputs of notebook 03 say what the course promises of it; they come from a real run of the present source."""

import re

from support import SLOW

NOTEBOOK = "03_qlora"  # whose outputs the fixtures give


def test_it_runs_in_four_minutes_on_two_quick_cores(notebook):
    assert notebook.metadata.course["seconds"] <= 240 * SLOW


def test_the_librarys_bytes(printed):
    assert "random: bytes, scales, weights that differ: [0, 0, 0]" in printed
    assert re.search(r"106,168,320 real weights of 210 layers: \[0, 0, 0\]", printed)
    assert re.search(r"scales: 0 codes differ with the table", printed)
    assert "counted: 4.127 bits a weight" in printed


def test_qlora_reaches_loras_format(printed):
    found = {
        name: float(share) for name, share in re.findall(r"^(LoRA|QLoRA) +valid format ([\d.]+) %", printed, re.MULTILINE)
    }
    assert found.keys() == {"LoRA", "QLoRA"}
    assert found["QLoRA"] >= found["LoRA"] - 3
    assert found["QLoRA"] >= 90


def test_nf4_loses_least_on_prose(printed):
    rows = re.findall(
        r"^(NF4|FP4|INT4) +([\d.]+) +([\d.]+) +([\d.]+) +([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]", printed, re.MULTILINE
    )
    found = {row[0]: list(map(float, row[1:])) for row in rows}
    assert found.keys() == {"NF4", "FP4", "INT4"}
    for other in ("FP4", "INT4"):
        assert all(ours < theirs for ours, theirs in zip(found["NF4"][:3], found[other][:3]))
        assert found["NF4"][5] < found[other][4]  # intervals apart


def test_the_guard_mends_the_gradients(printed):
    assert float(re.search(r"with the guard the cosine of all gradients is ([\d.]+)", printed)[1]) > 0.999


def test_every_claim_has_a_verdict(notebook):
    text = "\n".join("".join(o.get("data", {}).get("text/plain", "")) for c in notebook.cells for o in c.get("outputs", []))
    table = text[text.rindex("\nL1  ") :] if "\nL1  " in text else text[text.rindex("L1  ") :]
    for claim in ("L1", "L2", "Q1", "Q2", "Q3", "Q4", "Q5"):
        assert re.search(rf"^{claim}  .*\n.*\n +(holds when|holds|does not hold)", table, re.MULTILINE), claim
