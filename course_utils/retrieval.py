"""Finds passages for a question by the cosine of their vectors.

The encoder is WordLlama, whose 16 MB of static vectors are part of its package, so that the search works offline on any CPU;
a function of your own can take its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import numpy as np


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
        encoder: "dense" for WordLlama's vectors, or a function from a list of n texts to an array of shape (n, dimensions).

    Raises:
        CourseError: there are no passages, a passage has no id or no text, an id occurs twice, or the encoder is unknown or
            not installed.
    """

    def __init__(self, passages: Sequence[Mapping], encoder: str | Callable[[list[str]], Any] = "dense") -> None:
        self.passages = list(passages)
        _check_passages(self.passages)
        if not callable(encoder) and encoder != "dense":
            raise CourseError(f"unknown encoder {encoder!r}; take 'dense', or a function from texts to vectors")
        self._encode = encoder if callable(encoder) else _static_vectors()
        self.texts = [f"{p['title']}. {p['text']}" if p.get("title") else p["text"] for p in self.passages]
        self._vectors = self._encoded(self.texts)

    def search(self, query: str, k: int = 3) -> list[SearchHit]:
        """Return the k best passages, best first; all passages if there are fewer than k.

        Raises:
            CourseError: k is less than 1.
        """
        return self.search_all([query], k)[0]

    def search_all(self, queries: Sequence[str], k: int = 3) -> list[list[SearchHit]]:
        """Search for several queries at once, and return the k best passages of each.

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
        for scores in self.scores(list(queries)):
            order = np.argsort(-scores, kind="stable")[:k]
            results.append([SearchHit(self.passages[i], rank, float(scores[i])) for rank, i in enumerate(order, 1)])
        return results

    def scores(self, queries: list[str]) -> np.ndarray:
        """Return the cosine of each query and each passage, shape (queries, passages)."""
        return self._encoded(queries) @ self._vectors.T

    def _encoded(self, texts: list[str]) -> np.ndarray:
        """Array (texts, dimensions) of unit vectors."""
        import numpy as np

        vectors = np.asarray(self._encode(texts), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise CourseError(
                f"the encoder must give a row of numbers for each of {len(texts)} texts; its shape is {vectors.shape}"
            )
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


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


def _static_vectors() -> Callable[[list[str]], Any]:
    logging.getLogger("wordllama").setLevel(logging.WARNING)  # it logs its progress at a visible level
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        import wordllama
    except ImportError as error:
        raise CourseError("retrieval needs wordllama: pip install 'finetuning-course[rag]'") from error
    finally:  # it configures the root logger, after which a notebook shows every request of every HTTP client
        logging.root.handlers[:], logging.root.level = handlers, level
    # wordllama 0.4.0 misspells the path of its own tokenizer file by one letter and would then try to download it.
    assert wordllama.__file__ is not None
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True).embed
