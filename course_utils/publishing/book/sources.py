"""Lays out what Sphinx reads: the stored notebooks as they are, and pages from templates."""

from __future__ import annotations

import ast
import json
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from course_utils import assets, glossary
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.in_browser import on_page
from course_utils.lessons import FURTHER, LESSONS, NOTEBOOKS, Lesson
from course_utils.pages import render
from course_utils.publishing import builder, calculators, languages
from course_utils.publishing.book.lesson_pages import markdown_of, page_text, reading_minutes
from course_utils.publishing.book.twins import calculator_for, raw
from course_utils.show.calculators import CALCULATORS

TEMPLATES = "publishing/book/templates"
BINDER_MB = 1900  # of the 2 GB that mybinder.org allows at most; Jupyter itself needs some

# The API reference: heading → modules below course_utils that somebody calls from a notebook or a program.
API = {
    "Will it fit?": ("memory", "hardware", "quantization"),
    "Train": ("preflight", "training", "models", "generation", "attention"),
    "Measure": ("evaluation", "retrieval", "scoring", "claims"),
    "Prepare data": (
        "data_prep", "data_prep.validation", "data_prep.pipeline", "data_prep.formats", "data_prep.quality",
        "data_prep.similarity", "data_prep.pii", "data_report",
    ),
    "Decide and pay": ("decision", "costs", "facts", "assets"),
    "Serve": ("export", "roundtrip", "openai_server"),
    "Show": ("show", "show.calculators", "charts", "figures", "glossary", "evidence"),
    "Teach": ("exercises", "plans", "publishing", "publishing.book", "release", "grading.batch"),
}  # fmt: skip


_SHEET = re.compile(r"(?m)^(?P<title>(?:#+ |\*\*).*)\n\n(?P<sheet>(?:\|.*\n|- .*\n(?: +.*\n)*)+)")


@dataclass(frozen=True)
class PathStep:
    """A lesson on the learning path.

    Attributes:
        lesson: which one.
        title: heading of its page, without the number.
        reading, running: minutes; running is a recorded run on two CPU cores, None if there is none.
        exercises, points: how many, and what they are worth.
        on_page: how many of them can be solved on the page where it has Python.
        cheat_sheet: Markdown of what it sums up in the end, empty if there is nothing.
    """

    lesson: Lesson
    title: str
    reading: int
    running: float | None
    exercises: int
    points: int
    on_page: int
    cheat_sheet: str


def write_sources(folder: Path, python: float | None = None, language: str = "en") -> None:
    """Write everything that Sphinx reads into a new folder.

    Args:
        folder: where to.
        python: MB that a page loads before its Python starts; None if pages have no Python.
        language: of the lessons' prose.

    Raises:
        CourseError: a lesson's notebook is missing.
    """
    (folder / "notebooks/further").mkdir(parents=True)
    translated = languages.write_all(language) if language != "en" else None
    for lesson in NOTEBOOKS.values():
        shutil.copyfile(
            translated(lesson.name) if translated else _notebook(lesson.name), folder / "notebooks" / f"{lesson.name}.ipynb"
        )
    for name, values in _pages(learning_path(), python).items():
        _write(folder / f"{name}.md", render(f"{TEMPLATES}/{name}.md.j2", **values))
    for module in (module for modules in API.values() for module in modules):
        names = public_names(module)
        _write(folder / "api" / f"{module}.md", render(f"{TEMPLATES}/module.md.j2", module=module, names=names))


def learning_path() -> list[PathStep]:
    """All lessons in order, with what the landing page and the cheat sheets say of them."""
    return [_step(lesson) for lesson in LESSONS.values()]


def cheat_sheet(texts: list[str]) -> str:
    """Return the table or list with which a lesson sums up what a learner can do now, in Markdown; empty if it has none.

    Args:
        texts: Markdown cells of the lesson.
    """
    for text in texts:
        for match in _SHEET.finditer(f"{text}\n"):
            if re.search(r"what you can do now|what you have seen", match["title"], re.IGNORECASE):
                return page_text(match["sheet"]).strip()
    return ""


def public_names(module: str) -> list[str]:
    """Names that a module offers, read from its source without importing it.

    Those of `__all__` where it is written out, else what it defines without a leading underscore; empty where names are
    imported on first use.
    """
    tree = ast.parse(module_file(module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value)) if isinstance(node.value, ast.List) else []
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def module_file(module: str) -> Path:
    """Path of a module below course_utils, such as "data_prep.quality".

    Raises:
        CourseError: there is no such module.
    """
    base = assets.PACKAGE.joinpath(*module.split("."))
    for file in (base / "__init__.py", base.with_suffix(".py")):
        if file.exists():
            return file
    raise CourseError(f"there is no module course_utils.{module}")


def before_and_after() -> str:
    """Return the Markdown above all code of lesson 02: a message, and the answers before and after training."""
    cells = json.loads(_notebook(LESSONS["02"].name).read_text(encoding="utf-8"))["cells"]
    found = re.search(r"^> .*?\n\n\|.*?(?=\n\n)", "".join(cells[0]["source"]), re.DOTALL | re.MULTILINE)
    return found[0] if found else ""


def _pages(path: list[PathStep], python: float | None) -> dict[str, dict[str, Any]]:
    """Name of a page → what its template shows."""
    letters: dict[str, list[glossary.Term]] = {}
    for term in glossary.terms().values():
        letters.setdefault(term.name[0].upper() if term.name[0].isalpha() else "0-9", []).append(term)
    minutes = sum(step.reading for step in path)
    runs = [step.running for step in path]
    return {
        "index": {
            "path": path,
            "further": FURTHER,
            "reading": minutes,
            "running": None if None in runs else round(sum(run or 0 for run in runs)),
            "repository": assets.repository_url(),
            "requirement": builder.requirement("lab"),
            "colab": builder.colab_url(path[0].lesson.name),
            "binder": builder.binder_url(path[0].lesson.name),
            "words": len(glossary.terms()),
            "after": _after_training(),
            "before_and_after": before_and_after(),
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
                (calculator, raw(calculators.fragment(id, live=bool(python))), _lessons_with(id))
                for id, calculator in CALCULATORS.items()
            ],
        },
        "glossary": {"letters": letters, "lessons": NOTEBOOKS, "count": len(glossary.terms())},
        "cheat-sheets": {"path": path},
        "instructors": {"path": path, "requirement": builder.requirement("grading")},
        "api/index": {"groups": {title: [(name, summary(name)) for name in modules] for title, modules in API.items()}},
    }


def _after_training() -> dict[str, int]:
    """What the recorded model of the landing page's picture got right, by `benchmarks/lora_seeds.py`."""
    record = json.loads(assets.benchmark_results("lora-seeds").read_text(encoding="utf-8"))
    scores = record["runs"][0]["scores"]  # shares of the test messages, which are 100
    fields = [100 * value for name, (value, *_) in scores.items() if name.endswith("exact match")]
    return {
        "examples": record["plan"]["examples"],
        "asked": 100,
        "valid": round(100 * scores["valid format"][0]),
        "least": round(min(fields)),
        "most": round(max(fields)),
    }


def _lessons_with(calculator: str) -> list[Lesson]:
    """The lessons whose notebooks have the widget that a calculator is the twin of."""
    return [lesson for lesson in LESSONS.values() if calculator in _calculators_in(lesson)]


@cache
def _calculators_in(lesson: Lesson) -> set[str]:
    return {
        calculator_for("".join(cell["source"]))
        for cell in json.loads(_notebook(lesson.name).read_text(encoding="utf-8"))["cells"]
    }


def summary(module: str) -> str:
    """First sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(module_file(module).read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def _step(lesson: Lesson) -> PathStep:
    text = _notebook(lesson.name).read_text(encoding="utf-8")
    texts = markdown_of(text)
    title = re.search(r"^# (?:\d+ · )?(.+)$", "\n".join(texts), re.MULTILINE)
    seconds = builder.recorded_run(lesson.name).get("seconds")
    mine = [exercise for id, exercise in EXERCISES.items() if lesson.has(id)]
    return PathStep(
        lesson,
        title[1] if title else lesson.title,
        reading_minutes(text),
        seconds / 60 if seconds else None,
        len(mine),
        sum(exercise.points for exercise in mine),
        sum(exercise.id in on_page() for exercise in mine),
        cheat_sheet(texts),
    )


def _notebook(name: str) -> Path:
    return assets.path(f"notebooks/{name}.ipynb")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
