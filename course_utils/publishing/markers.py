"""Figures in sentences, taken from where they come from: `{{record:…}}`, `{{fact:…}}` and `{{estimate:…}}` in Markdown.

`{{record:lora-seeds:runs.0.scores."valid format".0:.0%}}` is the figure at that path in the newest record of that name,
`benchmarks/records/lora-seeds-DATE.json`; `{{fact:prices:"gpt-4.1-mini".input:.2f}}` the one in `data/prices.toml`. What
follows the last colon is a format of Python's. Keys are separated by dots, and quoted where they contain a dot or a colon;
the key of a list is a place in it. A list of numbers at the end of the path is averaged.

`{{estimate:Llama-3.1-8B qlora length=1024 checkpointing:.1f}}` is the memory of a training step as `memory.estimate` has
it, in GB (10^9 bytes); an option without a value is True.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from statistics import mean
from typing import Any

from course_utils import assets, facts, memory
from course_utils.errors import CourseError

_KEY = r'(?:"[^"{}]+"|[^".:{}]+)'
_ESTIMATE = re.compile(r"{{estimate:(\S+ [^{}:]+):([^{}:]*)}}")
_MARKER = re.compile(rf"{{{{(record|fact):([\w-]+):({_KEY}(?:\.{_KEY})*):([^{{}}]*)}}}}")


def expand(text: str, lesson: str) -> str:
    """Return the Markdown text of a lesson's cell with each marker replaced by its figure.

    Raises:
        CourseError: a marker is not written as one, leads nowhere, or to what is neither number, text nor date.
    """

    def written(marker: re.Match[str]) -> str:
        try:
            return _estimated(*marker.groups()) if marker.re is _ESTIMATE else _written(*marker.groups())
        except CourseError as error:
            raise CourseError(f"{lesson}: {marker[0]}: {error}") from error

    expanded = _ESTIMATE.sub(written, _MARKER.sub(written, text))
    if wrong := re.search(r"\{\{(?:record|fact|estimate)\b.*", expanded):
        raise CourseError(
            f"{lesson}: {wrong[0][:80]}: write {{{{record:NAME:PATH:FORMAT}}}} or {{{{fact:TABLE:PATH:FORMAT}}}}"
        )
    return expanded


def _written(kind: str, name: str, path: str, form: str) -> str:
    value: Any = facts.table(name) if kind == "fact" else json.loads(assets.benchmark_results(name).read_text("utf-8"))
    for key in (" ".join(key.strip('"').split()) for key in re.findall(_KEY, path)):
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        else:
            raise CourseError(f"there is no {key!r} in {_described(value)}")
    if isinstance(value, list) and value and all(isinstance(item, int | float) for item in value):
        value = mean(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str | date):
        raise CourseError(f"there is {_described(value)}, neither number, text nor date")
    try:
        if isinstance(value, date) and form and not re.search(r"%\w", form):
            raise ValueError  # Python would write the format itself
        return format(value, form)
    except ValueError as error:
        raise CourseError(f"{value!r} cannot be written as {form!r}") from error


def _estimated(step: str, form: str) -> str:
    model, method, *settings = step.split()
    options: dict[str, Any] = {}
    for name, sign, value in (setting.partition("=") for setting in settings):
        options[name] = (int(value) if value.isdigit() else value) if sign else True
    return format(memory.estimate(model, method, **options).total / 1e9, form)


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a table of {', '.join(map(repr, value))}"
    return f"a list of {len(value)}" if isinstance(value, list) else repr(value)
