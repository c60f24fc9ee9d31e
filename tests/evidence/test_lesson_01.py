"""Lesson 01: what the record must still say for the lesson to be true, the rivals' prompts, prices and wrong answers."""

import re
from functools import cache

import pytest

from course_utils import costs, decision
from course_utils.data_prep import load_catalogue
from course_utils.evidence import lesson_01
from course_utils.evidence.lesson_01 import BOTH, FACT, FORM, RECORD, UNSEEN, difference, score
from course_utils.retrieval import Retriever, recalled

TOKENS = dict.fromkeys(lesson_01.SYSTEMS, 300.0) | {f"fixed: {name}": 100.0 for name in lesson_01.SYSTEMS}
TOKENS |= {"RAG, asked for the record": 537.0, "whole catalogue in the prompt": 6073.0}
TOKENS |= {"fixed: whole catalogue in the prompt": 6037.0}


def share(system, kind):
    return score(system, kind).value


@cache
def hits(method):
    """Of the hundred questions, those whose passage comes first."""
    questions = load_catalogue().questions
    index = Retriever(load_catalogue().versions[1], method)
    return sum(recalled(index, [q["question"] for q in questions], [q["passage"] for q in questions], 1))


def by_heart():
    return lesson_01.passes()[max(lesson_01.passes())]["in other wordings"].value


PROMPTED, READER, ASKED, TOGETHER = (
    "instructions and three examples", "RAG, asked for the fact alone", "RAG, asked for the record", "fine-tuned + RAG",
)  # fmt: skip
FINDINGS = {
    "training teaches form and judgement and no facts": lambda: (
        share("fine-tuned", RECORD) > 0.7 and share("fine-tuned", FACT) < 0.02
    ),
    "retrieval gives facts and no form": lambda: share(READER, FACT) > 0.2 and share(READER, RECORD) < 0.05,
    "examples in the prompt give half the answers a form, and neither judgement nor facts": lambda: (
        0.45 < share(PROMPTED, FORM) < 0.6 and max(share(PROMPTED, RECORD), share(PROMPTED, FACT)) < 0.05
    ),
    "dense search finds 85 passages, more than BM25": lambda: hits("dense") == 85 > hits("bm25") + 5,
    "asked for the record, a reader loses half its facts": lambda: 0.4 < share(ASKED, FACT) / share(READER, FACT) < 0.6,
    "a schema helps the form and not the facts": lambda: (
        share("RAG, record, structured output", FORM) > 0.75
        and share("RAG, record, structured output", FACT) <= share(ASKED, FACT)
    ),
    "trained to read, it gets twice as many facts": lambda: 1.7 < share(TOGETHER, FACT) / share(READER, FACT) < 2.4,
    "reading carries over to products it never saw, not wholly": lambda: (
        difference(UNSEEN, READER, FACT).low > 0.1 and difference(UNSEEN, TOGETHER).high < 0
    ),
    "two of the five ways give more than half usable answers": lambda: (
        min(share(TOGETHER, BOTH), share("RAG, retrieved examples", BOTH)) > 0.5
        and max(share(name, BOTH) for name in (PROMPTED, READER, "fine-tuned")) < 0.05
    ),
    "retrieved examples are not told from training": lambda: (
        difference(TOGETHER, "RAG, retrieved examples").low < 0 < difference(TOGETHER, "RAG, retrieved examples").high
    ),
    "facts learned by heart overtake an untrained reader": lambda: share(READER, FACT) < by_heart() < share(TOGETHER, FACT),
    "two dozen examples teach the form and are learned by heart": lambda: (
        lesson_01.sizes()[24]["valid form on others"].value > 0.95
        and lesson_01.sizes()[24]["on its own examples"].value == 1
        and lesson_01.sizes()[24]["on others"].high < 0.9
    ),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_the_record_bears(finding):
    assert FINDINGS[finding]()


@pytest.mark.model
def test_prices_bear_what_the_lesson_concludes():
    """Break-even at some 9,000 requests a day, self-hosting at far more, a cached catalogue about as cheap as RAG."""
    from course_utils import models

    tokens = lesson_01.token_counts(models.load(tier="cpu")[1], load_catalogue())
    chosen = lesson_01.assumptions(tokens)
    assert 5000 < chosen.break_even("hosted") < 15_000 and chosen.break_even("self-hosted", "hosted") > 500_000
    worth = lesson_01.price_of_an_error(chosen)
    assert worth[10] > 10 and worth[100_000] < 0.01
    for row in lesson_01.knowledge_costs(tokens).values():
        assert row["whole catalogue in the prompt"] < 1.35 * row["RAG, asked for the record"]
        assert row["RAG, filled up"] == min(row.values())


def approach(**answers):
    return decision.decide(**answers).approach


def test_the_helper_says_of_the_four_companies_what_the_text_says():
    assert (
        approach(gap="behaviour", prompt_reaches=0.72, examples=2400, requests_a_day=30_000, latency="tight") == "fine-tune"
    )
    contracts = {
        "gap": "both",
        "prompt_reaches": 0.55,
        "facts_change": "monthly",
        "requests_a_day": 150,
        "own_machines": True,
    }
    assert (approach(**contracts, examples=40), approach(**contracts, examples=100)) == ("rag", "rag + fine-tune")
    assert approach(gap="knowledge", prompt_reaches=0.35, facts_change="daily", examples=500, requests_a_day=3000) == "rag"
    assert approach(gap="behaviour", prompt_reaches=0.88, examples=300, requests_a_day=60) == "prompt"


def test_prices_name_their_day_their_source_and_hosts_that_take_no_new_jobs():
    table = lesson_01.prices()
    assert set(table.rows) == set(costs.PRICES) | set(costs.FRONTIER)
    for name, (last_day, _) in costs.NO_NEW_JOBS.items():
        assert str(last_day) in table.rows[name]["new tuning jobs"]
    assert '<a href="https://developers.openai.com/api/docs/pricing"' in table._repr_html_()


def test_a_cached_catalogue_costs_less_than_the_same_without_a_cache():
    for row in lesson_01.knowledge_costs(TOKENS).values():
        assert row["whole catalogue in the prompt"] < row["whole, without a cache"]


def test_twenty_wrong_answers_of_all_causes_the_same_each_time():
    found = lesson_01.wrong_answers()
    assert len(found) == 20 and {w.cause for w in found} == set(lesson_01.CAUSES)
    assert not any(w.content_right and w.form_right and w.shown == w.needed for w in found)
    lesson_01.wrong_answers.cache_clear()
    assert lesson_01.wrong_answers() == found
    assert sum(row["answers"] for row in lesson_01.causes_table(found).rows.values()) == 20


def test_the_rivals_prompts_are_what_they_are_called():
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


@pytest.mark.slow
def test_an_endpoint_is_asked_and_trouble_with_it_is_a_row(monkeypatch, tiny_model, tmp_path):
    """Against the course's own server, for there is no other here: a small model in a frontier model's place."""
    import dataclasses

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
    assert "No endpoint is set" in str(lesson_01.frontier(load_catalogue()))


def test_addresses_are_links_where_they_are_read_and_nowhere_else():
    html = lesson_01.gpu_prices()._repr_html_()
    assert re.search(r'<caption[^>]*><b[^>]*>[^<]*<a href="https://github.com/', html)
    assert "<a" not in re.search(r'aria-label="([^"]*)"', html)[1] and "<" not in re.search(r'aria-label="([^"]*)"', html)[1]
    assert html.count("text-decoration:underline") == html.count("<a ")


def test_what_is_left_out_of_the_training_is_in_no_example():
    catalogue = load_catalogue()
    held_out = {q["id"]: q for q in catalogue.questions[::4]}
    alone, with_passage = lesson_01.training_examples(catalogue, held_out)
    everything = [group for groups in lesson_01.training_examples(catalogue) for group in groups]
    said = {turn["content"] for example in [*alone, *with_passage] for turn in example}
    wordings = {row["question"] for row in catalogue.training if row["question_id"] in held_out}
    assert len(alone) == len(catalogue.questions) - len(held_out) and len(alone) + len(with_passage) < len(everything)
    assert not any(question in text for question in wordings for text in said)
