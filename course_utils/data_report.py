"""Shows what `prepare` did: examples for a terminal, and a report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import charts, costs
from course_utils.assets import render
from course_utils.charts import Figure
from course_utils.data_prep import formats, pipeline
from course_utils.data_prep.findings import in_words
from course_utils.data_prep.validation import count_tokens
from course_utils.errors import CourseError
from course_utils.files import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 5  # examples of each reason
EPOCHS = 3
QUOTED = 600  # characters of a row
SHORTENED = 240  # the same in a terminal


def flow(prepared: pipeline.Prepared) -> Figure:
    """Draw a bar chart of the rows that are left after each step."""
    names = {"read": "export", "validate": "valid or fixed", "quality": "kept by the rules", "deduplicate": "no duplicates",
             "contamination": "not in the test set", "redact": "personal data out"}  # fmt: skip
    return charts.bars(
        {names[step]: count for step, count in prepared.counts}, "What is left after each step", "rows", decimals=0
    )


def lengths(prepared: pipeline.Prepared) -> Figure:
    """Draw a histogram of the prompts' lengths in words."""
    words = [len(formats.prompt_of(formats.as_chat(row)).split()) for row in prepared.rows]
    return charts.histogram({"prepared": words}, "Length of a prompt", "words")


def cost_table(prepared: pipeline.Prepared, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """Return the tokens and the hosted prices of training on the prepared rows for `EPOCHS`, as (what, how much).

    Args:
        prepared: result of `prepare`.
        tokenizer: counts the tokens; another model's tokenizer gives about ten per cent more or fewer.
    """
    tokens = sum(count_tokens(prepared.rows[i], prepared.settings.kind, tokenizer) for i in prepared.train)
    rows = [("tokens in the training file", f"{tokens:,}"), ("epochs", str(EPOCHS))]
    for model, price in costs.PRICES.items():
        dollars = costs.training_cost(tokens, EPOCHS, model)
        rows.append((f"hosted, {model} ({price.source}, {price.date})", f"{dollars:.2f} dollars"))
    return rows


def write_html(prepared: pipeline.Prepared, file: str | Path, costs_of: Sequence[tuple[str, str]] = ()) -> Path:
    """Write the report as one HTML file: figures and styles are inside, no script runs, nothing is loaded.

    Dropped rows are quoted as they were, personal data included: show the file only to those who may read the export.

    Args:
        prepared: result of `prepare`.
        file: where to write; its folder is created if needed.
        costs_of: rows of `cost_table`; no table of costs if empty.

    Raises:
        CourseError: the file can't be written.
    """
    page = render(
        "templates/data_report.html.j2",
        title=f"{Path(prepared.path).name}: data report",
        prepared=prepared,
        in_words=in_words,
        read=prepared.counts[0][1],
        flow=flow(prepared),
        lengths=lengths(prepared),
        contaminating=len({hit.test for hit in prepared.contaminated}),
        costs=costs_of,
        dropped=_by_code(prepared.dropped.values()),
        flagged=_by_code(change for changes in prepared.flagged.values() for change in changes),
        quotes=lambda change: _quotes(prepared, change),
        shown=SHOWN,
        redactions=Counter(c.code for c in prepared.changes if c.step == "redact" and c.action == pipeline.CHANGED),
        recurring=_recurring(prepared),
    )
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        return write_whole(Path(file), page.encode("utf-8", "replace"))
    except OSError as error:
        raise CourseError(f"cannot write {file}: {error.strerror or error}") from error


def examples(prepared: pipeline.Prepared) -> str:
    """Return the first `SHOWN` dropped rows of each reason as text, a copy beside the row that was kept for it."""
    lines = []
    for code, changes in _by_code(prepared.dropped.values()).items():
        lines.append(f"dropped, {len(changes):,} {in_words(code)} ({code}):")
        for change in changes[:SHOWN]:
            lines.append(f"  line {change.line}: {change.reason}")
            lines += [
                f"    {name}: {' '.join(text.split())[:SHORTENED]}" for name, text in _quotes(prepared, change).items()
            ]
    return "".join(f"{line}\n" for line in lines)


def _by_code(changes: Iterable[pipeline.Change]) -> dict[str, list[pipeline.Change]]:
    """Code → its changes, in the order of the export."""
    by_code: dict[str, list[pipeline.Change]] = {}
    for change in sorted(changes, key=lambda change: change.line):
        by_code.setdefault(change.code, []).append(change)
    return by_code


def _quotes(prepared: pipeline.Prepared, change: pipeline.Change) -> dict[str, str]:
    """The text of a dropped or flagged row, and that of the row to compare it with: the kept one, or the other answer."""
    line, dropped = change.line, change.action == pipeline.DROPPED
    named = {f"dropped, line {line}" if dropped else f"line {line}": line}
    if dropped and line in prepared.copies:
        named[f"kept, line {prepared.copies[line]}"] = prepared.copies[line]
    elif not dropped and change.code == pipeline.CONFLICT:
        rivals = (other for conflict in prepared.conflicts if line in conflict.members for other in conflict.members)
        named |= {f"line {rival}": rival for rival in [r for r in rivals if r != line and r in prepared.texts][:1]}
    return {name: prepared.texts[quoted][:QUOTED] for name, quoted in named.items()}


def _recurring(prepared: pipeline.Prepared) -> dict[str, str]:
    """Kind → its ten most frequent masked texts; none that is in few rows, since it may be one person's, and no secret."""
    recurring: dict[str, list[str]] = {}
    for (kind, text), rows in prepared.masked.most_common():
        if rows >= pipeline.RECURRING and kind != "SECRET" and len(recurring.setdefault(kind.lower(), [])) < 2 * SHOWN:
            recurring[kind.lower()].append(f"{text} ({rows:,})")
    return {kind: ", ".join(texts) for kind, texts in recurring.items()}
