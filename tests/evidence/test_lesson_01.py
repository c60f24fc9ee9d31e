"""Lesson 01's judges: a verdict follows the record, and what is not recorded is never made up."""

import copy
import re

import pytest

from course_utils import claims, costs, evidence
from course_utils.evidence import lesson_01

TOKENS = dict.fromkeys(lesson_01.SYSTEMS, 300.0) | {f"fixed: {name}": 100.0 for name in lesson_01.SYSTEMS}
TOKENS |= {"message alone": 48.0, "instructions and three examples": 332.0, "fine-tuned + RAG": 143.0}
TOKENS |= {
    "RAG, asked for the record": 537.0,
    "whole catalogue in the prompt": 6073.0,
    "fixed: whole catalogue in the prompt": 6037.0,
}


@pytest.fixture(autouse=True)
def _no_claims(monkeypatch):
    monkeypatch.setattr(claims, "_checked", {})


@pytest.fixture
def changed(monkeypatch):
    """The record with some of its parts replaced."""

    def put(change):
        made = copy.deepcopy(lesson_01.record())
        change(made)
        monkeypatch.setattr(lesson_01, "record", lambda: made)

    return put


def shares(share, n=100, seeds=1):
    return [[int(i < share * n) for i in range(n)] for _ in range(seeds)]


def test_every_claim_of_the_lesson_has_a_judge_and_a_source():
    ids = [id for id in claims.CLAIMS if id.startswith("D")]
    assert ids == ["D1", "D2", "D3", "D4", "D5"]
    assert all(hasattr(lesson_01, f"judge_{id}") for id in ids) and set(ids) <= claims.SOURCES.keys()


def test_quality_of_large_models_is_not_tested_here_and_the_price_is():
    card = evidence.card("D1", assumptions=lesson_01.assumptions(TOKENS))
    assert card.verdict.word == claims.NOT_TESTED
    assert "cannot speak for 7B" in card.verdict.sentence and "Zhao et al., April 2024" in card._repr_html_()
    for row in lesson_01.factors(lesson_01.assumptions(TOKENS)).values():
        product = row["by the size of the model"] * row["by the shorter prompt"]
        assert row["times the price"] == pytest.approx(product)


@pytest.mark.parametrize(("tuned", "word"), [(0.98, claims.UNDER_A_CONDITION), (0.2, claims.FAILS)])
def test_saving_tokens_counts_only_if_the_form_holds_without_them(changed, tuned, word):
    changed(lambda made: made["seeds"]["fine-tuned"].update(valid=shares(tuned, seeds=3)))
    assert lesson_01.judge_D2(TOKENS).word == word


def test_what_the_rest_is_worth_depends_on_volume_and_the_price_of_an_error():
    chosen = lesson_01.assumptions(TOKENS)
    worth = list(lesson_01.price_of_an_error(chosen).values())
    assert worth == sorted(worth, reverse=True) and worth[0] > 1 > worth[-1]
    words = [lesson_01.judge_D3(chosen, error).word for error in (-1.0, 1.0, 1000.0)]
    assert words == [claims.HOLDS, claims.UNDER_A_CONDITION, claims.FAILS]


@pytest.mark.parametrize(("others", "word"), [(0.5, claims.UNDER_A_CONDITION), (1.0, claims.FAILS)])
def test_overfitting_is_a_gap_between_own_examples_and_others(changed, others, word):
    changed(lambda made: made["sizes"]["24"].update(test=shares(others, 30, 3)))
    assert lesson_01.judge_D4().word == word


def _by_heart(share):
    return lambda made: made["sweep"]["6"].update(test=shares(share))


def test_facts_by_heart_that_overtake_an_untrained_reader_are_a_condition(changed):
    assert lesson_01.judge_D5().word == claims.UNDER_A_CONDITION
    changed(_by_heart(0.1))
    assert lesson_01.judge_D5().word == claims.HOLDS


def test_facts_that_stay_right_after_the_change_refute_the_claim(changed):
    changed(lambda made: made["drilled"].update({"version 2": shares(0.8, 38, 3)}))
    assert lesson_01.judge_D5().word == claims.FAILS


def test_what_is_not_recorded_says_so(changed):
    changed(lambda made: made["seeds"].pop("whole catalogue", None))
    table = lesson_01.rivals(TOKENS)
    assert table.rows["whole catalogue in the prompt"]["right fact"] == lesson_01.MISSING
    assert table.rows["whole catalogue in the prompt"]["tokens in"] == round(TOKENS["whole catalogue in the prompt"])
    assert "whole catalogue: not recorded yet" in str(lesson_01.published())
    assert "not recorded yet" in lesson_01.rivals_figure(["whole catalogue in the prompt"], "A title").alt


def test_a_new_record_fills_the_table(changed):
    rows = {side: shares(0.9) for side in ("valid", "behaviour", "knowledge")} | {"seconds": [1.25]}
    changed(lambda made: made["seeds"].update({"whole catalogue": rows}))
    row = lesson_01.rivals(TOKENS).rows["whole catalogue in the prompt"]
    assert row["usable"].value == pytest.approx(0.9) and row["tokens in"] == round(TOKENS["whole catalogue in the prompt"])


def test_prices_name_their_day_their_source_and_hosts_that_take_no_new_jobs():
    table = lesson_01.prices()
    assert set(table.rows) == set(costs.PRICES) | set(costs.FRONTIER)
    for name, (last_day, _) in costs.NO_NEW_JOBS.items():
        assert str(last_day) in table.rows[name]["new tuning jobs"]
    assert '<a href="https://developers.openai.com/api/docs/pricing"' in table._repr_html_()


def test_a_cached_catalogue_costs_less_than_the_same_without_a_cache():
    for row in lesson_01.knowledge_costs(TOKENS).values():
        assert row["whole catalogue in the prompt"] < row["whole, without a cache"]


@pytest.mark.parametrize(
    ("shown", "content_right", "cause"),
    [(None, False, "knowledge"), ("B", True, "retrieval"), ("A", False, "behaviour"), ("A", True, "format")],
)
def test_the_first_broken_link_is_the_cause(shown, content_right, cause):
    assert lesson_01.cause_of(shown, "A", content_right) == cause


def test_twenty_wrong_answers_of_all_causes_the_same_each_time():
    found = lesson_01.wrong_answers()
    assert len(found) == 20 and {w.cause for w in found} == set(lesson_01.CAUSES)
    assert not any(w.content_right and w.form_right and w.shown == w.needed for w in found)
    lesson_01.wrong_answers.cache_clear()
    assert lesson_01.wrong_answers() == found
    assert sum(row["answers"] for row in lesson_01.causes_table(found).rows.values()) == 20


def test_the_rivals_prompts_are_what_they_are_called():
    from course_utils.data_prep import load_catalogue

    catalogue = load_catalogue()
    asked = catalogue.questions[:2]
    made = {key: lesson_01.prompts(key, catalogue, asked) for key in lesson_01.SYSTEMS.values()}
    text = {key: [" ".join(m["content"] for m in prompt) for prompt in rows] for key, rows in made.items()}
    assert "Passages:" in text["RAG: few-shot"][0] and "Passages:" not in text["prompt: few-shot"][0]
    assert text["RAG: few-shot, structured"] == text["RAG: few-shot"]
    assert all(p["text"] in text["whole catalogue"][1] for p in catalogue.versions[1])
    wordings = {row["question"] for row in catalogue.training}
    shown = [m["content"] for m in made["prompt: retrieved examples"][0] if m["role"] == "user"]
    assert len(shown) == lesson_01.RETRIEVED_EXAMPLES + 1 and set(shown[:-1]) <= wordings
    assert made["fine-tuned"] == made["prompt: zero-shot"]
    fact = {row["question"]: row["question_id"] for row in catalogue.training}
    for which, others in (("RAG: retrieved examples", False), ("RAG: retrieved examples of other facts", True)):
        prompts = lesson_01.prompts(which, catalogue, catalogue.questions[:30])
        asked = [[m["content"].rpartition("Customer: ")[2] for m in prompt if m["role"] == "user"] for prompt in prompts]
        examples = [[fact[text] for text in texts[:-1]] for texts in asked]
        own = [question["id"] in shown for question, shown in zip(catalogue.questions, examples)]
        assert {len(shown) for shown in examples} == {lesson_01.RETRIEVED_EXAMPLES} and any(own) != others


def test_figures_describe_themselves():
    chosen = lesson_01.assumptions(TOKENS)
    made = [lesson_01.picture(), lesson_01.changes_figure(), lesson_01.sizes_figure(), lesson_01.cost_figure(chosen)]
    for figure in made:
        assert 20 < len(figure.alt) <= 300
    assert "pays from" in made[-1].alt
    assert "never pays" in lesson_01.cost_figure(lesson_01.assumptions(TOKENS, frontier="gpt-6-luna", instructions=0)).alt


@pytest.mark.slow
def test_an_endpoint_is_asked_and_trouble_with_it_is_a_row(monkeypatch, tiny_model, tmp_path):
    """Against the course's own server, for there is no other here: a small model in a frontier model's place."""
    import dataclasses

    from course_utils.data_prep import load_catalogue
    from course_utils.openai_server import local_server

    catalogue = load_catalogue()
    catalogue = dataclasses.replace(catalogue, questions=catalogue.questions[:10])  # of which it asks two
    monkeypatch.setenv("COURSE_FRONTIER", "any")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "no key" in str(lesson_01.frontier(catalogue))  # without a key it says so and goes on
    with local_server(tmp_path, model=tiny_model) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        name = server.client().models.list().data[0].id
        monkeypatch.setenv("COURSE_FRONTIER", name)
        table = lesson_01.frontier(catalogue)
    assert list(table.rows) == [f"{name}, prompt: few-shot", f"{name}, RAG: few-shot"]


def test_without_an_endpoint_the_table_says_so(monkeypatch):
    monkeypatch.delenv("COURSE_FRONTIER", raising=False)
    from course_utils.data_prep import load_catalogue

    assert "No endpoint is set" in str(lesson_01.frontier(load_catalogue()))


def test_addresses_are_links_where_they_are_read_and_nowhere_else():
    html = lesson_01.gpu_prices()._repr_html_()
    assert re.search(r'<caption[^>]*><b[^>]*>[^<]*<a href="https://github.com/', html)
    assert "<a" not in re.search(r'aria-label="([^"]*)"', html)[1] and "<" not in re.search(r'aria-label="([^"]*)"', html)[1]
    assert html.count("text-decoration:underline") == html.count("<a ")


def test_what_was_taken_over_keeps_its_date(monkeypatch):
    made = {"date": "2026-12-02", "taken_over": {"date": "2026-12-01", "parts": ["sizes", "sweep"]}}
    monkeypatch.setattr(lesson_01, "record", lambda: made)
    assert (lesson_01.recorded(), lesson_01.recorded("sizes")) == ("2026-12-02", "2026-12-01")
    del made["taken_over"]
    assert lesson_01.recorded("sizes") == "2026-12-02"


def test_what_is_left_out_of_the_training_is_in_no_example():
    from course_utils.data_prep import load_catalogue

    catalogue = load_catalogue()
    held_out = {q["id"]: q for q in catalogue.questions[::4]}
    alone, with_passage = lesson_01.training_examples(catalogue, held_out)
    everything = [group for groups in lesson_01.training_examples(catalogue) for group in groups]
    said = {turn["content"] for example in [*alone, *with_passage] for turn in example}
    wordings = {row["question"] for row in catalogue.training if row["question_id"] in held_out}
    assert len(alone) == len(catalogue.questions) - len(held_out) and len(alone) + len(with_passage) < len(everything)
    assert not any(question in text for question in wordings for text in said)
