"""What `prepare` did, for the eye: figures for a notebook, and one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import costs, figures
from course_utils.data_prep import formats, pipeline
from course_utils.data_prep.validation import count_tokens
from course_utils.data_prep.writing import write_lines
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 5  # examples of each reason
QUOTED = 600  # characters of a row
CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1, h2 { line-height: 1.2; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; padding: .2rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f5f5; padding: .6rem; }
img { max-width: 100%; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.pair pre { margin-top: 0; }
.reason { color: #555; }
"""


def flow(prepared: pipeline.Prepared) -> figures.Figure:
    """Rows that are left after each step."""
    names = {"read": "export", "validate": "valid or mended", "quality": "kept by the rules", "deduplicate": "no duplicates",
             "contamination": "not in the test set", "redact": "personal data out"}  # fmt: skip
    return figures.bars({names[step]: count for step, count in prepared.counts}, "What is left after each step", "rows")


def lengths(prepared: pipeline.Prepared, production: Sequence[str] = (), before: Sequence[dict] = ()) -> figures.Figure:
    """Length of the prompts: before, after, and in production."""
    sets = {}
    if before:
        sets["export"] = [len(formats.prompt_of(row).split()) for row in before]
    sets["prepared"] = [len(formats.prompt_of(row).split()) for row in prepared.rows]
    if production:
        sets["production"] = [len(text.split()) for text in production]
    return figures.histograms(sets, "Length of a prompt", "words")


def cost_table(
    prepared: pipeline.Prepared,
    tokenizer: PreTrainedTokenizerBase,
    epochs: int = 3,
    tokens_per_second: float | None = None,
) -> list[tuple[str, str]]:
    """What it takes to train on the prepared rows, as (what, how much).

    Args:
        prepared: of `prepare`.
        tokenizer: counts tokens; another model's counts differ by some ten per cent.
        epochs: passes over the training rows.
        tokens_per_second: of one's own machine (`History` has it), for the time.
    """
    tokens = sum(count_tokens(prepared.rows[i], "chat", tokenizer) for i in prepared.train)
    rows = [("tokens in the training file", f"{tokens:,}"), ("epochs", str(epochs))]
    if tokens_per_second:
        rows.append(
            (
                f"on this machine at {tokens_per_second:,.0f} tokens a second",
                f"{tokens * epochs / tokens_per_second / 60:.0f} minutes",
            )
        )
    for model, price in costs.PRICES.items():
        rows.append(
            (f"hosted, {model} ({price.source}, {price.date})", f"{costs.training_cost(tokens, epochs, model):.2f} dollars")
        )
    return rows


def write_html(
    prepared: pipeline.Prepared, file: str | Path, production: Sequence[str] = (), costs_of: Sequence[tuple[str, str]] = ()
) -> Path:
    """The report as one HTML file: figures and styles inside, no script, nothing loaded.

    Dropped rows are quoted as they stood, personal data included: the file is for those who may read the export.

    Raises:
        CourseError: the file can't be written.
    """
    page = _page(prepared, production, costs_of)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        return write_lines(Path(file), [page])
    except OSError as error:
        raise CourseError(f"cannot write {file}: {error.strerror or error}") from error


def _page(prepared: pipeline.Prepared, production: Sequence[str], costs_of: Sequence[tuple[str, str]]) -> str:
    name = html.escape(Path(prepared.path).name)
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{name}: data report</title>",
        f"<style>{CSS}</style></head><body><h1>{name}</h1>",
        f"<p>{prepared.counts[0][1]:,} lines read, {len(prepared.rows):,} rows left: {len(prepared.train):,} for training, "
        f"{len(prepared.validation):,} for validation.</p>",
        flow(prepared)._repr_html_(),
        "<h2>What was dropped and changed</h2>",
        _table(("step", "", "reason", "number"), [(s, a, c, f"{n:,}") for s, a, c, n in prepared.table()]),
    ]
    if prepared.kind == "chat":
        parts.append(lengths(prepared, production)._repr_html_())
    if prepared.distance:
        rows = [
            (label, f"{mine:.3g}", f"{theirs:.3g}")
            for (label, mine), (_, theirs) in zip(prepared.distance.train.rows(), prepared.distance.production.rows())
        ]
        parts += [
            "<h2>Training prompts beside production</h2>",
            f"<p>A classifier tells them apart with an area under the curve of {prepared.distance.auc:.2f}; "
            "0.5 would be not at all.</p>",
            _table(("", "prepared", "production"), rows),
            _table(
                ("", "words that give it away"),
                list(zip(("prepared", "production"), map(", ".join, prepared.distance.topics))),
            ),
        ]
    if prepared.contaminated:
        tests = len({hit.test for hit in prepared.contaminated})
        parts.append(f"<h2>Test set</h2><p>{tests} test rows stood in the export; they were taken out of it.</p>")
    if costs_of:
        parts += ["<h2>Training on it</h2>", _table(("", ""), costs_of)]
    parts += ["<h2>Examples of what was dropped</h2>", *_examples(prepared)]
    parts += ["<h2>To be looked at</h2>", *_flagged(prepared)]
    parts += ["<h2>Personal data, before and after</h2>", *_redactions(prepared), "</body></html>"]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """HTML of a table; the last of several columns is one of numbers."""

    def cells(row: Sequence[str], tag: str) -> str:
        last = len(row) - 1
        return "".join(
            f"<{tag}{' class=n' * (0 < i == last)}>{html.escape(str(cell))}</{tag}>" for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{cells(head, 'th')}</tr>{body}</table>"


def _examples(prepared: pipeline.Prepared) -> Iterator[str]:
    """Dropped rows by reason; a copy beside the row that stayed for it."""
    by_code: dict[str, list[int]] = {}
    reasons = prepared.dropped
    stayed = {line: cluster.kept for cluster in prepared.clusters for line in cluster.kinds}
    for line in sorted(prepared.rejects):
        by_code.setdefault(reasons[line].code, []).append(line)
    for code, lines in by_code.items():
        shown = []
        for line in lines[:SHOWN]:
            shown.append(_reason(line, reasons[line].reason))
            dropped = _quoted(prepared.rejects[line])
            if line in stayed:
                kept = _quoted(prepared.stayed[stayed[line]])
                dropped = _pair(f"dropped, line {line}", dropped, f"kept, line {stayed[line]}", kept)
            shown.append(dropped)
        yield _details(code, len(lines), shown)


def _flagged(prepared: pipeline.Prepared) -> Iterator[str]:
    """Rows that stayed and that someone should look at, by reason; of a conflict both rows."""
    by_code: dict[str, list[pipeline.Change]] = {}
    for changes in prepared.flagged.values():
        for change in changes:
            by_code.setdefault(change.code, []).append(change)
    if not by_code:
        yield "<p>Nothing.</p>"
        return
    yield "<p>These rows are still in the files. Rules err: read before you drop them with --drop.</p>"
    asked = {line: conflict.members for conflict in prepared.conflicts for line in conflict.members}
    for code, changes in by_code.items():
        shown = []
        for change in changes[:SHOWN]:
            shown.append(_reason(change.line, change.reason))
            quoted = _quoted(prepared.flags[change.line])
            other = next((line for line in asked.get(change.line, ()) if line != change.line), None)
            if code == pipeline.CONFLICT and other in prepared.flags:
                quoted = _pair(f"line {change.line}", quoted, f"line {other}", _quoted(prepared.flags[other]))
            shown.append(quoted)
        yield _details(code, len(changes), shown)


def _redactions(prepared: pipeline.Prepared) -> Iterator[str]:
    """A few of each kind; what was found is masked but for the first letters of its words."""
    if not prepared.redactions:
        yield "<p>Nothing was found.</p>"
        return
    shown: dict[str, list[tuple[str, ...]]] = {}
    for line, kind, before, after in prepared.redactions:
        shown.setdefault(kind, []).append((f"line {line}", before, after))
    for kind, rows in shown.items():
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows[: 2 * SHOWN])
        table = f"<table><tr><th></th><th>before</th><th>after</th></tr>{body}</table>"
        number = sum(change.step == "redact" and change.code == kind.lower() for change in prepared.changes)
        yield _details(kind.lower(), number, [table])


def _details(code: str, number: int, shown: Iterable[str]) -> str:
    return f"<details><summary>{html.escape(code)} ({number:,})</summary>{''.join(shown)}</details>"


def _reason(line: int, reason: str) -> str:
    return f"<p class='reason'>line {line}: {html.escape(reason)}</p>"


def _quoted(text: str) -> str:
    return f"<pre>{html.escape(text[:QUOTED])}</pre>"


def _pair(left_name: str, left: str, right_name: str, right: str) -> str:
    return f"<div class=pair><div>{html.escape(left_name)}{left}</div><div>{html.escape(right_name)}{right}</div></div>"
