"""Results as a table that people read: units in the header, scores with their intervals, a caption that says what it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from course_utils.style import FONT, LINE, escaped, tone

Cell = Any  # a Score, a number, a text, or None where there is nothing


def written(cell: Cell, decimals: int = 2) -> str:
    """A value as people write it; `decimals` of numbers that are not whole."""
    if cell is None:
        return "–"
    if hasattr(cell, "low") and hasattr(cell, "high"):
        return f"{100 * cell.value:.0f} % ({100 * cell.low:.0f}-{100 * cell.high:.0f})"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        if 0 < abs(cell) < 10 ** -(decimals + 1):  # would be written as zero, which it is not
            return f"{cell:.7f}".rstrip("0") if abs(cell) >= 1e-6 else f"{cell:.0e}"
        return f"{cell:,.{decimals}f}"
    return str(cell)


def _decimals(cells: Sequence[Cell]) -> int:
    """As many as the column's numbers need, at most two, and none where all are large."""
    numbers = [cell for cell in cells if isinstance(cell, float)]
    if not numbers or min(map(abs, numbers)) >= 100:
        return 0
    return next((d for d in (0, 1) if all(abs(n - round(n, d)) < 1e-9 for n in numbers)), 2)


SHORT = 16  # characters, of "100 % (97-100)" and the like


class Table:
    """A table for a notebook: HTML there, aligned text elsewhere. Scores read `76 % (67-83)`, an interval of 95 %.

    Args:
        rows: row name → column → value.
        caption: what the table shows.
        of: header of the column with the rows' names, e.g. "model".
        highlight: name of a row to set off.
    """

    def __init__(self, rows: dict[str, dict[str, Cell]], caption: str = "", of: str = "what", highlight: str = "") -> None:
        self.rows, self.caption, self._of, self._highlight = rows, caption, of, highlight
        self._columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        self._decimals = {name: _decimals([row.get(name) for row in rows.values()]) for name in self._columns}

    def _is_number(self, column: str) -> bool:
        cells = [row.get(column) for row in self.rows.values()]
        return all(cell is None or hasattr(cell, "low") or isinstance(cell, int | float) for cell in cells)

    def _written(self, row: dict[str, Cell], column: str) -> str:
        return written(row.get(column), self._decimals[column])

    def _repr_html_(self) -> str:
        padding = f"padding:.35em .7em;border-bottom:1px solid {LINE};vertical-align:top"
        sides = {name: "right" if self._is_number(name) else "left" for name in self._columns}
        head = f'<th scope="col" style="{padding};text-align:left">{escape(self._of)}</th>' + "".join(
            f'<th scope="col" style="{padding};text-align:{sides[name]}">{escape(name)}</th>' for name in self._columns
        )
        body = ""
        for name, row in self.rows.items():
            look = tone("accent" if name == self._highlight else "plain")
            texts = {c: self._written(row, c) for c in self._columns}
            # a number stays in one line with its interval; on a phone the table is pushed aside
            cells = "".join(
                f'<td style="{padding};{look};text-align:{sides[c]}{";white-space:nowrap" if len(text) <= SHORT else ""}">'
                f"{escaped(text)}</td>"
                for c, text in texts.items()
            )
            body += f'<tr><th scope="row" style="{padding};{look};text-align:left">{escaped(name)}</th>{cells}</tr>'
        # as wide as what can be seen, and not as the table, which may be wider
        words = f'<b style="display:block;position:sticky;left:0;max-width:100cqw">{escaped(self.caption)}</b>'
        caption = f'<caption style="text-align:left;padding:.3em 0;{tone("plain")}">{words}</caption>'
        name = escape(self.caption or f"table: {', '.join([self._of, *self._columns])}", quote=True)
        return (
            f'<div role="region" tabindex="0" aria-label="{name}" style="overflow-x:auto;container-type:inline-size">'
            f'<table style="{FONT};{tone("plain")};border-collapse:collapse">{caption if self.caption else ""}'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def __repr__(self) -> str:
        lines = [[self._of, *self._columns]]
        lines += [[name, *(self._written(row, column) for column in self._columns)] for name, row in self.rows.items()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
        return f"{self.caption}\n{text}" if self.caption else text


def folder_sizes(*folders: str | os.PathLike[str]) -> Table:
    """The files of folders with their sizes in MB (10^6 bytes), largest first, but for those smaller than 10 kB."""
    rows = {}
    for folder in map(Path, folders):
        for file in sorted(folder.iterdir(), key=lambda f: -f.stat().st_size):
            if file.is_file() and file.stat().st_size >= 10_000:
                rows[f"{folder.name}/{file.name}"] = {"MB": round(file.stat().st_size / 1e6, 2)}
    return Table(rows, "", "file", "")
