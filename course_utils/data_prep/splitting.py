"""Training and validation apart, and is the test set clean?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from course_utils.data_prep import formats
from course_utils.data_prep.similarity import Groups, normalise, similar_pairs
from course_utils.errors import CourseError

NGRAM = 8  # words in a row that two people hardly write alike; Brown et al. 2020 take 13 of longer texts
SHORTEST = 5  # words: a shorter test text (a label, a name) stands in other texts by chance
# Three words in a row belong to the form of a test set if so many different rows of it have them, and such a share.
FRAME, FRAME_SHARE = 4, 0.02
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
        kind: "near-duplicate" of prompts, or "phrase" for a run of words that stands in both conversations.
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
    """Test rows that stand in the training set; at most one hit a pair.

    A test row is found by a prompt that is nearly a training prompt, and by a phrase of n words anywhere in a conversation,
    answers included: a test question that stands in a training answer is seen too. A test text of fewer words, down to five,
    counts as a phrase as a whole. Phrases that many test rows share (an instruction, an answer's form) tell nothing and are
    left out.

    Args:
        train, test: chat rows; a test row may be without an answer.
        threshold: Jaccard index from which two prompts are nearly the same.
        n: words of a phrase.
        text: the prompts that are compared.
    """
    hits: dict[tuple[int, int], Hit] = {}
    for i, j, index in similar_pairs([text(row) for row in (*train, *test)], threshold):
        if i < len(train) <= j:
            hits[j - len(train), i] = Hit(j - len(train), i, "near-duplicate", f"Jaccard index {index:.2f}")
    wanted = _telling_phrases([_said(row, text) for row in test], n)
    lengths = sorted({len(phrase.split()) for phrase in wanted})
    for index, row in enumerate(train):
        words = [normalise(said).split() for said in _said(row, text)]
        for length in lengths:
            for said in words:
                for start in range(len(said) - length + 1):
                    phrase = " ".join(said[start : start + length])
                    for there in wanted.get(phrase, ()):
                        hits.setdefault((there, index), Hit(there, index, "phrase", phrase))
    return [hits[key] for key in sorted(hits)]


def _said(row: dict, text: Callable[[dict], str]) -> list[str]:
    """The prompt, and each answer; of a record its texts, as its keys are everybody's."""
    return [text(row), *formats.written_in(formats.answer_of(row))]


def _telling_phrases(tests: list[list[str]], n: int) -> dict[str, list[int]]:
    """Phrase → the test rows that have it, without those that are for the most part of the test set's form."""
    rows: dict[str, dict[int, None]] = {}
    for index, texts in enumerate(tests):
        for said in texts:
            words = normalise(said).split()
            length = n if len(words) >= n else len(words)
            if length >= SHORTEST:
                for start in range(len(words) - length + 1):
                    rows.setdefault(" ".join(words[start : start + length]), {})[index] = None
    triples: dict[str, set[str]] = {}
    for texts in tests:
        whole = " ".join(normalise(said) for said in texts)
        for _, triple in _phrases(texts, 3):
            triples.setdefault(triple, set()).add(whole)
    frame = {triple for triple, wholes in triples.items() if len(wholes) >= max(FRAME, FRAME_SHARE * len(tests))}

    def telling(phrase: str) -> bool:
        inside = [triple in frame for _, triple in _phrases([phrase], 3)]
        return sum(inside) < 0.5 * len(inside)

    return {phrase: list(owners) for phrase, owners in rows.items() if telling(phrase)}


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
