"""Retrieval: what it finds, and what it refuses."""

import socket

import pytest

from course_utils.data_prep import load_catalogue
from course_utils.errors import CourseError
from course_utils.retrieval import Retriever

SMALL = [
    {"id": "a", "title": "Kettles", "text": "Descale kettles every nineteen days with citric acid."},
    {"id": "b", "title": "Toasters", "text": "Toasters need crumbs removed; toasters never need water."},
    {"id": "c", "text": "Parcels travel three days. Parcels to islands travel longer than three days."},
]


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


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

    assert Retriever(SMALL, encoder).search("kettles", 1)[0].id == "c"
    assert [hit.rank for hit in Retriever(SMALL, encoder).search("kettles", 9)] == [1, 2, 3]
    for wrong in (lambda texts: [[1, 0]], lambda texts: [1] * len(texts), lambda texts: [[float("nan")]] * len(texts)):
        with pytest.raises(CourseError, match="a row of numbers for each of 3 texts"):
            Retriever(SMALL, wrong)


def test_recall_on_the_catalogue(catalogue):
    asked = [question["question"] for question in catalogue.questions]
    relevant = [question["passage"] for question in catalogue.questions]
    hits = Retriever(catalogue.versions[1], "dense").search_all(asked, 3)
    found = [sum(passage in [hit.id for hit in first[:k]] for passage, first in zip(relevant, hits)) for k in (1, 3)]
    assert 75 <= found[0] < found[1] <= 99


@pytest.mark.parametrize("query", ["", "the and of", "zyxwv", "\x00 ☃"])
def test_a_query_without_a_known_word_gives_some_order(query):
    assert [hit.rank for hit in Retriever(SMALL).search(query, 2)] == [1, 2]


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
        ([SMALL[0], SMALL[0]], r"passages\[1\], field id: 'a' is there already"),
    ],
)
def test_broken_passages_are_named(passages, said):
    with pytest.raises(CourseError, match=said):
        Retriever(passages)


def test_other_mistakes_are_named(monkeypatch):
    with pytest.raises(CourseError, match="unknown encoder 'sparse'; take 'dense', or"):
        Retriever(SMALL, "sparse")
    for k in (0, 1.5):
        with pytest.raises(CourseError, match="k must be a whole number, at least 1"):
            Retriever(SMALL).search("x", k)
    with pytest.raises(CourseError, match="a list of queries is needed"):
        Retriever(SMALL).search_all("kettle")
    monkeypatch.setitem(__import__("sys").modules, "wordllama", None)
    with pytest.raises(CourseError, match=r"retrieval needs wordllama: pip install 'finetuning-course\[rag\]'"):
        Retriever(SMALL)
