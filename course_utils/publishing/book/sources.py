"""Lays out what Sphinx reads: the stored notebooks as they are, and pages from templates."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from course_utils import assets, glossary, lessons, pages
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.in_browser.answers import on_page
from course_utils.in_browser.calculators import CALCULATORS
from course_utils.languages import BOOK, SOURCE, current, say
from course_utils.lessons import LESSONS, Lesson
from course_utils.pages import render
from course_utils.publishing import builder, calculators, translating
from course_utils.publishing.book.lesson_pages import markdown_of, page_text, reading_minutes
from course_utils.publishing.book.outputs import dressed
from course_utils.publishing.book.twins import calculator_for, raw
from course_utils.publishing.markdown_messages import translated
from course_utils.publishing.objectives import objectives_in
from course_utils.publishing.times import BINDER_MB, load_times

TEMPLATES = "publishing/book/templates"
BEFORE_AND_AFTER = (
    "02",
    "before_and_after(",
)  # lesson whose first picture the landing page shows, and the call that makes it

# The API reference: heading → modules below course_utils that somebody calls from a notebook or a program.
API = {
    "Will it fit?": ("memory", "hardware", "quantization"),
    "Train": ("training", "models", "generation", "attention"),
    "Measure": ("evaluation", "retrieval", "scoring", "claims"),
    "Prepare data": (
        "data_prep", "data_prep.validation", "data_prep.pipeline", "data_prep.formats", "data_prep.quality",
        "data_prep.similarity", "data_prep.pii", "data_prep.label_noise", "data_prep.judging", "data_prep.synthesis",
        "data_report",
    ),
    "Decide and pay": ("decision", "costs"),
    "Serve": ("openai_server", "openai_server.constrained"),
    "Show": ("show", "charts", "figures", "drawings", "widgets", "glossary", "evidence"),
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
        objectives: what the learner will be able to do.
        cheat_sheet: Markdown of what it sums up in the end, empty if there is nothing.
    """

    lesson: Lesson
    title: str
    reading: int
    running: float | None
    exercises: int
    points: int
    on_page: int
    objectives: tuple[str, ...]
    cheat_sheet: str


def write_sources(folder: Path, python: float | None = None) -> None:
    """Write everything that Sphinx reads into a new folder, in the language that is spoken now.

    Args:
        folder: where to.
        python: MB that a page loads before its Python starts; None if pages have no Python.

    Raises:
        CourseError: a lesson's notebook is missing or does not say what a learner will be able to do.
    """
    (folder / "notebooks").mkdir(parents=True)
    _write_lessons(folder)
    for name, values in _pages(learning_path(), python).items():
        _write(folder / f"{name}.md", _page(name, values))
    for module in (module for modules in API.values() for module in modules):
        names = public_names(module)
        _write(folder / "api" / f"{module}.md", render(f"{TEMPLATES}/module.md.j2", module=module, names=names))


def write_paper_sources(folder: Path) -> None:
    """Write what Sphinx reads for a file without a network, in the language that is spoken now: what is there to be read.

    Args:
        folder: where to.

    Raises:
        CourseError: as `write_sources`.
    """
    (folder / "notebooks").mkdir(parents=True)
    _write_lessons(folder)
    values = _pages(learning_path(), None)
    for name, template in {"index": "paper", "glossary": "glossary", "cheat-sheets": "cheat-sheets"}.items():
        _write(folder / f"{name}.md", _page(template, values[name]))


def learning_path() -> list[PathStep]:
    """All lessons in order, with what the landing page and the cheat sheets say of them."""
    return [_step(lesson) for lesson in LESSONS.values()]


def cheat_sheet(texts: list[str], shown: list[str] | None = None) -> str:
    """Return the table or list with which a lesson sums up what a learner can do now, in Markdown; empty if it has none.

    Args:
        texts: Markdown cells of the lesson, in English: its heading is read.
        shown: the same cells in the language of the page, if that is another.
    """
    for text, translation in zip(texts, shown or texts):
        # Headings and what follows them come in the same order in every language.
        for match, translated_match in zip(_SHEET.finditer(f"{text}\n"), _SHEET.finditer(f"{translation}\n")):
            if re.search(r"what you can do now|what you have seen", match["title"], re.IGNORECASE):
                return page_text(translated_match["sheet"]).strip()
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


def before_and_after(pictures: dict[str, bytes], up: str = "") -> str:
    """HTML of a message and the answers before and after training, as the lesson stored them; empty if it has none."""
    number, call = BEFORE_AND_AFTER
    for cell in json.loads(_notebook(LESSONS[number]).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and call in "".join(cell["source"]):
            shown = [
                "".join(output["data"]["text/html"]) for output in cell["outputs"] if "text/html" in output.get("data", {})
            ]
            return dressed("".join(shown), pictures, up)
    return ""


def _write_lessons(folder: Path) -> None:
    for lesson in LESSONS.values():
        (folder / "notebooks" / f"{lesson.name}.ipynb").write_text(_notebook_text(lesson), encoding="utf-8")


def _page(template: str, values: dict[str, Any]) -> str:
    """A page from its template, in the language that is spoken now."""
    text = pages.source(f"{TEMPLATES}/{template}.md.j2")
    return pages.render_text(translated(text, lambda message: say(message, BOOK)), **values)


def _pages(path: list[PathStep], python: float | None) -> dict[str, dict[str, Any]]:
    """Name of a page → what its template shows."""
    letters: dict[str, list[glossary.Term]] = {}
    for term in glossary.terms().values():
        first = glossary.plain_letters(term.shown_name)[0][0].upper()
        letters.setdefault(first if first.isalpha() else "0-9", []).append(term)
    for terms in letters.values():
        terms.sort(key=lambda term: glossary.plain_letters(term.shown_name))
    letters = dict(sorted(letters.items()))
    minutes = sum(step.reading for step in path)
    runs = [step.running for step in path]
    return {
        "index": {
            "path": path,
            "reading": minutes,
            "running": None if None in runs else round(sum(run or 0 for run in runs)),
            "repository": assets.repository_url(),
            "requirement": builder.requirement("lab"),
            "colab": builder.colab_url(path[0].lesson.name),
            "binder": builder.binder_url(path[0].lesson.name),
            "words": len(glossary.terms()),
            "after": _after_training(),
            "too_large": [number for number, lesson in LESSONS.items() if _needs_more_than_binder(lesson)],
            "solved_here": len(on_page()) if python else 0,
            "language": translating.note(current()),
        },
        "calculators": {
            "python": python,
            "calculators": [
                (calculator, raw(calculators.fragment(id, live=bool(python))), _lessons_with(id))
                for id, calculator in CALCULATORS.items()
            ],
        },
        "glossary": {"letters": letters, "lessons": LESSONS, "count": len(glossary.terms()), "english": current() == SOURCE},
        "cheat-sheets": {"path": path},
        "instructors": {"path": path, "exercises": EXERCISES, "requirement": builder.requirement("grading")},
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


def _needs_more_than_binder(lesson: Lesson) -> bool:
    return bool(load_times().get(lesson.name, {}).get("cpu", {}).get("peak_mb", 0) > BINDER_MB)


def _lessons_with(calculator: str) -> list[Lesson]:
    """The lessons whose notebooks have the widget that a calculator is the twin of."""
    return [shown(lesson) for lesson in LESSONS.values() if calculator in _calculators_in(lesson)]


@cache
def _calculators_in(lesson: Lesson) -> set[str]:
    return {
        calculator_for("".join(cell["source"]))
        for cell in json.loads(_notebook(lesson).read_text(encoding="utf-8"))["cells"]
    }


def summary(module: str) -> str:
    """First sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(module_file(module).read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def _step(lesson: Lesson) -> PathStep:
    text = _notebook(lesson).read_text(encoding="utf-8")
    texts, translation = markdown_of(text), markdown_of(_notebook_text(lesson))
    title = re.search(r"^# (?:\d+ · )?(.+)$", "\n".join(translation), re.MULTILINE)
    record = load_times().get(lesson.name, {}).get("cpu")
    mine = [exercise for id, exercise in EXERCISES.items() if lesson.has(id)]
    return PathStep(
        shown(lesson),
        title[1] if title else say(lesson.title, BOOK),
        reading_minutes(text),
        record["seconds"] / 60 if record else None,
        len(mine),
        sum(exercise.points for exercise in mine),
        sum(exercise.id in on_page() for exercise in mine),
        tuple(_objectives(lesson, texts)),
        cheat_sheet(texts, translation),
    )


def _objectives(lesson: Lesson, texts: list[str]) -> list[str]:
    """What a lesson promises, from its stored text; in another language from its source, which has the same or newer."""
    if current() != SOURCE:
        cells = builder.learner_edition(lesson.name, language=current()).cells
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return objectives_in(texts, lesson.name)


def shown(lesson: Lesson) -> Lesson:
    """A lesson with title and promise in the language that is spoken now."""
    return replace(lesson, title=say(lesson.title, BOOK), promise=say(lesson.promise, BOOK))


def _notebook_text(lesson: Lesson) -> str:
    """The notebook that readers get, JSON: the stored one, or the same with its text translated."""
    if current() == SOURCE:
        return _notebook(lesson).read_text(encoding="utf-8")
    return _translated_text(lesson, current())


@cache
def _translated_text(lesson: Lesson, language: str) -> str:
    import nbformat

    text: str = nbformat.writes(translating.translated_notebook(lesson.name, language), version=4)
    return text + "\n"


def _notebook(lesson: Lesson) -> Path:
    return assets.path(f"notebooks/{lessons.learner_file(lesson.name).name}")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
