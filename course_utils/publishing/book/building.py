"""Builds the book into a folder: a new one, an empty one, or one that an earlier build has written."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from course_utils import __version__, assets
from course_utils.errors import CourseError
from course_utils.publishing import calculators, pyodide
from course_utils.publishing.book.sources import write_sources

NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_copybutton", "sphinx_design", "latex2mathml")
MARK = "book.json"  # in a finished book: who wrote it, so that nobody's folder is ever replaced
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Book:
    """A finished book.

    Attributes:
        folder: where it is; `index.html` is its first page.
        pages: HTML pages, as paths below the folder, in alphabetical order.
        bytes: size of all files.
        seconds: how long the build took.
        warnings: what Sphinx found wrong, a line each; the pages are there all the same.
        live: whether its pages have Python, for calculators that answer and exercises that are checked.
    """

    folder: Path
    pages: tuple[str, ...]
    bytes: int
    seconds: float
    warnings: tuple[str, ...]
    live: bool


def build_book(out: str | Path, live: bool | None = None, language: str = "en") -> Book:
    """Build the book from the stored notebooks, without running anything.

    Args:
        out: folder for the website. It must be new, empty, or an earlier book, which is replaced as a whole at the end.
        live: whether pages get Python, which is Pyodide. True fetches it with npm unless it is in the course's cache; None
            takes it from there and fetches nothing; where it is not, or False, answers stay those of the build.
        language: of the lessons' prose and of the pages' buttons.

    Raises:
        CourseError: a library is missing (extra `book`), the folder has files that no book has, it cannot be written, Sphinx
            stopped, or Pyodide cannot be fetched.
    """
    start = time.monotonic()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise CourseError(f"the book needs {', '.join(missing)}: pip install '{assets.DISTRIBUTION}[book]'")
    out = Path(out).resolve()
    if out.exists() and not out.is_dir():
        raise CourseError(f"{out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).exists():
        raise CourseError(f"{out} has files and is no book of this course; name an empty or a new folder")
    runtime = (pyodide.prepare() if live else None) if live is not None else pyodide.at_hand()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".book-", dir=out.parent) as work:
            warnings = _run_sphinx(Path(work), runtime, language)
            html = Path(work) / "html"
            for file in [*html.rglob("*.map"), *(html / "_static").rglob("*.html")]:  # sources of the theme
                file.unlink()
            (html / ".nojekyll").touch()  # GitHub's pages would leave out folders that begin with _
            mark = {"book": assets.DISTRIBUTION, "version": __version__}
            (html / MARK).write_text(json.dumps(mark) + "\n", encoding="utf-8")
            _move(html, out)
    except OSError as error:
        raise CourseError(f"{out} cannot be written: {error}; name another folder") from error
    files = [file for file in out.rglob("*") if file.is_file()]
    pages = sorted(file.relative_to(out).as_posix() for file in files if file.suffix == ".html")
    size = sum(file.stat().st_size for file in files)
    return Book(out, tuple(pages), size, time.monotonic() - start, tuple(warnings), runtime is not None)


def _run_sphinx(work: Path, runtime: Path | None, language: str) -> list[str]:
    """Lay out the sources and build them into `work/html`; return Sphinx's warnings, without paths of this machine.

    What computes in pages is there first, as Sphinx looks at the files that pages load. It has a process of its own, since
    it changes the one that it runs in.
    """
    html, source, warned = work / "html", work / "source", work / "warnings"
    write_sources(source, pyodide.megabytes(runtime) if runtime else None, language)
    if runtime:
        calculators.write_static(html, runtime)
    else:
        calculators.write_style(html)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", str(HERE), "-d", str(work / "doctrees")]
    command += ["-D", f"book_live={int(runtime is not None)}", "-D", f"language={language}", "-w", str(warned)]
    command += [str(source), str(html)]
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": calculators.import_path()}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        last_lines = (run.stderr or run.stdout).strip().splitlines()[-8:]
        raise CourseError("\n".join(["Sphinx stopped:", *last_lines]))
    text = warned.read_text(encoding="utf-8") if warned.exists() else ""
    return [line.replace(f"{source}/", "") for line in text.splitlines() if line.strip()]


def _move(draft: Path, out: Path) -> None:
    """Put the draft in the folder's place; the old book is there until the new one is whole."""
    backup = draft.with_name("old")
    if out.exists():
        out.rename(backup)
    try:
        draft.rename(out)
    except OSError:
        if backup.exists():
            backup.rename(out)
        raise
    shutil.rmtree(backup, ignore_errors=True)
