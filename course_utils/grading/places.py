"""The folders of this machine that an answer can see: Python, the libraries that answers may use, and nothing else.

A folder of packages holds all that is installed, and some of it does an exercise. So such a folder is shown empty but for
the libraries of `exercises.libraries.GENERAL` and what they need.
"""

from __future__ import annotations

import csv
import os
import re
import site
import sys
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from course_utils.exercises.libraries import GENERAL


def _interpreter_folders() -> list[str]:
    """The interpreter's own folders, unless they are in /usr, which is visible anyway."""
    folder = os.path.realpath(sys.base_prefix)
    return [] if Path(folder).is_relative_to("/usr") else [folder]


def shown() -> list[str]:
    """Return the paths on this machine that an answer can see beside the system's folders.

    Each is visible under its own path.
    """
    return list(dict.fromkeys([*_interpreter_folders(), *_library_entries(), *_links()]))


def shown_folders() -> list[str]:
    """Return the same places as fewer folders.

    They are the folders of packages, as an answer sees them, instead of each library in them.
    """
    return list(dict.fromkeys([*_interpreter_folders(), *package_folders(), *_links()]))


@lru_cache
def package_folders() -> list[str]:
    """Return the folders that hold the libraries that answers may use, in the order in which Python searches them."""
    order = [os.path.realpath(path) for path in sys.path]
    folders = {os.path.dirname(entry) for entry in _library_entries()}
    return sorted(folders, key=lambda path: (order.index(path) if path in order else len(order), path))


@lru_cache
def emptied_folders() -> list[str]:
    """Return the folders of packages that a sandbox must show empty except for the libraries.

    They are the course's and the system's own.
    """
    roots = [sys.base_prefix, sys.base_exec_prefix]
    local = map(str, Path("/usr/local/lib").glob("python3*/*-packages"))
    system = [*site.getsitepackages(roots), "/usr/lib/python3/dist-packages", *local]
    visible = ["/usr", *_interpreter_folders()]
    folders = [os.path.realpath(folder) for folder in system if os.path.isdir(folder)]
    return sorted({*package_folders(), *(folder for folder in folders if _is_inside(folder, visible))})


@lru_cache
def _library_entries() -> tuple[str, ...]:
    """Every file and folder, directly in a folder of packages, of the libraries and of all that they require."""
    entries, pending, visited = dict[str, None](), list(GENERAL), set()
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in visited:
            continue
        visited.add(name)
        try:
            package_metadata = distribution(name)
        except PackageNotFoundError:
            continue
        entries |= dict.fromkeys(_entries_of(package_metadata))
        for requirement_text in package_metadata.requires or ():
            required = Requirement(requirement_text)
            if not required.marker or required.marker.evaluate({"extra": ""}):
                pending.append(required.name)
    return tuple(entries)


def _entries_of(package: Distribution) -> list[str]:
    """The package's files and folders that stand directly in its folder of packages."""
    folder = os.path.realpath(str(package.locate_file("")))
    if listed := package.read_text("RECORD"):  # read as it stands: making paths of torch's 15,000 lines takes long
        names = {row[0].replace("\\", "/").partition("/")[0] for row in csv.reader(listed.splitlines()) if row}
    else:
        tops = (package.read_text("top_level.txt") or package.metadata["Name"].replace("-", "_")).split()
        names = {*tops, *(f"{top}.py" for top in tops)}
    return [
        os.path.join(folder, name)
        for name in sorted(names - {"", ".", "..", "__pycache__", "course_utils"})
        if os.path.exists(os.path.join(folder, name))
    ]


@lru_cache
def _links() -> tuple[str, ...]:
    """Where the files of the libraries lie if each is a link: some installers link every file to a shared folder."""
    others = [*map(Path, package_folders()), *(secret.resolve() for secret in _course_folders())]
    targets = []
    for entry in filter(os.path.isdir, _library_entries()):
        first = next((inside for inside in os.scandir(entry) if not inside.is_dir(follow_symlinks=False)), None)
        if first is not None and first.is_symlink():
            target = Path(os.path.realpath(first.path)).parent
            if target.exists() and not any(target.is_relative_to(o) or o.is_relative_to(target) for o in others):
                targets.append(str(target))
    return tuple(dict.fromkeys(targets))


def _is_inside(path: str | Path, folders: list[str]) -> bool:
    return any(str(path) != folder and Path(path).is_relative_to(folder) for folder in folders)


def to_cover(hidden: tuple[Path, ...]) -> list[Path]:
    """Return the secret folders that lie inside something visible and must therefore be covered.

    Args:
        hidden: folders that no answer may see, in addition to those of the course.
    """
    secrets = [secret.resolve() for secret in (*hidden, *_course_folders())]
    libraries = [*_library_entries()]
    elsewhere = [path for path in ("/usr", *shown()) if path not in libraries]
    return [
        secret
        for secret in secrets
        if secret.is_dir()
        and (_is_inside(secret, libraries) or (_is_inside(secret, elsewhere) and not _is_inside(secret, emptied_folders())))
    ]


def _course_folders() -> list[Path]:
    """Folders that hold solutions: the running course, and copies among the packages, such as an editable install's data."""
    import course_utils

    return [*map(Path, course_utils.__path__), *(Path(folder, "course_utils") for folder in package_folders())]
