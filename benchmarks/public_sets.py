"""What the checker and `--fix` do to files of one's own: counts, and examples to be read on the screen.

    python benchmarks/public_sets.py FOLDER [--read 20]

Every JSONL, JSON, CSV or Parquet file below FOLDER: rows in and left, what was dropped and flagged by reason,
redactions in a
thousand words. The record has counts and file names alone, no text. With --read, so many dropped and flagged rows of
each reason
are printed, for a person to say how many are right: precision can't be counted by a program.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path

from common import write_record
from course_utils.data_prep import reading
from course_utils.data_prep.pipeline import CHANGED, DROPPED, Prepared, prepare
from course_utils.data_prep.validation import guess_kind, validate
from course_utils.errors import CourseError


def measure(path: Path) -> tuple[dict, Prepared | None]:
    """Counts of one file, and what was made of it; None and the reason if nothing could be."""
    kind = guess_kind(path)
    report = validate(path, kind, "trl")
    found: dict = {
        "kind": kind,
        "rows": report.rows,
        "bad_rows": report.bad_rows,
        "findings": dict(report.counts.most_common()),
    }
    try:
        prepared = prepare(path, kind, target="trl")
    except CourseError as error:
        return found | {"failed": str(error).partition(":")[2].strip()[:80]}, None
    for action in (DROPPED, CHANGED, "flagged"):
        found[action] = {code: n for _, a, code, n in prepared.table() if a == action}
    words = sum(len(str(row).split()) for row in prepared.rows)
    redacted = sum(c.step == "redact" and c.code != "customer" for c in prepared.changes)
    return found | {
        "left": len(prepared.rows),
        "redactions_in_1000_words": round(1000 * redacted / max(words, 1), 3),
    }, prepared


def show(prepared: Prepared, most: int) -> None:
    """Rows of each reason, for the eye."""
    draw, by_code = random.Random(0), {}
    for change in prepared.changes:
        if change.step in ("quality", "deduplicate", "contamination"):
            by_code.setdefault((change.action, change.code), []).append(change)
    for (action, code), changes in by_code.items():
        print(f"\n== {action} {code}: {len(changes)}")
        for change in draw.sample(changes, min(most, len(changes))):
            text = prepared.rejects.get(change.line) or prepared.flags.get(change.line, "")
            print(f"line {change.line}: {change.reason}\n    {text[:500]}")
            kept = next((c.kept for c in prepared.clusters if change.line in c.kinds), None)
            if kept is not None:
                print(f"  kept {kept}: {prepared.stayed[kept][:500]}")
    counted: Counter = Counter()
    for line, kind, before, _ in prepared.redactions:
        counted[kind] += 1
        if counted[kind] <= most:
            print(f"redacted, line {line}: {kind} {before}")


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--read", type=int, default=0, help="rows of each reason to print")
    options = parser.parse_args()
    files = sorted(file for file in options.folder.rglob("*") if file.suffix.lower() in reading.SUFFIXES)
    found = {}
    for path in files:
        name = path.relative_to(options.folder).as_posix()
        found[name], prepared = measure(path)
        print(name, found[name], flush=True)
        if prepared and options.read:
            show(prepared, options.read)
    write_record("public-sets", {"files": found})


if __name__ == "__main__":
    main()
