"""The same example twice: exact copies, copies in other clothes, and near-duplicates.

A duplicate counts double in the loss, teaches its phrasing instead of its point, and across a split turns the score into a
memory test (Lee et al. 2021, "Deduplicating training data makes language models better").
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from course_utils.data_prep import formats
from course_utils.data_prep.similarity import Groups, normalise, similar_pairs

EXACT, NORMALISED, NEAR = "exact", "normalised", "near"


@dataclass(frozen=True)
class Cluster:
    """Rows that are one example.

    Attributes:
        members: indices, in order.
        kept: the one that stays.
        kinds: member → how it is a copy: "exact", "normalised" or "near"; without the kept one.
        similarity: lowest Jaccard index among the pairs that hold the cluster together.
        conflict: the members' answers differ, so at most one of them is right.
    """

    members: tuple[int, ...]
    kept: int
    kinds: dict[int, str]
    similarity: float
    conflict: bool


@dataclass(frozen=True)
class Deduplicated:
    """What `deduplicate` found: indices of the rows that stay, in order, and the clusters with more than one row."""

    kept: list[int]
    clusters: list[Cluster] = field(repr=False)

    @property
    def dropped(self) -> dict[int, tuple[str, int]]:
        """Dropped row → how it is a copy, and the row that stays for it."""
        return {member: (kind, cluster.kept) for cluster in self.clusters for member, kind in cluster.kinds.items()}


def deduplicate(
    rows: Sequence[dict],
    threshold: float = 0.6,
    text: Callable[[dict], str] = formats.prompt_of,
    best: Callable[[dict], object] | None = None,
    method: str = "auto",
    workers: int = 1,
) -> Deduplicated:
    """Find rows that are one example, and choose the best of each.

    Args:
        rows: chat rows (`messages`).
        threshold: Jaccard index from which two texts are near-duplicates; 1 leaves them alone.
        text: what is compared. What the user says, by default: a shared answer format would make all rows alike.
        best: which of a cluster is kept, among those with its most frequent answer: the row with the largest value, the
            earliest of equals; without it, the earliest.
        method, workers: see `similarity.similar_pairs`.
    """
    texts = [text(row) for row in rows]
    answers = [formats.answer_of(row) for row in rows]
    # Digests: a second copy of every text would be the largest thing in memory.
    normal = [hashlib.blake2b(comparable(t).encode("utf-8", "replace"), digest_size=16).digest() for t in texts]
    firsts = first_of_each(normal)
    pairs = []
    if threshold < 1:
        found = similar_pairs([texts[i] for i in firsts], threshold, method, workers)
        pairs = [(firsts[i], firsts[j], similarity) for i, j, similarity in found]
    values = [best(row) for row in rows] if best else None
    return choose(list(zip(texts, answers)), normal, [normalise(answer) for answer in answers], pairs, values)


def comparable(text: str) -> str:
    """A text as it is compared; of "???" nothing is left, so it is compared as it stands."""
    return normalise(text) or text


def first_of_each(keys: Sequence) -> list[int]:
    """Indices at which a key occurs for the first time."""
    first: dict = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return sorted(first.values())


def choose(
    exact: Sequence,
    normal: Sequence,
    answers: Sequence,
    pairs: Sequence[tuple[int, int, float]],
    values: Sequence | None = None,
) -> Deduplicated:
    """Clusters, and the row that stays for each, from keys instead of rows: for corpora whose texts are elsewhere.

    Args:
        exact: for each row a key that only exact copies share.
        normal: one that texts share which are the same but for case, spacing and punctuation.
        answers: one that rows with the same answer share.
        pairs: near-duplicates among the first rows of each key in `normal`, with their similarity.
        values: what makes a row better than another with the same answer; without it, the earliest stays.
    """
    groups = Groups(len(normal))
    weakest: dict[int, float] = {}
    first: dict[object, int] = {}
    for index, key in enumerate(normal):
        groups.join(first.setdefault(key, index), index)
    for i, j, similarity in pairs:
        groups.join(i, j)
        weakest[i], weakest[j] = min(weakest.get(i, 1.0), similarity), min(weakest.get(j, 1.0), similarity)
    clusters, kept = [], []
    for members in groups.members():
        votes = Counter(answers[i] for i in members)
        keep = max(members, key=lambda i: (votes[answers[i]], values[i] if values else 0, -i))
        kept.append(keep)
        if len(members) > 1:
            kinds = {
                i: EXACT if exact[i] == exact[keep] else NORMALISED if normal[i] == normal[keep] else NEAR
                for i in members
                if i != keep
            }
            similarity = min(weakest.get(i, 1.0) for i in members)
            clusters.append(Cluster(tuple(members), keep, kinds, similarity, len(votes) > 1))
    return Deduplicated(sorted(kept), clusters)
