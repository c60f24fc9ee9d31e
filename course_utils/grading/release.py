"""Packs to hand out: the learners', and the instructor's with answers, rubric, times and the hidden seed.

Everything is generated from the course itself: exercises, quizzes, stored notebooks and recorded times. The learners' pack
contains nothing of the instructor's. It has the course's wheel for notebook hosts, the package as everybody gets it.
"""

from __future__ import annotations

import csv
import io
import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from course_utils.assets import render
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.exercises.definitions import Exercise
from course_utils.exercises.quizzes import questions
from course_utils.grading import batch, nbgrader_course
from course_utils.grading.results import write
from course_utils.lessons import FURTHER, find, learner_file
from course_utils.publishing import builder
from course_utils.publishing.wheel import write_wheel

PACK = "pack.json"  # in each pack: what it is, and which files are its own


@dataclass(frozen=True)
class Packs:
    """The packs that `release` has written.

    Attributes:
        learner, instructor: folders of the packs.
        sections: full names of the sections.
        seed: seed of the hidden cases.
    """

    learner: Path
    instructor: Path
    sections: tuple[str, ...]
    seed: int


def release(assignment: str, out: str | Path, seed: int | None = None) -> Packs:
    """Write the learners' pack and the instructor's.

    Args:
        assignment: "02", "02_lora", several of these separated by commas, or "all".
        out: output folder; its `learner/` and `instructor/` are replaced.
        seed: seed of the hidden cases; if None, that of an earlier pack, or else a new one.

    Raises:
        CourseError: a lesson is unknown, a notebook is older than its source, the packs' folders have other files, or pip
            cannot build the course's wheel.
    """
    sections, exercise_ids = batch.exercises_of(assignment)
    out = Path(out)
    for section in sections:
        if builder.is_stale(section):
            raise CourseError(f"{section} is older than its source or its exercises; run: course build {section[:2]}")
    if (out / ".instructor.old").exists() and not (out / "instructor").exists():  # killed between two renames
        (out / ".instructor.old").rename(out / "instructor")
    seed = _seed(out / "instructor" / "seed.json", seed)
    packs = {name: out / name for name in ("learner", "instructor")}
    for folder in packs.values():
        foreign = _foreign_files(folder)
        if foreign:
            raise CourseError(f"{folder} has files that no release of this course wrote ({foreign[0]}); name another folder")
    drafts = {name: out / f".{name}.tmp" for name in packs}
    for folder in drafts.values():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    _write_learner_pack(drafts["learner"], sections)
    _write_instructor_pack(drafts["instructor"], sections, [EXERCISES[id] for id in exercise_ids], assignment, seed)
    for name, folder in packs.items():
        files = sorted(str(file.relative_to(drafts[name])) for file in drafts[name].rglob("*") if file.is_file())
        write(drafts[name] / PACK, json.dumps({"pack": name, "assignment": sections, "files": files}, indent=1) + "\n")
        backup = out / f".{name}.old"
        shutil.rmtree(backup, ignore_errors=True)
        if folder.exists():
            folder.rename(backup)
        drafts[name].rename(folder)
        shutil.rmtree(backup, ignore_errors=True)
    return Packs(out / "learner", out / "instructor", tuple(sections), seed)


def _seed(file: Path, seed: int | None) -> int:
    if seed is not None:
        return seed
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["seed"])
    except (FileNotFoundError, NotADirectoryError):
        return secrets.randbelow(2**31)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{file} cannot be read ({error}); give --seed, or remove the file") from error


def _foreign_files(folder: Path) -> list[str]:
    """Files in a pack's folder that do not belong to a pack."""
    try:
        pack_files = set(json.loads((folder / PACK).read_text(encoding="utf-8"))["files"]) | {PACK}
    except (OSError, ValueError, KeyError, TypeError):
        pack_files = set()
    present = (str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())
    return sorted(file for file in present if file not in pack_files and ".ipynb_checkpoints" not in file)


def _write_learner_pack(folder: Path, sections: list[str]) -> None:
    beside = [lesson.name for number, lesson in FURTHER.items() if find(number[-2:]).name in sections]
    for name in (*sections, *beside):  # a lesson links to the notebook beside it, which isn't graded
        file = folder / "notebooks" / f"{name}.ipynb"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(learner_file(name), file)
    wheel = write_wheel(folder / "notebooks")  # where a notebook's install cell looks first
    values = {"wheel": wheel.name, "lessons": [(find(section), builder.recorded_run(section)) for section in sections]}
    exercises = {section: sum(map(find(section).has, EXERCISES)) for section in sections}
    write(folder / "README.md", render("templates/learner.md.j2", **values, exercises=exercises))


def _write_instructor_pack(folder: Path, sections: list[str], exercises: list[Exercise], assignment: str, seed: int) -> None:
    for section in sections:
        builder.write(builder.instructor_edition(section), folder / "notebooks" / f"{section}.ipynb")
    nbgrader_course.write_course(folder / "nbgrader", assignment)
    write(folder / "seed.json", json.dumps({"seed": seed}) + "\n")
    write(folder / "timings.csv", _table(_timings(sections)))
    write(folder / "rubric.csv", _table(_rubric(exercises)))
    write(folder / "answers.html", _answers(sections, exercises))
    values = {"lessons": len(sections), "exercises": exercises, "assignment": assignment, "seed": seed}
    write(folder / "README.md", render("templates/instructor.md.j2", **values))


def _table(rows: list[list]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _timings(sections: list[str]) -> list[list]:
    columns = ("tier", "seconds", "peak_mb", "date", "machine")
    runs = {section: builder.recorded_run(section) for section in sections}
    return [["section", *columns], *([section, *(run.get(key, "") for key in columns)] for section, run in runs.items())]


def _rubric(exercises: list[Exercise]) -> list[list]:
    import numpy as np

    rows: list[list] = [["exercise", "title", "points", "cases at least", "typical mistakes"]]
    for exercise in exercises:
        cases = len(list(exercise.cases(np.random.default_rng(0))))
        names = "; ".join(mistake.diagnosis for mistake in exercise.mistakes)
        rows.append([exercise.id, exercise.title, exercise.points, cases, names])
    return rows


def _answers(sections: list[str], exercises: list[Exercise]) -> str:
    """A page with the solution of each exercise and the right choice of each quiz question.

    Statements, hints, diagnoses and quizzes are Markdown, of the course's own.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False})
    solutions = []
    for exercise in exercises:
        source = [line for line in exercise.source().splitlines() if not line.strip().startswith("### ")]
        solutions.append((exercise, "\n".join(source)))
    quizzes = []
    for section in sections:
        answers = []
        for question in questions(section[:2]):
            letter, (choice, _, why) = next((i, c) for i, c in zip("abcdefgh", question.choices) if c[1])
            answers.append({"question": question.text, "letter": letter, "choice": choice, "why": why})
        quizzes.append((section, answers))
    return render(
        "templates/answers.html.j2",
        title="Answers",
        exercises=solutions,
        quizzes=quizzes,
        block=lambda text: Markup(markdown.render(text).replace("<pre>", '<pre tabindex="0">')),
        inline=lambda text: Markup(markdown.renderInline(text)),
    )
