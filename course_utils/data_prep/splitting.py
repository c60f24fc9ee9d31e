"""Split training and validation rows, and check whether the test set is uncontaminated."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from course_utils.data_prep import formats
from course_utils.data_prep.similarity import Groups, normalise, similar_pairs
from course_utils.errors import CourseError

PHRASE_WORDS = 8  # consecutive words that two people hardly ever choose alike; Brown et al. 2020 use 13, on longer texts
MIN_PHRASE_WORDS = 5  # a shorter test text (a label, a name) occurs in other texts by chance
# Three consecutive words belong to the common form of a test set if at least this number and this share of its rows have
# them.
FRAME_ROWS, FRAME_SHARE = 4, 0.02
SIMILAR = 0.5


def split(
    rows: Sequence[dict],
    validation: float = 0.1,
    group: Callable[[dict], object] | Sequence | None = None,
    seed: int = 0,
    threshold: float = SIMILAR,
) -> tuple[list[int], list[int]]:
    """Split rows into training and validation rows, so that rows that belong together stay on one side.

    Args:
        rows: chat rows.
        validation: share of the rows for validation, from 0 to 1; met as closely as the groups allow.
        group: a row's customer, document, author and so on, as a function or as one value per row; rows with the same value
            stay together, and None groups a row with no other.
        seed: seed of the shuffle.
        threshold: Jaccard index from which two prompts stay together; with up to 4,000 rows, every pair is compared.

    Returns:
        Indices of the training rows, and indices of the validation rows.

    Raises:
        CourseError: there are fewer than two rows, the share is not between 0 and 1, or all rows belong together.
    """
    if not 0 < validation < 1:
        raise CourseError(f"validation must be a share between 0 and 1, not {validation}")
    if len(rows) < 2:
        raise CourseError(f"{len(rows)} rows can't be split: at least two are needed")
    groups = Groups(len(rows))
    first_row_of: dict[object, int] = {}
    owners = group if isinstance(group, Sequence) else [group(row) if group else None for row in rows]
    for index, key in enumerate(owners):
        if key is not None:
            groups.join(first_row_of.setdefault(key, index), index)
    for i, j, _ in similar_pairs([formats.prompt_of(row) for row in rows], threshold):
        groups.join(i, j)
    together = groups.members()
    if len(together) < 2:
        raise CourseError("all rows belong together (one customer, or one text), so none can be held out")
    random.Random(seed).shuffle(together)
    target_size = max(1, round(validation * len(rows)))
    held_out: list[int] = []
    for members in sorted(together, key=len, reverse=True):  # stable: shuffled among equals
        # Large groups first, and only as long as they fit; the small ones then fill up the share.
        if len(held_out) + len(members) <= target_size and len(members) <= max(1, target_size // 4):
            held_out += members
    if not held_out:
        held_out = min(together, key=len)
    validation_rows = set(held_out)
    return [i for i in range(len(rows)) if i not in validation_rows], sorted(held_out)


@dataclass(frozen=True)
class Hit:
    """A test row that occurs in the training set.

    Attributes:
        test, train: indices of the test row and of the training row.
        kind: "near-duplicate" if their prompts are nearly the same, or "phrase" if both conversations contain the same run
            of words.
        evidence: the Jaccard index, or the phrase.
    """

    test: int
    train: int
    kind: str
    evidence: str


def contamination(train: Sequence[dict], test: Sequence[dict]) -> list[Hit]:
    """Find test rows that occur in the training set; each pair of rows gives at most one hit.

    A test row is found if its prompt is nearly the same as a training prompt, or if the two conversations have a phrase of
    eight words in common, answers included; so a test question inside a training answer is found too. A test text of five
    to seven words counts as one phrase. Phrases that many test rows have (an instruction, the form of the answers) are no
    evidence, and are ignored.

    Args:
        train, test: chat rows; a test row need not have an answer.
    """
    hits: dict[tuple[int, int], Hit] = {}
    for i, j, index in similar_pairs([formats.prompt_of(row) for row in (*train, *test)], SIMILAR):
        if i < len(train) <= j:
            hits[j - len(train), i] = Hit(j - len(train), i, "near-duplicate", f"Jaccard index {index:.2f}")
    test_rows_with = _distinctive_phrases([_texts_of(row) for row in test])
    lengths = sorted({len(phrase.split()) for phrase in test_rows_with})
    for index, row in enumerate(train):
        words = [normalise(piece).split() for piece in _texts_of(row)]
        for length in lengths:
            for text_words in words:
                for start in range(len(text_words) - length + 1):
                    phrase = " ".join(text_words[start : start + length])
                    for test_index in test_rows_with.get(phrase, ()):
                        hits.setdefault((test_index, index), Hit(test_index, index, "phrase", phrase))
    return [hits[key] for key in sorted(hits)]


def _texts_of(row: dict) -> list[str]:
    """The prompt, and the texts of the answer; not the keys of a record, which are the same in every row."""
    return [formats.prompt_of(row), *formats.written_in(formats.answer_of(row))]


def _distinctive_phrases(tests: list[list[str]]) -> dict[str, list[int]]:
    """Phrase → the test rows that have it; without phrases that mostly belong to the common form of the test set."""
    rows: dict[str, dict[int, None]] = {}
    for index, texts in enumerate(tests):
        for text in texts:
            words = normalise(text).split()
            length = min(PHRASE_WORDS, len(words))
            if length >= MIN_PHRASE_WORDS:
                for start in range(len(words) - length + 1):
                    rows.setdefault(" ".join(words[start : start + length]), {})[index] = None
    triples: dict[str, set[str]] = {}
    for texts in tests:
        whole = " ".join(normalise(text) for text in texts)
        for _, triple in _phrases(texts, 3):
            triples.setdefault(triple, set()).add(whole)
    frame = {
        triple for triple, whole_texts in triples.items() if len(whole_texts) >= max(FRAME_ROWS, FRAME_SHARE * len(tests))
    }

    def is_distinctive(phrase: str) -> bool:
        framed = [triple in frame for _, triple in _phrases([phrase], 3)]
        return sum(framed) < 0.5 * len(framed)

    return {phrase: list(owners) for phrase, owners in rows.items() if is_distinctive(phrase)}


def _phrases(texts: Sequence[str], n: int) -> Iterator[tuple[int, str]]:
    for index, text in enumerate(texts):
        words = normalise(text).split()
        yield from ((index, " ".join(words[i : i + n])) for i in range(len(words) - n + 1))


@dataclass(frozen=True)
class Kinship:
    """How much of a test set's wording also occurs in a training set.

    Attributes:
        test: share of the test prompts' word triples that occur in training prompts.
        baseline: the same for prompts from another source.
        itself: the same for training prompts, each compared with all others.
        suspicious: the test set is closer to the training set than to the other source: probably one writer or generator.
    """

    test: float
    baseline: float
    itself: float

    @property
    def suspicious(self) -> bool:
        """Whether `test` is closer to `itself` than to `baseline`."""
        return self.test - self.baseline > 0.5 * max(self.itself - self.baseline, 0.01)


def kinship(train: Sequence[dict], test: Sequence[dict], elsewhere: Sequence[dict]) -> Kinship:
    """Measure whether training set and test set come from one generator.

    Even without copies, a generator repeats its turns of phrase.

    Args:
        train, test: chat rows.
        elsewhere: chat rows of the same task from another source, ideally real ones.
    """
    owners: dict[str, set[int]] = {}
    for index, phrase in _phrases([formats.prompt_of(row) for row in train], 3):
        owners.setdefault(phrase, set()).add(index)

    def share_seen(rows: Sequence[dict], own: bool) -> float:
        shares = []
        for index, row in enumerate(rows):
            phrases = [phrase for _, phrase in _phrases([formats.prompt_of(row)], 3)]
            if phrases:
                shares.append(sum(bool(owners.get(p, set()) - ({index} if own else set())) for p in phrases) / len(phrases))
        return sum(shares) / len(shares) if shares else 0.0

    return Kinship(share_seen(test, False), share_seen(elsewhere, False), share_seen(train, True))
