"""The packs to hand out: the learners', and the instructor's with answers, rubric, map, slides and the hidden cases' seed.

Everything is made from what the course runs on: exercises, quizzes, stored notebooks and recorded times. Nothing of the
instructor's pack is in the learners' one.
"""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path

from course_utils import costs
from course_utils.errors import CourseError
from course_utils.exercises.definitions import Exercise
from course_utils.exercises.quizzes import QUIZZES
from course_utils.exercises.registry import EXERCISES
from course_utils.grading import batch, nbgrader_course
from course_utils.grading.results import page, write
from course_utils.lessons import find, learner_file
from course_utils.publishing import builder
from course_utils.publishing.overview import overview
from course_utils.publishing.times import recorded

PACK = "pack.json"  # in each pack: what it is, and which files are its own
SLIDES = (
    "html{scroll-snap-type:y mandatory}body{margin:0;font:22px/1.4 system-ui,sans-serif;color:#222}"
    "section{box-sizing:border-box;min-height:100vh;padding:4vh 6vw;scroll-snap-align:start;break-after:page;display:flex;"
    "flex-direction:column;justify-content:center}h1{font-size:2.2em}h2{font-size:1.4em;margin:0 0 .5em}"
    "img{max-width:100%;height:62vh;object-fit:contain;align-self:center}p{font-size:.7em;color:#444}"
    "@page{size:landscape;margin:0}"
)


@dataclass(frozen=True)
class Released:
    """What `release` wrote.

    Attributes:
        learner, instructor: the packs' folders.
        sections: full names.
        seed: of the hidden cases.
    """

    learner: Path
    instructor: Path
    sections: tuple[str, ...]
    seed: int


def release(assignment: str, out: str | Path, seed: int | None = None) -> Released:
    """Write both packs.

    Args:
        assignment: "02", "02_lora", several with commas between, or "all".
        out: folder; its `learner/` and `instructor/` are replaced.
        seed: of the hidden cases; that of the pack before if None, else a new one.

    Raises:
        CourseError: unknown lesson, prices older than a year, a notebook older than its source, or an `out` whose folders
            hold something else.
    """
    sections, wanted = batch.exercises_of(assignment)
    if stale := [f"{name} ({day})" for name, day in costs.stale_prices(date.today())]:
        raise CourseError(
            f"prices older than a year: {', '.join(stale)}; read them again, date them anew in course_utils/costs.py, and "
            "run: course build 01"
        )
    out = Path(out)
    for section in sections:
        if builder.is_stale(section):
            raise CourseError(f"{section} is older than its source or its exercises; run: course build {section[:2]}")
    if (out / ".instructor.old").exists() and not (out / "instructor").exists():  # killed between two renames
        (out / ".instructor.old").rename(out / "instructor")
    seed = _seed(out / "instructor" / "seed.json", seed)
    packs = {name: out / name for name in ("learner", "instructor")}
    for folder in packs.values():
        others = _others(folder)
        if others:
            raise CourseError(f"{folder} has what no release of this course put there ({others[0]}); name another folder")
    making = {name: out / f".{name}.tmp" for name in packs}
    for folder in making.values():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    _learner(making["learner"], sections)
    _instructor(making["instructor"], sections, [EXERCISES[id] for id in wanted], assignment, seed)
    for name, folder in packs.items():
        files = sorted(str(file.relative_to(making[name])) for file in making[name].rglob("*") if file.is_file())
        write(making[name] / PACK, json.dumps({"pack": name, "assignment": sections, "files": files}, indent=1) + "\n")
        before = out / f".{name}.old"
        shutil.rmtree(before, ignore_errors=True)
        if folder.exists():
            folder.rename(before)
        making[name].rename(folder)
        shutil.rmtree(before, ignore_errors=True)
    return Released(out / "learner", out / "instructor", tuple(sections), seed)


def objectives(section: str) -> list[str]:
    """What the lesson promises: the list under "By the end you will be able to", one line each.

    Raises:
        CourseError: the lesson has no such list.
    """
    text = builder.instructor_edition(section).cells[0].source
    found = re.search(r"By the end you will be able to\n\n((?:-.*\n(?:  .*\n)*)+)", text + "\n")
    if not found:
        raise CourseError(f"{section} does not say what a learner will be able to do")
    return [" ".join(item.split()).rstrip(",.") for item in re.split(r"^- ", found[1], flags=re.MULTILINE)[1:]]


def figures_of(section: str) -> list[tuple[str, str]]:
    """(heading above it, HTML of the image with its alt text) of each figure in the stored notebook."""
    notebook = json.loads(learner_file(section).read_text(encoding="utf-8"))
    heading, found = "", []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heads = re.findall(r"^#{1,3} (.+)$", source, flags=re.MULTILINE)
            heading = heads[-1] if heads else heading
        for output in cell.get("outputs", []):
            html = "".join(output.get("data", {}).get("text/html", ""))
            found += [(heading, image) for image in re.findall(r"<img src=\"data:image/[^>]*>", html)]
    return found


def _seed(file: Path, seed: int | None) -> int:
    if seed is not None:
        return seed
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["seed"])
    except (FileNotFoundError, NotADirectoryError):
        return secrets.randbelow(2**31)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{file} cannot be read ({error}); say --seed, or remove it") from error


def _others(folder: Path) -> list[str]:
    """Files in a pack's place that are not a pack's."""
    try:
        known = set(json.loads((folder / PACK).read_text(encoding="utf-8"))["files"]) | {PACK}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    here = (str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())
    return sorted(file for file in here if file not in known and ".ipynb_checkpoints" not in file)


def _learner(folder: Path, sections: list[str]) -> None:
    for section in sections:
        shutil.copyfile(learner_file(section), _made(folder / "notebooks") / f"{section}.ipynb")
    rows = [row for row in overview() if row.lesson.name in sections]
    lines = [
        "# Teaching models new behaviours",
        "",
        f"Open a notebook in JupyterLab (`pip install '{builder.requirement('lab')}'`, then `course lab`), or by the button",
        "at its top in Colab or Binder, and run it from top to bottom. Exercises mark themselves. Hand in the notebook.",
        "",
        "| lesson | what you do | Run all, two CPU cores | exercises | file |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row.lesson.number} {row.lesson.title} | {row.lesson.promise} | {_minutes(row.minutes)} | {row.exercises} | "
            f"`notebooks/{row.file}` |"
            for row in rows
        ),
        "",
        "If something breaks: `course doctor` says what to mend.",
    ]
    write(folder / "README.md", "\n".join(lines) + "\n")


def _minutes(minutes: float | None) -> str:
    return "" if minutes is None else f"{minutes:.1f} minutes"


def _instructor(folder: Path, sections: list[str], exercises: list[Exercise], assignment: str, seed: int) -> None:
    for section in sections:
        builder.write(builder.instructor_edition(section), _made(folder / "notebooks") / f"{section}.ipynb")
        write(folder / "slides" / f"{section}.html", _slides(section))
    nbgrader_course.write_course(folder / "nbgrader", assignment)
    write(folder / "seed.json", json.dumps({"seed": seed}) + "\n")
    write(folder / "timings.csv", _table(_timings(sections)))
    write(folder / "objectives.csv", _table(_map(sections, exercises)))
    write(folder / "rubric.csv", _table(_rubric(exercises)))
    write(folder / "answers.html", page("Answers", "".join(map(_answer, exercises)) + "".join(map(_quiz_answers, sections))))
    write(folder / "README.md", _guide(sections, exercises, assignment, seed))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _table(rows: list[list]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _timings(sections: list[str]) -> list[list]:
    records = recorded()
    rows: list[list] = [["section", "tier", "seconds", "peak_mb", "date", "machine"]]
    for section in sections:
        for tier, record in records.get(section, {}).items():
            rows.append([section, tier, *(record[key] for key in ("seconds", "peak_mb", "date", "machine"))])
    return rows


def _map(sections: list[str], exercises: list[Exercise]) -> list[list]:
    """A row for each objective. One that no exercise practises is what the lesson's cells show, and the row says so."""
    rows: list[list] = [["section", "objective", "exercises", "points"]]
    for section in sections:
        own = [exercise for exercise in exercises if find(section).has(exercise.id)]
        for number, text in enumerate(objectives(section), 1):
            those = [exercise for exercise in own if number in exercise.objectives]
            names = " ".join(exercise.id for exercise in those) or "shown by the lesson's cells"
            rows.append([section, text, names, sum(exercise.points for exercise in those)])
    return rows


def _rubric(exercises: list[Exercise]) -> list[list]:
    import numpy as np

    rows: list[list] = [["exercise", "title", "points", "cases at least", "typical mistakes"]]
    for exercise in exercises:
        cases = len(list(exercise.cases(np.random.default_rng(0))))
        names = "; ".join(mistake.diagnosis for mistake in exercise.mistakes)
        rows.append([exercise.id, exercise.title, exercise.points, cases, names])
    return rows


def _answer(exercise: Exercise) -> str:
    source = [line for line in exercise.source().splitlines() if not line.strip().startswith("### ")]
    wrong = "".join(f"<li>{escape(mistake.diagnosis)}</li>" for mistake in exercise.mistakes)
    return (
        f"<section><h2>{escape(exercise.id)}: {escape(exercise.title)} ({exercise.worth})</h2>"
        f"<p>{escape(exercise.statement)}</p><pre>{escape(chr(10).join(source))}</pre>"
        f"<p>Hint on the third try: {escape(exercise.hint)}</p><p>Typical mistakes, as learners are told:</p>"
        f"<ul>{wrong}</ul>"
        "</section>"
    )


def _quiz_answers(section: str) -> str:
    parts = [f"<h2>Quiz of {escape(section)}</h2><ol>"]
    for question in QUIZZES[section[:2]]:
        letter, (text, _, why) = next((i, c) for i, c in zip("abcdefgh", question.choices) if c[1])
        parts.append(f"<li>{escape(question.text)}<br><b>{letter}</b>: {escape(text)} {escape(why)}</li>")
    return "".join(parts) + "</ol>"


def _slides(section: str) -> str:
    """A page that scrolls slide by slide and prints one a page: the aims, each figure, the quiz's questions."""
    title = find(section).title
    aims = "".join(f"<li>{escape(text)}</li>" for text in objectives(section))
    parts = [f"<section><h1>{escape(title)}</h1><ul>{aims}</ul></section>"]
    for heading, image in figures_of(section):
        said = re.search(r'alt="([^"]*)"', image)
        parts.append(f"<section><h2>{escape(heading)}</h2>{image}<p>{said[1] if said else ''}</p></section>")
    for question in QUIZZES[section[:2]]:
        choices = "".join(f"<li>{escape(text)}</li>" for text, _, _ in question.choices)
        parts.append(f'<section><h2>{escape(question.text)}</h2><ol type="a">{choices}</ol></section>')
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{SLIDES}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _guide(sections: list[str], exercises: list[Exercise], assignment: str, seed: int) -> str:
    points = sum(exercise.points for exercise in exercises)
    return f"""# For the instructor

{len(sections)} lessons, {len(exercises)} exercises, {points} points. Keep this folder to yourself: it has every answer.

| file | what |
| --- | --- |
| `notebooks/` | the lessons with solutions |
| `answers.html` | statements, solutions, hints and typical mistakes; the quizzes' answers |
| `rubric.csv` | points, cases, typical mistakes; points are for the share of cases right, if that is more than chance |
| `objectives.csv` | what each lesson promises, and which exercises practise it |
| `timings.csv` | recorded times and memory of Run all |
| `slides/` | each lesson's aims, figures and quiz; open in a browser, print to PDF |
| `nbgrader/` | the same exercises as nbgrader assignments, for a hub; see `course nbgrader --help` |
| `seed.json` | seed of the hidden cases: whoever knows it knows the inputs that answers are tried on |

Learners' check cells draw new cases at every run. For marks the hidden cases are drawn from the seed and the answer: the
same work gets the same mark, however often it is graded, and a changed answer meets cases that no feedback has shown:

    course grade {assignment} INBOX --out RESULTS --seed {seed}

It finds the answers in whatever was handed in, runs them in a sandbox, and writes feedback for each learner, tables for
Canvas, Moodle and Gradescope, the class's misconceptions, and a list of what a person has to look at. Another cohort gets
another seed: `course release {assignment} --out FOLDER --seed N`.
"""
