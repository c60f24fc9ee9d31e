"""From an export to a file one can train on: `prepare` runs all steps, and gives a reason for everything it drops or
changes.

Nothing is lost: each line of the export is in the result, in a duplicate's cluster, or among the rejects as it stood.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.data_prep import distribution, formats, quality, reading, validation
from course_utils.data_prep.deduplication import Cluster, deduplicate
from course_utils.data_prep.findings import ERROR, Finding
from course_utils.data_prep.mending import mend
from course_utils.data_prep.pii import KINDS, Redactor
from course_utils.data_prep.similarity import in_processes
from course_utils.data_prep.splitting import Hit, contamination, split
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = ("validate", "quality", "deduplicate", "contamination", "redact", "split")
DROPPED, CHANGED = "dropped", "changed"
# Faults of the file's bytes, reported with a line that may be a good one.
OF_FILE = ("byte_order_mark", "line_ending", "encoding")


@dataclass(frozen=True)
class Change:
    """What happened to a row: its line in the export, the step, "dropped" or "changed", code and reason."""

    line: int
    step: str
    action: str
    code: str
    reason: str


@dataclass
class Prepared:
    """What `prepare` made.

    Attributes:
        path, kind: the export, and what its rows are.
        rows: rows that are left, in the order of the export.
        lines: line in the export of each of them.
        train, validation: indices into `rows`.
        changes: everything that was dropped or changed, and why.
        rejects: dropped lines as they stood: line → text.
        clusters: duplicates, by line.
        contaminated: test rows that stood in the export, by line; they were dropped from it.
        distance: of the prompts that are left from production, if production prompts were given.
        counts: rows before the first step and after each one.
    """

    path: str
    kind: str = "chat"
    rows: list[dict] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    train: list[int] = field(default_factory=list)
    validation: list[int] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    rejects: dict[int, str] = field(default_factory=dict)
    clusters: list[Cluster] = field(default_factory=list)
    contaminated: list[Hit] = field(default_factory=list)
    distance: distribution.Distance | None = None
    counts: list[tuple[str, int]] = field(default_factory=list)

    @property
    def dropped(self) -> dict[int, Change]:
        """Line → why it was dropped."""
        return {change.line: change for change in self.changes if change.action == DROPPED}

    def table(self) -> list[tuple[str, str, str, int]]:
        """(step, action, code, rows), in the order of the steps, the most frequent first."""
        counted = Counter((STEPS.index(c.step), c.action, c.code) for c in self.changes)
        ordered = sorted(counted.items(), key=lambda item: (item[0][0], item[0][1] != DROPPED, -item[1], item[0][2]))
        return [(STEPS[step], action, code, n) for (step, action, code), n in ordered]

    def __str__(self) -> str:
        lines = [f"{Path(self.path).name}: {self.counts[0][1]:,} lines, {len(self.rows):,} rows left"]
        lines += [f"  {step:<14}{action:<9}{code:<24}{n:>6,}" for step, action, code, n in self.table()]
        return "\n".join([*lines, f"  split: {len(self.train):,} for training, {len(self.validation):,} for validation"])

    def write(self, folder: str | Path) -> list[Path]:
        """Write train.jsonl, validation.jsonl, rejects.jsonl and changes.jsonl; each whole or not at all.

        Raises:
            CourseError: the folder can't be written.
        """
        folder = Path(folder)
        reasons = self.dropped
        files = {
            "train.jsonl": (formats.dumps(self.rows[i]) for i in self.train),
            "validation.jsonl": (formats.dumps(self.rows[i]) for i in self.validation),
            "rejects.jsonl": (
                formats.dumps(
                    {
                        "line": line,
                        "step": reasons[line].step,
                        "code": reasons[line].code,
                        "reason": reasons[line].reason,
                        "text": text,
                    }
                )
                for line, text in sorted(self.rejects.items())
            ),
            "changes.jsonl": (formats.dumps(vars(change)) for change in self.changes),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return [write_lines(folder / name, lines) for name, lines in files.items()]
        except OSError as error:
            raise CourseError(f"cannot write to {folder}: {error.strerror or error}") from error


def prepare(
    path: str | Path,
    kind: str = "chat",
    steps: Iterable[str] = STEPS,
    test: Sequence[dict] = (),
    production: Sequence[str] = (),
    language: str | None = "en",
    schema: dict | None = None,
    redaction: str = "label",
    allow: Iterable[str] = (),
    pii: Iterable[str] = KINDS,
    group: Callable[[dict], object] | None = None,
    validation_share: float = 0.1,
    target: str = "openai",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_tokens: int = validation.MAX_TOKENS,
    seed: int = 0,
    workers: int = 1,
) -> Prepared:
    """Clean an export.

    Args:
        path: JSONL, JSON, CSV or Parquet.
        kind: "chat"; other kinds are validated, mended and redacted, and go through no step that needs a conversation.
        steps: of `STEPS`, which to take; their order is always that of `STEPS`.
        test: rows that the model will be scored on; what is like them is dropped from the export.
        production: prompts as they come in production, for the distance.
        language, schema: see `quality.assess`.
        redaction: "label", "mask" or "pseudonym"; see `pii.Redactor`.
        allow: values that are no personal data, such as the company's own address.
        pii: kinds to take out.
        group: a row's customer; the name of the user's message by default.
        validation_share: see `split`.
        target, tokenizer, max_tokens: see `validate`.
        seed: of the split and of pseudonyms.
        workers: processes for what takes long: near-duplicates of more than 4,000 rows, and personal data.

    Raises:
        CourseError: unreadable file, unknown step or mode, or nothing is left.
    """
    steps = set(steps)
    if unknown := steps - set(STEPS):
        raise CourseError(f"unknown step {sorted(unknown)[0]!r}; there are {', '.join(STEPS)}")
    result = Prepared(str(path), kind)
    _read(result, path, kind, target, tokenizer, max_tokens, mend_rows="validate" in steps)
    if kind == "chat":
        if "quality" in steps:
            _quality(result, language, schema, seed)
        if "deduplicate" in steps:
            _deduplicate(result, workers)
        if "contamination" in steps and test:
            _contamination(result, test)
    owners = [(group or customer_of)(row) for row in result.rows]
    if "redact" in steps:
        _redact(result, Redactor(redaction, pii, seed, allow=allow), workers)
    if not result.rows:
        raise CourseError(f"{Path(path).name}: nothing is left of {result.counts[0][1]} lines; the reasons:\n{result}")
    if production and kind == "chat":
        result.distance = distribution.distance([formats.prompt_of(row) for row in result.rows], production, seed)
    if "split" in steps and kind == "chat" and len(result.rows) > 1:
        result.train, result.validation = split(result.rows, validation_share, owners, seed)
    else:
        result.train = list(range(len(result.rows)))
    return result


def customer_of(row: dict) -> str | None:
    """The name in a user's message: the one place where a chat row can say whose it is."""
    return next((m["name"] for m in row.get("messages", []) if m.get("role") == "user" and m.get("name")), None)


def without_customers(row: dict) -> dict:
    """A row whose user messages name nobody: the customer's number serves the split, and nobody needs it in the file."""
    for message in row.get("messages", []):
        if message["role"] == "user":
            message.pop("name", None)
    return row


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Lines into a file, beside its place and then renamed: it is there whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_rows(
    path: str | Path,
    kind: str,
    target: str,
    tokenizer: PreTrainedTokenizerBase | None,
    max_tokens: int,
    mend_rows: bool = True,
) -> Iterator[tuple[reading.Row, dict[str, Any] | None, list[Change]]]:
    """Each line of a file as (row as read, row that stays or None, changes): valid, mended, or dropped with a reason."""
    for row, findings in validation.check(reading.read(path), kind, target, tokenizer, max_tokens):
        value, line, errors = row.value, row.line, _errors(findings)
        changes: list[Change] = []
        if mend_rows and findings:
            mended, codes = mend(value, findings, kind)
            if mended is not None and codes:
                # Whether it is mended is for the same rules to say.
                again = [
                    f
                    for _, fs in validation.check([reading.Row(line, mended)], kind, target, tokenizer, max_tokens)
                    for f in fs
                ]
                errors = _errors(again)
                by_code = {finding.code: finding for finding in findings}
                changes = [Change(line, "validate", CHANGED, code, by_code[code].message) for code in codes]
                value = mended if not errors else value
        blank = [finding for finding in findings if finding.code == "blank_line"]
        if errors or blank:
            first = (errors or blank)[0]
            changes = [c for c in changes if c.code in OF_FILE] + [
                Change(line, "validate", DROPPED, first.code, first.message)
            ]
            value = None
        if value is not None or errors or blank:
            yield row, value, changes


def _read(
    result: Prepared,
    path: str | Path,
    kind: str,
    target: str,
    tokenizer: PreTrainedTokenizerBase | None,
    max_tokens: int,
    mend_rows: bool,
) -> None:
    """Valid and mended rows; the others are rejected with their first error."""
    read = 0
    for row, value, changes in read_rows(path, kind, target, tokenizer, max_tokens, mend_rows):
        read += 1
        result.changes += changes
        if value is None:
            result.rejects[row.line] = row.raw.decode("utf-8", "backslashreplace")
        else:
            result.rows.append(value)
            result.lines.append(row.line)
    result.counts += [("read", read), ("validate", len(result.rows))]


def _errors(findings: list[Finding]) -> list[Finding]:
    return [
        finding for finding in findings if finding.severity == ERROR and finding.code not in ("byte_order_mark", "encoding")
    ]


def _drop(result: Prepared, step: str, reasons: dict[int, tuple[str, str]]) -> None:
    """Take out rows by index, with code and reason."""
    for index, (code, reason) in sorted(reasons.items()):
        line = result.lines[index]
        result.changes.append(Change(line, step, DROPPED, code, reason))
        result.rejects[line] = formats.dumps(result.rows[index])
    kept = [i for i in range(len(result.rows)) if i not in reasons]
    result.rows, result.lines = [result.rows[i] for i in kept], [result.lines[i] for i in kept]
    result.counts.append((step, len(result.rows)))


def _quality(result: Prepared, language: str | None, schema: dict | None, seed: int) -> None:
    assessed = quality.assess(result.rows, language, schema, seed)
    _drop(result, "quality", {i: (r[0].code, "; ".join(x.message for x in r)) for i, r in enumerate(assessed) if r})


def _deduplicate(result: Prepared, workers: int) -> None:
    found = deduplicate(result.rows, workers=workers)
    reasons = {}
    for cluster in found.clusters:
        conflict = ", and the answers differ" if cluster.conflict else ""
        for member, kind in cluster.kinds.items():
            reasons[member] = (
                f"{kind}_duplicate",
                f"of line {result.lines[cluster.kept]} (similarity {cluster.similarity:.2f}{conflict})",
            )
    by_line = lambda i: result.lines[i]  # noqa: E731
    result.clusters = [
        Cluster(
            tuple(map(by_line, c.members)),
            by_line(c.kept),
            {by_line(m): k for m, k in c.kinds.items()},
            c.similarity,
            c.conflict,
        )
        for c in found.clusters
    ]
    _drop(result, "deduplicate", reasons)


def _contamination(result: Prepared, test: Sequence[dict]) -> None:
    hits = contamination(result.rows, test)
    result.contaminated = [Hit(hit.test, result.lines[hit.train], hit.kind, hit.evidence) for hit in hits]
    _drop(
        result, "contamination", {h.train: ("test_set", f"like test row {h.test + 1}: {h.kind}, {h.evidence}") for h in hits}
    )


def _redact(result: Prepared, redactor: Redactor, workers: int) -> None:
    for index, redacted in enumerate(in_processes(redactor.row, result.rows, workers, 64)):
        result.rows[index] = redacted.row
        if customer_of(redacted.row) is not None:
            without_customers(redacted.row)
            result.changes.append(
                Change(result.lines[index], "redact", CHANGED, "customer", "the name of the user's message")
            )
        for place, entity in redacted.findings:
            # The value itself stays out of the list of changes: that file goes around too.
            result.changes.append(
                Change(
                    result.lines[index], "redact", CHANGED, entity.kind.lower(), f"{place}, {len(entity.text)} characters"
                )
            )
    result.counts.append(("redact", len(result.rows)))


def rows_of(path: str | Path) -> list[dict]:
    """Rows of a file that are meant to be right.

    Raises:
        CourseError: at the first one that is not.
    """
    rows = []
    for row, findings in validation.check(reading.read(path), validation.guess_kind(path), "trl"):
        for finding in _errors(findings):
            raise CourseError(f"{Path(path).name}: {finding}")
        rows.append(row.value)
    return rows


def report_json(result: Prepared) -> str:
    """Counts and reasons for programs."""
    return json.dumps(
        {
            "path": result.path,
            "counts": dict(result.counts),
            "train": len(result.train),
            "validation": len(result.validation),
            "changes": [{"step": s, "action": a, "code": c, "rows": n} for s, a, c, n in result.table()],
            "contaminated_test_rows": sorted({hit.test for hit in result.contaminated}),
            "auc_to_production": result.distance.auc if result.distance else None,
        },
        ensure_ascii=False,
        indent=1,
    )
