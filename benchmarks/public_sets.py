"""What the checker and `--fix` do to your own files: counts, and examples to read on the screen.

    python benchmarks/public_sets.py FOLDER [--read 20]

For every JSONL, JSON, CSV or Parquet file below FOLDER: rows before and after, rows dropped and flagged by reason,
redactions per thousand words. The record contains only counts and file names, no text. With --read, that many dropped and
flagged rows are printed for each reason, so that a person can judge how many are right: a program cannot measure precision.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path

from common import write_results
from course_utils.data_prep import reading
from course_utils.data_prep.pipeline import CHANGED, DROPPED, Prepared, prepare
from course_utils.data_prep.validation import guess_kind, validate
from course_utils.errors import CourseError


def measure(path: Path) -> tuple[dict, Prepared | None]:
    """Counts for one file, and the prepared rows; None, with the reason among the counts, if it cannot be prepared."""
    kind = guess_kind(path)
    report = validate(path, kind, "trl")
    counts: dict = {
        "kind": kind,
        "rows": report.rows,
        "bad_rows": report.bad_rows,
        "findings": dict(report.counts.most_common()),
    }
    try:
        prepared = prepare(path, kind, target="trl")
    except CourseError as error:
        return counts | {"failed": str(error).partition(":")[2].strip()[:80]}, None
    for action in (DROPPED, CHANGED, "flagged"):
        counts[action] = {code: n for _, a, code, n in prepared.table() if a == action}
    words = sum(len(str(row).split()) for row in prepared.rows)
    redacted = sum(c.step == "redact" and c.code != "customer" for c in prepared.changes)
    return counts | {
        "left": len(prepared.rows),
        "redactions_in_1000_words": round(1000 * redacted / max(words, 1), 3),
    }, prepared


def show(prepared: Prepared, max_rows: int) -> None:
    """Print rows for each reason, for a person to read."""
    draw, by_code = random.Random(0), {}
    for change in prepared.changes:
        if change.step in ("quality", "deduplicate", "contamination"):
            by_code.setdefault((change.action, change.code), []).append(change)
    for (action, code), changes in by_code.items():
        print(f"\n== {action} {code}: {len(changes)}")
        for change in draw.sample(changes, min(max_rows, len(changes))):
            text = prepared.rejects.get(change.line) or prepared.flags.get(change.line, "")
            print(f"line {change.line}: {change.reason}\n    {text[:500]}")
            kept_line = next((c.kept for c in prepared.clusters if change.line in c.kinds), None)
            if kept_line is not None:
                print(f"  kept {kept_line}: {prepared.stayed[kept_line][:500]}")
    counted: Counter = Counter()
    for line, kind, before, _ in prepared.redactions:
        counted[kind] += 1
        if counted[kind] <= max_rows:
            print(f"redacted, line {line}: {kind} {before}")


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--read", type=int, default=0, help="number of rows to print for each reason")
    options = parser.parse_args()
    files = sorted(file for file in options.folder.rglob("*") if file.suffix.lower() in reading.SUFFIXES)
    results = {}
    for path in files:
        name = path.relative_to(options.folder).as_posix()
        results[name], prepared = measure(path)
        print(name, results[name], flush=True)
        if prepared and options.read:
            show(prepared, options.read)
    write_results("public-sets", {"files": results})


if __name__ == "__main__":
    main()
