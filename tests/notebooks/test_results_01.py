"""The stored outputs of notebook 01 say what the course promises of it; and so does the record of three seeds.

`course build 01` executes the source with the package as it is and stores what it prints, so a change of code shows here
after the next build, and not before it; that the stored notebook is of the present source is test_builder.py's to say. Each
test says which change it would notice then.

The record is written by `benchmarks/framework.py`: a change of code shows in it after the next run of that.
"""

import json
import os
import re
import statistics
import time

import pytest
from support import judged, shares, verdict

from course_utils import assets, costs, evaluation, lessons
from course_utils.publishing import builder
from course_utils.publishing.overview import overview

NOTEBOOK = "01_decision_framework"  # whose outputs the fixtures give


@pytest.fixture(scope="module")
def record():
    return json.loads(assets.record("framework").read_text(encoding="utf-8"))


def both(system):
    return evaluation.over_seeds([[a * b for a, b in zip(*pair)] for pair in zip(system["knowledge"], system["behaviour"])])


def test_it_runs_in_four_minutes_on_two_cores(notebook):
    """Notices what makes the lesson slow: more steps, a slower loop, slower answers. The seconds are the build's."""
    assert notebook.metadata.course["seconds"] <= 240


def test_live_each_approach_wins_where_it_should(printed):
    """Notices a change of training, retrieval or scoring after which an approach no longer wins at what it is for."""
    for sentence in (
        "RAG above fine-tuning on knowledge",
        "fine-tuning above RAG on behaviour, asked for the record or not",
        "together above all others on both at once",
    ):
        assert f"{sentence}: yes" in printed


def test_one_figure_shows_all_systems_and_all_measures(printed):
    """Notices a system or a measure that is no longer run, and a `figures.scorecard` that leaves one out."""
    alt = next(line for line in printed.splitlines() if "everything measured on one task" in line)
    systems = ("prompt: zero-shot", "prompt: few-shot", "RAG", "fine-tuned", "fine-tuned + RAG", "fine-tuned on these 38")
    for system in systems:
        for measure in ("knowledge", "behaviour", "both", "valid", "still the old fact"):
            assert re.search(rf"{re.escape(system)}, {measure}: [\d.]+ % \[", alt), (system, measure)
        for measure in ("tokens", "time", "price", "set-up time", "set-up money"):
            assert re.search(rf"{re.escape(system)}, {measure}: [\d.,e-]+ ", alt), (system, measure)


def test_recorded_rows_say_so(printed):
    """Notices recorded figures that are shown as if they had been measured live."""
    for system in ("prompt: instructions", "RAG: few-shot"):
        assert re.search(rf"^recorded 20\d\d-\d\d-\d\d, {system}: knowledge [\d.]+ % \[.*valid [\d.]+ % \[", printed, re.M)


def test_every_price_is_shown_with_its_date_and_source(printed):
    """Notices a price in `costs` that was changed, added or dated anew without a build, or that the lesson leaves out."""
    for name, price in (costs.PRICES | costs.FRONTIER).items():
        assert re.search(rf"^{re.escape(name)} .*{price.date}  {re.escape(price.source)}$", printed, re.M), name
    for name, card in costs.GPU_PRICES.items():
        assert re.search(rf"^{name} +{card.hour:.2f} an hour   {card.date}  {re.escape(card.source)}$", printed, re.M), name
    assert f"{costs.SERVED_DATE}  {costs.SERVED_SOURCE}" in printed


def test_it_learned_to_read_not_only_to_remember(printed):
    """Notices data or a training that teach to recite: then passages that were not trained with are read clearly worse.

    If less well at all: the intervals overlap.
    """
    share = r"([\d.]+) % \[([\d.]+), ([\d.]+)\]"
    seen = re.search(rf"of facts trained with their passage: {share}", printed)
    unseen = re.search(rf"of facts never trained with it: {share}", printed)
    assert float(unseen[1]) > 50 and float(unseen[3]) >= float(seen[2])


def live(printed, system, side):
    """Value, low and high of a system before (0) and after (1) the update."""
    share = r"([\d.]+) % \[([\d.]+), ([\d.]+)\]"
    found = re.search(rf"^{re.escape(system)} +right {share} → {share}", printed, re.M)
    return [float(value) for value in found.groups()][3 * side : 3 * side + 3]


def test_live_trained_facts_go_stale_and_retrieved_ones_do_not(printed):
    """Notices an update that does not reach the retriever, and one that leaks into what was trained before it."""
    before, after = (live(printed, "fine-tuned on these 38", side) for side in (0, 1))
    assert before[1] > after[2]
    for system in ("RAG", "fine-tuned + RAG"):
        before, after = (live(printed, system, side) for side in (0, 1))
        assert before[1] <= after[2] and after[1] <= before[2]


def test_recorded_each_approach_wins_in_every_seed(record):
    """Notices a new record in which one seed's approach does not win: the live run has one seed only."""
    systems = record["seeds"]
    assert len(systems["fine-tuned"]["knowledge"]) >= 3
    rag, together = systems["RAG"], systems["fine-tuned + RAG"]
    for seed, (knows, behaves) in enumerate(zip(systems["fine-tuned"]["knowledge"], systems["fine-tuned"]["behaviour"])):
        assert evaluation.over_seeds(rag["knowledge"]).low > evaluation.proportion(knows).high
        for asked in ("RAG", "RAG: few-shot"):
            assert evaluation.proportion(behaves).low > evaluation.over_seeds(systems[asked]["behaviour"]).high
        one = evaluation.proportion([a and b for a, b in zip(together["knowledge"][seed], together["behaviour"][seed])])
        assert all(one.low > both(other).high for name, other in systems.items() if name != "fine-tuned + RAG")


def test_recorded_facts_go_stale(record):
    """Notices a new record in which what was learned by heart survives the update, or reading does not help after it."""
    drilled = record["drilled"]
    known, later = (evaluation.over_seeds(drilled[version]) for version in ("version 1", "version 2"))
    assert known.low > later.high
    fresh = evaluation.over_seeds(record["after_update"]["RAG + fine-tuned, version 2"])
    assert fresh.low > later.high


def test_the_claims_are_judged(printed, record):
    """Notices a verdict that does not follow from what stands beside it, and a change of prices, record or training that
    turns one: each comparison is made again here, from the figures that the table shows and from the record."""
    found = judged(printed)
    assert found.keys() == {"D1", "D2", "D3", "D4", "D5"}
    ratios = [float(ratio) for ratio in re.findall(r" ([\d.]+)x[,;]", found["D1"].measured)]
    assert len(ratios) == len(costs.FRONTIER)
    saved, asked = map(int, re.match(r"(\d+) of (\d+) tokens a request", found["D2"].measured).groups())
    without, told = shares(found["D2"].measured)
    dear = [float(dollars) for dollars in re.findall(r"\$([\d.]+) at [\d,]+", found["D3"].measured)]
    assert len(dear) == 3 and dear == sorted(dear, reverse=True)
    sizes = {int(size): {side: evaluation.over_seeds(rows[side]) for side in rows} for size, rows in record["sizes"].items()}
    few, many = sizes[min(sizes)], sizes[max(sizes)]
    assert f"{min(sizes)} examples: behaviour {few['trained on']} on them, {few['test']} on others" in found["D4"].measured
    gaps = [rows["trained on"].value - rows["test"].value for rows in (few, many)]
    heart, _, reader = shares(found["D5"].measured.split("After the update")[1])
    for id, holds in {
        "D1": any(10 <= ratio <= 100 for ratio in ratios),
        "D2": 0 < saved < asked and without[2] >= told[0],
        "D3": dear[0] > 1.00,  # what an error costs in the lesson
        "D4": few["trained on"].low > few["test"].high and gaps[0] > gaps[1],
        "D5": reader[1] > heart[2],
    }.items():
        assert found[id].verdict == verdict(id, holds, conditional=True), found[id]


def test_the_front_door_shows_all_lessons(printed):
    """Notices a lesson, a title, a time or a number of exercises that changed after notebook 01 was built."""
    rows = overview("cpu")
    assert repr(rows) in printed  # the times of the newest records, this lesson's too
    assert [row.lesson for row in rows] == list(lessons.LESSONS.values())
    assert all(row.minutes and row.exercises >= 4 for row in rows)
    assert {row.file for row in rows} == {f"{name}.ipynb" for name in lessons.NAMES}
    assert "not recorded" in repr(overview("t4"))
    assert all(row.lesson.title in overview()._repr_html_() for row in rows)


@pytest.mark.slow
def test_the_frontier_cell_asks_an_endpoint(printed, tiny_model, tmp_path, monkeypatch, capsys):
    """Notices at once, without a build, a cell that asks the endpoint wrongly or does not bear having none.

    Against the course's own server, for there is no other here: a small model in a frontier model's place.
    """
    from course_utils.data_prep import load_catalogue
    from course_utils.openai_server import local_server
    from course_utils.retrieval import Retriever

    cell = next(c for c in builder.learner_edition("01").cells if "frontier" in c.metadata.get("tags", []))
    catalogue = load_catalogue()
    retriever = Retriever(catalogue.versions[1], "dense")

    def first_hits(asked):
        return [[hit.passage for hit in hits] for hits in retriever.search_all([q["question"] for q in asked], 1)]

    ours = {"fine-tuned + RAG": {"answers": ["-"] * 10}}
    space = {"catalogue": catalogue, "questions": catalogue.questions[:10], "results": ours, "first_hits": first_hits}
    space |= {"os": os, "statistics": statistics, "time": time}
    monkeypatch.delenv("COURSE_FRONTIER", raising=False)
    exec(cell.source, dict(space))
    assert "no endpoint set" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_FRONTIER", "any")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    exec(cell.source, dict(space))  # without a key it says so and goes on
    assert "the endpoint did not answer: no key" in capsys.readouterr().out
    with local_server(tmp_path, model=tiny_model) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        monkeypatch.setenv("COURSE_FRONTIER", server.client().models.list().data[0].id)
        exec(cell.source, dict(space))
    said = capsys.readouterr().out
    tokens = [int(found) for found in re.findall(r"few-shot.*?, (\d+) prompt tokens", said)]
    assert len(tokens) == 2 and tokens[1] > tokens[0] + 100
