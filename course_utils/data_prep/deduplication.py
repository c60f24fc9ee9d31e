"""The same example twice: exact copies, copies that differ only in case, spacing and punctuation, and near-duplicates.

A duplicate counts double in the loss, teaches its phrasing instead of its point, and, across a split, turns the score into a
memory test (Lee et al. 2021, "Deduplicating training data makes language models better"). Two rows are the same example when
their prompts ask the same question *and* their answers say the same. The same prompt with a different answer is a conflict,
which is reported and not dropped. Each dropped row has been compared directly with the row that is kept for it, never by way
of a third row.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from course_utils.data_prep import formats
from course_utils.data_prep.equivalence import operators, same_answer, same_question
from course_utils.data_prep.similarity import Groups, jaccard, normalise, shingles, similar_pairs

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


def deduplicate(
    rows: Sequence[dict],
    threshold: float = SIMILAR,
    text: Callable[[dict], str] = formats.prompt_of,
    best: Callable[[dict], object] | None = None,
    method: str = "auto",
    workers: int = 1,
) -> Deduplicated:
    """Find rows that are the same example, and choose which of them to keep.

    Args:
        rows: chat rows (`messages`).
        threshold: Jaccard index from which two prompts may be near-duplicates; 1 turns this comparison off.
        text: returns what is compared of a row, in addition to its answer. By default it is what the user says: a shared
            answer format would make all rows look alike.
        best: returns how good a row is; the row with the largest value is kept, and the earliest of equals. Without it, the
            earliest row is kept.
        method, workers: see `similarity.similar_pairs`.
    """
    texts = [text(row) for row in rows]
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
    values = [best(row) for row in rows] if best else None
    return choose(exact, normal, replies, pairs, lambda i: (texts[i], answers[i]), values, threshold)


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
    values: Sequence | None = None,
    threshold: float = SIMILAR,
) -> Deduplicated:
    """Find clusters, conflicts and the rows to keep from keys instead of rows, for corpora whose texts are elsewhere.

    Args:
        exact_keys: for each row, a key that only exact copies have in common.
        prompt_keys: for each row, a key shared by rows whose prompts differ only in case, spacing and punctuation.
        answer_keys: for each row, a key shared by rows whose answers differ only in that way.
        pairs: near-duplicates among the first rows of each key in `prompt_keys`, as (index, index, similarity).
        texts: returns prompt and answer of a row; called only for rows whose prompt is in `pairs`.
        values: for each row, how good it is; the best is kept. Without values, the earliest is kept.
        threshold: see `deduplicate`.
    """
    order = (
        sorted(range(len(prompt_keys)), key=values.__getitem__, reverse=True) if values else list(range(len(prompt_keys)))
    )
    representative_of: dict[int, int] = {}
    # prompt → answer → the row that is kept for both
    representatives: dict[object, dict[object, int]] = {}
    for index in order:
        representative = representatives.setdefault(prompt_keys[index], {}).setdefault(answer_keys[index], index)
        if representative != index:
            representative_of[index] = representative
    similarities, alike = dict.fromkeys(representative_of, 1.0), Groups(len(prompt_keys))
    rank = {index: position for position, index in enumerate(order)}
    compare = _Comparison(texts, threshold)
    for one, other, similarity in sorted(pairs, key=lambda pair: sorted((rank[pair[0]], rank[pair[1]]), reverse=True)):
        _join(
            representatives[prompt_keys[one]],
            representatives[prompt_keys[other]],
            rank,
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
    clusters: dict[int, list[int]] = {}
    for index in sorted(representative_of):
        clusters.setdefault(representative_of[index], []).append(index)
    duplicates = []
    for representative, dropped in sorted(clusters.items(), key=lambda item: min(item[0], *item[1])):
        kinds = {
            i: EXACT
            if exact_keys[i] == exact_keys[representative]
            else NORMALISED
            if prompt_keys[i] == prompt_keys[representative] and answer_keys[i] == answer_keys[representative]
            else NEAR
            for i in dropped
        }
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
    rank: dict[int, int],
    representative_of: dict[int, int],
    similarities: dict[int, float],
    alike: Groups,
    compare: _Comparison,
    similarity: float,
) -> None:
    """Compare the rows of two near-duplicate prompts: copies where the answers agree, conflicts where they do not."""
    if rank[next(iter(ones.values()))] > rank[next(iter(others.values()))]:
        ones, others = others, ones
    first_few = list(ones.values())[:FEW]
    for answer, index in others.items():
        if index in representative_of:
            continue
        for candidate in [ones[answer]] if answer in ones else first_few:
            representative = representative_of.get(candidate, candidate)
            if rank[representative] >= rank[index]:
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
