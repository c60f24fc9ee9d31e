"""How far are the training prompts from those in production?

A model trained on polite paragraphs copes badly with terse users. The distance is measured with a classifier that is trained
to separate the two sets of prompts: its area under the ROC curve is 0.5 if they are of one kind, and 1 if every prompt shows
which set it is from (classifier two-sample test, Lopez-Paz and Oquab 2017).
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

HASH_BUCKETS = 512
GREETS = re.compile(r"^\W*(?:hi|hello|hey|dear|good (?:morning|afternoon|evening)|to whom)\b", re.IGNORECASE)
THANKS = re.compile(r"\b(?:regards|sincerely|thank|thanks|faithfully|wishes|please)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Distance:
    """Two sets of prompts side by side.

    Attributes:
        auc: how well a classifier tells them apart on prompts it has not seen; 0.5 means not at all.
        train, production: how each set is written: measure, in words → its value. All but the median are shares, of the
            prompts or of the words.
        topics: the words that are typical of the training set and of the production set, the most typical first.
    """

    auc: float
    train: dict[str, float]
    production: dict[str, float]
    topics: tuple[list[str], list[str]]


def distance(train: Sequence[str], production: Sequence[str], seed: int = 0) -> Distance:
    """Compare training prompts with production prompts.

    Args:
        train: training prompts, as texts.
        production: prompts from production, as texts.
        seed: seed of the division into parts that the classifier is trained and tested on.

    Raises:
        CourseError: one of the sets has fewer than 20 prompts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    if min(len(train), len(production)) < 20:
        raise CourseError(f"{len(train)} training and {len(production)} production prompts: at least 20 of each are needed")
    features = np.stack([_features(text) for text in [*train, *production]])
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    features = np.hstack([features, np.ones((len(features), 1))])  # an intercept that the penalty shrinks like the rest
    labels = np.r_[np.zeros(len(train)), np.ones(len(production))]
    scores = np.zeros(len(labels))
    # Each prompt is scored by a classifier that was not trained on it.
    fold = np.random.default_rng(seed).permutation(len(labels)) % 5
    for k in range(5):
        out = fold == k
        # C multiplies the sum of the losses; 10 / n weighs their mean, whatever the number of prompts.
        classifier = LogisticRegression(C=10 / np.sum(~out), class_weight="balanced", fit_intercept=False, max_iter=1000)
        scores[out] = classifier.fit(features[~out], labels[~out]).decision_function(features[out])
    words = [set(normalise(" ".join(texts)).split()) for texts in (train, production)]
    topics = _characteristic_words(train, production), _characteristic_words(production, train)
    auc = float(roc_auc_score(labels, scores))
    return Distance(auc, _style(train, words[1]), _style(production, words[0]), topics)


def _features(text: str) -> np.ndarray:
    words = text.split()
    letters = [c for c in text if c.isalpha()]
    hashed = np.zeros(HASH_BUCKETS)
    for word in normalise(text).split():
        hashed[zlib.crc32(word.encode()) % HASH_BUCKETS] = 1.0
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


def _characteristic_words(texts: Sequence[str], other_texts: Sequence[str], count: int = 8) -> list[str]:
    """Words that are typical of one set of prompts and not of the other: log odds over their error (Monroe et al. 2008)."""
    # Occurrences are counted, not prompts: long prompts have more of every word.
    counts, other_counts = (
        Counter(word for text in prompts for word in normalise(text).split()) for prompts in (texts, other_texts)
    )
    everywhere, sizes = counts + other_counts, (counts.total(), other_counts.total())

    def z_score(word: str) -> float:
        prior = (
            50 * everywhere[word] / everywhere.total()
        )  # as if each set had fifty more words, distributed as in both sets together
        odds = [(c[word] + prior) / (n - c[word] + 1) for c, n in zip((counts, other_counts), sizes)]
        return np.log(odds[0] / odds[1]) / np.sqrt(1 / (counts[word] + prior) + 1 / (other_counts[word] + prior))

    scores = {word: z_score(word) for word, n in everywhere.items() if n >= 5 and len(word) > 2}
    return sorted((word for word in scores if scores[word] > 1), key=scores.__getitem__, reverse=True)[:count]


def _style(texts: Sequence[str], others: set[str]) -> dict[str, float]:
    lengths = np.array([len(text.split()) for text in texts])
    words = [word for text in texts for word in normalise(text).split()]
    measures = {
        "median words": np.median(lengths),
        "at most 8 words": np.mean(lengths <= 8),
        "starts with a greeting": np.mean([bool(GREETS.search(text)) for text in texts]),
        "thanks, please, regards": np.mean([bool(THANKS.search(text)) for text in texts]),
        "begins in lower case": np.mean([text[:1].islower() for text in texts]),
        "words known to the other set": np.mean([word in others for word in words]) if words else 0,
    }
    return {name: float(value) for name, value in measures.items()}
