"""Builds the book into a folder: a new one, an empty one, or one that an earlier build has written."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import __version__, assets, glossary
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.in_browser import on_page
from course_utils.lessons import FURTHER, LESSONS, NOTEBOOKS, Lesson
from course_utils.publishing import builder, calculators, languages, pyodide
from course_utils.publishing.book.lesson_pages import calculator_for, markdown_of, page_text, raw, source_of
from course_utils.show.calculators import CALCULATORS

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


# -- what Sphinx reads: the stored notebooks as they are, and pages from templates ------------------------------------------


TEMPLATES = "publishing/book/templates"
BINDER_MB = 1900  # of the 2 GB that mybinder.org allows at most; Jupyter itself needs some

_SHEET = re.compile(r"(?m)^(?P<title>(?:#+ |\*\*).*)\n\n(?P<sheet>(?:\|.*\n|- .*\n(?: +.*\n)*)+)")


def write_sources(folder: Path, python: float | None = None, language: str = "en") -> None:
    """Write everything that Sphinx reads into a new folder.

    Args:
        python: MB that a page loads before its Python starts; None if pages have no Python.
        language: of the lessons' prose.

    Raises:
        CourseError: a lesson's notebook is missing.
    """
    (folder / "notebooks/further").mkdir(parents=True)
    original = languages.write_all(language) if language != "en" else _notebook
    for lesson in NOTEBOOKS.values():
        shutil.copyfile(original(lesson.name), folder / "notebooks" / f"{lesson.name}.ipynb")
    for name, values in _pages(learning_path(), python).items():
        (folder / f"{name}.md").write_text(assets.render(f"{TEMPLATES}/{name}.md.j2", **values), encoding="utf-8")


def learning_path() -> list[dict[str, Any]]:
    """All lessons in order, with what the landing page and the cheat sheets say of them.

    Returns:
        For each lesson a dictionary: `lesson` itself; `title`, the heading of its page without the number; `reading` and
        `running`, minutes, the latter of a recorded run on two CPU cores or None; `exercises` and `points`, how many, and
        what they are worth; `on_page`, how many of them can be solved on a page with Python; `cheat_sheet`, Markdown of what
        it sums up in the end, empty if there is nothing.

    Raises:
        CourseError: a lesson has no title, or doesn't say how long reading takes.
    """
    path = []
    for lesson in LESSONS.values():
        texts = markdown_of(_notebook(lesson.name).read_text(encoding="utf-8"))
        title = re.search(r"^# (?:\d+ · )?(.+)$", "\n".join(texts), re.MULTILINE)
        reading = re.search(r"Reading takes\s+about\s+(\d+)\s+minutes", "\n".join(texts))
        if title is None or reading is None:
            raise CourseError(f"{lesson.name} has no title, or doesn't say that “Reading takes about N minutes”")
        seconds = builder.recorded_run(lesson.name).get("seconds")
        mine = [exercise for id, exercise in EXERCISES.items() if lesson.has(id)]
        path.append(
            {
                "lesson": lesson,
                "title": title[1],
                "reading": int(reading[1]),
                "running": seconds / 60 if seconds else None,
                "exercises": len(mine),
                "points": sum(exercise.points for exercise in mine),
                "on_page": sum(exercise.id in on_page() for exercise in mine),
                "cheat_sheet": cheat_sheet(texts),
            }
        )
    return path


def cheat_sheet(texts: list[str]) -> str:
    """Return the table or list with which a lesson's Markdown cells sum up what a learner can do now, or nothing."""
    for text in texts:
        for match in _SHEET.finditer(f"{text}\n"):
            if re.search(r"what you can do now|what you have seen", match["title"], re.IGNORECASE):
                return page_text(match["sheet"]).strip()
    return ""


def _pages(path: list[dict[str, Any]], python: float | None) -> dict[str, dict[str, Any]]:
    """Name of a page → what its template shows."""
    letters: dict[str, list[glossary.Term]] = {}
    for term in glossary.terms().values():
        letters.setdefault(term.name[0].upper() if term.name[0].isalpha() else "0-9", []).append(term)
    with_calculator: dict[str, list[Lesson]] = {}
    for lesson in LESSONS.values():
        cells = json.loads(_notebook(lesson.name).read_text(encoding="utf-8"))["cells"]
        for id in {calculator_for(source_of(cell)) for cell in cells}:
            with_calculator.setdefault(id, []).append(lesson)
    runs = [step["running"] for step in path]
    requirement = f"{assets.DISTRIBUTION}[grading] @ git+{assets.repository_url()}"
    record = assets.read_record("lora-seeds")
    # Above all code of lesson 02: a message, and the answers before and after training.
    above = markdown_of(_notebook(LESSONS["02"].name).read_text(encoding="utf-8"))[0]
    answers = re.search(r"^> .*?\n\n\|.*?(?=\n\n)", above, re.DOTALL | re.MULTILINE)
    scores = record["runs"][0]["scores"]  # shares of the test messages, which are 100
    fields = [100 * value for name, (value, *_) in scores.items() if name.endswith("exact match")]
    return {
        "index": {
            "path": path,
            "further": FURTHER,
            "reading": sum(step["reading"] for step in path),
            "running": None if None in runs else round(sum(run or 0 for run in runs)),
            "repository": assets.repository_url(),
            "colab": builder.colab_url(path[0]["lesson"].name),
            "binder": builder.binder_url(path[0]["lesson"].name),
            "words": len(glossary.terms()),
            # What the recorded model of the landing page's picture got right, by `benchmarks/lora_seeds.py`.
            "after": {
                "examples": record["plan"]["examples"],
                "asked": 100,
                "valid": round(100 * scores["valid format"][0]),
                "least": round(min(fields)),
                "most": round(max(fields)),
            },
            "before_and_after": answers[0] if answers else "",
            "too_large": [
                number
                for number, lesson in LESSONS.items()
                if builder.recorded_run(lesson.name).get("peak_mb", 0) > BINDER_MB
            ],
            "solved_here": len(on_page()) if python else 0,
        },
        "calculators": {
            "python": python,
            "calculators": [
                (calculator, raw(calculators.fragment(id, live=bool(python))), with_calculator.get(id, []))
                for id, calculator in CALCULATORS.items()
            ],
        },
        "glossary": {"letters": letters, "lessons": NOTEBOOKS, "count": len(glossary.terms())},
        "cheat-sheets": {"path": path},
        "instructors": {"path": path, "requirement": requirement},
    }


def _notebook(name: str) -> Path:
    return assets.path(f"notebooks/{name}.ipynb")
