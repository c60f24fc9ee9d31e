"""Python for a page: Pyodide, from its npm package, fetched once and kept in the course's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.files import sha256
from course_utils.models.packaged import cache_folder

VERSION = "314.0.7"  # its Python is 3.14
SHA256 = "66b7949e5a0cba2250b586d7e368bf12fb482800748d182c4618254b685ffaa0"  # of the package
# What a page loads, of the package's 14 files: 13.5 MB, which a host that compresses sends as 6.
FILES = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
NOTICE = f"""Pyodide {VERSION}, unchanged: CPython and what it needs, compiled for browsers.
Licence: MPL-2.0 (Python's own parts: PSF-2.0). Source: github.com/pyodide/pyodide, tag {VERSION}.
"""


def at_hand() -> Path | None:
    """Return the folder with Pyodide's files as far as nothing has to be fetched for it, else None.

    It is at hand if it is in the course's cache, or if COURSE_PYODIDE names its package.

    Raises:
        CourseError: COURSE_PYODIDE names no file, or another package.
    """
    return prepare() if _is_whole(_folder()) or os.environ.get("COURSE_PYODIDE") else None


def megabytes(folder: Path) -> float:
    """Return how much a page loads before its Python starts, in MB, as far as a host does not compress it."""
    return sum((folder / name).stat().st_size for name in FILES) / 1e6


def prepare() -> Path:
    """Return the folder with Pyodide's files; fetches the package if it is not in the cache yet.

    Raises:
        CourseError: there is no npm, no package index, or the package is not the expected one; the message says what to do.
    """
    folder = _folder()
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=folder.parent, ignore_cleanup_errors=True) as scratch:
        package = _package(Path(scratch))
        if sha256(package) != SHA256:
            raise CourseError(f"{package.name} is not the Pyodide that the course was tested with; it was not used")
        with tarfile.open(package) as archive:
            archive.extractall(scratch, filter="data")
        unpacked = Path(scratch) / "package"  # as npm names it
        (unpacked / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            unpacked.rename(folder)
        except OSError:
            if not _is_whole(folder):  # else another process was quicker
                raise
    return folder


def _folder() -> Path:
    return cache_folder() / f"pyodide-{VERSION}"


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _package(scratch: Path) -> Path:
    """The package, from the file that COURSE_PYODIDE names or from the index that npm is set up for."""
    if named := os.environ.get("COURSE_PYODIDE"):
        if not Path(named).is_file():
            raise CourseError(f"COURSE_PYODIDE names {named}, which does not exist")
        return Path(named)
    npm = shutil.which("npm")
    advice = f"run `npm pack pyodide@{VERSION}` elsewhere and set COURSE_PYODIDE to the file"
    if npm is None:
        raise CourseError(
            f"pages compute with Pyodide, which is fetched with npm, and npm is not installed: install it, or {advice}"
        )
    command = [npm, "pack", f"pyodide@{VERSION}", "--silent", "--pack-destination", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    packages = list(scratch.glob("*.tgz"))
    if done.returncode or len(packages) != 1:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CourseError(f"cannot fetch Pyodide: npm says {last_line!r}. Connect to a package index once, or {advice}")
    return packages[0]
