"""The stored outputs of notebook 04, and the record of three seeds, say what the course promises of them.

`course build 04` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.

The records are written by `benchmarks/alignment.py` and hold what it measured: a change of code shows in them after
its next run.
"""

import json
import re

import pytest
from support import SLOW, judged, shares, verdict

from course_utils import assets

NOTEBOOK = "04_dpo"  # whose outputs the fixtures give
METHODS = ("DPO", "PPO", "ORPO", "SFT on chosen")


@pytest.fixture(scope="module")
def record():
    return json.loads(assets.benchmark_results("alignment").read_text(encoding="utf-8"))


def test_it_runs_in_seven_minutes_on_two_quick_cores(notebook):
    """Notices what makes the lesson slow: more steps or rollouts, a slower loop. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 420 * SLOW


def test_every_method_beats_sft_by_more_than_its_interval(record):
    """Notices a new record in which a method no longer gains on SFT: a loss, a reference or a judge gone wrong.

    By the held-out judge all do. PPO leaves the likelihood of written pairs where it was; the lesson says why.
    """
    assert len(record["seeds"]) >= 3
    for name in METHODS:
        assert record["gain over SFT"][name]["judge"]["all"][1] > 0, name
        assert name == "PPO" or record["gain over SFT"][name]["right"]["all"][1] > 0, name


def test_from_scratch_equals_the_reference(printed):
    """Notices a change of the lesson's own losses, or of the package's, after which the two differ."""
    pattern = r"^(Bradley-Terry|DPO|ORPO|GAE|clipped objective) +largest difference (\S+)$"
    found = dict(re.findall(pattern, printed, re.MULTILINE))
    assert len(found) == 5
    assert all(float(gap) < 1e-4 for gap in found.values())


def test_the_price_of_each_method_has_an_interval(printed):
    """Notices a price without an interval; and in a new record passes that are saved or added, a second body that is not."""
    rows = re.findall(r"^(DPO|ORPO|PPO) .*?([\d.]+) x SFT an example \[([\d.]+), ([\d.]+)\]", printed, re.MULTILINE)
    assert len(rows) == 6  # live, and from the record
    for _, value, low, high in rows:
        assert 0 < float(low) <= float(value) <= float(high)
    # A token is what the count of passes speaks of: 1.5 and 1 with LoRA.
    over = json.loads(assets.benchmark_results("method-prices").read_text(encoding="utf-8"))["over SFT"]
    assert over["DPO"]["a token"][0] == pytest.approx(1.5, rel=0.25)
    assert over["ORPO"]["a token"][0] == pytest.approx(1.0, rel=0.25)
    assert over["PPO"]["a token"][1] > 3
    # A pair has twice the tokens of an example, and PPO a second body.
    assert over["DPO"]["memory added, MB"][0] > over["SFT"]["memory added, MB"][0]


def test_beta_is_a_leash(record):
    """Notices a new record in which β no longer holds the policy back: a sign, a factor or a reference gone wrong."""
    at = {name: means["kl"] for name, means in record["frontier"].items() if name.startswith("β")}
    smallest, largest = min(at, key=lambda name: float(name[4:])), max(at, key=lambda name: float(name[4:]))
    assert at[smallest][1] > at[largest][2]


def test_ppo_without_its_penalty_goes_further(record):
    """Notices a new record in which PPO's penalty does nothing."""
    assert record["frontier"]["PPO without KL"]["kl"][1] > record["frontier"]["PPO"]["kl"][2]


def test_every_claim_has_a_verdict(printed, record):
    """Notices a claim that is no longer judged, and verdicts on the record that do not follow from it."""
    found = judged(printed)
    assert found.keys() == {"A1", "A2", "A3", "A4", "A5"}
    results = json.loads(assets.benchmark_results("method-prices").read_text(encoding="utf-8"))
    price = results["over SFT"]["DPO, prompt shared"]
    value, low, high = price["an example"]
    assert f"{value:.2f} x [{low:.2f}, {high:.2f}] in the record" in found["A1"].measured
    orpo = float(re.match(r"an example ([\d.]+) x \[", found["A2"].measured)[1])
    ppo = float(re.match(r"PPO ([\d.]+) x \[", found["A3"].measured)[1])
    roles = re.search(r"roles: (.+?);", found["A3"].measured)[1].split(", ")
    ((_, ranked, _),) = shares(found["A4"].measured)
    held, free = [tuple(map(float, span)) for span in re.findall(r"\(([\d.]+) to ([\d.]+)", found["A5"].measured)]
    tight, loose = (record["frontier"][f"β = {beta}"]["kl"] for beta in ("1.0", "0.02"))
    for id, holds, conditional in (
        ("A1", 1.5 <= value <= 2, True),
        ("A2", orpo <= 1.3, False),
        ("A3", 3 <= ppo <= 10 and len(roles) == 3, False),
        ("A4", ranked > 50, False),
        ("A5", held[1] < free[0] and tight[2] < loose[1], False),
    ):
        assert found[id].verdict == verdict(id, holds, conditional), found[id]
