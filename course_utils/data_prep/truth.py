"""The raw export, in which every fault is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils import assets
from course_utils.data_prep import reading
from course_utils.data_prep.findings import CODES
from course_utils.data_prep.similarity import shingles

OWN_ADDRESS = "info@tarnbrook.example"


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
        gone = {"byte_order_mark", "line_ending"}  # faults of the file's bytes, which are gone once it is read
        return {row.line: row.value for row in reading.read(self.path) if not (self.faults(row.line) - gone) & set(CODES)}


def load_raw_export() -> RawExport:
    """Load the export of `data/raw_support_export/`, and the truth about it."""
    folder = "data/raw_support_export"
    production = [row["message"] for row in assets.read_rows(f"{folder}/production_prompts.jsonl")]
    return RawExport(assets.path(f"{folder}/export.jsonl"), assets.read_rows(f"{folder}/truth.jsonl"), production)


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
    for index, line in enumerate(lines):
        if "wrong_label" not in export.faults(line):
            continue
        words = shingles(json.dumps(written[line].value, ensure_ascii=False))
        of_customer = source[export.truth[line - 1]["customer"]]
        # Names and numbers were filled in after the source was written, so the nearest of the customer's records is taken.
        record = max(of_customer, key=lambda r: np.isin(shingles(r["summary"]), words).mean())
        right[index] = record["category"]
    return right
