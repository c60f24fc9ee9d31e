"""Dense search and BM25, fused by their ranks: how the prompts of lesson 02's and 06's recorded rivals find past answers.

BM25 is the implementation of bm25s (Lù, 2024, arXiv 2407.03618) on words stemmed by Snowball.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from course_utils.retrieval import Retriever

FUSION = 60  # reciprocal rank fusion's constant: Cormack, Clarke and Buettcher, SIGIR 2009


class Hybrid(Retriever):
    """An index in which a passage's score is the sum of 1 / (FUSION + rank) in both searches."""

    def __init__(self, passages: Sequence[Mapping]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        super().__init__(passages)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self._index.index(self._words(self.texts), show_progress=False)

    def scores(self, queries: list[str]) -> Any:
        """Return the fused score of each query and each passage, shape (queries, passages)."""
        import numpy as np

        none, known = np.zeros(len(self.passages)), self._index.vocab_dict
        words = [[word for word in query if word in known] for query in self._words(queries, ids=False)]
        lexical = np.stack([self._index.get_scores(query) if query else none for query in words])
        ranks = [(-part).argsort(axis=1, kind="stable").argsort(axis=1) + 1 for part in (lexical, super().scores(queries))]
        # BM25 does not rank passages that share no word with the query
        return np.where(lexical > 0, 1 / (FUSION + ranks[0]), 0.0) + 1 / (FUSION + ranks[1])

    def _words(self, texts: list[str], ids: bool = True) -> Any:
        import bm25s
        import Stemmer

        options = {"stopwords": "english", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
        return bm25s.tokenize(texts, return_ids=ids, **options)
