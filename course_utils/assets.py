"""Locates and reads the files that are not code: data sets, notebooks, records, and the templates of pages.

In an installed wheel data and notebooks are inside the package (`_assets/`); in a checkout they are in the repository's own
folders. No other module needs to know the difference, and nothing depends on the working directory. Templates, which are in
`templates/` next to the module that fills them, are HTML; those named `.md.j2` are Markdown, which the book is made of.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = Path(__file__).resolve().parent
DISTRIBUTION = "finetuning-course"


def root() -> Path:
    """Return the folder that holds `data/` and `notebooks/`."""
    inside = PACKAGE / "_assets"
    return inside if inside.is_dir() else PACKAGE.parent


def path(relative: str) -> Path:
    """Return the path of a file or folder of the course, such as `data/support_tickets`.

    Raises:
        CourseError: it does not exist.
    """
    asset = root() / relative
    if not asset.exists():
        raise CourseError(
            f"{relative} is missing from the installed course (looked in {root()}); "
            f"install it again: pip install --force-reinstall --no-deps {DISTRIBUTION}"
        )
    return asset


def benchmark_results(name: str) -> Path:
    """Return the newest file of a benchmark's results, such as "data-quality": JSON with a date, a machine and versions.

    Raises:
        CourseError: `benchmarks/records` has no results of that name.
    """
    files = sorted(path("benchmarks/records").glob(f"{name}-[0-9]*.json"))
    if not files:
        raise CourseError(f"there are no results named {name!r} in benchmarks/records")
    return files[-1]


@cache
def read_record(name: str) -> dict[str, Any]:
    """Return the content of `benchmark_results(name)`, the same object each time.

    Raises:
        CourseError: there are no results of that name.
    """
    content: dict[str, Any] = json.loads(benchmark_results(name).read_text(encoding="utf-8"))
    return content


@cache
def templates() -> Environment:
    """Return Jinja2's environment: values are escaped for HTML, and one that was not passed is an error.

    In a Markdown template nothing is escaped: it takes the course's own words only, never a stranger's. Filters of our own:
    `thousands` (12,345) and `points` (a number without needless zeros).
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("course_utils", "."),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"thousands": "{:,}".format, "points": "{:g}".format}
    return environment


def render(template: str, **values: object) -> str:
    """Return the page that a template makes of values, which are text: escaping is the template's work.

    Args:
        template: its path below the package, such as "grading/templates/class.html.j2".
        values: what it shows.
    """
    return templates().get_template(template).render(values)


PLACEHOLDER = "/OWNER/"  # until the course has its own address


def read_rows(relative: str) -> list[dict[str, Any]]:
    """Return the rows of one of the course's JSONL files, such as "data/catalogue/shots.jsonl"."""
    return [json.loads(line) for line in path(relative).read_text(encoding="utf-8").splitlines()]


def repository_url() -> str:
    """Return the address of the repository, from `[project.urls]` in pyproject.toml, the only place where it is written.

    Raises:
        CourseError: the course is not installed, or pyproject.toml names no repository.
    """
    try:
        entries: list[str] = metadata(DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError as error:
        raise CourseError(f"{DISTRIBUTION} is not installed; run `pip install -e .` in the repository") from error
    for entry in entries:
        label, _, address = entry.partition(", ")
        if label == "Repository":
            return address
    raise CourseError("pyproject.toml has no Repository under [project.urls]; add it")
