"""Which folders of this machine an answer sees, so that it meets the course's own Python, numpy and torch, and no more."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement


def _interpreter_folders() -> list[str]:
    """The interpreter's own folders, outside /usr, which is shown anyway."""
    folder = os.path.realpath(sys.base_prefix)
    return [] if Path(folder).is_relative_to("/usr") else [folder]


def shown_folders() -> list[str]:
    """Folders of this machine that an answer sees beside the system's, each at its own place."""
    folders = package_folders()
    links = [target for folder in folders for target in _linked(folder)]
    return list(dict.fromkeys([*_interpreter_folders(), *folders, *links]))


@lru_cache
def package_folders() -> list[str]:
    """Folders that hold numpy, torch and what these need, in the order in which Python searches them."""
    found, left, done = set(), ["numpy", "torch"], set()
    while left:
        name = left.pop()
        if name in done:
            continue
        done.add(name)
        spec = find_spec(name) if name in ("numpy", "torch") else None
        if spec and spec.origin:
            found.add(os.path.realpath(Path(spec.origin).parent.parent))
        try:
            known = distribution(name)
        except PackageNotFoundError:
            continue
        found.add(os.path.realpath(str(known.locate_file(""))))
        for needed in known.requires or ():
            required = Requirement(needed)
            if not required.marker or required.marker.evaluate({"extra": ""}):
                left.append(required.name)
    order = [os.path.realpath(place) for place in sys.path]
    return sorted(found, key=lambda place: order.index(place) if place in order else len(order))


@lru_cache
def _linked(folder: str) -> list[str]:
    """Where the links in a folder of packages lead: some installers link every package, or every file, to one place."""
    found = []
    for entry in os.scandir(folder):
        if entry.is_symlink():
            found.append(os.path.realpath(entry.path))
        elif entry.is_dir():
            first = next((inside for inside in os.scandir(entry.path) if not inside.is_dir(follow_symlinks=False)), None)
            if first is not None and first.is_symlink():
                found.append(os.path.dirname(os.path.realpath(first.path)))
    secrets = [secret.resolve() for secret in _course_folders([folder])]
    return [
        place
        for place in dict.fromkeys(found)
        if os.path.exists(place) and not _meets(Path(place), [Path(folder), *secrets])
    ]


def _meets(place: Path, others: list[Path]) -> bool:
    """Whether it lies in one of the others, or one of them in it."""
    return any(place.is_relative_to(other) or other.is_relative_to(place) for other in others)


def to_cover(hidden: tuple[Path, ...], shown: list[str], packages: list[str]) -> list[Path]:
    """What lies inside a folder that is shown and must not be seen."""
    covered = [Path("/usr"), *map(Path, shown)]
    secrets = [secret.resolve() for secret in (*hidden, *_course_folders(packages))]
    return [
        secret
        for secret in secrets
        if secret.is_dir() and any(secret != place and secret.is_relative_to(place) for place in covered)
    ]


def _course_folders(packages: list[str]) -> list[Path]:
    """Where solutions lie: the course that runs, and copies among the packages, such as an editable install's data."""
    import course_utils

    return [*map(Path, course_utils.__path__), *(Path(folder, "course_utils") for folder in packages)]
