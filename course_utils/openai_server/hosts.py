"""Hosts of the same API (`data/hosts.toml`): addresses, differences, end dates. A learner chooses one in a single cell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from course_utils import facts


@dataclass(frozen=True)
class Host:
    """A service that the official client can drive.

    Attributes:
        name: name of the host.
        base_model: a model that can be tuned there.
        methods: training methods for that model, by the API's names.
        weights: whether the trained weights can be downloaded.
        jobs: which of files, jobs, events and checkpoints work with the same code.
        differences: differences that code written for OpenAI will meet.
        ends: when models tuned from the base stop answering: a day, or words.
        dates: other end dates, and their sources.
        source: where this was read.
        date: when it was read.
        base_url: the client's base URL; None for the local server, which chooses it when it starts.
        key_variable: environment variable that holds the key.
    """

    name: str
    base_model: str
    methods: tuple[str, ...]
    weights: bool
    jobs: str
    differences: tuple[str, ...]
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
