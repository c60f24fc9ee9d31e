"""Finds passages for a question: lexically (BM25), densely, or both.

BM25 is the implementation of bm25s (Lù, 2024, arXiv 2407.03618) on words stemmed by Snowball. The dense encoder is
WordLlama, whose 16 MB of static vectors are part of its package, so that dense retrieval works offline on any CPU. If
sentence-transformers and one of its models are available, the model's name can be given instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import numpy as np

METHODS = ("bm25", "dense", "hybrid")
STATIC = "wordllama"
FUSION = 60  # reciprocal rank fusion's constant: Cormack, Clarke and Buettcher, SIGIR 2009
K1, B = 1.5, 0.75


@dataclass(frozen=True)
class SearchHit:
    """A passage that was found for a query.

    Attributes:
        passage: the passage.
        rank: its rank; 1 is best.
        score: its score, comparable only within one query.
    """

    passage: Mapping
    rank: int
    score: float

    @property
    def id(self) -> str:
        """The passage's id."""
        return self.passage["id"]


class Retriever:
    """An index over passages, in which they are searched.

    Args:
        passages: rows with "id", "text" and optionally "title".
        method: "bm25"; "dense" (cosine of the encoder's vectors); "hybrid" (both, fused by their ranks).
        encoder: for dense retrieval: "wordllama", the name of a sentence-transformers model, or a function from a list of n
            texts to an array of shape (n, dimensions).
        language: language of BM25's stemmer and stop words, as named by bm25s.

    Raises:
        CourseError: there are no passages, a passage has no id or no text, an id occurs twice, the method is unknown, or the
            encoder is not available.
    """

    def __init__(
        self,
        passages: Sequence[Mapping],
        method: str = "bm25",
        encoder: str | Callable[[list[str]], Any] = STATIC,
        language: str = "english",
    ) -> None:
        self.passages, self.method = list(passages), method
        _check_passages(self.passages)
        if method not in METHODS:
            raise CourseError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
        self._language = language
        texts = [f"{p['title']}. {p['text']}" if p.get("title") else p["text"] for p in self.passages]
        if method != "dense":
            words = self._words(texts)
            if not words.vocab:
                raise CourseError("the passages contain only stop words")
            self._index = _package("bm25s").BM25(method="lucene", k1=K1, b=B)
            self._index.index(words, show_progress=False)
        if method != "bm25":
            self._encode = encoder if callable(encoder) else _encoder(encoder)
            self._vectors = self._encoded(texts)

    def search(self, query: str, k: int = 3) -> list[SearchHit]:
        """Return the k best passages, best first; all passages if there are fewer than k.

        Raises:
            CourseError: k is less than 1.
        """
        return self.search_all([query], k)[0]

    def search_all(self, queries: Sequence[str], k: int = 3) -> list[list[SearchHit]]:
        """Search for several queries, which dense encoders process together, and return the k best passages of each.

        Raises:
            CourseError: k is less than 1, or `queries` is a single text.
        """
        import numpy as np

        if isinstance(queries, str):
            raise CourseError("a list of queries is needed; for one there is search(query)")
        if not isinstance(k, int) or k < 1:
            raise CourseError(f"k must be a whole number, at least 1, it is {k}")
        if not len(queries):
            return []
        results = []
        for scores in self._scores(list(queries)):
            order = np.argsort(-scores, kind="stable")[:k]
            results.append([SearchHit(self.passages[i], rank, float(scores[i])) for rank, i in enumerate(order, 1)])
        return results

    def _scores(self, queries: list[str]) -> np.ndarray:
        """Array (queries, passages)."""
        import numpy as np

        parts = []
        if self.method != "dense":
            words = self._words(queries, ids=False)
            no_scores = np.zeros(len(self.passages))  # for a query that contains only stop words or words in no passage
            vocabulary = self._index.vocab_dict
            known_words = [[word for word in query if word in vocabulary] for query in words]
            parts.append(np.stack([self._index.get_scores(query) if query else no_scores for query in known_words]))
        if self.method != "bm25":
            parts.append(self._encoded(queries) @ self._vectors.T)
        if len(parts) == 1:
            return parts[0]
        lexical, dense = ((-part).argsort(axis=1, kind="stable").argsort(axis=1) + 1 for part in parts)
        # BM25 does not rank passages that share no word with the query
        return np.where(parts[0] > 0, 1 / (FUSION + lexical), 0.0) + 1 / (FUSION + dense)

    def _encoded(self, texts: list[str]) -> np.ndarray:
        """Array (texts, dimensions) of unit vectors."""
        import numpy as np

        vectors = np.asarray(self._encode(texts), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise CourseError(
                f"the encoder must give a row of numbers for each of {len(texts)} texts; its shape is {vectors.shape}"
            )
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def _words(self, texts: list[str], ids: bool = True) -> Any:
        stemmer = _package("Stemmer", "PyStemmer").Stemmer(self._language)
        options = {"stopwords": self._language, "stemmer": stemmer, "show_progress": False}
        return _package("bm25s").tokenize(texts, return_ids=ids, **options)


def _check_passages(passages: list[Mapping]) -> None:
    if not passages:
        raise CourseError("there are no passages to search in")
    seen_ids = set()
    for number, passage in enumerate(passages):
        if not isinstance(passage, Mapping) or not isinstance(passage.get("title", ""), str):
            raise CourseError(f"passages[{number}]: a row with id, text and perhaps a title is required, all of them texts")
        for key in ("id", "text"):
            if not isinstance(passage.get(key), str) or not passage[key].strip():
                raise CourseError(f"passages[{number}], field {key}: a text that is not empty is required")
        if passage["id"] in seen_ids:
            raise CourseError(f"passages[{number}], field id: {passage['id']!r} is there already")
        seen_ids.add(passage["id"])


def _encoder(name: str) -> Callable[[list[str]], Any]:
    if name == STATIC:
        from pathlib import Path

        package = _package("wordllama")
        # wordllama 0.4.0 misspells the path of its own tokenizer file by one letter and would then try to download it.
        assert package.__file__ is not None
        folder = Path(package.__file__).parent
        return package.WordLlama.load(cache_dir=folder, disable_download=True).embed
    package = _package("sentence_transformers", "sentence-transformers")
    try:
        return package.SentenceTransformer(name).encode
    except OSError as error:
        raise CourseError(
            f"the encoder {name!r} is not on this machine and could not be downloaded: {error}; {STATIC!r} works offline"
        ) from error


def _package(name: str, distribution: str = "") -> ModuleType:
    import importlib
    import logging

    logging.getLogger(name).setLevel(logging.WARNING)  # both packages log their progress at a visible level
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CourseError(f"retrieval needs {distribution or name}: pip install 'finetuning-course[rag]'") from error
    finally:  # wordllama configures the root logger, after which a notebook shows every request of every HTTP client
        logging.root.handlers[:], logging.root.level = handlers, level
