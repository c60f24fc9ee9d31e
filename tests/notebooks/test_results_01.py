"""The stored outputs of notebook 01 say what the course promises of it; and so does the record of three seeds.

`course build 01` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then. What the lesson says in words is tied to record and prices in
tests/evidence/test_lesson_01_text.py.

The record is written by `benchmarks/framework.py`: a change of code shows in it after the next run of that.
"""

import json
import re

import pytest
from support import cards, table_rows

from course_utils import assets, claims, costs, evaluation
from course_utils.evidence import lesson_01

NOTEBOOK = "01_decision_framework"  # whose outputs the fixtures give


@pytest.fixture(scope="module")
def record():
    return json.loads(assets.benchmark_results("framework").read_text(encoding="utf-8"))


def share(cell):
    """76 of "76 % (67-83)"."""
    return float(cell.partition(" %")[0])


def shown_by(notebook, code):
    """What the cell with this code showed, as text."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source)
    return "\n".join(output.get("text", "") or output["data"].get("text/plain", "") for output in cell.outputs)


def revealed(notebook, code):
    """The measured value that a prediction was compared with."""
    return float(re.search(r"easured: ([\d.,]+)", shown_by(notebook, code))[1].replace(",", ""))


def both(system):
    return evaluation.over_seeds([[a * b for a, b in zip(*pair)] for pair in zip(system["knowledge"], system["behaviour"])])


def test_it_runs_in_four_minutes_on_two_cores(notebook):
    """Notices what makes the lesson slow: more steps, a slower loop, slower answers. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 240


def test_live_training_teaches_the_form_and_not_the_facts(notebook):
    """Notices a change of training, template or generation after which the form is no longer learned."""
    assert revealed(notebook, "guess.reveal(100 * quality_alone.valid.value)") >= 90


def test_live_together_knows_more_than_rag_alone(notebook):
    """Notices data or a training that teach to recite instead of to read."""
    rag = lesson_01.score("RAG, asked for the fact alone", lesson_01.FACT)
    assert revealed(notebook, "guess.reveal(100 * quality_both.knowledge.value)") > 100 * rag.high


def test_a_schema_gives_the_form(printed):
    """Notices a constrained decoding that lets an answer out which is no record, unless its space ended."""
    rows = table_rows(printed, "8 messages")
    assert share(rows["under the schema"]["valid form"]) >= max(70, share(rows["free"]["valid form"]))


def test_twenty_errors_have_all_four_causes(printed):
    rows = table_rows(printed, "20 wrong answers")
    assert rows.keys() == set(lesson_01.CAUSES) and all(int(row["answers"]) > 0 for row in rows.values())


def test_the_table_of_rivals_is_complete(printed):
    """Notices a rival that was left out of the newest record: then its row would say so to the reader."""
    rows = table_rows(printed, "Recorded 20")
    assert rows.keys() == set(lesson_01.SYSTEMS)
    assert not [name for name, row in rows.items() if lesson_01.MISSING in str(row)]


def test_every_price_is_shown_with_its_date_and_source(printed):
    """Notices a price in `costs` that was changed, added or dated anew without a build, or that the lesson leaves out."""
    for name, price in (costs.PRICES | costs.FRONTIER).items():
        assert re.search(rf"^{re.escape(name)} .*{price.date}  {re.escape(price.source)}$", printed, re.M), name
    for card in costs.GPU_PRICES.values():
        assert re.search(rf"^{re.escape(card.label)} .*{card.date}  {re.escape(card.source)}$", printed, re.M), card
    assert str(costs.SERVED_DATE) in printed and costs.SERVED_SOURCE in printed


def test_every_claim_has_the_verdict_of_record_and_prices(printed):
    """Notices a claim that is no longer judged, and a record or prices newer than the build that turn one."""
    found = cards(printed)
    assert found.keys() == {"D1", "D2", "D3", "D4", "D5"}
    for id, judge in (("D4", lesson_01.judge_D4), ("D5", lesson_01.judge_D5)):
        assert (found[id].word, found[id].sentence) == (judge().word, judge().sentence)
    assert found["D1"].word == claims.NOT_TESTED
    assert {found["D2"].word, found["D3"].word} == {claims.UNDER_A_CONDITION}


def test_recorded_each_approach_wins_in_every_seed(record):
    """Notices a new record in which one seed's approach does not win: the live run has one seed only."""
    systems = record["seeds"]
    assert len(systems["fine-tuned"]["knowledge"]) >= 3
    rag, together = systems["RAG"], systems["fine-tuned + RAG"]
    others = [systems[name] for name in ("RAG", "RAG: few-shot", "prompt: few-shot", "fine-tuned")]
    for seed, (knows, behaves) in enumerate(zip(systems["fine-tuned"]["knowledge"], systems["fine-tuned"]["behaviour"])):
        assert evaluation.over_seeds(rag["knowledge"]).low > evaluation.proportion(knows).high
        for asked in ("RAG", "RAG: few-shot"):
            assert evaluation.proportion(behaves).low > evaluation.over_seeds(systems[asked]["behaviour"]).high
        one = evaluation.proportion([a and b for a, b in zip(together["knowledge"][seed], together["behaviour"][seed])])
        assert all(one.low > both(other).high for other in others)


def test_recorded_facts_go_stale(record):
    """Notices a new record in which what was learned by heart survives the update, or reading does not help after it."""
    drilled = record["drilled"]
    known, later = (evaluation.over_seeds(drilled[version]) for version in ("version 1", "version 2"))
    assert known.low > later.high
    fresh = evaluation.over_seeds(record["after_update"]["RAG + fine-tuned, version 2"])
    assert fresh.low > later.high
