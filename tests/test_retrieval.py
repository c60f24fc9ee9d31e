"""Retrieval: what it finds, equal to the formula where there is one, and what it refuses."""

import math
import socket

import numpy as np
import pytest

from course_utils.data_prep import load_catalogue
from course_utils.errors import CourseError
from course_utils.retrieval import K1, METHODS, B, Retriever

SMALL = [
    {"id": "a", "title": "Kettles", "text": "Descale kettles every nineteen days with citric acid."},
    {"id": "b", "title": "Toasters", "text": "Toasters need crumbs removed; toasters never need water."},
    {"id": "c", "text": "Parcels travel three days. Parcels to islands travel longer than three days."},
]


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


def bm25(query, documents):
    """Lucene's BM25 written out, on lists of words."""
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        score = 0.0
        for term in query:
            having = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            count = words.count(term)
            score += idf * count / (count + K1 * (1 - B + B * len(words) / average))
        scores.append(score)
    return scores


def test_bm25_scores_are_the_formulas(catalogue):
    retriever = Retriever(catalogue.versions[1])
    texts = [f"{p['title']}. {p['text']}" for p in catalogue.versions[1]]
    documents = retriever._words(texts, ids=False)
    for question in catalogue.questions[::10]:
        query = retriever._words([question["question"]], ids=False)[0]
        expected = bm25(query, documents)
        found = {hit.id: hit.score for hit in retriever.search(question["question"], 72)}
        np.testing.assert_allclose([found[p["id"]] for p in catalogue.versions[1]], expected, rtol=1e-4, atol=1e-5)


def test_dense_scores_are_cosines_and_need_no_network(catalogue, monkeypatch):
    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    retriever = Retriever(SMALL, "dense")
    (best, *_, last) = retriever.search("How often must limescale be removed from my kettle?", 3)
    assert best.id == "a" and 1 >= best.score > last.score >= -1
    assert Retriever(SMALL, "dense").search(SMALL[2]["text"], 1)[0].score == pytest.approx(1, abs=1e-5)


def test_an_encoder_of_ones_own_is_used():
    def encoder(texts):  # whatever is asked, the passage about parcels is nearest
        return [[1, 0] if "Parcels" in text or text == "kettles" else [0, 1] for text in texts]

    assert Retriever(SMALL, "dense", encoder=encoder).search("kettles", 1)[0].id == "c"
    assert [hit.rank for hit in Retriever(SMALL, "dense", encoder=encoder).search("kettles", 9)] == [1, 2, 3]
    for wrong in (lambda texts: [[1, 0]], lambda texts: [1] * len(texts), lambda texts: [[float("nan")]] * len(texts)):
        with pytest.raises(CourseError, match="a row of numbers for each of 3 texts"):
            Retriever(SMALL, "dense", encoder=wrong)


def test_hybrid_is_reciprocal_rank_fusion(catalogue):
    parts = [Retriever(catalogue.versions[1], method) for method in ("bm25", "dense")]
    hybrid = Retriever(catalogue.versions[1], "hybrid")
    for question in catalogue.questions[:5]:
        ranks = [{hit.id: hit.rank for hit in part.search(question["question"], 72)} for part in parts]
        shared = {hit.id for hit in parts[0].search(question["question"], 72) if hit.score > 0}
        for hit in hybrid.search(question["question"], 72):
            counted = ranks if hit.id in shared else ranks[1:]  # no shared word: no place in BM25's ranking
            assert hit.score == pytest.approx(sum(1 / (60 + rank[hit.id]) for rank in counted))


def test_where_no_word_is_shared_hybrid_is_dense_whatever_the_order_of_the_passages(catalogue):
    found = []
    for rows in (catalogue.versions[1], catalogue.versions[1][::-1]):
        found += [[hit.id for hit in Retriever(rows, method).search("xylophone", 5)] for method in ("dense", "hybrid")]
    assert found[0] == found[1] == found[2] == found[3]


def test_recall_on_the_catalogue(catalogue):
    asked = [question["question"] for question in catalogue.questions]
    relevant = [question["passage"] for question in catalogue.questions]
    hits = {method: Retriever(catalogue.versions[1], method).search_all(asked, 3) for method in METHODS}
    found = {
        (m, k): sum(passage in [hit.id for hit in first[:k]] for passage, first in zip(relevant, hits[m]))
        for m in METHODS
        for k in (1, 3)
    }
    for method in METHODS:
        assert 60 <= found[method, 1] < found[method, 3] <= 95
    assert found["dense", 1] > found["bm25", 1] + 5


@pytest.mark.parametrize("query", ["", "the and of", "zyxwv", "\x00 ☃"])
@pytest.mark.parametrize("method", METHODS)
def test_a_query_without_a_known_word_gives_some_order(method, query):
    assert [hit.rank for hit in Retriever(SMALL, method).search(query, 2)] == [1, 2]


def test_no_queries_no_answers():
    assert Retriever(SMALL).search_all([]) == []


@pytest.mark.parametrize(
    ("passages", "said"),
    [
        ([], "no passages"),
        ([{"id": "a", "text": " "}], r"passages\[0\], field text"),
        ([{"text": "x y"}], r"passages\[0\], field id"),
        (["a text"], r"passages\[0\]: a row with id"),
        ([{"id": "a", "text": "x y", "title": 5}], r"passages\[0\]: a row with id"),
        ([{"id": "a", "text": "the and of"}], "contain only stop words"),
        ([SMALL[0], SMALL[0]], r"passages\[1\], field id: 'a' is there already"),
    ],
)
def test_broken_passages_are_named(passages, said):
    with pytest.raises(CourseError, match=said):
        Retriever(passages)


def test_other_mistakes_are_named(monkeypatch):
    with pytest.raises(CourseError, match="unknown method 'sparse'; there are bm25, dense, hybrid"):
        Retriever(SMALL, "sparse")
    for k in (0, 1.5):
        with pytest.raises(CourseError, match="k must be a whole number, at least 1"):
            Retriever(SMALL).search("x", k)
    with pytest.raises(CourseError, match="a list of queries is needed"):
        Retriever(SMALL).search_all("kettle")
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    with pytest.raises(CourseError, match=r"retrieval needs bm25s: pip install 'finetuning-course\[rag\]'"):
        Retriever(SMALL)
