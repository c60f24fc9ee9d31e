"""Shows what `prepare` did: figures for a notebook, and a report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Example:
    """A row that was dropped or flagged, and why."""

    line: int
    reason: str
    quotes: dict[str, str]  # what to call a line → its text: the row, and the one to compare it with, if there is one


@dataclass(frozen=True)
class _Group:
    """Rows with the same reason: its code, how many there are, and the first of them."""

    code: str
    count: int
    examples: list[_Example]


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
    page = _page(prepared, costs_of)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        return write_whole(Path(file), page.encode("utf-8", "replace"))
    except OSError as error:
        raise CourseError(f"cannot write {file}: {error.strerror or error}") from error


def _page(prepared: pipeline.Prepared, costs_of: Sequence[tuple[str, str]]) -> str:
    return render(
        "templates/data_report.html.j2",
        title=f"{Path(prepared.path).name}: data report",
        prepared=prepared,
        in_words=in_words,
        read=prepared.counts[0][1],
        flow=flow(prepared),
        lengths=lengths(prepared),
        contaminating=len({hit.test for hit in prepared.contaminated}),
        costs=costs_of,
        dropped=_dropped(prepared),
        flagged=_flagged(prepared),
        redactions=Counter(c.code for c in prepared.changes if c.step == "redact" and c.action == pipeline.CHANGED),
        recurring=_recurring(prepared),
    )


def examples(prepared: pipeline.Prepared) -> str:
    """Return the first `SHOWN` dropped rows of each reason as text, a copy beside the row that was kept for it."""
    lines = []
    for group in _dropped(prepared):
        lines.append(f"dropped, {group.count:,} {in_words(group.code)} ({group.code}):")
        for example in group.examples:
            lines.append(f"  line {example.line}: {example.reason}")
            lines += [f"    {name}: {' '.join(quote.split())[:SHORTENED]}" for name, quote in example.quotes.items()]
    return "".join(f"{line}\n" for line in lines)


def _dropped(prepared: pipeline.Prepared) -> list[_Group]:
    """Dropped rows by reason; a copy is shown beside the row that was kept instead of it."""

    def quotes(change: pipeline.Change) -> dict[str, int]:
        kept = prepared.copies.get(change.line)
        return {f"dropped, line {change.line}": change.line} | ({} if kept is None else {f"kept, line {kept}": kept})

    return _grouped(prepared, (change for _, change in sorted(prepared.dropped.items())), quotes)


def _flagged(prepared: pipeline.Prepared) -> list[_Group]:
    """Rows that are still in the files and that someone should look at, by reason; both rows of a conflict."""
    conflicting = {line: conflict.members for conflict in prepared.conflicts for line in conflict.members}

    def quotes(change: pipeline.Change) -> dict[str, int]:
        rivals = conflicting.get(change.line, ()) if change.code == pipeline.CONFLICT else ()
        rival = next((line for line in rivals if line != change.line), None)
        return {f"line {line}": line for line in (change.line, rival) if line == change.line or line in prepared.texts}

    return _grouped(prepared, (change for changes in prepared.flagged.values() for change in changes), quotes)


def _grouped(
    prepared: pipeline.Prepared,
    changes: Iterable[pipeline.Change],
    quotes: Callable[[pipeline.Change], dict[str, int]],
) -> list[_Group]:
    """Changes by their code, the first `SHOWN` of each with the rows that `quotes` names for it."""
    by_code: dict[str, list[pipeline.Change]] = {}
    for change in changes:
        by_code.setdefault(change.code, []).append(change)
    return [
        _Group(code, len(own), [
            _Example(c.line, c.reason, {name: prepared.texts[line][:QUOTED] for name, line in quotes(c).items()})
            for c in own[:SHOWN]
        ])
        for code, own in by_code.items()
    ]  # fmt: skip


def _recurring(prepared: pipeline.Prepared) -> dict[str, str]:
    """Kind → its ten most frequent masked texts; none that is in few rows, since it may be one person's, and no secret."""
    recurring: dict[str, list[str]] = {}
    for (kind, text), rows in prepared.masked.most_common():
        if rows >= pipeline.RECURRING and kind != "SECRET" and len(recurring.setdefault(kind.lower(), [])) < 2 * SHOWN:
            recurring[kind.lower()].append(f"{text} ({rows:,})")
    return {kind: ", ".join(texts) for kind, texts in recurring.items()}
