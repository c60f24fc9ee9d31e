"""The stored outputs of notebook 06 say what the course promises of it.

`course build 06` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.
"""

import re

import pytest
from support import SLOW, judged, shares, verdict

NOTEBOOK = "06_openai_api"  # whose outputs the fixtures give


def test_it_runs_in_five_minutes_on_two_quick_cores(notebook):
    """Notices what makes the lesson slow: more steps, a slower server or worker. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 300 * SLOW


def share(printed, name) -> float:
    return float(re.search(rf"{re.escape(name)} +valid ([\d.]+) %", printed)[1])


def test_the_format_needs_no_instructions_after_training(printed):
    """Notices a worker that trains on something else than the file, and a server that answers with the base where a tuned
    model was asked for.
    """
    assert share(printed, "base, no instructions") < 10
    assert share(printed, "tuned, no instructions") > 80 > share(printed, "base, long prompt")


def test_the_validation_loss_turns(printed):
    """Notices a validation that is made on training rows, and settings under which nothing is overfitted any more."""
    lowest, last = re.search(r"lowest at step \d+: ([\d.]+); at the end ([\d.]+)", printed).groups()
    assert float(last) > float(lowest)


def test_dpo_starts_at_the_tuned_model(printed):
    """Notices a DPO job that starts at the base, or measures from another reference than the model it starts at."""
    first, last = map(float, re.search(r"loss at the first step ([\d.]+) .*, at the last ([\d.]+)", printed).groups())
    assert first == pytest.approx(0.693, abs=0.05) and last < first


def test_the_refusal_takes_its_branch(printed):
    """Notices a server whose refusal the lesson's cell does not recognise any more."""
    assert "refused: OpenAI is winding down the fine-tuning platform" in printed


def test_no_cell_but_the_first_knows_the_host(notebook):
    """Notices, in the source and without its outputs, a cell that would fail at another host.

    Cells that use the local server beside the API say so, and are left out elsewhere.
    """
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    chooser = next(i for i, source in enumerate(code) if "HOST = os.environ" in source)
    for source in code[chooser + 1 :]:
        for line in source.splitlines():
            alone = re.search(r"\bserver\.|BASE_URL|API_KEY|HOST\b", line)
            assert not alone or "if server is not None" in source, line


def test_every_claim_has_a_verdict(printed):
    """Notices a claim that is no longer judged, and verdicts that do not follow from the answers and the losses."""
    found = judged(printed)
    assert found.keys() == {"O1", "O2", "O3"}
    after, before, told = shares(found["O1"].measured)
    losses = list(map(float, re.search(r"validation loss, epoch by epoch: (.+)", printed)[1].split(", ")))
    rising = losses[losses.index(min(losses)) :]
    fell = re.search(r"while training loss went from ([\d.]+) to ([\d.]+)", printed).groups()
    for id, holds in {
        "O1": after[1] > before[2] and after[2] >= told[0],
        "O2": True,  # the hosts' methods and weights, as `hosts` lists them
        "O3": len(rising) > 2 and rising == sorted(rising) and float(fell[1]) < float(fell[0]),
    }.items():
        assert found[id].verdict == verdict(id, holds, conditional=True), found[id]
