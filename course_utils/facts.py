"""Dated facts: tables in `data/*.toml`, whose every row names its source and the day on which it was read there.

Prices, hosts, models, GPUs and claims go out of date, so none of them stands in a module. A row is a table of its own:

    ["gpt-4.1-mini"]
    input = 0.80
    source = "developers.openai.com/api/docs/pricing"
    date = 2026-11-24

`python -m course_utils.facts` lists the rows, of all tables, that are older than a year.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cache
from types import MappingProxyType
from typing import Any

from course_utils import assets
from course_utils.errors import CourseError

Row = Mapping[str, Any]


MAX_AGE = 365  # days


@cache
def table(name: str) -> Mapping[str, Row]:
    """Return the rows of `data/NAME.toml`, by their names, in the file's order.

    Raises:
        CourseError: there is no such table, it is no TOML, or a row lacks its source or its date.
    """
    file = assets.path(f"data/{name}.toml")
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"data/{name}.toml: {error}") from error
    for id, row in rows.items():
        if not isinstance(row, dict):
            raise CourseError(f"data/{name}.toml, {id}: a row is a table, with a source and a date")
        if not row.get("source"):
            raise CourseError(f"data/{name}.toml, [{id}]: add source = where this can be read")
        for place, part in _tables(id, row):
            if ("date" in part or part is row) and type(part.get("date")) is not date:
                raise CourseError(f"data/{name}.toml, [{place}]: add date = the day it was read, YYYY-MM-DD")
    return MappingProxyType(rows)


def names() -> list[str]:
    """Return the names of all tables."""
    return sorted(file.stem for file in assets.path("data").glob("*.toml"))


def stale(today: date) -> list[str]:
    """Return the facts of all tables that are too old, or dated in the future, each as a phrase with its file, row and date.

    Args:
        today: the current day. A date one day later does not count as the future: somewhere that day has already begun.
    """
    return [
        f"data/{name}.toml, [{place}] is dated {part['date']}"
        for name in names()
        for id, row in table(name).items()
        for place, part in _tables(id, row)
        if "date" in part and not -1 <= (today - part["date"]).days <= MAX_AGE
    ]


def _tables(place: str, row: Row) -> Iterator[tuple[str, Row]]:
    """A row and the tables within it, each with its place."""
    yield place, row
    for name, part in row.items():
        if isinstance(part, dict):
            yield from _tables(f"{place}.{name}", part)


def main(arguments: Sequence[str] | None = None, today: date | None = None) -> int:
    """The maintainers' command: list the facts that have to be looked up again.

    Args:
        arguments: command-line arguments, without the program's name; those of `sys.argv` if None.
        today: the current day; this machine's if None.

    Returns:
        1 with --strict if there are any, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m course_utils.facts", description="List facts older than a year.")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if there are any")
    options = parser.parse_args(arguments)
    found = stale(today or date.today())
    for fact in found:
        print(f"warning: {fact}: look it up again, and change it and its date there")
    return 1 if found and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
