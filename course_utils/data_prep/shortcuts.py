"""The simplest models that could tell chosen from rejected without reading the message.

They look at length, single words, form, or how a reply begins.
If one of them ranks most of the held-out pairs right, then a reward model or DPO may have learned just that, and a high
accuracy proves little. Each is fitted on training pairs and asked about test pairs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from course_utils.evaluation import Score

Pair = Mapping[str, Any]
Ranks = Callable[[str, str], float]  # (one reply, another) → above zero if the first is thought the better one
COURTESIES = re.compile(r"\b(?:dear|hi|hello|thanks|thank you|sorry|apolog\w+|regards|sincerely|kindly)\b", re.IGNORECASE)


def length_rule(train: Sequence[Pair]) -> Ranks:
    """Fit the rule that prefers the reply whose number of words is nearer to a certain number.

    The number is the one that ranks most training pairs right.
    """
    lengths = [(len(row["chosen"].split()), len(row["rejected"].split())) for row in train]

    def right(aim: int) -> int:
        return sum(abs(chosen - aim) < abs(rejected - aim) for chosen, rejected in lengths)

    best = max(range(1, max(max(pair) for pair in lengths) + 2), key=right)
    return lambda one, other: abs(len(other.split()) - best) - abs(len(one.split()) - best)


def word_rule(train: Sequence[Pair], beginning: int | None = None) -> Ranks:
    """Fit a logistic regression on how often each word occurs in each reply, or among its first words."""
    from sklearn.feature_extraction.text import CountVectorizer

    def words(text: str) -> list[str]:
        return re.findall(r"[a-z']+", text.lower())[:beginning]

    counter = CountVectorizer(analyzer=words).fit([row[key] for row in train for key in ("chosen", "rejected")])
    return _logistic(lambda text: counter.transform([text]).toarray()[0], train)


def form_of(reply: str) -> list[float]:
    """Return the form of a reply as numbers, without its words.

    The numbers are about sentences and their length, lines, digits, capitals, punctuation marks, courtesies, and lengths of
    words.
    """
    words = reply.split() or [""]
    sentences = [len(part.split()) for part in re.split(r"[.!?]\s+", reply)]
    counts = [
        len(re.findall(r"[.!?](?:\s|$)", reply)), reply.count("\n"), sum(c.isdigit() for c in reply),
        sum(c.isupper() for c in reply), *(reply.count(mark) for mark in ",;:!?()*#-{}"), len(COURTESIES.findall(reply)),
    ]  # fmt: skip
    sizes = [min(sentences), max(sentences), sum(map(len, words)) / len(words), sum(len(word) > 7 for word in words)]
    return [*map(float, [*counts, *sizes]), float(reply[:1].isupper()), float(reply[-1:] == ".")]


def form_rule(train: Sequence[Pair]) -> Ranks:
    """Fit a logistic regression on `form_of` of both replies."""
    import numpy as np

    return _logistic(lambda text: np.asarray(form_of(text)), train)


def _logistic(features: Callable[[str], np.ndarray], train: Sequence[Pair]) -> Ranks:
    """Logistic regression on the difference of two replies' features, without an intercept, so that it has no side."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    differences = np.stack([features(row["chosen"]) - features(row["rejected"]) for row in train]).astype(float)
    scale = differences.std(0) + 1e-9
    both = np.concatenate([differences, -differences]) / scale
    labels = [1] * len(train) + [0] * len(train)
    weights = LogisticRegression(fit_intercept=False, max_iter=2000).fit(both, labels).coef_[0] / scale
    return lambda one, other: float(weights @ (features(one) - features(other)))


RULES: dict[str, Callable[[Sequence[Pair]], Ranks]] = {
    "length, one number": length_rule,
    "single words": word_rule,
    "form": form_rule,
    "the first three words": functools.partial(word_rule, beginning=3),
}


def shortcut_scores(train: Sequence[Pair], test: Sequence[Pair]) -> dict[str, Score]:
    """Return the share of the test pairs that each rule ranks right; a tie counts as half.

    Args:
        train: pairs to fit on, with "chosen" and "rejected" as texts.
        test: other pairs.
    """
    from course_utils.evaluation import mean

    accuracies = {}
    for name, fit in RULES.items():
        rank = fit(train)
        scores = [rank(row["chosen"], row["rejected"]) for row in test]
        accuracies[name] = mean([0.5 if abs(score) < 1e-9 else float(score > 0) for score in scores])
    return accuracies


def overlap(row: Pair) -> float:
    """Return how many more different words of the message occur in the chosen reply than in the rejected one.

    This is the one shortcut that looks at the message too; it needs no fitting.
    """
    message = row["message"] if "message" in row else row["prompt"][-1]["content"]
    message_words = set(re.findall(r"[\w-]+", message.lower()))
    shared = [len(message_words & set(re.findall(r"[\w-]+", row[key].lower()))) for key in ("chosen", "rejected")]
    return float(shared[0] - shared[1])
