"""From an export to a training file: `prepare` runs all steps, and gives a reason for everything it drops, changes or flags.

By default it drops only what is certainly wrong: rows that can't be read or trained on, copies, answers that are none, and
answers that don't fit the schema, if there is one. What another quality rule finds, and a question that has two different
answers, is flagged for a person to look at; `drop` names the codes that are dropped without a look. Nothing is lost: each
line of the export is in the result or, unchanged, among the rejects.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from course_utils.data_prep import formats, quality, reading, validation
from course_utils.data_prep.deduplication import (
    COPIES,
    EXACT,
    NEAR,
    Conflict,
    Copies,
    contradictions,
    deduplicate,
)
from course_utils.data_prep.findings import ERROR, Finding, in_words
from course_utils.data_prep.fixing import TARGET_SHAPE, fix
from course_utils.data_prep.formats import customer_of
from course_utils.data_prep.pii import Redactor, find
from course_utils.data_prep.pii.known import people_in, spelled
from course_utils.data_prep.pii.redaction import not_looked_for
from course_utils.data_prep.reading import json_or_none
from course_utils.data_prep.similarity import in_processes
from course_utils.data_prep.splitting import Hit, contamination, split
from course_utils.data_prep.variants import variants
from course_utils.errors import CourseError
from course_utils.files import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# The files that `prepare` and its report write into a folder.
PREPARED = ("train.jsonl", "validation.jsonl", "rejects.jsonl", "changes.jsonl", "lines.csv")
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


STEPS = ("validate", "quality", "deduplicate", "contamination", "redact", "split")
DROPPED, CHANGED, FLAGGED = "dropped", "changed", "flagged"
CONFLICT = "conflict"
# Codes of rows that are flagged, or dropped if `drop` names the code.
DOUBTFUL = (quality.USELESS, quality.STUB, *quality.RULES, CONFLICT)
CERTAIN = (quality.USELESS,)  # those that are dropped unless `drop` says otherwise
NO_GROUP = frozenset({"", "-", "–", "n/a", "na", "none", "null", "nan", "unknown", "anonymous", "?"})
# Fields that usually name a row's customer, at the top, in "metadata" or in a record; the first that fits is the group.
OWNERS = """
    customer client tenant user account contact requester patient member student guest passenger applicant employee
    subscriber policyholder kunde kunden mieter nutzer benutzer klant huurder locataire cliente inquilino utente
    conversation thread
""".split()
OWNER = re.compile(rf"({'|'.join(OWNERS)})(?: (?:id|ref|reference|number|nummer|no|nr|code|key|uid|email))?")
IDS = ("id", "_id", "uuid", "row_id", "example_id", "ticket_id", "prompt_id", "custom_id")
OTHER_ID = re.compile(r"(?:.*[_ .-])?id", re.IGNORECASE)  # a column such as "mail_id"
ONLY_PLACEHOLDERS = re.compile(r"\W*(?:\[[A-Z_ ]+\]\W*)+|[\W\d_]*\*{2,}[\W_]*")  # an answer of which nothing is left
OWN_ROWS, OWN_SHARE = 10, 0.05  # rows that must share an instruction before its names count as the exporter's own
RECURRING = 3  # rows from which a masked text may be shown in the report: what recurs is rarely one person's
HTML_TAG = re.compile(
    r"</?(?:p|div|br|span|table|td|tr|ul|ol|li|a|b|i|em|strong|h[1-6]|img|font|html|body)\b[^<>]*>|&nbsp;", re.I
)
# A mail program's line above the mail that is replied to, or two lines that begin with ">"; ">>>" is Python's.
# Letters and digits in one word, as of contracts and devices: "CN-515297", "1ESY3056767043".
OWN_NUMBER = re.compile(r"(?<![\w.@/-])(?=[A-Z\d-]*[A-Z])(?=(?:[A-Z-]*\d){4})[A-Z\d]+(?:-[A-Z\d]+)*(?![\w@/])")
QUOTED_MAIL = re.compile(
    r"^(?:On|Am|Le|El|Il|Op) [^\n]{0,80}\d[^\n]{0,80}(?:wrote|schrieb|a écrit|escribió|ha scritto|schreef)[^\n]{0,80}:\s*$|"
    r"^-{2,} ?(?:Original Message|Forwarded message|Ursprüngliche Nachricht|Message d'origine|Mensaje original|"
    r"Messaggio originale|Oorspronkelijk bericht) ?-{2,}|^>(?!>>)[^\n]*\n>(?!>>)",
    re.IGNORECASE | re.MULTILINE,
)
MAX_FIX_ROUNDS = 4
VALIDATION_SHARE = 0.1  # of the rows
ENOUGH = 0.5  # share of the lines; if fewer are left, the command's exit status says so
OMITTED_CODES = ("extra_key", "weight_role")
# Faults of the file rather than of a row; they are reported with a line that may itself be good.
FILE_LEVEL_CODES = ("byte_order_mark", "line_ending", "encoding", "wrapped", "several_lines")


@dataclass(frozen=True, slots=True)  # there may be millions
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


def dropped_by_default(schema: dict | None) -> tuple[str, ...]:
    """Return the codes of `DOUBTFUL` whose rows are dropped if nothing else is asked for."""
    return (*CERTAIN, "answer_format") if schema else CERTAIN


@dataclass(frozen=True)
class Preparation:
    """The settings of `prepare`.

    Attributes:
        kind: the kind of the rows, one of `validation.ROW_KINDS`. All steps are the same for each kind; the quality rules
            look only at answers that are meant to be good.
        steps: which of `STEPS` to run; they always run in the order of `STEPS`.
        test: rows that the model will be scored on; similar rows are dropped from the export.
        drop: codes of `DOUBTFUL` whose rows are dropped rather than only flagged: a quality rule ("refusal"), or "conflict"
            to drop all answers to a question except the most frequent one. How often these rules are right depends on the
            data, so read what is flagged first. None takes `dropped_by_default`: answers that are none, such as "N/A", and
            what does not fit the schema, if there is one.
        language: ISO 639-1 code of the language that everything should be in; see `quality.assess`.
        schema: JSON Schema of the answers; see `quality.assess`.
        redaction: how personal data are replaced: "label", "mask" or "pseudonym"; see `pii.Redactor`.
        allow: values that are not personal data, such as the company's own address.
        target: who will read the rows: "openai" or "trl".
        tokenizer, max_tokens: how rows that are too long are found; see `validate`.
        seed: seed of the split and of the pseudonyms.
        workers: number of processes for the slow steps: near-duplicates of more than 4,000 rows, and personal data.
        columns: fields to rename, old name → new name.
        copies: which copies are dropped: "exact", "normalised" or "near", which includes the others.
        group, label, source: fields of the export's rows, such as "customer" or "metadata.user", for the split: rows of one
            group stay together, and both parts have the same shares of labels and sources. By default the group is a
            field such as "customer_id", or else the name in the user's message, and labels are answers that recur; "none"
            stands for no group.
        validation: share of the rows that is held out.
        progress: called with a line of text after each step, or None.
    """

    kind: str = "chat"
    steps: Collection[str] = STEPS
    test: Sequence[dict] = ()
    drop: Collection[str] | None = None
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
    copies: str = NEAR
    group: str | None = None
    label: str | None = None
    source: str | None = None
    validation: float = VALIDATION_SHARE
    progress: Callable[[str], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse an unknown code or step, naming those that exist."""
        if self.drop is None:
            object.__setattr__(self, "drop", dropped_by_default(self.schema))
        if field := next((name for name in ("label", "source") if getattr(self, name) == "none"), None):
            raise CourseError(f"leave out --{field} if there is no such field; only --group takes none")
        if self.copies not in COPIES:
            raise CourseError(f"unknown copies {self.copies!r}; there are {', '.join(COPIES)}")
        if unknown := set(self.drop or ()) - set(DOUBTFUL):
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
        ids: for each of these rows, its id in the export or None.
        strata: for each of these rows, the values of the named group, label and source.
        people: for each of these rows, the names in fields that the file has no place for; they are removed from the texts.
        owners: for each of these rows, its group for the split (its customer) or None. The files don't have it: redaction
            takes the name out of the rows, and a check of the labels still has to know which rows one person wrote.
        train, validation: indices into `rows`.
        notes: what somebody should know about the result, in sentences.
        changes: everything that was dropped, changed or flagged, and why.
        texts: line of each row that was dropped, flagged, or kept for a copy → its text, with personal data.
        copies: line of each dropped copy → the line that is kept for it.
        conflicts: rows that ask the same question and have different answers, as lines.
        redacted_labels: values of answers' fields that were taken for personal data and replaced → number of rows; a product
            with a person's name, for instance, which belongs into `allow`.
        masked: (kind, text) → number of rows in which it was taken for personal data.
        contaminated: test rows that were found in the export; `train` is a line, and these rows were dropped.
        counts: (step, number of rows that are left after it), with reading as the first.
        shapes: shape → number of lines that had it.
    """

    path: str
    settings: Preparation
    rows: list[dict] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list, repr=False)
    strata: list[dict[str, Any]] = field(default_factory=list, repr=False)
    people: list[list[str]] = field(default_factory=list, repr=False)
    owners: list[Any] = field(default_factory=list, repr=False)
    train: list[int] = field(default_factory=list)
    validation: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    redacted_labels: Counter[str] = field(default_factory=Counter, repr=False)
    masked: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)
    contaminated: list[Hit] = field(default_factory=list)
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
        return dict(Counter(field for field, _ in sorted(omitted) if field).most_common())

    @property
    def share_left(self) -> float:
        """Share of the export's lines that are left, from 0 to 1."""
        return len(self.rows) / max(1, self.counts[0][1])

    def last_word(self, written: bool = True) -> str:
        """Say in one sentence how many lines are left and why the others were dropped.

        If fewer than half are left, the sentence is a warning; it names the rejects if they were written.
        """
        lines_read = self.counts[0][1]
        few = self.share_left < ENOUGH
        message = (
            f"{'only ' if few else ''}{len(self.rows):,} of {lines_read:,} lines ({100 * self.share_left:.0f} %) are left"
        )
        if reasons := Counter(change.code for change in self.dropped.values()):
            message += ": " + ", ".join(f"{rows:,} {in_words(code)}" for code, rows in reasons.most_common(5))
        if few:
            message += f"; look into {'rejects.jsonl' if written else 'the examples above'} before you train on them"
        flagged = Counter(code for changes in self.flagged.values() for code in {change.code for change in changes})
        if flagged:
            message += "; flagged, and still in the files: "
            message += ", ".join(f"{rows:,} {in_words(code)}" for code, rows in flagged.most_common(5))
            message += f" (`--drop {','.join(sorted(flagged))}` drops them)"
        if "redact" not in self.settings.steps:
            message += "; personal data is still in all files, because the step redact was left out"
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
            "notes": self.notes,
            "share_left": round(self.share_left, 4),
            "shapes": dict(self.shapes.most_common()),
            "left_out": self.left_out,
            "contaminated_test_rows": sorted({hit.test for hit in self.contaminated}),
        }

    def __str__(self) -> str:
        lines = [f"{Path(self.path).name}: {self.counts[0][1]:,} lines, {len(self.rows):,} rows left"]
        lines += [f"  {step:<14}{action:<9}{code:<24}{n:>6,}  {in_words(code)}" for step, action, code, n in self.table()]
        if set(self.shapes) - {TARGET_SHAPE.get(self.settings.kind)}:
            lines.insert(1, f"  shapes: {validation.shapes_in_words(self.shapes)}")
        if self.left_out:
            fields = ", ".join(f"{field} ({rows:,} rows)" for field, rows in self.left_out.items())
            lines.append(
                f"  left out because {self.settings.target} has no place for them: {fields}; --target trl keeps them"
            )
        lines.append(f"  split: {len(self.train):,} for training, {len(self.validation):,} for validation")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def write(self, folder: str | Path, overwrite: bool = False) -> list[Path]:
        """Write the files in `PREPARED`; each completely or not at all, and no validation.jsonl without rows.

        Args:
            folder: where to write; created if it does not exist. rejects.jsonl has the dropped lines as they came, personal
                data included, so that the folder must not be handed on as it is.
            overwrite: whether to replace existing files of these names; the export itself is never replaced.

        Returns:
            The paths of the files.

        Raises:
            CourseError: the folder cannot be written, or a file exists already.
        """
        folder = Path(folder)
        may_write(folder, PREPARED, self.path, overwrite)
        files = {
            "train.jsonl": (formats.dumps(self.rows[i]) for i in self.train),
            "validation.jsonl": (formats.dumps(self.rows[i]) for i in self.validation),
            "rejects.jsonl": (
                formats.dumps({"line": line, "step": c.step, "code": c.code, "reason": c.reason, "text": self.texts[line]})
                for line, c in sorted(self.dropped.items())
            ),
            "changes.jsonl": (formats.dumps(asdict(change)) for change in _once_per_field(self.changes)),
            "lines.csv": self._origins(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self.validation:  # `datasets` can't read an empty file; one of an earlier run would not belong here
                del files["validation.jsonl"]
                (folder / "validation.jsonl").unlink(missing_ok=True)
            return [write_whole(folder / name, (f"{line}\n".encode() for line in lines)) for name, lines in files.items()]
        except OSError as error:
            raise CourseError(f"cannot write to {folder}: {error.strerror or error}") from error

    def _origins(self) -> Iterator[str]:
        """Lines of a CSV file that says where each row of the files is from: its line and its id in the export."""
        yield "file,row,line,id"
        for name, part in (("train.jsonl", self.train), ("validation.jsonl", self.validation)):
            for number, index in enumerate(part, 1):
                line = io.StringIO()
                csv.writer(line, lineterminator="").writerow([name, number, self.lines[index], self.ids[index]])
                yield line.getvalue()


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
    runs = (_read, _quality, _deduplicate, _contamination, _redact, _split)
    for step, run in zip(STEPS, runs):
        if step not in ("validate", *result.settings.steps) or (step == "contamination" and not result.settings.test):
            continue  # but a file is always read
        start = time.monotonic()
        run(result)
        if result.settings.progress:
            result.settings.progress(f"{step}: {len(result.rows):,} rows, {time.monotonic() - start:.1f} s")
        if not result.rows:
            raise CourseError(f"{Path(path).name}: nothing is left of {result.counts[0][1]} lines; the reasons:\n{result}")
    result.train = result.train or list(range(len(result.rows)))
    return result


def _split(result: Prepared) -> None:
    settings, views = result.settings, [formats.as_chat(row) for row in result.rows]
    if len(views) < 2:
        return
    labels, sources = (
        [strata[name] for strata in result.strata] if getattr(settings, name) else None for name in ("label", "source")
    )
    if settings.kind == "unpaired_preference" and labels is None:
        labels = [view["label"] for view in views]
    try:
        parts = split(views, settings.validation, result.owners, settings.seed, labels, sources, settings.workers)
    except CourseError as error:
        if len(set(result.owners)) > 1 or not 0 < settings.validation < 1:
            raise
        result.notes.append(f"no row is held out for validation: {error}")
        return
    result.train, result.validation = parts.train, parts.validation
    result.notes += parts.notes


def _value_at(row: object, field: str) -> Any:
    """The value of a field, or of a field in a field: "metadata.customer"."""
    if isinstance(row, dict) and field in row:
        return row[field]
    outer, dot, inner = field.partition(".")
    return _value_at(row.get(outer), inner) if dot and isinstance(row, dict) else None


def _read_rows(path: str | Path, settings: Preparation) -> Iterator[tuple[reading.Row, dict[str, Any] | None, list[Change]]]:
    """Each line of a file as (row as read, row to keep or None, changes): valid, fixed, or dropped with a reason."""
    rounds = MAX_FIX_ROUNDS if "validate" in settings.steps else 0

    def check(rows: Iterable[reading.Row]) -> Iterator[tuple[reading.Row, list[Finding]]]:
        return validation.check(rows, settings.kind, settings.target, settings.tokenizer, settings.max_tokens)

    for row, findings in check(reading.read(path, settings.columns)):
        value, line = row.value, row.line
        changes: list[Change] = []
        for _ in range(rounds):  # a fix may uncover another fault, such as a field that the new shape has no place for
            fixed, codes = fix(value, findings, settings.kind, settings.target)
            if fixed is None or not codes:
                break
            changes += [Change(line, "validate", CHANGED, f.code, f.message, f.field) for f in findings if f.code in codes]
            value = fixed
            # The same rules decide whether it is fixed.
            findings = [finding for _, row_findings in check([reading.Row(line, fixed)]) for finding in row_findings]
        errors, blank = _errors(findings), [finding for finding in row.findings if finding.code == "blank_line"]
        if errors or blank:
            first = next((e for e in errors if not e.fixable), (errors or blank)[0])  # the others alone would be repaired
            changes = [c for c in changes if c.code in FILE_LEVEL_CODES] + [
                Change(line, "validate", DROPPED, first.code, first.message)
            ]
            value = None
        if value is not None or errors or blank:
            yield row, value, changes


def _read(result: Prepared) -> None:
    """Collect the valid and fixed rows, and reject the others with their first error."""
    lines_read, settings = 0, result.settings
    named = {
        name: field for name in ("group", "label", "source") if (field := getattr(settings, name)) not in (None, "none")
    }
    seen: set[str] = set()
    owners: dict[str, dict[int, Any]] = {}
    for row, value, changes in _read_rows(result.path, result.settings):
        lines_read += 1
        if row.value is not None:
            result.shapes[formats.shape_of(row.value) or validation.UNKNOWN] += 1
        result.changes += changes
        result.notes += [finding.message for finding in row.findings if finding.code == "encoding"]
        if value is None:
            result.texts[row.line] = row.raw.decode("utf-8", "backslashreplace")
        else:
            result.rows.append(value)
            result.lines.append(row.line)
            strata = {name: _value_at(row.value, field) for name, field in named.items()}
            seen |= {named[name] for name, found in strata.items() if found is not None}
            result.people.append(people_in(row.value))
            result.strata.append({name: found if isinstance(found, str | int) else None for name, found in strata.items()})
            for key, found in row.value.items():
                inner = {f"{key}.{name}": value for name, value in found.items()} if isinstance(found, dict) else {}
                for field in (inner.keys() | {key}) if settings.group is None else ():
                    if _owner(field):
                        owners.setdefault(field, {})[len(result.rows) - 1] = inner.get(field, found)
            result.ids.append({key: row.value[key] for key in row.value if key in IDS or OTHER_ID.fullmatch(key)})
    if result.rows and (unknown := set(named.values()) - seen):
        raise CourseError(f"no row has a field {min(unknown)!r} to split by; name a field of the export's rows")
    result.ids, result.owners = _ids_of(result.ids), _owners(result, owners)
    result.counts += [("read", lines_read), ("validate", len(result.rows))]
    _remark(result)


def _ids_of(fields: list[dict[str, Any]]) -> list[Any]:
    """Each row's id: a field of `IDS`, or else one that is called an id, is nobody's who wrote, and rarely recurs."""
    values: dict[str, list[str]] = {}
    for key, value in (item for row in fields for item in row.items() if item[0] not in IDS and not _owner(item[0])):
        values.setdefault(key, []).append(str(value))
    keys = (*IDS, *(key for key, found in values.items() if 2 * len(set(found)) > len(fields)))
    return [next((row[key] for key in keys if row.get(key) is not None), None) for row in fields]


@functools.lru_cache(maxsize=1024)
def _owner(field: str) -> str:
    """Which of `OWNERS` a field names: "TenantNo", "customer.ref" and "metadata.user_id" do; "" if none."""
    last = spelled(field.replace(".", "_").removeprefix("metadata_"))
    return match[1] if (match := OWNER.fullmatch(last)) else ""


def _owners(result: Prepared, candidates: dict[str, dict[int, Any]]) -> list[Any]:
    """The group of each row for the split, without differences of case and spaces; a blank or "unknown" is no group.

    It is in the field that the user has named, or else in one of `candidates` (field → values by row) whose values recur, or
    else the user's name.
    """
    named, note = result.settings.group, ""
    if named == "none":
        return [None] * len(result.rows)
    groups = [strata["group"] if named else customer_of(row) for row, strata in zip(result.rows, result.strata)]
    fields = sorted(candidates, key=lambda name: (OWNERS.index(_owner(name)), name))
    if field := next((name for name in fields if _recurs(candidates[name].values(), len(groups))), None):
        values = [candidates[field].get(index) for index in range(len(groups))]
        groups = [value if isinstance(value, str | int) else None for value in values]
        note = f"rows with the same {field!r} stay in one part; --group names another field, or none"
    elif not named and not any(groups) and any(change.code == "extra_key" for change in result.changes):
        note = "no field was taken for the customer, whose rows may be in both parts; --group FIELD names it"
    result.notes += [note] if note and "split" in result.settings.steps else []
    spelled_alike = [" ".join(str(group).split()).casefold() for group in groups]
    return [None if group in NO_GROUP else group for group in spelled_alike]


def _recurs(values: Collection[Any], rows: int) -> bool:
    """Whether at least half of the rows have a customer, some have the same, and no customer has more than half."""
    named = Counter(v for v in values if isinstance(v, str | int) and str(v).strip().casefold() not in NO_GROUP)
    return len(named) < named.total() >= rows / 2 >= max(named.values())


def _once_per_field(changes: list[Change]) -> Iterator[Change]:
    """The changes, of fields that the format has no place for only the first of each, with how often."""
    count = Counter(change.field for change in changes if change.code == "extra_key")
    for change in changes:
        if change.code != "extra_key":
            yield change
        elif times := count.pop(change.field, 0):
            yield replace(change, reason=f"{change.reason}; in {times:,} rows")


def _remark(result: Prepared) -> None:
    """Note what no step changes and somebody may want to: HTML, quoted mails, and spellings of one label."""
    views = [formats.as_chat(row) for row in result.rows]
    if tagged := sum(bool(HTML_TAG.search(f"{formats.prompt_of(v)}\n{formats.answer_of(v)}")) for v in views):
        result.notes.append(f"the texts have HTML, which is left as it is; rows: {tagged:,}")
    if cut := sum(change.code == "last_not_assistant" for change in result.changes):
        result.notes.append(f"what the user says after the last answer was cut: nothing is learned from it; rows: {cut:,}")
    if quoting := sum(bool(QUOTED_MAIL.search(formats.prompt_of(view))) for view in views):
        result.notes.append(
            f"prompts quote earlier mails, which are left in them and count as their text; rows: {quoting:,}"
        )
    spellings: dict[str, dict[str, None]] = {}
    for strata in result.strata:
        if isinstance(label := strata.get("label"), str):
            spellings.setdefault(" ".join(label.casefold().split()), {})[label] = None
    several = [", ".join(map(repr, found)) for found in spellings.values() if len(found) > 1]
    if several:
        result.notes.append(f"labels that differ only in case or spaces count as different ones: {'; '.join(several)}")


def _remark_on_numbers(result: Prepared) -> None:
    """Note which of the exporter's own numbers are in the texts after redaction, and that redaction finds not everything."""
    views = [formats.as_chat(row) for row in result.rows]
    shapes: dict[str, list[set[str]]] = {}
    for view in views:
        found: dict[str, set[str]] = {}
        for number in OWN_NUMBER.findall(f"{formats.prompt_of(view)}\n{formats.answer_of(view)}"):
            found.setdefault(re.sub(r"\d", "#", number), set()).add(number)
        for shape, numbers in found.items():
            shapes.setdefault(shape, []).append(numbers)
    many = {
        shape: len(rows)
        for shape, rows in shapes.items()
        if len(rows) >= max(10, len(views) // 100) and len(set().union(*rows)) > len(rows) / 2
    }  # one in all rows names a thing, as "ISO-9001"
    if many:
        (first, count), *others = sorted(many.items(), key=lambda item: -item[1])[:5]
        listed = ", ".join([f"{first} ({count:,} rows)", *(f"{shape} ({rows:,})" for shape, rows in others)])
        result.notes.append(f"numbers of your own stay in the texts; replace them first if they lead to people: {listed}")
    result.notes.append("redaction does not find everything: read a sample before the files leave your machine")


def _errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == ERROR and finding.code not in FILE_LEVEL_CODES]


def _drop(result: Prepared, step: str, reasons: dict[int, tuple[str, str]]) -> None:
    """Drop rows: index → code and reason."""
    for index, (code, reason) in sorted(reasons.items()):
        _record(result, step, index, code, reason, DROPPED)
    remaining = [i for i in range(len(result.rows)) if i not in reasons]
    parallel: tuple[list[Any], ...] = (result.rows, result.lines, result.ids, result.strata, result.people, result.owners)
    for values in parallel:
        values[:] = [values[i] for i in remaining]
    result.counts.append((step, len(result.rows)))


def _record(result: Prepared, step: str, index: int, code: str, reason: str, action: str = FLAGGED) -> None:
    line = result.lines[index]
    result.changes.append(Change(line, step, action, code, reason))
    result.texts[line] = formats.dumps(result.rows[index])


def _quality(result: Prepared) -> None:
    dropped, settings = {}, result.settings
    # What is labelled as bad may be anything.
    indices = [i for i, row in enumerate(result.rows) if settings.kind != "unpaired_preference" or row.get("label")]
    views = [formats.as_chat(result.rows[i], chosen_only=True) for i in indices]
    assessed = quality.assess(views, settings.language, settings.schema, settings.seed, settings.workers)
    for index, reasons in zip(indices, assessed):
        certain = [reason for reason in reasons if reason.code in (settings.drop or ())]
        if certain:
            dropped[index] = (certain[0].code, "; ".join(reason.message for reason in certain))
            continue
        for reason in reasons:
            _record(result, "quality", index, reason.code, reason.message)
    _drop(result, "quality", dropped)


def _deduplicate(result: Prepared) -> None:
    views = [formats.as_chat(row) for row in result.rows]
    deduplicated = deduplicate(views, workers=result.settings.workers, copies=result.settings.copies)
    judged = result.settings.kind in ("preference", "unpaired_preference")  # there a prompt may have many answers
    line = result.lines.__getitem__
    reasons = {}
    for member, (kind, kept) in deduplicated.dropped.items():
        result.texts[line(kept)] = formats.dumps(result.rows[kept])
        similarity = deduplicated.similarities[member]
        reasons[member] = (f"{kind}_duplicate", f"of line {line(kept)} (similarity {similarity:.2f})")
        result.copies[line(member)] = line(kept)
    for conflict in contradictions(views) if judged else deduplicated.conflicts:
        result.conflicts.append(Conflict(tuple(map(line, conflict.members)), line(conflict.preferred)))
        for member in conflict.members:
            others = [line(other) for other in conflict.members if other != member]
            more = f" and {len(others) - 1} more" if others[1:] else ""
            what = "judges the same answers as" if judged else "asks the same question as"
            reason = f"{what} line {others[0]}{more}, and {'says the opposite' if judged else 'has a different answer'}"
            if CONFLICT not in (result.settings.drop or ()):
                _record(result, "deduplicate", member, CONFLICT, reason)
            elif member != conflict.preferred and member not in reasons:
                reasons[member] = (CONFLICT, reason)
    if settled := sum(code == CONFLICT for code, _ in reasons.values()):
        result.notes.append(
            f"of answers that contradict each other, the most frequent or the first is kept; dropped: {settled:,}"
        )
    _drop(result, "deduplicate", reasons)


def _contamination(result: Prepared) -> None:
    test = [formats.as_chat(variants(row)[0]) for row in result.settings.test]
    hits = contamination([formats.as_chat(row) for row in result.rows], test)
    result.contaminated = [Hit(hit.test, result.lines[hit.train], hit.kind, hit.evidence) for hit in hits]
    _drop(
        result, "contamination", {h.train: ("test_set", f"like test row {h.test + 1}: {h.kind}, {h.evidence}") for h in hits}
    )


def _in_instructions(result: Prepared) -> list[str]:
    """What would be personal data in an instruction that many rows share: the exporter names their own company there."""
    messages = (message for row in result.rows for message in formats.as_chat(row)["messages"])
    shared = Counter(formats.text_content(m.get("content")) for m in messages if m["role"] in ("system", "developer"))
    often = [text for text, rows in shared.items() if rows >= max(OWN_ROWS, OWN_SHARE * len(result.rows))]
    return sorted({entity.text for text in often for entity in find(text, result.settings.allow) if entity.kind != "SECRET"})


def _redact(result: Prepared) -> None:
    settings, own = result.settings, _in_instructions(result)
    if own:
        result.notes.append(f"left as your own, because an instruction that many rows share has it: {', '.join(own)}")
    allow = (*settings.allow, *own)
    redactor = Redactor(settings.redaction, settings.seed, allow)
    inventor = Redactor("pseudonym", settings.seed, allow)
    rescued = 0
    scripts: Counter[str] = Counter()
    seen, personal = Copies(settings.copies if settings.redaction == "label" else EXACT), set[int]()
    copies: dict[int, tuple[str, int]] = {}
    about = [[*people, *filter(None, [customer_of(row)])] for row, people in zip(result.rows, result.people)]
    done = in_processes(redactor.about, [*zip(result.rows, about)], settings.workers, 64)
    hidden = None if settings.progress else True  # None: shown in a terminal only
    for index, redacted in enumerate(tqdm(done, "redact", len(result.rows), leave=False, delay=2, disable=hidden)):
        if redacted.findings and ONLY_PLACEHOLDERS.fullmatch(formats.answer_of(formats.as_chat(redacted.row, True))):
            redacted, rescued = inventor.row(result.rows[index], about[index]), rescued + 1
        copy = seen.kept_for(index, formats.as_chat(redacted.row)) if "deduplicate" in settings.steps else None
        if copy and (redacted.findings or copy[1] in personal):
            copies[index] = copy
            continue
        personal |= {index} if redacted.findings else set()
        result.masked.update({(entity.kind, entity.text) for _, entity in redacted.findings})
        scripts[redacted.script] += 1
        labels, changes = _texts_of_the_record(result.rows[index]), []
        result.redacted_labels.update({entity.text for _, entity in redacted.findings} & labels)
        result.rows[index] = redacted.row
        if customer_of(redacted.row) is not None:  # it has served the split, and is not needed in the file
            for message in redacted.row["messages"]:
                if message["role"] == "user":
                    message.pop("name", None)
            changes = [("customer", "the name of the user's message")]
        # The value itself is not recorded, because the list of changes is passed around.
        changes += [
            (entity.kind.lower(), f"{path}, characters {entity.start} to {entity.end}") for path, entity in redacted.findings
        ]
        result.changes += [Change(result.lines[index], "redact", CHANGED, *change) for change in changes]
    if rescued and settings.redaction != "pseudonym":
        note = (
            f"{rescued:,} answers would have been nothing but a placeholder; they and their messages have pseudonyms instead"
        )
        result.notes.append(note)
    for script, rows in scripts.most_common():
        if script:
            note = f"{not_looked_for(script)} in {script} script are not looked for, so they are still in the files"
            result.notes.append(f"{note}; rows wholly or partly in it: {rows:,}")
    _drop_copies(result, copies)
    _remark_on_numbers(result)


def _drop_copies(result: Prepared, copies: dict[int, tuple[str, int]]) -> None:
    """Drop rows that copy an earlier one once their personal data are gone: index → kind, index of the earlier one."""
    reasons = {}
    for index, (kind, kept) in copies.items():
        line, earlier = result.lines[index], result.lines[kept]
        result.texts.setdefault(earlier, formats.dumps(result.rows[kept]))
        result.copies[line] = earlier
        reasons[index] = (f"{kind}_duplicate", f"of line {earlier} without personal data")
    remaining = set(result.lines) - {result.lines[index] for index in copies}
    conflicts = [Conflict(tuple(m for m in c.members if m in remaining), c.preferred) for c in result.conflicts]
    settled = {m for old, new in zip(result.conflicts, conflicts) if len(new.members) < 2 for m in old.members}
    result.changes = [c for c in result.changes if (c.action, c.code) != (FLAGGED, CONFLICT) or c.line not in settled]
    result.conflicts = [conflict for conflict in conflicts if len(conflict.members) > 1]
    _drop(result, "redact", reasons)


def _texts_of_the_record(row: dict) -> set[str]:
    """Fields of the answer that are text, where it is a record: they are labels, and a label that changes is damage."""
    record = json_or_none(formats.answer_of(row)) if "messages" in row else None
    return {value for value in record.values() if isinstance(value, str)} if isinstance(record, dict) else set()


def rows_of(path: str | Path) -> list[dict]:
    """Return the rows of a file in which every row should be valid.

    Raises:
        CourseError: a row is not valid; the message names the first fault.
    """
    rows = []
    for row, findings in validation.check(reading.read(path), validation.guess_kind(path), "trl"):
        for finding in _errors(findings):
            if finding.code != "list_as_text":
                raise CourseError(f"{Path(path).name}: {finding}")
        rows.append(row.value)
    return rows
