"""The same example twice: exact copies, copies in other clothes, and near-duplicates.

A duplicate counts double in the loss, teaches its phrasing instead of its point, and across a split turns the score into a
memory test (Lee et al. 2021, "Deduplicating training data makes language models better"). Two rows are one example when
their
prompts ask the same *and* their answers say the same; the same prompt with another answer is a conflict, which is told and
not dropped. Each dropped row is compared with the row that stays for it, never with one through another.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from course_utils.data_prep import formats
from course_utils.data_prep.sameness import operators, same_answer, same_question
from course_utils.data_prep.similarity import Groups, jaccard, normalise, shingles, similar_pairs

EXACT, NORMALISED, NEAR = "exact", "normalised", "near"
FEW = 4  # different answers to one prompt that a near copy of it is compared with


@dataclass(frozen=True)
class Cluster:
    """Rows that are one example.

    Attributes:
        members: indices, in order.
        kept: the one that stays.
        kinds: member → how it is a copy: "exact", "normalised" or "near"; without the kept one.
        similarities: member → Jaccard index of its prompt and the kept row's; without the kept one.
    """

    members: tuple[int, ...]
    kept: int
    kinds: dict[int, str]
    similarities: dict[int, float]


@dataclass(frozen=True)
class Conflict:
    """Rows that ask the same and are answered differently: at most one answer is right, or several are.

    Attributes:
        members: indices, in order; none of them is a copy of another.
        preferred: the one with the most frequent answer (copies count), the earliest of equals.
    """

    members: tuple[int, ...]
    preferred: int


@dataclass(frozen=True)
class Deduplicated:
    """What `deduplicate` found: indices of the rows that stay, in order; clusters with more than one row; and conflicts."""

    kept: list[int]
    clusters: list[Cluster] = field(repr=False)
    conflicts: list[Conflict] = field(repr=False, default_factory=list)

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
        threshold: Jaccard index from which two prompts may be near-duplicates; 1 leaves them alone.
        text: what is compared beside the answer. What the user says, by default: a shared answer format would make all rows
            alike.
        best: which of a cluster is kept: the row with the largest value, the earliest of equals; without it, the earliest.
        method, workers: see `similarity.similar_pairs`.
    """
    texts = [text(row) for row in rows]
    answers = [formats.answer_of(row) for row in rows]
    around = [surroundings(row) for row in rows]
    # Digests: a second copy of every text would be the largest thing in memory.
    exact = [_digest(t, answer, a) for t, answer, a in zip(texts, answers, around)]
    normal = [_digest(comparable(t), a) for t, a in zip(texts, around)]
    replies = [_digest(comparable(answer)) for answer in answers]
    firsts = first_of_each(normal)
    pairs = []
    if threshold < 1:
        found = similar_pairs([texts[i] for i in firsts], threshold, method, workers)
        pairs = [(firsts[i], firsts[j], similarity) for i, j, similarity in found if around[firsts[i]] == around[firsts[j]]]
    values = [best(row) for row in rows] if best else None
    return choose(exact, normal, replies, pairs, lambda i: (texts[i], answers[i]), values, threshold)


def surroundings(row: dict) -> bytes:
    """A digest of what a row has besides the texts of user and assistant: instructions, tools, their answers, pictures."""
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
    """A text as it is compared: its words, and what calculates. Of "???" nothing is left, so it is compared as it stands."""
    return normalise(text) + operators(text) or text


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
    texts: Callable[[int], tuple[str, str]],
    values: Sequence | None = None,
    threshold: float = 0.6,
) -> Deduplicated:
    """Clusters, conflicts and the rows that stay, from keys instead of rows: for corpora whose texts are elsewhere.

    Args:
        exact: for each row a key that only exact copies share.
        normal: one that rows share whose prompts are the same but for case, spacing and punctuation.
        answers: one that rows share whose answers are.
        pairs: near-duplicates among the first rows of each key in `normal`, with their similarity.
        texts: prompt and answer of a row; called for rows whose prompt is one of `pairs`.
        values: what makes a row better than another; without it, the earliest stays.
        threshold: see `deduplicate`.
    """
    order = sorted(range(len(normal)), key=values.__getitem__, reverse=True) if values else list(range(len(normal)))
    keeper: dict[int, int] = {}
    # prompt → answer → the row that stays for both.
    asked: dict[object, dict[object, int]] = {}
    for index in order:
        stays = asked.setdefault(normal[index], {}).setdefault(answers[index], index)
        if stays != index:
            keeper[index] = stays
    similarities, alike = dict.fromkeys(keeper, 1.0), Groups(len(normal))
    rank = {index: place for place, index in enumerate(order)}
    compare = _Comparison(texts, threshold)
    for one, other, similarity in sorted(pairs, key=lambda pair: sorted((rank[pair[0]], rank[pair[1]]), reverse=True)):
        _join(asked[normal[one]], asked[normal[other]], rank, keeper, similarities, alike, compare, similarity)
    for index in [i for i in keeper if keeper[i] in keeper]:
        # A copy to the letter of a row that went for another: it goes for the same one.
        stays = keeper[index]
        similarities[index] = similarities[stays]
        keeper[index] = keeper[stays]
    clusters: dict[int, list[int]] = {}
    for index in sorted(keeper):
        clusters.setdefault(keeper[index], []).append(index)
    found = []
    for stays, dropped in sorted(clusters.items(), key=lambda item: min(item[0], *item[1])):
        kinds = {
            i: EXACT
            if exact[i] == exact[stays]
            else NORMALISED
            if normal[i] == normal[stays] and answers[i] == answers[stays]
            else NEAR
            for i in dropped
        }
        found.append(Cluster(tuple(sorted([stays, *dropped])), stays, kinds, {i: similarities[i] for i in dropped}))
    for replies in asked.values():
        members = list(replies.values())
        for member in members[1:]:
            alike.join(members[0], member)
    return Deduplicated([i for i in range(len(normal)) if i not in keeper], found, _conflicts(alike, keeper, clusters))


def _join(
    ones: dict[object, int],
    others: dict[object, int],
    rank: dict[int, int],
    keeper: dict[int, int],
    similarities: dict[int, float],
    alike: Groups,
    compare: _Comparison,
    similarity: float,
) -> None:
    """Rows under two prompts that are near-duplicates: copies where the answers agree, conflicts where they do not."""
    if rank[next(iter(ones.values()))] > rank[next(iter(others.values()))]:
        ones, others = others, ones
    few = list(ones.values())[:FEW]
    for answer, index in others.items():
        if index in keeper:
            continue
        for candidate in [ones[answer]] if answer in ones else few:
            stays = keeper.get(candidate, candidate)
            if rank[stays] >= rank[index]:
                continue
            # To a row that stays for the candidate, the candidate's similarity says nothing.
            found = similarity if stays == candidate else compare.similarity(stays, index)
            if found < compare.threshold:
                continue
            if compare.copies(stays, index):
                keeper[index], similarities[index] = stays, found
                break
            if compare.same_prompts(stays, index):
                alike.join(stays, index)


class _Comparison:
    """Compares two rows by their texts."""

    def __init__(self, texts: Callable[[int], tuple[str, str]], threshold: float) -> None:
        self.texts, self.threshold = texts, threshold

    def similarity(self, one: int, other: int) -> float:
        """Jaccard index of the prompts."""
        return jaccard(shingles(self.texts(one)[0]), shingles(self.texts(other)[0]))

    def copies(self, one: int, other: int) -> bool:
        """Whether two rows whose prompts are alike are one example."""
        (mine, answer), (theirs, reply) = self.texts(one), self.texts(other)
        return same_answer(answer, reply) and same_question(mine, theirs, answer)

    def same_prompts(self, one: int, other: int) -> bool:
        """Whether two prompts that are alike ask the same, whatever the answers."""
        return same_question(self.texts(one)[0], self.texts(other)[0], "")


def _conflicts(alike: Groups, keeper: dict[int, int], clusters: dict[int, list[int]]) -> list[Conflict]:
    found = []
    for group in alike.members():
        members = [i for i in group if i not in keeper]
        if len(members) > 1:
            votes = Counter({i: 1 + len(clusters.get(i, ())) for i in members})
            found.append(Conflict(tuple(members), max(members, key=lambda i: (votes[i], -i))))
    return found
