"""How far are the training prompts from the prompts of production, and which of them are nearer?

A model trained on polite paragraphs meets terse users badly. The distance is what a classifier can tell: trained to separate
the two sets of prompts, it gets an area under the curve of 0.5 where they are of one kind and 1 where each gives itself away
(classifier two-sample test, Lopez-Paz and Oquab 2017). Its odds are the density ratio by which prompts can be resampled.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from course_utils.data_prep.similarity import normalise
from course_utils.errors import CourseError

HASHED = 512
GREETS = re.compile(r"^\W*(?:hi|hello|hey|dear|good (?:morning|afternoon|evening)|to whom)\b", re.IGNORECASE)
THANKS = re.compile(r"\b(?:regards|sincerely|thank|thanks|faithfully|wishes|please)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Style:
    """How a set of prompts is written: median length in words, shares of what the names say."""

    words: float
    terse: float
    greets: float
    polite: float
    lower_case: float
    vocabulary: float

    def rows(self) -> list[tuple[str, float]]:
        """Name and value, for a table."""
        return [
            ("median words", self.words),
            ("at most 8 words", self.terse),
            ("starts with a greeting", self.greets),
            ("thanks, please, regards", self.polite),
            ("begins in lower case", self.lower_case),
            ("words known to the other set", self.vocabulary),
        ]


@dataclass(frozen=True)
class Distance:
    """Two sets of prompts side by side.

    Attributes:
        auc: how well a classifier tells them apart on prompts it has not seen; 0.5 is not at all.
        train, production: how each is written.
        weights: for each training prompt, its odds of being a production prompt; for `resample`.
        topics: the words by which each set gives itself away, training's and production's, the most telling first.
    """

    auc: float
    train: Style
    production: Style
    weights: np.ndarray
    topics: tuple[list[str], list[str]]


def distance(train: Sequence[str], production: Sequence[str], seed: int = 0) -> Distance:
    """Compare training prompts with production prompts.

    Raises:
        CourseError: fewer than 20 prompts on a side.
    """
    if min(len(train), len(production)) < 20:
        raise CourseError(
            f"{len(train)} training and {len(production)} production prompts: 20 of each are the least to compare"
        )
    features = np.stack([_features(text) for text in [*train, *production]])
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    features = np.hstack([features, np.ones((len(features), 1))])
    labels = np.r_[np.zeros(len(train)), np.ones(len(production))]
    scores = np.zeros(len(labels))
    # Each prompt is scored by a classifier that was not trained on it.
    fold = np.random.default_rng(seed).permutation(len(labels)) % 5
    for k in range(5):
        out = fold == k
        scores[out] = features[out] @ _logistic(features[~out], labels[~out])
    odds = np.exp(np.clip(scores, -8, 8)) * len(train) / len(production)
    words = [set(normalise(" ".join(texts)).split()) for texts in (train, production)]
    topics = _telling(train, production), _telling(production, train)
    return Distance(_auc(scores, labels), _style(train, words[1]), _style(production, words[0]), odds[: len(train)], topics)


def resample(train: Sequence, weights: Sequence[float], n: int, seed: int = 0) -> list[int]:
    """Indices of n training rows, none twice, drawn by their weights: nearer to production than the whole set."""
    odds = np.asarray(weights, dtype=float)
    if not 0 < n <= len(train):
        raise CourseError(f"{n} of {len(train)} rows can't be drawn")
    # The n largest of log(u) / w: sampling without replacement by weight (Efraimidis and Spirakis 2006).
    keys = np.log(np.random.default_rng(seed).random(len(odds))) / np.maximum(odds, 1e-12)
    return sorted(np.argsort(keys)[-n:].tolist())


def _features(text: str) -> np.ndarray:
    words = text.split()
    letters = [c for c in text if c.isalpha()]
    hashed = np.zeros(HASHED)
    for word in normalise(text).split():
        hashed[zlib.crc32(word.encode()) % HASHED] = 1.0
    style = [
        np.log1p(len(words)),
        len(letters) / max(1, len(words)),
        sum(c.isupper() for c in letters) / max(1, len(letters)),
        sum(not c.isalnum() and not c.isspace() for c in text) / max(1, len(text)),
        sum(c.isdigit() for c in text) / max(1, len(text)),
        float(bool(GREETS.search(text))),
        float(bool(THANKS.search(text))),
        float("\n" in text),
        float(text[:1].islower()),
        float(text.rstrip()[-1:] in ".!?"),
    ]
    return np.r_[np.array(style) * 3, hashed]


def _logistic(x: np.ndarray, y: np.ndarray, penalty: float = 1.0, steps: int = 200) -> np.ndarray:
    """Weights of a logistic regression with an L2 penalty, both classes counting the same."""
    balance = np.where(y == 1, len(y) / (2 * y.sum()), len(y) / (2 * (1 - y).sum()))
    weights = np.zeros(x.shape[1])
    rate = 1.0 / (0.25 * np.linalg.norm(x, 2) ** 2 * balance.max() / len(y) + penalty / 10)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        weights -= rate * (x.T @ (balance * (p - y)) / len(y) + penalty / 10 * weights)
    return weights


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    order = np.argsort(scores)
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    for value in np.unique(scores[np.r_[False, np.diff(scores[order]) == 0][np.argsort(order)]]):
        ranks[scores == value] = ranks[scores == value].mean()
    positive = labels == 1
    n, m = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def _telling(these: Sequence[str], those: Sequence[str], count: int = 8) -> list[str]:
    """Words that one set's prompts have and the other's have not: log odds over their error (Monroe et al. 2008)."""
    # Counted by the word and not by the prompt: long prompts have more of every word.
    here, there = (Counter(word for text in texts for word in normalise(text).split()) for texts in (these, those))
    everywhere, sizes = here + there, (here.total(), there.total())

    def telling(word: str) -> float:
        prior = 50 * everywhere[word] / everywhere.total()  # as if both had said fifty words as all prompts do
        odds = [(c[word] + prior) / (n - c[word] + 1) for c, n in zip((here, there), sizes)]
        return np.log(odds[0] / odds[1]) / np.sqrt(1 / (here[word] + prior) + 1 / (there[word] + prior))

    scores = {word: telling(word) for word, n in everywhere.items() if n >= 5 and len(word) > 2}
    return sorted((word for word in scores if scores[word] > 1), key=scores.__getitem__, reverse=True)[:count]


def _style(texts: Sequence[str], others: set[str]) -> Style:
    lengths = np.array([len(text.split()) for text in texts])
    words = [word for text in texts for word in normalise(text).split()]
    return Style(
        float(np.median(lengths)),
        float(np.mean(lengths <= 8)),
        float(np.mean([bool(GREETS.search(text)) for text in texts])),
        float(np.mean([bool(THANKS.search(text)) for text in texts])),
        float(np.mean([text[:1].islower() for text in texts])),
        float(np.mean([word in others for word in words])) if words else 0.0,
    )
