"""From an export to a training file: `prepare` runs all steps, and gives a reason for everything it drops, changes or flags.

By default it drops only what is certainly wrong: rows that can't be read or trained on, and copies. What a quality rule
finds, and a question that has two different answers, is flagged for a person to look at; `drop` names the codes that are
dropped without a look. Nothing is lost: each line of the export is in the result, in a cluster of duplicates, or, unchanged,
among the rejects.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.data_prep import distribution, formats, quality, reading, validation
from course_utils.data_prep.deduplication import Cluster, Conflict, deduplicate
from course_utils.data_prep.findings import ERROR, Finding
from course_utils.data_prep.fixing import TARGET_SHAPE, fix
from course_utils.data_prep.formats import customer_of
from course_utils.data_prep.pii import PII_KINDS, Redactor
from course_utils.data_prep.pii.redaction import Redacted
from course_utils.data_prep.similarity import in_processes
from course_utils.data_prep.splitting import Hit, contamination, split
from course_utils.errors import CourseError
from course_utils.files import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# The files that `prepare` and its report write into a folder.
PREPARED = ("train.jsonl", "validation.jsonl", "rejects.jsonl", "changes.jsonl")
REPORT = "report.html"


def may_write(folder: str | Path, names: Iterable[str], source: str | Path, overwrite: bool = False) -> None:
    """Check, before anything is written, whether these files may be written.

    Args:
        folder: where they are written; it need not exist.
        names: names of the files.
        source: the file that they are made from; it is never replaced, not even on request.
        overwrite: whether other existing files may be replaced.

    Raises:
        CourseError: the folder is a file, or one of the files is the source or exists already.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"cannot write to {folder}: it is not a folder; name a folder")
    for name in names:
        target = folder / name
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise CourseError(f"{target} is the file that is being cleaned; name another folder for the output")
        if not overwrite and os.path.lexists(target):
            raise CourseError(f"{target} exists already; name another folder, or use --overwrite (overwrite=True)")


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write lines to a file, completely or not at all, and return its path."""
    return write_whole(path, (f"{line}\n".encode() for line in lines))


STEPS = ("validate", "quality", "deduplicate", "contamination", "redact", "split")
DROPPED, CHANGED, FLAGGED = "dropped", "changed", "flagged"
CONFLICT = "conflict"
DOUBTFUL = (*quality.RULES, CONFLICT)  # codes of rows that are flagged, or dropped if `drop` names the code
REDACTION_SAMPLES = 20  # redactions of each kind that the report shows
MAX_FIX_ROUNDS = 4
VALIDATION_SHARE = 0.1  # of the rows
ENOUGH = 0.5  # share of the lines; if fewer are left, the command's exit status says so
OMITTED_CODES = ("extra_key", "weight_role")
# Faults of the file rather than of a row; they are reported with a line that may itself be good.
FILE_LEVEL_CODES = ("byte_order_mark", "line_ending", "encoding", "wrapped", "several_lines")


@dataclass(frozen=True)
class Change:
    """What happened to a row in one step.

    Attributes:
        line: its line in the export.
        step: one of `STEPS`.
        action: "dropped", "changed" or "flagged".
        code: the rule or the fault, in one word.
        reason: the reason, in words.
        field: the field that was changed, such as "messages[1].content"; "" if it is none in particular.
    """

    line: int
    step: str
    action: str
    code: str
    reason: str
    field: str = ""


@dataclass(frozen=True)
class Preparation:
    """The settings of `prepare`.

    Attributes:
        kind: the kind of the rows, one of `validation.ROW_KINDS`. Rows that are not "chat" skip the steps that need a
            conversation: they are only validated, fixed and redacted.
        steps: which of `STEPS` to run; they always run in the order of `STEPS`.
        test: rows that the model will be scored on; similar rows are dropped from the export.
        production: prompts from production, to measure the distance to them.
        drop: codes of `DOUBTFUL` whose rows are dropped rather than only flagged: a quality rule ("refusal"), or "conflict"
            to drop all answers to a question except the most frequent one. How often these rules are right depends on the
            data, so read what is flagged first.
        language: ISO 639-1 code of the language that everything should be in; see `quality.assess`.
        schema: JSON Schema of the answers; see `quality.assess`.
        redaction: how personal data are replaced: "label", "mask" or "pseudonym"; see `pii.Redactor`.
        allow: values that are not personal data, such as the company's own address.
        target: who will read the rows: "openai" or "trl".
        tokenizer, max_tokens: how rows that are too long are found; see `validate`.
        seed: seed of the split and of the pseudonyms.
        workers: number of processes for the slow steps: near-duplicates of more than 4,000 rows, and personal data.
        columns: fields to rename, old name → new name.
    """

    kind: str = "chat"
    steps: Collection[str] = STEPS
    test: Sequence[dict] = ()
    production: Sequence[str] = ()
    drop: Collection[str] = ()
    language: str | None = None
    schema: dict | None = None
    redaction: str = "label"
    allow: Collection[str] = ()
    target: str = "openai"
    tokenizer: PreTrainedTokenizerBase | None = None
    max_tokens: int = validation.MAX_TOKENS
    seed: int = 0
    workers: int = 1
    columns: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown code or step, naming those that exist."""
        if unknown := set(self.drop) - set(DOUBTFUL):
            raise CourseError(f"unknown code {min(unknown)!r} to drop; there are {', '.join(DOUBTFUL)}")
        if unknown := set(self.steps) - set(STEPS):
            raise CourseError(f"unknown step {min(unknown)!r}; there are {', '.join(STEPS)}")


@dataclass
class Prepared:
    """The result of `prepare`: the rows that are left, and what has become of all others.

    Lines are those of the export, from 1.

    Attributes:
        path: path of the export.
        settings: how it was prepared.
        rows: the rows that are left, cleaned, in the order of the export.
        lines: for each of these rows, its line in the export.
        owners: for each of these rows, its customer or None. The files don't have it: redaction takes the name out of the
            rows, and a check of the labels still has to know which rows one person wrote.
        train, validation: indices into `rows`.
        changes: everything that was dropped, changed or flagged, and why.
        texts: line of each row that was dropped, flagged, or kept from a cluster → its text, with personal data.
        clusters: rows that are the same example, as lines.
        conflicts: rows that ask the same question and have different answers, as lines.
        redactions: for the report, the first redactions of each kind as (line, kind, before, after); in "before" the value
            is masked.
        redacted_labels: values of answers' fields that were taken for personal data and replaced → number of rows; a product
            with a person's name, for instance, which belongs into `allow`.
        contaminated: test rows that were found in the export; `train` is a line, and these rows were dropped.
        distance: how far the prompts that are left are from those of production; None without production prompts.
        counts: (step, number of rows that are left after it), with reading as the first.
        shapes: shape → number of lines that had it.
    """

    path: str
    settings: Preparation
    rows: list[dict] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    owners: list[Any] = field(default_factory=list, repr=False)
    train: list[int] = field(default_factory=list)
    validation: list[int] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    clusters: list[Cluster] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    redactions: list[tuple[int, str, str, str]] = field(default_factory=list)
    redacted_labels: Counter[str] = field(default_factory=Counter, repr=False)
    contaminated: list[Hit] = field(default_factory=list)
    distance: distribution.Distance | None = None
    counts: list[tuple[str, int]] = field(default_factory=list)
    shapes: Counter = field(default_factory=Counter)

    @property
    def dropped(self) -> dict[int, Change]:
        """Line of each dropped row → the change that says why."""
        return {change.line: change for change in self.changes if change.action == DROPPED}

    @property
    def left_out(self) -> dict[str, int]:
        """Fields that were removed from the remaining rows because the target has no place for them → number of rows."""
        remaining = set(self.lines)
        omitted = {
            (re.sub(r"\[\d+\]", "[]", c.field), c.line)
            for c in self.changes
            if c.code in OMITTED_CODES and c.line in remaining
        }
        return dict(Counter(field for field, _ in omitted if field).most_common())

    @property
    def share_left(self) -> float:
        """Share of the export's lines that are left, from 0 to 1."""
        return len(self.rows) / max(1, self.counts[0][1])

    def last_word(self) -> str:
        """Say in one sentence how many lines are left and why the others were dropped.

        If fewer than half are left, the sentence is a warning.
        """
        lines_read = self.counts[0][1]
        few = self.share_left < ENOUGH
        message = (
            f"{'only ' if few else ''}{len(self.rows):,} of {lines_read:,} lines ({100 * self.share_left:.0f} %) are left"
        )
        if reasons := Counter(change.code for change in self.dropped.values()):
            message += ": " + ", ".join(f"{rows:,} {code}" for code, rows in reasons.most_common(5))
        if few:
            message += "; look into rejects.jsonl before you train on them"
        if self.redacted_labels:
            values = ", ".join(f"{text} ({rows:,} rows)" for text, rows in self.redacted_labels.most_common(5))
            message += f"; taken for personal data and replaced in fields of answers: {values}"
            message += "; if these are none, put them into allow"
        return message

    @property
    def flagged(self) -> dict[int, list[Change]]:
        """Line of each flagged row → the reasons why someone should look at it.

        Rows that a later step has dropped are not included.
        """
        dropped = self.dropped
        by_line: dict[int, list[Change]] = {}
        for change in self.changes:
            if change.action == FLAGGED and change.line not in dropped:
                by_line.setdefault(change.line, []).append(change)
        return by_line

    def table(self) -> list[tuple[str, str, str, int]]:
        """Count the changes, as (step, action, code, rows), in the order of the steps.

        Within a step and action, the most frequent code comes first.
        """
        counted = Counter(key[:3] for key in {(STEPS.index(c.step), c.action, c.code, c.line) for c in self.changes})
        actions = (DROPPED, CHANGED, FLAGGED)
        ordered = sorted(counted.items(), key=lambda item: (item[0][0], actions.index(item[0][1]), -item[1], item[0][2]))
        return [(STEPS[step], action, code, n) for (step, action, code), n in ordered]

    def as_dict(self) -> dict[str, Any]:
        """Return counts and reasons as plain values that can be written as JSON."""
        return {
            "path": self.path,
            "counts": dict(self.counts),
            "train": len(self.train),
            "validation": len(self.validation),
            "changes": [{"step": s, "action": a, "code": c, "rows": n} for s, a, c, n in self.table()],
            "share_left": round(self.share_left, 4),
            "shapes": dict(self.shapes.most_common()),
            "left_out": self.left_out,
            "contaminated_test_rows": sorted({hit.test for hit in self.contaminated}),
            "auc_to_production": self.distance.auc if self.distance else None,
        }

    def __str__(self) -> str:
        lines = [f"{Path(self.path).name}: {self.counts[0][1]:,} lines, {len(self.rows):,} rows left"]
        lines += [f"  {step:<14}{action:<9}{code:<24}{n:>6,}" for step, action, code, n in self.table()]
        if set(self.shapes) - {TARGET_SHAPE.get(self.settings.kind)}:
            lines.insert(1, f"  shapes: {validation.shapes_in_words(self.shapes)}")
        if self.left_out:
            fields = ", ".join(f"{field} ({rows:,} rows)" for field, rows in self.left_out.items())
            lines.append(
                f"  left out because {self.settings.target} has no place for them: {fields}; --target trl keeps them"
            )
        return "\n".join([*lines, f"  split: {len(self.train):,} for training, {len(self.validation):,} for validation"])

    def write(self, folder: str | Path, overwrite: bool = False, private: str | Path | None = None) -> list[Path]:
        """Write train.jsonl, validation.jsonl, rejects.jsonl and changes.jsonl; each file completely or not at all.

        Args:
            folder: where to write; created if it does not exist.
            overwrite: whether to replace existing files of these names; the export itself is never replaced.
            private: another folder for rejects.jsonl, which has the dropped lines as they came, personal data included; None
                writes it beside the others, and then the folder must not be handed on as it is.

        Returns:
            The paths of the files.

        Raises:
            CourseError: the folder cannot be written, or a file exists already.
        """
        folder = Path(folder)
        folders = dict.fromkeys(PREPARED, folder) | {"rejects.jsonl": folder if private is None else Path(private)}
        for name, place in folders.items():
            may_write(place, [name], self.path, overwrite)
        files = {
            "train.jsonl": (formats.dumps(self.rows[i]) for i in self.train),
            "validation.jsonl": (formats.dumps(self.rows[i]) for i in self.validation),
            "rejects.jsonl": (
                formats.dumps({"line": line, "step": c.step, "code": c.code, "reason": c.reason, "text": self.texts[line]})
                for line, c in sorted(self.dropped.items())
            ),
            "changes.jsonl": (formats.dumps(vars(change)) for change in self.changes),
        }
        try:
            for place in folders.values():
                place.mkdir(parents=True, exist_ok=True)
            return [write_lines(folders[name] / name, lines) for name, lines in files.items()]
        except OSError as error:
            raise CourseError(f"cannot write to {folder}: {error.strerror or error}") from error


def prepare(path: str | Path, kind: str = "chat", **settings: Any) -> Prepared:
    """Clean an export step by step, and give a reason for everything that is dropped, changed or flagged.

    Args:
        path: a JSONL, JSON, CSV or Parquet file.
        kind: the kind of its rows, one of `validation.ROW_KINDS`.
        settings: further fields of `Preparation`.

    Raises:
        CourseError: the file cannot be read, a step, code or mode is unknown, or nothing is left.
    """
    result = Prepared(str(path), Preparation(kind, **settings))
    steps, is_chat = result.settings.steps, kind == "chat"
    _read(result)
    if is_chat and "quality" in steps:
        _quality(result)
    if is_chat and "deduplicate" in steps:
        _deduplicate(result)
    if is_chat and "contamination" in steps and result.settings.test:
        _contamination(result)
    result.owners = [customer_of(row) for row in result.rows]
    if "redact" in steps:
        _redact(result)
    if not result.rows:
        raise CourseError(f"{Path(path).name}: nothing is left of {result.counts[0][1]} lines; the reasons:\n{result}")
    production, seed = result.settings.production, result.settings.seed
    if production and is_chat:
        result.distance = distribution.distance([formats.prompt_of(row) for row in result.rows], production, seed)
    result.train = list(range(len(result.rows)))
    if "split" in steps and is_chat and len(result.rows) > 1:
        result.train, result.validation = split(result.rows, VALIDATION_SHARE, result.owners, seed)
    return result


def without_customers(row: dict) -> dict:
    """Remove the names from the user's messages of a row, in place, and return the row.

    The name identifies the customer for the split, and is not needed in the file.
    """
    for message in row.get("messages", []):
        if message["role"] == "user":
            message.pop("name", None)
    return row


def read_rows(path: str | Path, settings: Preparation) -> Iterator[tuple[reading.Row, dict[str, Any] | None, list[Change]]]:
    """Yield each line of a file as (row as read, row to keep or None, changes).

    A row is valid, is fixed if "validate" is one of the steps, or is dropped with a reason.

    Raises:
        CourseError: the file cannot be read.
    """
    fix_rows = "validate" in settings.steps

    def check(rows: Iterable[reading.Row]) -> Iterator[tuple[reading.Row, list[Finding]]]:
        return validation.check(rows, settings.kind, settings.target, settings.tokenizer, settings.max_tokens)

    for row, findings in check(reading.read(path, settings.columns)):
        value, line, errors = row.value, row.line, _errors(findings)
        changes: list[Change] = []
        rounds = 0
        # A fix may uncover another fault, such as a field that the new shape has no place for.
        while fix_rows and findings and rounds < MAX_FIX_ROUNDS:
            fixed, codes = fix(value, findings, settings.kind, settings.target)
            if fixed is None or not codes:
                break
            changes += [Change(line, "validate", CHANGED, f.code, f.message, f.field) for f in findings if f.code in codes]
            value, rounds = fixed, rounds + 1
            # The same rules decide whether it is fixed.
            findings = [finding for _, row_findings in check([reading.Row(line, fixed)]) for finding in row_findings]
            errors = _errors(findings)
        blank = [finding for finding in row.findings if finding.code == "blank_line"]
        if errors or blank:
            first = (errors or blank)[0]
            changes = [c for c in changes if c.code in FILE_LEVEL_CODES] + [
                Change(line, "validate", DROPPED, first.code, first.message)
            ]
            value = None
        if value is not None or errors or blank:
            yield row, value, changes


def _read(result: Prepared) -> None:
    """Collect the valid and fixed rows, and reject the others with their first error."""
    lines_read = 0
    for row, value, changes in read_rows(result.path, result.settings):
        lines_read += 1
        if row.value is not None:
            result.shapes[formats.shape_of(row.value) or validation.UNKNOWN] += 1
        result.changes += changes
        if value is None:
            result.texts[row.line] = row.raw.decode("utf-8", "backslashreplace")
        else:
            result.rows.append(value)
            result.lines.append(row.line)
    result.counts += [("read", lines_read), ("validate", len(result.rows))]


def _errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == ERROR and finding.code not in FILE_LEVEL_CODES]


def _drop(result: Prepared, step: str, reasons: dict[int, tuple[str, str]]) -> None:
    """Drop rows: index → code and reason."""
    for index, (code, reason) in sorted(reasons.items()):
        line = result.lines[index]
        result.changes.append(Change(line, step, DROPPED, code, reason))
        result.texts[line] = formats.dumps(result.rows[index])
    remaining = [i for i in range(len(result.rows)) if i not in reasons]
    result.rows, result.lines = [result.rows[i] for i in remaining], [result.lines[i] for i in remaining]
    result.counts.append((step, len(result.rows)))


def _flag(result: Prepared, step: str, index: int, code: str, reason: str) -> None:
    line = result.lines[index]
    result.changes.append(Change(line, step, FLAGGED, code, reason))
    result.texts[line] = formats.dumps(result.rows[index])


def _quality(result: Prepared) -> None:
    dropped, settings = {}, result.settings
    for index, reasons in enumerate(quality.assess(result.rows, settings.language, settings.schema, settings.seed)):
        certain = [reason for reason in reasons if reason.code in settings.drop]
        if certain:
            dropped[index] = (certain[0].code, "; ".join(reason.message for reason in certain))
            continue
        for reason in reasons:
            _flag(result, "quality", index, reason.code, reason.message)
    _drop(result, "quality", dropped)


def _deduplicate(result: Prepared) -> None:
    deduplicated = deduplicate(result.rows, workers=result.settings.workers)
    line = result.lines.__getitem__
    reasons = {}
    for cluster in deduplicated.clusters:
        result.texts[line(cluster.kept)] = formats.dumps(result.rows[cluster.kept])
        for member, kind in cluster.kinds.items():
            similarity = cluster.similarities[member]
            reasons[member] = (f"{kind}_duplicate", f"of line {line(cluster.kept)} (similarity {similarity:.2f})")
        result.clusters.append(
            Cluster(
                tuple(map(line, cluster.members)),
                line(cluster.kept),
                {line(m): kind for m, kind in cluster.kinds.items()},
                {line(m): similarity for m, similarity in cluster.similarities.items()},
            )
        )
    for conflict in deduplicated.conflicts:
        result.conflicts.append(Conflict(tuple(map(line, conflict.members)), line(conflict.preferred)))
        for member in conflict.members:
            others = [line(other) for other in conflict.members if other != member]
            more = f" and {len(others) - 1} more" if others[1:] else ""
            reason = f"asks the same question as line {others[0]}{more}, and has a different answer"
            if CONFLICT not in result.settings.drop:
                _flag(result, "deduplicate", member, CONFLICT, reason)
            elif member != conflict.preferred:
                reasons[member] = (CONFLICT, reason)
    _drop(result, "deduplicate", reasons)


def _contamination(result: Prepared) -> None:
    hits = contamination(result.rows, result.settings.test)
    result.contaminated = [Hit(hit.test, result.lines[hit.train], hit.kind, hit.evidence) for hit in hits]
    _drop(
        result, "contamination", {h.train: ("test_set", f"like test row {h.test + 1}: {h.kind}, {h.evidence}") for h in hits}
    )


def _redact(result: Prepared) -> None:
    settings = result.settings
    redactor = Redactor(settings.redaction, PII_KINDS, settings.seed, allow=settings.allow)
    samples_per_kind: Counter[str] = Counter()
    for index, redacted in enumerate(in_processes(redactor.row, result.rows, settings.workers, 64)):
        _sample(result, index, redacted, redactor, samples_per_kind)
        labels = _texts_of_the_record(result.rows[index])
        result.redacted_labels.update({entity.text for _, entity in redacted.findings} & labels)
        result.rows[index] = redacted.row
        if customer_of(redacted.row) is not None:
            without_customers(redacted.row)
            result.changes.append(
                Change(result.lines[index], "redact", CHANGED, "customer", "the name of the user's message")
            )
        for path, entity in redacted.findings:
            # The value itself is not recorded, because the list of changes is passed around.
            result.changes.append(
                Change(result.lines[index], "redact", CHANGED, entity.kind.lower(), f"{path}, {len(entity.text)} characters")
            )
    result.counts.append(("redact", len(result.rows)))


def _texts_of_the_record(row: dict) -> set[str]:
    """Fields of the answer that are text, where it is a record: they are labels, and a label that changes is damage."""
    try:
        record = json.loads(formats.answer_of(row)) if "messages" in row else None
    except ValueError:  # prose
        return set()
    return {value for value in record.values() if isinstance(value, str)} if isinstance(record, dict) else set()


def _sample(result: Prepared, index: int, redacted: Redacted, redactor: Redactor, samples_per_kind: Counter[str]) -> None:
    """Record the first redactions of each kind for the report, with masked values, because the report is passed around."""
    for path, entity in redacted.findings:
        if samples_per_kind[entity.kind] < REDACTION_SAMPLES:
            samples_per_kind[entity.kind] += 1
            masked = re.sub(r"(?<=\w)\w", "*", entity.text)
            result.redactions.append((result.lines[index], entity.kind, f"{path}: {masked}", redactor.replacement(entity)))


def rows_of(path: str | Path) -> list[dict]:
    """Return the rows of a file in which every row should be valid.

    Raises:
        CourseError: a row is not valid; the message names the first fault.
    """
    rows = []
    for row, findings in validation.check(reading.read(path), validation.guess_kind(path), "trl"):
        for finding in _errors(findings):
            raise CourseError(f"{Path(path).name}: {finding}")
        rows.append(row.value)
    return rows
