"""The same example twice: exact copies, copies that differ only in case, spacing and punctuation, and near-duplicates.

A duplicate counts double in the loss, teaches its phrasing instead of its point, and, across a split, turns the score into a
memory test (Lee et al. 2021, "Deduplicating training data makes language models better"). Two rows are the same example when
their prompts ask the same question *and* their answers say the same. The same prompt with a different answer is a conflict,
which is reported and not dropped. Each dropped row has been compared directly with the row that is kept for it, never by way
of a third row.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from course_utils.data_prep import formats
from course_utils.data_prep.pii.names import common_words
from course_utils.data_prep.similarity import WITHOUT_SPACES, Groups, jaccard, normalise, shingles, similar_pairs

SHORT = 12  # words: in a shorter text, one different word makes a different question
PASSAGE = 25  # words: in a longer text, a different name does not, if the answer is the same and informative
LABEL = 6  # words: a shorter answer may be right for many questions, so it is no evidence that two are the same
ANSWERS_ALIKE = 0.8
# Words that may be missing, added or exchanged for each other without changing what the text says.
FILLER = frozenset(
    "a an the this that these those it its is are was were be been am i im ive you we they he she me my your our their "
    "us of to in on at "
    "for with from by as and or but so if then than there here please pls kindly hi hello hey dear team sir madam thanks "
    "thank thx "
    "regards best kind yours sincerely again just also very really rather still now do does did have has had will would "
    "can could "
    "shall should may might s t ve re ll d m don dont doesn doesnt didn didnt isn isnt wasn wasnt won wont couldn "
    "couldnt wouldn wouldnt".split()
)
# "t" is what normalising leaves of the negation in "don't".
NEGATIONS = frozenset(
    "not no never none nobody nothing nowhere neither nor without cannot t cant wont dont doesnt didnt isnt wasnt "
    "couldnt wouldnt shouldnt nicht kein "
    "keine keinen nie pas jamais sans sin nunca niet geen non 不 没 沒 無 无 未".split()
)
CODE = re.compile(r"[;{}]|\w\(\w*\)|[<>=]{2}")
SYMBOL = re.compile(r"[;{}()<>=+*/%!&|\[\]]")
OPERATOR = re.compile(r"[<>=+*%|^/]|(?<=\d)\s*-\s*(?=\d)")
DIGIT = re.compile(r"\d")
NAME = re.compile(r"(?<=[\w,;'’\")] )[^\W\d_a-z][^\W_]*")  # a word with a capital inside a sentence


def same_question(one: str, other: str, answer: str) -> bool:
    """Return whether two prompts that have most words in common ask the same question, given the answer that both have.

    "What is the capital of France?" and "What is the capital of Spain?" have two thirds of their words and word pairs in
    common, and are two questions. So the difference is examined: always numbers and negations; also names and content words,
    if the text is short or the answer says little. A word with a typing error counts as the same word.

    Args:
        one, other: the prompts.
        answer: their common answer. A label may be right for two different questions; a long text hardly can.
    """
    return not _differ(one, other, strict=len(_words(answer)) < LABEL)


def same_answer(one: str, other: str) -> bool:
    """Return whether two answers say the same.

    They may differ in case, spacing and punctuation, and long ones also in a typing error or filler words.
    """
    words, other_words = _words(one), _words(other)
    if words == other_words:
        # "+" and "-" have no words to compare.
        return operators(one) == operators(other) if words else one.strip() == other.strip()
    fewer, more = sorted((len(words), len(other_words)))
    if fewer < ANSWERS_ALIKE * more or fewer < SHORT:
        return False
    if jaccard(shingles(one), shingles(other)) < ANSWERS_ALIKE or _differ(one, other, strict=True):
        return False
    # "100 miles" is not "100 miles in a straight line"; among many words, a few more say little that is new.
    return more >= PASSAGE or not any(
        side - FILLER for side in _unpaired(set(words) - set(other_words), set(other_words) - set(words))
    )


def operators(text: str) -> str:
    """Return the arithmetic and comparison operators in a text.

    Without them, "2 + 2" and "2 * 2" would have the same words.
    """
    return "".join(mark.strip() for mark in OPERATOR.findall(text))


def _differ(one: str, other: str, strict: bool) -> bool:
    if (CODE.search(one) or CODE.search(other)) and "".join(SYMBOL.findall(one)) != "".join(SYMBOL.findall(other)):
        return True  # if the question is what is wrong with some code, a semicolon matters
    words, other_words = _words(one), _words(other)
    counts, other_counts = Counter(words), Counter(other_words)
    more, less = counts - other_counts, other_counts - counts
    only_one, only_other = _unpaired(more.keys() - other_counts.keys(), less.keys() - counts.keys())
    slips = (more.keys() | less.keys()) - only_one - only_other - (counts.keys() & other_counts.keys())
    negations, other_negations = (
        sum(n for word, n in side.items() if word in NEGATIONS and word not in slips) for side in (more, less)
    )
    if negations != other_negations and not (slips & NEGATIONS):
        return True
    length = min(_length(words), _length(other_words))
    short = length < SHORT or strict
    digits = [any(DIGIT.search(word) for word in side) for side in (only_one, only_other)]
    if all(digits) or (short and any(digits)):
        return True
    only_one, only_other = only_one - FILLER, only_other - FILLER
    if not (only_one or only_other):
        # The same words in another order: "A is taller than B".
        return short and words != other_words and counts == other_counts
    if only_one and only_other and short:
        return True
    names = only_one & _names(one), only_other & _names(other)
    return (all(names) and length < PASSAGE) or (short and (any(names) or (strict and length < SHORT)))


def _length(words: Sequence[str]) -> float:
    """The number of words; a word that is one character of a script without spaces counts half, except in long texts."""
    if len(words) > 2 * PASSAGE:
        return len(words)
    return sum(0.5 if WITHOUT_SPACES.match(word) else 1 for word in words)


@functools.lru_cache(maxsize=4096)  # a row that is kept is compared with each of its copies
def _words(text: str) -> tuple[str, ...]:
    return tuple(normalise(text).split())


def _names(text: str) -> set[str]:
    capitalised = NAME.findall(unicodedata.normalize("NFKC", text))
    return {word.casefold() for word in capitalised if word != "I"} if len(capitalised) < 200 else set()


def _unpaired(only: set[str], lacking: set[str]) -> tuple[set[str], set[str]]:
    """The words on each side that are not a misspelling of a word on the other."""
    unpaired, other_unpaired = set(only), set(lacking)
    for word in only:
        twin = next((w for w in other_unpaired if _is_slip(word, w)), None)
        if twin:
            unpaired.discard(word)
            other_unpaired.discard(twin)
    return unpaired, other_unpaired


def _is_slip(one: str, other: str) -> bool:
    """Whether two words differ by one typing error: a letter added, lost or changed, or two swapped.

    Two common words are never the same: "form" and "from" are two words, "dinng" and "dining" are one. A plural counts as a
    typing error.
    """
    if min(len(one), len(other)) < 4 or one[0] != other[0] or abs(len(one) - len(other)) > 2:
        return False
    if DIGIT.search(one + other):
        return False
    if one in (other + "s", other + "es") or other in (one + "s", one + "es"):
        return True
    if one in common_words() and other in common_words():
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    tails = one[: start - 1 : -1], other[: start - 1 : -1]
    end = next((i for i, (a, b) in enumerate(zip(*tails)) if a != b), min(map(len, tails)))
    a, b = one[start : len(one) - end], other[start : len(other) - end]
    return (
        max(len(a), len(b)) <= 1 or (len(a) == len(b) == 2 and a == b[::-1]) or (len(one) >= 7 and max(len(a), len(b)) <= 2)
    )


EXACT, NORMALISED, NEAR = "exact", "normalised", "near"
SIMILAR = 0.6  # Jaccard index from which two messages may be near-copies
FEW = 4  # a near copy of a prompt is compared with at most this many of the prompt's different answers


@dataclass(frozen=True)
class Cluster:
    """Rows that are the same example.

    Attributes:
        members: indices of the rows, in order.
        kept: the member that is kept.
        kinds: every other member → the kind of copy: "exact", "normalised" or "near".
        similarities: every other member → Jaccard index of its prompt and the prompt of the kept row, from 0 to 1.
    """

    members: tuple[int, ...]
    kept: int
    kinds: dict[int, str]
    similarities: dict[int, float]


@dataclass(frozen=True)
class Conflict:
    """Rows that ask the same question and have different answers, of which one, several or none may be right.

    Attributes:
        members: indices of the rows, in order; none of them is a copy of another.
        preferred: the member with the most frequent answer (copies count); if several are equally frequent, the earliest.
    """

    members: tuple[int, ...]
    preferred: int


@dataclass(frozen=True)
class Deduplicated:
    """What `deduplicate` has found.

    Attributes:
        kept: indices of the rows to keep, in order.
        clusters: the clusters of more than one row.
        conflicts: the rows that ask the same question and have different answers.
    """

    kept: list[int]
    clusters: list[Cluster] = field(repr=False)
    conflicts: list[Conflict] = field(repr=False, default_factory=list)

    @property
    def dropped(self) -> dict[int, tuple[str, int]]:
        """Index of each dropped row → the kind of copy, and the index of the row that is kept for it."""
        return {member: (kind, cluster.kept) for cluster in self.clusters for member, kind in cluster.kinds.items()}


def deduplicate(rows: Sequence[dict], threshold: float = SIMILAR, method: str = "auto", workers: int = 1) -> Deduplicated:
    """Find rows that are the same example; the earliest of them is kept.

    What the user says is compared, and the answers: a shared answer format would make all rows look alike.

    Args:
        rows: chat rows (`messages`).
        threshold: Jaccard index from which two prompts may be near-duplicates; 1 turns this comparison off.
        method, workers: see `similarity.similar_pairs`.
    """
    texts = [formats.prompt_of(row) for row in rows]
    answers = [formats.answer_of(row) for row in rows]
    around = [surroundings(row) for row in rows]
    # Digests, because a second copy of every text would take more memory than anything else.
    exact = [_digest(t, answer, a) for t, answer, a in zip(texts, answers, around)]
    normal = [_digest(comparable(t), a) for t, a in zip(texts, around)]
    replies = [_digest(comparable(answer)) for answer in answers]
    firsts = first_of_each(normal)
    pairs = []
    if threshold < 1:
        similar = similar_pairs([texts[i] for i in firsts], threshold, method, workers)
        pairs = [
            (firsts[i], firsts[j], similarity) for i, j, similarity in similar if around[firsts[i]] == around[firsts[j]]
        ]
    return choose(exact, normal, replies, pairs, lambda i: (texts[i], answers[i]), threshold)


def surroundings(row: dict) -> bytes:
    """Return a digest of everything except the user's and the assistant's texts.

    It covers instructions, tools and their answers, and pictures.
    """
    parts: list[object] = [row.get("tools")] if row.get("tools") else []
    for message in row["messages"]:
        content = message.get("content")
        if message["role"] not in ("user", "assistant"):
            parts.append([message["role"], content])
        elif isinstance(content, list):
            parts += [part for part in content if not (isinstance(part, dict) and part.get("type") == "text")]
    return _digest(json.dumps(parts, sort_keys=True)) if parts else b""


def _digest(*texts: str | bytes) -> bytes:
    pieces = [text if isinstance(text, bytes) else text.encode("utf-8", "replace") for text in texts]
    return hashlib.blake2b(b"\0".join(pieces), digest_size=16).digest()


def comparable(text: str) -> str:
    """Return what is compared of a text: its words and its operators.

    "???" has neither, so that the whole text is compared.
    """
    return normalise(text) + operators(text) or text


def first_of_each(keys: Sequence) -> list[int]:
    """Return the index of the first occurrence of each key."""
    first: dict = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return sorted(first.values())


def choose(
    exact_keys: Sequence,
    prompt_keys: Sequence,
    answer_keys: Sequence,
    pairs: Sequence[tuple[int, int, float]],
    texts: Callable[[int], tuple[str, str]],
    threshold: float = SIMILAR,
) -> Deduplicated:
    """Find clusters, conflicts and the rows to keep from keys instead of rows, for corpora whose texts are elsewhere.

    Args:
        exact_keys: for each row, a key that only exact copies have in common.
        prompt_keys: for each row, a key shared by rows whose prompts differ only in case, spacing and punctuation.
        answer_keys: for each row, a key shared by rows whose answers differ only in that way.
        pairs: near-duplicates among the first rows of each key in `prompt_keys`, as (index, index, similarity).
        texts: returns prompt and answer of a row; called only for rows whose prompt is in `pairs`.
        threshold: see `deduplicate`.
    """
    representative_of: dict[int, int] = {}
    # prompt → answer → the row that is kept for both
    representatives: dict[object, dict[object, int]] = {}
    for index in range(len(prompt_keys)):
        representative = representatives.setdefault(prompt_keys[index], {}).setdefault(answer_keys[index], index)
        if representative != index:
            representative_of[index] = representative
    similarities, alike = dict.fromkeys(representative_of, 1.0), Groups(len(prompt_keys))
    compare = _Comparison(texts, threshold)
    for one, other, similarity in sorted(pairs, key=lambda pair: sorted(pair[:2], reverse=True)):
        _join(
            representatives[prompt_keys[one]],
            representatives[prompt_keys[other]],
            representative_of,
            similarities,
            alike,
            compare,
            similarity,
        )
    for index in [i for i in representative_of if representative_of[i] in representative_of]:
        # A normalised copy of a row that has itself been dropped: it is dropped in favour of the same row.
        representative = representative_of[index]
        similarities[index] = similarities[representative]
        representative_of[index] = representative_of[representative]
    normalised_keys = list(zip(prompt_keys, answer_keys))
    clusters: dict[int, list[int]] = {}
    for index in sorted(representative_of):
        clusters.setdefault(representative_of[index], []).append(index)
    duplicates = []
    for representative, dropped in sorted(clusters.items(), key=lambda item: min(item[0], *item[1])):
        kinds = {}
        for index in dropped:
            if exact_keys[index] == exact_keys[representative]:
                kinds[index] = EXACT
            elif normalised_keys[index] == normalised_keys[representative]:
                kinds[index] = NORMALISED
            else:
                kinds[index] = NEAR
        duplicates.append(
            Cluster(tuple(sorted([representative, *dropped])), representative, kinds, {i: similarities[i] for i in dropped})
        )
    for replies in representatives.values():
        members = list(replies.values())
        for member in members[1:]:
            alike.join(members[0], member)
    return Deduplicated(
        [i for i in range(len(prompt_keys)) if i not in representative_of],
        duplicates,
        _conflicts(alike, representative_of, clusters),
    )


def _join(
    ones: dict[object, int],
    others: dict[object, int],
    representative_of: dict[int, int],
    similarities: dict[int, float],
    alike: Groups,
    compare: _Comparison,
    similarity: float,
) -> None:
    """Compare the rows of two near-duplicate prompts: copies where the answers agree, conflicts where they do not."""
    if next(iter(ones.values())) > next(iter(others.values())):
        ones, others = others, ones
    first_few = list(ones.values())[:FEW]
    for answer, index in others.items():
        if index in representative_of:
            continue
        candidates = [ones[answer]] if answer in ones else first_few
        for candidate in candidates:
            representative = representative_of.get(candidate, candidate)
            if representative >= index:
                continue
            # The candidate's similarity says nothing about the row that is kept in its place.
            score = similarity if representative == candidate else compare.similarity(representative, index)
            if score < compare.threshold:
                continue
            if compare.copies(representative, index):
                representative_of[index], similarities[index] = representative, score
                break
            # Compared with the first row of its group too: by way of others, any two questions would become the same.
            first = alike.find(representative)
            if alike.find(index) == index and all(compare.same_prompts(row, index) for row in {representative, first}):
                alike.join(first, index)


class _Comparison:
    """Compares two rows by their texts."""

    def __init__(self, texts: Callable[[int], tuple[str, str]], threshold: float) -> None:
        self.texts, self.threshold = texts, threshold

    def similarity(self, one: int, other: int) -> float:
        """Jaccard index of the prompts."""
        return jaccard(shingles(self.texts(one)[0]), shingles(self.texts(other)[0]))

    def copies(self, one: int, other: int) -> bool:
        """Whether two rows with similar prompts are the same example."""
        (mine, answer), (theirs, reply) = self.texts(one), self.texts(other)
        return same_answer(answer, reply) and same_question(mine, theirs, answer)

    def same_prompts(self, one: int, other: int) -> bool:
        """Whether two similar prompts ask the same question, whatever their answers."""
        return same_question(self.texts(one)[0], self.texts(other)[0], "")


def _conflicts(alike: Groups, representative_of: dict[int, int], clusters: dict[int, list[int]]) -> list[Conflict]:
    conflicts = []
    for group in alike.members():
        members = [i for i in group if i not in representative_of]
        if len(members) > 1:
            votes = Counter({i: 1 + len(clusters.get(i, ())) for i in members})
            conflicts.append(Conflict(tuple(members), max(members, key=lambda i: (votes[i], -i))))
    return conflicts
