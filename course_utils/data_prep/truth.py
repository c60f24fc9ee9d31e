"""The raw export whose every fault is known, and how much of it each step finds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from course_utils import assets
from course_utils.data_prep import formats, quality, reading, validation
from course_utils.data_prep.deduplication import deduplicate
from course_utils.data_prep.findings import CODES
from course_utils.data_prep.pii import Entity, find
from course_utils.data_prep.similarity import Groups
from course_utils.evaluation import Score, proportion

OWN_ADDRESS = "info@tarnbrook.example"
# Runs of text are found when more than half of them and of what was taken is the same; a number must be the same to the
# letter.
RUNS = ("NAME", "ADDRESS")


@dataclass(frozen=True)
class Found:
    """How much of what was there was found, and how much of what was found was there; with 95 % intervals (Wilson)."""

    recall: Score
    precision: Score

    @classmethod
    def of(cls, true: Iterable, found: Iterable) -> Found:
        """From two sets of things that can be compared."""
        true, found = set(true), set(found)
        return cls.counted(len(true & found), len(true), len(found))

    @classmethod
    def counted(cls, right: int, true: int, found: int) -> Found:
        """From three counts."""
        return cls(
            proportion([True] * right + [False] * (true - right)), proportion([True] * right + [False] * (found - right))
        )

    def __str__(self) -> str:
        return f"recall {self.recall}  precision {self.precision}  ({self.recall.n} there, {self.precision.n} found)"


@dataclass(frozen=True)
class RawExport:
    """An export as it comes, and the truth about it.

    Attributes:
        path: the file.
        truth: for each line: `faults` (codes; "fixable_" before those that can be mended), `cluster` (the same number for
            copies of one message), `pii` (field, kind, text), `customer` and `origin`.
        production: prompts as they come in production, unlabelled.
    """

    path: Path
    truth: list[dict]
    production: list[str]

    def faults(self, line: int) -> set[str]:
        """Codes of a line, without "fixable_"."""
        return {fault.removeprefix("fixable_") for fault in self.truth[line - 1]["faults"]}

    def rows(self) -> dict[int, dict]:
        """Line → row, of the lines that are well formed."""
        well = [
            n
            for n in range(1, len(self.truth) + 1)
            if not (self.faults(n) - {"byte_order_mark", "line_ending"}) & set(CODES)
        ]
        return {row.line: row.value for row in reading.read(self.path) if row.line in set(well)}


def load_raw_export() -> RawExport:
    """The export of `data/raw_support_export/`."""
    folder = assets.path("data/raw_support_export")
    lines = lambda name: [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]  # noqa: E731
    return RawExport(
        folder / "export.jsonl", lines("truth.jsonl"), [row["message"] for row in lines("production_prompts.jsonl")]
    )


def score_validation(export: RawExport) -> Found:
    """Lines with a fault of form: (line, code) pairs for the faults that were put in, lines for what was found."""
    true = {line for line in range(1, len(export.truth) + 1) if export.faults(line) & set(CODES)}
    found = {row.line for row, findings in validation.check(reading.read(export.path), "chat") if findings}
    return Found.of(true, found)


def score_quality(export: RawExport, schema: dict | None = None) -> dict[str, Found]:
    """Each rule, and all together ("any")."""
    rows = export.rows()
    assessed = dict(zip(rows, quality.assess(list(rows.values()), language="en", schema=schema)))
    scores = {}
    for code in quality.RULES:
        true = {line for line in rows if code in export.faults(line)}
        scores[code] = Found.of(true, {line for line, reasons in assessed.items() if code in {r.code for r in reasons}})
    true = {line for line in rows if export.faults(line) & set(quality.RULES)}
    return scores | {"any": Found.of(true, {line for line, reasons in assessed.items() if reasons})}


def score_duplicates(rows: Sequence[dict], clusters: Sequence) -> Found:
    """Pairs of rows that ask the same; `clusters` says for each row which question it is of, None for none.

    Found are copies and rows in conflict, each with all the others that ask the same.
    """
    groups: dict[object, list[int]] = {}
    for index, cluster in enumerate(clusters):
        if cluster is not None:
            groups.setdefault(cluster, []).append(index)
    true = {pair for members in groups.values() for pair in combinations(members, 2)}
    result, together = deduplicate(rows), Groups(len(rows))
    for asked in ([c.members for c in result.clusters], [c.members for c in result.conflicts]):
        for members in asked:
            for member in members:
                together.join(members[0], member)
    found = {pair for members in together.members() for pair in combinations(members, 2)}
    return Found.of(true, found)


def score_pii(texts: Iterable[tuple[str, str, list[tuple[str, str]]]], allow: Sequence[str] = ()) -> dict[str, Found]:
    """Each kind of personal data, over (text, what was said before, [(kind, text of it), …])."""
    right: dict[str, int] = {}
    true: dict[str, int] = {}
    found: dict[str, int] = {}
    for text, preceding, marked in texts:
        entities, position = find(text, allow=allow, preceding=preceding), 0
        used: set[int] = set()
        for kind, value in marked:
            start = text.find(value, position)
            start = start if start >= 0 else text.find(value)
            if start < 0:  # cut off with the end of its message
                continue
            end = position = start + len(value)
            true[kind] = true.get(kind, 0) + 1
            for index, entity in enumerate(entities):
                if index not in used and entity.kind == kind and _same(kind, start, end, entity):
                    used.add(index)
                    right[kind] = right.get(kind, 0) + 1
                    break
        for entity in entities:
            found[entity.kind] = found.get(entity.kind, 0) + 1
    return {
        kind: Found.counted(right.get(kind, 0), true.get(kind, 0), found.get(kind, 0)) for kind in sorted({*true, *found})
    }


def _same(kind: str, start: int, end: int, entity: Entity) -> bool:
    if kind not in RUNS:
        return (start, end) == (entity.start, entity.end)
    shared = min(end, entity.end) - max(start, entity.start)
    return shared > 0.5 * (max(end, entity.end) - min(start, entity.start))


def marked_texts(export: RawExport) -> Iterable[tuple[str, str, list[tuple[str, str]]]]:
    """Texts of the export with what is personal in them, each message once."""
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
    """Conversations short enough for a small budget: messages of at most so many words, records cut down to some fields.

    Answers that are no such record stay as they are: they are what a raw export teaches.
    """
    made = []
    for row in rows:
        *system, user, assistant = ({k: m[k] for k in ("role", "content")} for m in row["messages"])
        if len(user["content"].split()) > longest:
            continue
        try:
            record = json.loads(assistant["content"])
            assistant["content"] = json.dumps({field: record[field] for field in fields}, ensure_ascii=False)
        except (ValueError, KeyError, TypeError):
            pass
        made.append([*system, user, assistant])
    return made
