"""What the checker and `--fix` do to files that others have made: counts, and examples to read on the screen.

    python benchmarks/public_sets.py FOLDER [--map FILE:OLD=NEW] [--read 20] [--verdicts FILE]

For every JSONL, JSON, CSV or Parquet file below FOLDER: its shapes, rows before and after, rows dropped and flagged by
reason, redactions in a thousand words. `--map` renames a field, as `course check-data --map` does. The record contains only
counts and file names, no text. Words are those that deduplication compares: a Chinese character counts as one.

Precision needs a reader. With `--read N`, N rows are printed for each reason for which rows were dropped or flagged, and N
redactions of each kind with the words around them, drawn at random from each file in turn. Whoever has read them writes
down, for each reason, how many were read and how many were right (`--verdicts`, a JSON file), and the record takes this over
as `read`:

    {"reader": "one person", "dropped near_duplicate": {"read": 25, "right": 24, "note": "one asks for another number"}}

A dropped row is right if a person would have dropped it too; a duplicate, if training on both teaches nothing that training
on one does not; a flag, if the row has what the flag says; a redaction, if the words identify somebody, be it a public or an
invented person. Where fewer rows than N were found, all were read.

The record of 2026-11-28 is of 19 sets in six shapes: BELLE's questions, samples of Dolly, OASST's trees, UltraFeedback and
HH-RLHF, GSM8K's two parts, two of GPTeacher, two templates of T0, and the demonstrations of FastChat, LLaMA-Factory and a
textbook. `files` and `read` are of the checker before the repairs that reading them led to, at the state that `commit`
names, where words included the names of roles and rows were drawn from all files together; `after_repairs` has what some of
the files give since.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common import write_results
from course_utils.data_prep import reading
from course_utils.data_prep.pii import Redactor
from course_utils.data_prep.pii.redaction import Entity
from course_utils.data_prep.pipeline import CHANGED, DROPPED, FLAGGED, STEPS, Prepared, prepare
from course_utils.data_prep.similarity import normalise
from course_utils.data_prep.validation import guess_kind, validate
from course_utils.errors import CourseError

SHOWN = 700  # characters of a row
AROUND = 60  # characters on each side of a redaction
Examples = dict[str, list[str]]


def measure(path: Path, columns: dict[str, str]) -> tuple[dict, Examples]:
    """Counts for one file, and examples to read for each reason; without any if nothing of it is left."""
    kind = guess_kind(path, columns)
    report = validate(path, kind, "trl", columns=columns)
    counts: dict = {
        "kind": kind,
        "shapes": dict(report.shapes.most_common()),
        "rows": report.rows,
        "bad_rows": report.bad_rows,
        "findings": dict(report.counts.most_common()),
    }
    try:
        # Redaction follows below, on the same rows, so that a reader sees what was redacted.
        prepared = prepare(path, kind, target="trl", columns=columns, steps=set(STEPS) - {"redact"})
    except CourseError as error:
        return counts | {"failed": str(error).partition(":")[2].strip()[:80]}, {}
    examples = {f"{action} {code}": texts for (action, code), texts in _changed_rows(prepared).items()}
    redactor, words, redactions, kinds = Redactor(), 0, 0, Counter[str]()
    for row, line in zip(prepared.rows, prepared.lines):
        words += sum(len(normalise(text).split()) for text in _texts(row))
        found = redactor.row(row).findings
        redactions += len(found)
        kinds.update({entity.kind.lower() for _, entity in found})
        for field, entity in found:
            examples.setdefault(f"redacted {entity.kind.lower()}", []).append(f"line {line}: {_around(row, field, entity)}")
    for action in (DROPPED, CHANGED, FLAGGED):
        counts[action] = {code: n for _, a, code, n in prepared.table() if a == action}
    counts[CHANGED] |= dict(kinds.most_common())
    return counts | {
        "left": len(prepared.rows),
        "words": words,
        "redactions": redactions,
        "redactions_in_1000_words": round(1000 * redactions / max(words, 1), 3),
    }, examples


def _texts(value: object) -> Iterator[str]:
    """The texts in a row, without the names of its roles."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if key != "role":
                yield from _texts(part)


def _drawn(texts: dict[str, list[str]], number: int) -> list[str]:
    """At most `number` texts, from each file in turn, so that a large file does not stand for all."""
    draw = random.Random(0)
    shuffled = [draw.sample(some, len(some)) for some in texts.values()]
    in_turn = [some[place] for place in range(max(map(len, shuffled))) for some in shuffled if place < len(some)]
    return in_turn[:number]


def _changed_rows(prepared: Prepared) -> dict[tuple[str, str], list[str]]:
    """Action and code → the rows that were dropped or flagged for it, as texts to read."""
    rows: dict[tuple[str, str], list[str]] = {}
    for change in prepared.changes:
        if change.action == CHANGED:
            continue
        text = prepared.texts.get(change.line, "")
        shown = f"line {change.line}: {change.reason}\n    {_cut(text)}"
        kept_line = prepared.copies.get(change.line)
        if kept_line is not None:
            shown += f"\n  kept {kept_line}:\n    {_cut(prepared.texts[kept_line])}"
        for conflict in prepared.conflicts:
            if change.code == "conflict" and change.line in conflict.members:
                other = next(line for line in conflict.members if line != change.line)
                shown += f"\n  other {other}:\n    {_cut(prepared.texts.get(other, ''))}"
        rows.setdefault((change.action, change.code), []).append(shown)
    return rows


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN * 3 // 4]} […] {text[-SHOWN // 4 :]}"


def _around(row: dict, field: str, entity: Entity) -> str:
    """A redaction with the words around it, where the text of the field can be followed."""
    value: object = row
    for part in field.replace("]", "").replace("[", ".").split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
    if not isinstance(value, str) or value[entity.start : entity.end] != entity.text:
        return f"{field}: >>{entity.text}<<"
    before, after = value[max(0, entity.start - AROUND) : entity.start], value[entity.end : entity.end + AROUND]
    return f"{field}: {before}>>{entity.text}<<{after}".replace("\n", "⏎")


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--map", action="append", default=[], metavar="FILE:OLD=NEW", help="rename a field of a file")
    parser.add_argument("--read", type=int, default=0, help="number of rows to print for each reason")
    parser.add_argument("--verdicts", type=Path, help="JSON file: what somebody has found who read them")
    options = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    for text in options.map:
        name, _, pair = text.partition(":")
        columns.setdefault(name, {})[pair.partition("=")[0]] = pair.partition("=")[2]
    files = sorted(file for file in options.folder.rglob("*") if file.suffix.lower() in reading.SUFFIXES)
    results: dict[str, dict] = {}
    examples: dict[str, Examples] = {}
    for path in files:
        name = path.relative_to(options.folder).as_posix()
        results[name], found = measure(path, columns.get(name, {}))
        print(name, results[name], flush=True)
        for reason, texts in found.items():
            examples.setdefault(reason, {})[name] = [f"{name}, {text}" for text in texts]
    for reason, texts_of in sorted(examples.items()) if options.read else ():
        print(f"\n== {reason}: {sum(map(len, texts_of.values()))}")
        print(*_drawn(texts_of, options.read), sep="\n")
    read = {"read": json.loads(options.verdicts.read_text(encoding="utf-8"))} if options.verdicts else {}
    write_results("public-sets", {"files": results} | read)


if __name__ == "__main__":
    main()
