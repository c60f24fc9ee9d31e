"""Training and validation apart, and is the test set clean?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from course_utils.data_prep import formats
from course_utils.data_prep.similarity import Groups, normalise, similar_pairs
from course_utils.errors import CourseError

NGRAM = 8  # words in a row that two people hardly write alike; Brown et al. 2020 take 13 of longer texts
SIMILAR = 0.5


def split(
    rows: Sequence[dict],
    validation: float = 0.1,
    group: Callable[[dict], object] | Sequence | None = None,
    seed: int = 0,
    threshold: float = SIMILAR,
    text: Callable[[dict], str] = formats.prompt_of,
) -> tuple[list[int], list[int]]:
    """Indices of training and validation rows; what belongs together stays on one side.

    Args:
        rows: chat rows.
        validation: share of rows for validation; met as closely as the groups allow.
        group: a row's customer, document, author …, as a function or as a value for each row; rows with the same value stay
            together, None belongs to nobody.
        seed: of the shuffle.
        threshold: Jaccard index from which two texts stay together; every pair is looked at up to 4,000 rows.
        text: what is compared.

    Raises:
        CourseError: fewer than two rows, a share outside 0 to 1, or rows that all belong together.
    """
    if not 0 < validation < 1:
        raise CourseError(f"validation is a share between 0 and 1, not {validation}")
    if len(rows) < 2:
        raise CourseError(f"{len(rows)} rows can't be split")
    groups = Groups(len(rows))
    seen: dict[object, int] = {}
    owners = group if isinstance(group, Sequence) else [group(row) if group else None for row in rows]
    for index, key in enumerate(owners):
        if key is not None:
            groups.join(seen.setdefault(key, index), index)
    for i, j, _ in similar_pairs([text(row) for row in rows], threshold):
        groups.join(i, j)
    together = groups.members()
    if len(together) < 2:
        raise CourseError("all rows belong together (one customer, or one text); there is nothing to hold out")
    random.Random(seed).shuffle(together)
    wanted = max(1, round(validation * len(rows)))
    held_out: list[int] = []
    for members in sorted(together, key=len, reverse=True):  # stable: shuffled among equals
        # Large groups first, and only while they leave room, so that the share is met by the small ones.
        if len(held_out) + len(members) <= wanted and len(members) <= max(1, wanted // 4):
            held_out += members
    if not held_out:
        held_out = min(together, key=len)
    inside = set(held_out)
    return [i for i in range(len(rows)) if i not in inside], sorted(held_out)


@dataclass(frozen=True)
class Hit:
    """A test row that training has seen.

    Attributes:
        test, train: indices.
        kind: "near-duplicate", or "phrase" for a run of words in both.
        evidence: the Jaccard index, or the phrase.
    """

    test: int
    train: int
    kind: str
    evidence: str


def contamination(
    train: Sequence[dict],
    test: Sequence[dict],
    threshold: float = SIMILAR,
    n: int = NGRAM,
    text: Callable[[dict], str] = formats.prompt_of,
) -> list[Hit]:
    """Test rows that stand in the training set, nearly or by a phrase of n words; at most one hit a pair."""
    train_texts, test_texts = [text(row) for row in train], [text(row) for row in test]
    hits: dict[tuple[int, int], Hit] = {}
    for i, j, index in similar_pairs(train_texts + test_texts, threshold):
        if i < len(train) <= j:
            hits[j - len(train), i] = Hit(j - len(train), i, "near-duplicate", f"Jaccard index {index:.2f}")
    phrases: dict[str, int] = {}
    for index, phrase in _phrases(train_texts, n):
        phrases.setdefault(phrase, index)
    for index, phrase in _phrases(test_texts, n):
        if phrase in phrases:
            hits.setdefault((index, phrases[phrase]), Hit(index, phrases[phrase], "phrase", phrase))
    return [hits[key] for key in sorted(hits)]


def _phrases(texts: Sequence[str], n: int) -> Iterator[tuple[int, str]]:
    for index, text in enumerate(texts):
        words = normalise(text).split()
        yield from ((index, " ".join(words[i : i + n])) for i in range(len(words) - n + 1))


@dataclass(frozen=True)
class Kinship:
    """How much of a test set's wording a training set knows already.

    Attributes:
        test: share of the test prompts' word triples that occur in training prompts.
        baseline: the same for prompts that come from elsewhere.
        itself: the same for training prompts, each against all others.
        suspicious: the test set is nearer to the training set than to what comes from elsewhere: one writer, one generator.
    """

    test: float
    baseline: float
    itself: float

    @property
    def suspicious(self) -> bool:
        """Nearer to the training set's own level than to the baseline's."""
        return self.test - self.baseline > 0.5 * max(self.itself - self.baseline, 0.01)


def kinship(
    train: Sequence[dict], test: Sequence[dict], elsewhere: Sequence[dict], text: Callable[[dict], str] = formats.prompt_of
) -> Kinship:
    """Do training and test come from one generator? Copies need not be there: a generator repeats its turns of phrase.

    Args:
        train, test: chat rows.
        elsewhere: prompts of the same task from another source, best of all real ones.
        text: what is compared.
    """
    owners: dict[str, set[int]] = {}
    for index, phrase in _phrases([text(row) for row in train], 3):
        owners.setdefault(phrase, set()).add(index)

    def known(rows: Sequence[dict], own: bool) -> float:
        shares = []
        for index, row in enumerate(rows):
            phrases = [phrase for _, phrase in _phrases([text(row)], 3)]
            if phrases:
                shares.append(sum(bool(owners.get(p, set()) - ({index} if own else set())) for p in phrases) / len(phrases))
        return sum(shares) / len(shares) if shares else 0.0

    return Kinship(known(test, False), known(elsewhere, False), known(train, True))
