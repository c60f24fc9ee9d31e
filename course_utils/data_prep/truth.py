"""The raw export, in which every fault is known, and how many of the faults each step finds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from course_utils import assets
from course_utils.data_prep import formats, reading
from course_utils.data_prep.deduplication import deduplicate
from course_utils.data_prep.findings import CODES
from course_utils.data_prep.pii import Entity, find
from course_utils.data_prep.similarity import Groups, shingles
from course_utils.evaluation import Score, proportion

OWN_ADDRESS = "info@tarnbrook.example"
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


@dataclass(frozen=True)
class RawExport:
    """An unprocessed export, and the truth about it.

    Attributes:
        path: the file.
        truth: for each line: `faults` (codes, with "fixable_" before those that can be fixed), `cluster` (the same number
            for copies of one message), `pii` (field, kind, text), `customer` and `origin`.
        production: prompts from production, without labels.
    """

    path: Path
    truth: list[dict]
    production: list[str]

    def faults(self, line: int) -> set[str]:
        """Return the codes of a line's faults, without "fixable_"."""
        return {fault.removeprefix("fixable_") for fault in self.truth[line - 1]["faults"]}

    def rows(self) -> dict[int, dict]:
        """Return line → row, for the lines that are well formed."""
        well = [
            n
            for n in range(1, len(self.truth) + 1)
            if not (self.faults(n) - {"byte_order_mark", "line_ending"}) & set(CODES)
        ]
        return {row.line: row.value for row in reading.read(self.path) if row.line in set(well)}


def load_raw_export() -> RawExport:
    """Load the export of `data/raw_support_export/`, and the truth about it."""
    folder = assets.path("data/raw_support_export")
    lines = lambda name: [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]  # noqa: E731
    return RawExport(
        folder / "export.jsonl", lines("truth.jsonl"), [row["message"] for row in lines("production_prompts.jsonl")]
    )


def wrong_labels(export: RawExport, lines: Sequence[int]) -> list[int]:
    """Return, as indices into `lines`, which of the rows of these lines have a label that was exchanged on purpose."""
    return [index for index, line in enumerate(lines) if "wrong_label" in export.faults(line)]


def right_categories(export: RawExport, lines: Sequence[int]) -> dict[int, str]:
    """Return the categories that were exchanged as they were before: index into `lines` → the right category.

    This is what a person who knows the rules would answer when shown such a row.
    """
    source: dict[str, list[dict]] = {}
    for file in sorted((export.path.parent / "source").glob("base_*.jsonl")):
        for text in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(text)
            source.setdefault(row["customer"], []).append(row["record"])
    written = {row.line: row for row in reading.read(export.path)}
    right = {}
    for index in wrong_labels(export, lines):
        line = lines[index]
        words = shingles(json.dumps(written[line].value, ensure_ascii=False))
        of_customer = source[export.truth[line - 1]["customer"]]
        # Names and numbers were filled in after the source was written, so the nearest of the customer's records is taken.
        record = max(of_customer, key=lambda r: np.isin(shingles(r["summary"]), words).mean())
        right[index] = record["category"]
    return right


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
    for groupings in ([c.members for c in result.clusters], [c.members for c in result.conflicts]):
        for members in groupings:
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


def for_training(rows: Iterable[dict], fields: Sequence[str], longest: int) -> list[list[dict]]:
    """Return conversations that are short enough for a small budget.

    An answer that is not a record is left as it is, because that is what a raw export teaches.

    Args:
        rows: chat rows.
        fields: the fields to which records are reduced.
        longest: rows whose user's message has more words are left out.
    """
    conversations = []
    for row in rows:
        *system, user, assistant = ({k: m[k] for k in ("role", "content")} for m in row["messages"])
        if len(user["content"].split()) > longest:
            continue
        try:
            record = json.loads(assistant["content"])
            assistant["content"] = json.dumps({field: record[field] for field in fields}, ensure_ascii=False)
        except (ValueError, KeyError, TypeError):
            pass
        conversations.append([*system, user, assistant])
    return conversations
