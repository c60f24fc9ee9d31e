"""Hosts of the same API (`data/hosts.toml`): addresses, differences, end dates. A learner chooses one in a single cell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from course_utils import facts


@dataclass(frozen=True)
class Host:
    """A service that the official client can drive; `data/hosts.toml` says what its columns are."""

    name: str
    base_model: str
    methods: tuple[str, ...]
    weights: bool
    jobs: str
    differences: tuple[str, ...]
    deploy: str
    charges: str
    ends: date | str
    dates: str
    source: str
    date: date
    base_url: str | None = None
    key_variable: str | None = None


def _host(row: facts.Row) -> Host:
    columns = {name: value for name, value in row.items() if not isinstance(value, dict)}  # a table is a further source
    return Host(**(columns | {name: tuple(columns[name]) for name in ("methods", "differences")}))


HOSTS = {id: _host(row) for id, row in facts.table("hosts").items()}
