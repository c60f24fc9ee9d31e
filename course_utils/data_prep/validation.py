"""Can this file be trained on? Every rule of the hosted API and of TRL, and what both of them miss.

The hosted API's rules and messages are from OpenAI's fine-tuning guide and specification of August 2026, and from errors
that users reported; TRL's are from `trl.data_utils` and the dataset formats in its documentation. What they miss: a host
notices hours later, or never, that no assistant message is trained on, that a tool call's arguments are not JSON, or that
answers begin with a space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils.data_prep import formats, reading
from course_utils.data_prep.findings import API_ERRORS, ERROR, Finding, in_words, shorten
from course_utils.data_prep.rules import Rules, text_of
from course_utils.data_prep.variants import LISTS, VARIANTS, variants
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# What a row is for; `formats.KIND_OF` has the kind of each shape.
ROW_KINDS = ("chat", "preference", "prompt_completion", "unpaired_preference")
TARGETS = ("openai", "trl")
MAX_TOKENS = 65_536  # in an example; OpenAI cuts off the rest
MAX_BYTES = 512_000_000  # in a file that is sent to OpenAI in one piece
MIN_ROWS = 10
UNKNOWN = "no known shape"
MAX_FINDINGS = 1_000  # that a report keeps; all are counted


@dataclass
class Report:
    """What `validate` has found.

    Attributes:
        path: path of the file.
        kind: the kind that its rows were checked as.
        target: who will read the rows: "openai" or "trl".
        rows: number of rows that could be read.
        bad_rows: number of lines with at least one error.
        shapes: shape of `formats.KIND_OF` → number of rows that have it.
        counts: code → number of findings, including those that are not kept.
        findings: the first `MAX_FINDINGS` findings.
        tokens: number of tokens in all rows together; None without a tokenizer.
        api_error: how OpenAI's job would have failed, in its documented words; None if it would not, or they are unknown.
    """

    path: str
    kind: str
    target: str
    rows: int = 0
    bad_rows: int = 0
    shapes: Counter = field(default_factory=Counter)
    counts: Counter = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    tokens: int | None = None
    api_error: JobError | None = None
    errors: int = 0
    warnings: int = 0

    @property
    def ok(self) -> bool:
        """Whether the file has no errors."""
        return not self.errors

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it if the report is not full."""
        self.counts[finding.code] += 1
        if finding.severity == ERROR:
            self.errors += 1
        else:
            self.warnings += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that can be written as JSON."""
        names = "path kind target ok rows bad_rows errors warnings tokens".split()
        return {name: getattr(self, name) for name in names} | {
            "api_message": self.api_error and self.api_error.message,
            "shapes": dict(self.shapes.most_common()),
            "counts": dict(self.counts.most_common()),
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = [
            f"{Path(self.path).name}: {self.rows:,} {self.kind} rows, {self.errors:,} errors, {self.warnings:,} warnings"
        ]
        if set(self.shapes) - {"messages", "preference", "prompt_completion"}:
            lines.append(f"  shapes: {shapes_in_words(self.shapes, self.target)}")
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.code, []).append(finding)
        for code, (first, *others) in found.items():
            places = ", ".join(f"{other.line}" for other in others[:2])
            lines.append(
                f"  {first.severity:<7} {first}" + (f"; {self.counts[code]:,} in all, as in line {places}" if others else "")
            )
        if missing := set(self.counts) - set(found):
            lines.append(f"  and {', '.join(f'{self.counts[code]:,} {in_words(code)}' for code in sorted(missing))}")
        return "\n".join(lines)


def shapes_in_words(shapes: Mapping[str, int], target: str | None = None) -> str:
    """Say how many rows have which shape, the most frequent first; with a target, also which of them would be converted."""
    ordered = sorted(shapes.items(), key=lambda item: -item[1])
    converted = formats.CONVERTIBLE | ({"preference"} if target == "openai" else set()) if target else set()
    return ", ".join(f"{shape} {rows:,}{' (--fix converts)' if shape in converted else ''}" for shape, rows in ordered)


def validate(
    path: str | Path,
    kind: str | None = None,
    target: str = "openai",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_tokens: int = MAX_TOKENS,
    columns: Mapping[str, str] | None = None,
) -> Report:
    """Check a training file, whatever is in it.

    Args:
        path: a JSONL, JSON, CSV or Parquet file.
        kind: one of `ROW_KINDS`; if None, what most of the first 50 rows look like.
        target: "openai", or "trl" for your own trainer.
        tokenizer: counts tokens exactly; it must have a chat template. Without a tokenizer, a row is too long only if it
            would be too long for any tokenizer.
        max_tokens: maximum number of tokens in an example.
        columns: fields to rename, old name → new name.

    Raises:
        CourseError: the file cannot be read (see `reading.read`), or the kind or target is unknown. Anything else that is
            wrong with the file is a finding.
    """
    if kind is not None and kind not in ROW_KINDS:
        raise CourseError(f"unknown kind {kind!r}; choose among {', '.join(ROW_KINDS)}")
    if target not in TARGETS:
        raise CourseError(f"unknown target {target!r}; choose among {', '.join(TARGETS)}")
    path = Path(path)
    kind = kind or guess_kind(path, columns)
    report = Report(str(path), kind, target, tokens=0 if tokenizer is not None else None)
    for row, findings in check(reading.read(path, columns), kind, target, tokenizer, max_tokens, report):
        if row.value is not None:
            report.shapes[formats.shape_of(row.value) or UNKNOWN] += 1
        report.rows += row.value is not None
        report.bad_rows += any(finding.severity == ERROR for finding in findings)
        for finding in findings:
            report.add(finding)
        if report.api_error is None and target == "openai":
            errors = (job_error(finding, report.rows, kind) for finding in findings)
            report.api_error = next((error for error in errors if error is not None), None)
    for finding in _check_file(path, report):
        report.add(finding)
    if target == "openai" and report.rows < MIN_ROWS and report.api_error is None:
        report.api_error = too_few(report.rows, MIN_ROWS)
    return report


def guess_kind(path: str | Path, columns: Mapping[str, str] | None = None) -> str:
    """Return the kind of most of the first 50 readable rows; "chat" if no row has a known shape."""
    kind_counts: Counter = Counter()
    for row, _ in zip(reading.read(path, columns), range(50)):
        shape = formats.shape_of(row.value)
        if shape:
            kind_counts[formats.KIND_OF[shape]] += 1
    return kind_counts.most_common(1)[0][0] if kind_counts else "chat"


def check(
    rows: Iterable[reading.Row],
    kind: str,
    target: str = "openai",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_tokens: int = MAX_TOKENS,
    report: Report | None = None,
) -> Iterator[tuple[reading.Row, list[Finding]]]:
    """Yield each row with everything that is wrong with it; first comes what is wrong with its bytes and its JSON.

    Args:
        rows: rows from `reading.read`.
        kind, target, tokenizer, max_tokens: as for `validate`.
        report: a report that takes in the findings as well, or None.
    """
    for row in rows:
        findings = list(row.findings)
        if row.value is not None or not any(
            finding.severity == ERROR or finding.code == "blank_line" for finding in findings
        ):
            rules = Rules(row.line, target)
            value, others = variants(row.value) if isinstance(row.value, dict) else (row.value, [])
            for code in others:
                text = any(isinstance(row.value.get(key), str) and isinstance(value.get(key), list) for key in LISTS)
                if target == "trl" and code != "label_type" and not (code == "list_as_text" and text):
                    continue  # your own trainer reads these as they are
                rules.add("", code, _other_words(code, row.value, value))
            rules.row(value, kind)
            # Half a character can't be tokenized; a byte order mark does not prevent counting.
            broken = any(
                f.severity == ERROR and f.code not in ("byte_order_mark", "encoding", "several_lines") for f in row.findings
            )
            if not rules.errors and not broken:
                tokens = _tokens(reading.Row(row.line, value, raw=row.raw), kind, tokenizer, max_tokens, rules)
                if report is not None and report.tokens is not None:
                    report.tokens += tokens or 0
            findings += rules.findings
        yield row, findings


def _tokens(
    row: reading.Row, kind: str, tokenizer: PreTrainedTokenizerBase | None, max_tokens: int, rules: Rules
) -> int | None:
    """The number of tokens in a row; reports a finding if there are too many."""
    if tokenizer is None:
        # In any vocabulary in use, a token of text has at most about 16 bytes, so this row is too long by any count.
        if len(row.raw) > 16 * max_tokens:
            rules.add("", "too_many_tokens", f"{len(row.raw):,} bytes are over {max_tokens:,} tokens by any count")
        return None
    count = count_tokens(row.value, kind, tokenizer)
    if count > max_tokens:
        rules.add("", "too_many_tokens", f"{count:,} tokens, over the limit of {max_tokens:,}")
    return count


def count_tokens(row: dict, kind: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of tokens that training on a valid row processes.

    They are those of the whole conversation, or of the prompt and the longer side.
    """
    if kind == "chat":
        return _template_tokens(row["messages"], tokenizer)
    if kind in ("prompt_completion", "unpaired_preference"):
        return _side_tokens(row.get("prompt", ""), tokenizer) + _side_tokens(row["completion"], tokenizer)
    prompt = row.get("prompt", row.get("input", {}).get("messages", "") if isinstance(row.get("input"), dict) else "")
    sides = [row[key] for key in ("chosen", "rejected", "preferred_output", "non_preferred_output") if key in row]
    return _side_tokens(prompt, tokenizer) + max(_side_tokens(side, tokenizer) for side in sides)


def _side_tokens(part: str | list[dict], tokenizer: PreTrainedTokenizerBase) -> int:
    return _template_tokens(part, tokenizer) if isinstance(part, list) else len(tokenizer(part)["input_ids"])


def _template_tokens(messages: list[dict], tokenizer: PreTrainedTokenizerBase) -> int:
    plain = [{"role": message["role"], "content": text_of([message])} for message in messages]
    try:
        text = tokenizer.apply_chat_template(plain, tokenize=False)
    except Exception:  # a template may refuse roles or their order, but only the length matters here
        text = "\n".join(f"{message['role']}\n{message['content']}" for message in plain)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _other_words(code: str, row: dict, meant: dict) -> str:
    """The message for a variant, with the fields that differ."""
    fields = [key for key in row if key not in meant or repr(row[key]) != repr(meant[key])]
    return f"{', '.join(shorten(key, 40).strip(chr(39)) for key in fields)}: {VARIANTS[code][1]}"


def _check_file(path: Path, report: Report) -> Iterator[Finding]:
    if not report.rows and not report.errors:
        yield Finding(0, "", "empty_file", "the file has no rows")
    if report.target != "openai":
        return
    if report.kind == "unpaired_preference":
        yield Finding(0, "", "not_hosted", "the rows have labels")
    if 0 < report.rows < MIN_ROWS:
        yield Finding(0, "", "too_few_rows", f"only {report.rows} rows")
    if path.stat().st_size > MAX_BYTES:
        yield Finding(0, "", "file_too_large", f"{path.stat().st_size:,} bytes; the limit is {MAX_BYTES:,}")
    if path.suffix != ".jsonl":
        yield Finding(0, "", "file_name", f"the name ends in {path.suffix}")


class JobError(NamedTuple):
    """An error of a job, as the API reports it; it is built from the fields of findings, never from sentences.

    Attributes:
        code: the API's code.
        template: the API's message; "{file}" where it names the file.
    """

    code: str
    template: str

    @property
    def message(self) -> str:
        """The API's message, without a file's name."""
        return self.template.replace("{file}", "")

    def about(self, file_id: str) -> str:
        """Return the message about a particular file; a message that names the file ends in a space, as the API's does."""
        return self.template.replace("{file}", f" {file_id}") + " " if "{file}" in self.template else self.template


def job_error(finding: Finding, example: int, kind: str) -> JobError | None:
    """Return the error with which a hosted job fails at a finding, or None if its words are not known.

    Args:
        finding: the fault.
        example: number of the example that has it, from 1.
        kind: the kind of the rows.
    """
    if finding.code not in API_ERRORS or (finding.code == "wrong_kind" and kind != "preference"):
        return None
    error, facts = API_ERRORS[finding.code], dict(finding.details)
    message = facts.pop("index", 0) + 1
    return JobError(error["code"], error["message"].format(example=example, message=message, file="{file}", **facts))


def too_few(examples: int, least: int) -> JobError:
    """Return the error of a job that has fewer examples than the least number allowed."""
    return JobError(
        "invalid_n_examples", f"Training file has {examples} example(s), but must have at least {least} examples"
    )
