"""Installs what a lesson needs and a notebook host lacks, without replacing anything that the host ships.

The versions of all installed packages are pip's constraints: pip may add packages but replace none. Plain pip would take the
newest TRL, which pulls newer versions of packages that the kernel has already loaded. Nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import assets
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def requirements(extras: str = "") -> list[Requirement]:
    """Return what the course requires on this machine, with the given extras (separated by commas).

    Raises:
        CourseError: the course is importable but not installed, or has no such extra.
    """
    from packaging.requirements import Requirement

    try:
        metadata = importlib.metadata.metadata(assets.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise CourseError(f"{assets.DISTRIBUTION} is not installed; run `pip install -e .` in the repository") from error
    names = [name.strip() for name in extras.split(",") if name.strip()]
    if unknown := set(names) - set(metadata.get_all("Provides-Extra") or ()):
        raise CourseError(f"the course has no extra {', '.join(sorted(unknown))}; see [project.optional-dependencies]")
    found = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": name}) for name in names or [""])]


def installed_version(name: str) -> str | None:
    """Return the version of a package that pip has installed, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def constraints() -> list[str]:
    """Return `name==version` for each installed package, once.

    Where a package is there twice (Colab: Ubuntu's and pip's), the first on the path is the one that is imported.
    """
    pins: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata["Name"]:
            pins.setdefault(re.sub(r"[-_.]+", "-", name).lower(), f"{name}=={distribution.version}")
    return list(pins.values())


def install_missing(extras: str = "") -> list[str]:
    """Install those requirements of the course that this machine lacks, and return them; prints nothing if there are none.

    Args:
        extras: the course's extras that are needed too, separated by commas.

    Raises:
        CourseError: a package is older than required, which would have to be replaced, or pip failed. Nothing is replaced.
    """
    missing, outdated = [], []
    for requirement in requirements(extras):
        version = installed_version(requirement.name)
        requirement.marker = None
        if version is None:
            missing.append(str(requirement))
        elif not requirement.specifier.contains(version, prereleases=True):
            outdated.append((str(requirement), version))
    if outdated:
        found = ", ".join(f"{asked}, and {version} is installed" for asked, version in outdated)
        upgrades = " ".join(f"'{asked}'" for asked, _ in outdated)
        raise CourseError(f"this lesson needs {found}. Run `%pip install {upgrades}`, then restart the kernel")
    if not missing:
        return []
    print(f"Installing what this lesson needs and this machine lacks: {', '.join(missing)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(constraints()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(file), *missing]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    importlib.invalidate_caches()
    if done.returncode:
        raise CourseError(
            f"pip could not install {', '.join(missing)}. It says:\n{done.stderr.strip()[-2000:]}\n"
            "If it cannot reach the package index, connect this machine to the internet (Kaggle: Settings, Internet on). "
            "Then run this cell again"
        )
    return missing
