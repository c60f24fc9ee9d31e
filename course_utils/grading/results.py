"""What a grading leaves for each learner: `results.json` in Gradescope's form, and `feedback.html`, one page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path

from course_utils.exercises.registry import EXERCISES
from course_utils.files import write_whole
from course_utils.grading.intake import Answers, Submission
from course_utils.grading.marking import Mark

RESULTS, FEEDBACK = "results.json", "feedback.html"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.4rem;text-align:left;"
    "vertical-align:top}section{border-left:4px solid #D55E00;padding:.2rem 1rem;margin:1rem 0}"
    "section.right{border-color:#009E73}small{color:#555}pre{overflow-x:auto}"
)


@dataclass(frozen=True)
class Key:
    """What the results depend on.

    Attributes:
        assignment: full names of the sections.
        seed: of the random cases.
        isolation: "bubblewrap", "docker" or "none".
        digest: hash of the submission, the exercises, the seed and the limits; "" if it is to be graded again next time.
    """

    assignment: tuple[str, ...]
    seed: int
    isolation: str
    digest: str


def write(file: Path, text: str) -> None:
    """Write beside the place and rename; a file that says the same already is not touched."""
    data = text.encode("utf-8", "replace")
    try:
        if file.read_bytes() == data:
            return
    except OSError:
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, data)


def read(folder: Path) -> dict | None:
    """A learner's results, or None if there are none that are whole."""
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        return found if found["extra_data"]["key"] is not None and (folder / FEEDBACK).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def made(submission: Submission, answers: Answers, marks: dict[str, Mark], key: Key, seconds: float) -> dict:
    """Results in Gradescope's form; `score` is None if nothing could be graded.

    Args:
        submission: whose.
        answers: what was found.
        marks: exercise id → mark, in the assignment's order; empty if nothing could be graded.
        key: what they depend on.
        seconds: how long it took.
    """
    learner, notes = submission.learner, submission.notes
    lacking = [id for id, mark in marks.items() if mark.outcome == "missing"]
    problems = list(answers.problems)
    if lacking:
        problems.append(f"no answer cell for {', '.join(lacking)}")
    problems += [f"{id} {mark.message}" for id, mark in marks.items() if mark.outcome == "not graded"]
    tests = []
    for id, mark in marks.items():
        exercise = EXERCISES[id]
        remarks = [*answers.notes_on.get(id, []), *mark.notes]
        text = mark.message + "".join(f"\nNote: {remark}." for remark in remarks)
        if mark.outcome in ("wrong", "partly"):
            text += f"\nHint: {exercise.hint}"
        tests.append(
            {
                "name": f"{id}: {exercise.title}",
                "number": id,
                "score": mark.points,
                "max_score": float(exercise.points),
                "status": "passed" if mark.outcome == "right" else "failed",
                "output": text,
                "visibility": "visible",
            }
        )
    score = round(sum(mark.points for mark in marks.values()), 2) if marks else None
    said = "" if marks else f"Not graded; a person will look at it: {'; '.join(problems)}."
    return {
        "score": score,
        "output": said or "; ".join([*notes, *answers.notes, *problems]),
        "visibility": "visible",
        "execution_time": round(seconds, 2),
        "tests": tests,
        "extra_data": {
            "learner": learner,
            "clash": submission.clash,
            "assignment": list(key.assignment),
            "files": answers.files,
            "outcomes": {id: mark.outcome for id, mark in marks.items()},
            "mistakes": {id: mark.mistake for id, mark in marks.items() if mark.mistake},
            "notes": [*notes, *answers.notes],
            "problems": problems,
            "seed": key.seed,
            "isolation": key.isolation,
            "no_new_processes": all(mark.sealed is not False for mark in marks.values()),
            "key": key.digest,
        },
    }


def save(folder: Path, results: dict) -> None:
    """Write both files; the results last, since they say that the grading of this learner is complete."""
    write(folder / FEEDBACK, feedback(results))
    write(folder / RESULTS, json.dumps(results, ensure_ascii=False, indent=1) + "\n")


def feedback(results: dict) -> str:
    """The learner's page."""
    data = results["extra_data"]
    most = sum(test["max_score"] for test in results["tests"])
    parts = []
    if results["score"] is None:
        head = "not graded"
    else:
        head = f"{results['score']:g} of {most:g} points"
    if results["output"]:
        parts.append(f"<p>{escape(results['output'])}</p>")
    for test in results["tests"]:
        right = test["status"] == "passed"
        lines = "<br>".join(escape(line) for line in test["output"].splitlines())
        parts.append(
            f"<section class={'right' if right else 'other'}><h2>{escape(test['name'])}</h2><p><b>{test['score']:g} of "
            f"{test['max_score']:g} points ({'passed' if right else 'not yet'}).</b></p><p>{lines}</p></section>"
        )
    cage = "in a sandbox" if data["isolation"] != "none" else "without a sandbox, as trusted"
    parts.append(f"<p><small>Assignment {escape(', '.join(data['assignment']))}; ran {cage}.</small></p>")
    return page(f"{data['learner']}: {head}", "".join(parts))


def page(title: str, body: str) -> str:
    """A self-contained HTML page; `body` is HTML, `title` is text."""
    title = escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
        f"<body><h1>{title}</h1>{body}</body></html>\n"
    )
