"""The folders of this machine that an answer can see: the course's own Python, numpy and torch, and nothing else."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement


def _interpreter_folders() -> list[str]:
    """The interpreter's own folders, unless they are in /usr, which is visible anyway."""
    folder = os.path.realpath(sys.base_prefix)
    return [] if Path(folder).is_relative_to("/usr") else [folder]


def shown_folders() -> list[str]:
    """Folders of this machine that an answer can see beside the system's, each under its own path."""
    folders = package_folders()
    links = [target for folder in folders for target in _linked(folder)]
    return list(dict.fromkeys([*_interpreter_folders(), *folders, *links]))


@lru_cache
def package_folders() -> list[str]:
    """Folders that hold numpy, torch and their dependencies, in the order in which Python searches them."""
    folders, pending, visited = set(), ["numpy", "torch"], set()
    while pending:
        name = pending.pop()
        if name in visited:
            continue
        visited.add(name)
        spec = find_spec(name) if name in ("numpy", "torch") else None
        if spec and spec.origin:
            folders.add(os.path.realpath(Path(spec.origin).parent.parent))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        folders.add(os.path.realpath(str(package.locate_file(""))))
        for requirement_text in package.requires or ():
            required = Requirement(requirement_text)
            if not required.marker or required.marker.evaluate({"extra": ""}):
                pending.append(required.name)
    order = [os.path.realpath(path) for path in sys.path]
    return sorted(folders, key=lambda path: order.index(path) if path in order else len(order))


@lru_cache
def _linked(folder: str) -> list[str]:
    """Targets of the links in a folder of packages: some installers link every package or file to a shared folder."""
    targets = []
    for entry in os.scandir(folder):
        if entry.is_symlink():
            targets.append(os.path.realpath(entry.path))
        elif entry.is_dir():
            first = next((inside for inside in os.scandir(entry.path) if not inside.is_dir(follow_symlinks=False)), None)
            if first is not None and first.is_symlink():
                targets.append(os.path.dirname(os.path.realpath(first.path)))
    secrets = [secret.resolve() for secret in _course_folders([folder])]
    return [
        target
        for target in dict.fromkeys(targets)
        if os.path.exists(target) and not _meets(Path(target), [Path(folder), *secrets])
    ]


def _meets(path: Path, others: list[Path]) -> bool:
    """Whether the path lies inside one of the others, or one of them inside it."""
    return any(path.is_relative_to(other) or other.is_relative_to(path) for other in others)


def to_cover(hidden: tuple[Path, ...], shown: list[str], packages: list[str]) -> list[Path]:
    """Secret folders that lie inside a visible folder and must therefore be covered."""
    visible = [Path("/usr"), *map(Path, shown)]
    secrets = [secret.resolve() for secret in (*hidden, *_course_folders(packages))]
    return [
        secret
        for secret in secrets
        if secret.is_dir() and any(secret != folder and secret.is_relative_to(folder) for folder in visible)
    ]


def _course_folders(packages: list[str]) -> list[Path]:
    """Folders that hold solutions: the running course, and copies among the packages, such as an editable install's data."""
    import course_utils

    return [*map(Path, course_utils.__path__), *(Path(folder, "course_utils") for folder in packages)]
