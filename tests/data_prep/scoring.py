"""How many of the export's known faults each step finds: recall and precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from course_utils.data_prep import formats
from course_utils.data_prep.deduplication import deduplicate
from course_utils.data_prep.pii import Entity, find
from course_utils.data_prep.similarity import Groups
from course_utils.data_prep.truth import RawExport
from course_utils.evaluation import Score, proportion

# A run of text counts as found if it overlaps with the marked one by more than half of their union; any other kind must
# match exactly.
RUNS = ("NAME", "ADDRESS")


@dataclass(frozen=True)
class DetectionScore:
    """Recall and precision of a detector, each with a 95 % interval (Wilson).

    Recall is the share of the true items that were found; precision is the share of the found items that are true.
    """

    recall: Score
    precision: Score

    @classmethod
    def of(cls, true: Iterable, predicted: Iterable) -> DetectionScore:
        """Compute the score from the true items and the predicted items, which must be hashable."""
        true, predicted = set(true), set(predicted)
        return cls.counted(len(true & predicted), len(true), len(predicted))

    @classmethod
    def counted(cls, correct: int, true: int, predicted: int) -> DetectionScore:
        """Compute the score from three counts: correct predictions, true items, and predictions."""
        return cls(
            proportion([True] * correct + [False] * (true - correct)),
            proportion([True] * correct + [False] * (predicted - correct)),
        )

    def __str__(self) -> str:
        return f"recall {self.recall}  precision {self.precision}  ({self.recall.n} there, {self.precision.n} found)"


def score_duplicates(rows: Sequence[dict], clusters: Sequence) -> DetectionScore:
    """Measure how well `deduplicate` finds pairs of rows that ask the same question.

    Copies and rows in conflict count as found, each together with all other rows of the same question.

    Args:
        rows: chat rows.
        clusters: for each row, which question it asks; None if no other row asks it.
    """
    groups: dict[object, list[int]] = {}
    for index, cluster in enumerate(clusters):
        if cluster is not None:
            groups.setdefault(cluster, []).append(index)
    true = {pair for members in groups.values() for pair in combinations(members, 2)}
    result, together = deduplicate(rows), Groups(len(rows))
    for members in (*((kept, index) for index, (_, kept) in result.dropped.items()), *(c.members for c in result.conflicts)):
        for member in members:
            together.join(members[0], member)
    predicted = {pair for members in together.members() for pair in combinations(members, 2)}
    return DetectionScore.of(true, predicted)


def score_pii(
    texts: Iterable[tuple[str, str, list[tuple[str, str]]]], allow: Sequence[str] = ()
) -> dict[str, DetectionScore]:
    """Measure how well each kind of personal data is found.

    Args:
        texts: (text, preceding text, [(kind, personal text), …]) for each text.
        allow: values that are not personal data.
    """
    correct, true, predicted = Counter[str](), Counter[str](), Counter[str]()
    for text, preceding, marked in texts:
        entities, position = find(text, allow=allow, preceding=preceding), 0
        used: set[int] = set()
        for kind, value in marked:
            start = text.find(value, position)
            start = start if start >= 0 else text.find(value)
            if start < 0:  # it was cut off together with the end of its message
                continue
            end = position = start + len(value)
            true[kind] += 1
            for index, entity in enumerate(entities):
                if index not in used and entity.kind == kind and _same(kind, start, end, entity):
                    used.add(index)
                    correct[kind] += 1
                    break
        predicted.update(entity.kind for entity in entities)
    return {kind: DetectionScore.counted(correct[kind], true[kind], predicted[kind]) for kind in sorted({*true, *predicted})}


def _same(kind: str, start: int, end: int, entity: Entity) -> bool:
    if kind not in RUNS:
        return (start, end) == (entity.start, entity.end)
    shared = min(end, entity.end) - max(start, entity.start)
    return shared > 0.5 * (max(end, entity.end) - min(start, entity.start))


def marked_texts(export: RawExport) -> Iterable[tuple[str, str, list[tuple[str, str]]]]:
    """Yield (text, preceding text, personal data in it) for the messages of the export, without copies."""
    for line, row in export.rows().items():
        truth = export.truth[line - 1]
        if any(fault.endswith("_duplicate") for fault in truth["faults"]) or truth["origin"] == "test":
            continue
        preceding = ""
        for index, message in enumerate(row["messages"]):
            text = formats.text_content(message["content"])
            marked = [(p["kind"], p["text"]) for p in truth["pii"] if p["field"] == f"messages[{index}].content"]
            yield text, preceding, marked
            preceding = text
