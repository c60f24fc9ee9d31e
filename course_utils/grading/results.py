"""The files a grading writes for each learner: `results.json` in Gradescope's format, and `feedback.html`, one page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from course_utils.exercises.registry import EXERCISES
from course_utils.files import write_whole
from course_utils.grading.intake import Answers, Submission
from course_utils.grading.marking import Mark
from course_utils.pages import render

RESULTS, FEEDBACK = "results.json", "feedback.html"


@dataclass(frozen=True)
class ResultKey:
    """Everything that a learner's results depend on.

    Attributes:
        assignment: full names of the sections.
        isolation: what separated the answers from the machine: "bubblewrap", "docker" or "none".
        digest: hash of the submission, the exercises, the seed and the limits; "" to grade the submission again next time.
    """

    assignment: tuple[str, ...]
    isolation: str
    digest: str


def write(file: Path, text: str) -> None:
    """Write a file completely or not at all; a file that has this content already is not touched."""
    data = text.encode("utf-8", "replace")
    try:
        if file.read_bytes() == data:
            return
    except OSError:
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, data)


def read(folder: Path) -> dict | None:
    """Return a learner's results, or None if they are missing or incomplete."""
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        return results if results["extra_data"]["key"] is not None and (folder / FEEDBACK).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def compose(submission: Submission, answers: Answers, marks: dict[str, Mark], key: ResultKey, seconds: float) -> dict:
    """Put the results together in Gradescope's format; `score` is None if nothing could be graded.

    Args:
        submission: the learner's submission.
        answers: the answers in it.
        marks: exercise id → mark, in the assignment's order; empty if nothing could be graded.
        key: everything that the results depend on.
        seconds: how long grading took.
    """
    learner, notes = submission.learner, submission.notes
    missing_ids = [id for id, mark in marks.items() if mark.outcome == "missing"]
    problems = list(answers.problems)
    if missing_ids:
        problems.append(f"no answer cell for {', '.join(missing_ids)}")
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
    not_graded = "" if marks else f"Not graded; a person will look at it: {'; '.join(problems)}."
    return {
        "score": score,
        "output": not_graded or "; ".join([*notes, *answers.notes, *problems]),
        "visibility": "visible",
        "execution_time": round(seconds, 2),
        "tests": tests,
        "extra_data": {
            "learner": learner,
            "name": submission.name,
            "clash": submission.clash,
            "assignment": list(key.assignment),
            "files": answers.files,
            "outcomes": {id: mark.outcome for id, mark in marks.items()},
            "mistakes": {id: mark.mistake for id, mark in marks.items() if mark.mistake},
            "notes": [*notes, *answers.notes],
            "problems": problems,
            "isolation": key.isolation,
            "no_new_processes": all(mark.sealed is not False for mark in marks.values()),
            "key": key.digest,
        },
    }


def save(folder: Path, results: dict) -> None:
    """Write both files of a learner, the results last, because they mark this learner's grading as complete."""
    write(folder / FEEDBACK, feedback(results))
    write(folder / RESULTS, json.dumps(results, ensure_ascii=False, indent=1) + "\n")


def remove_others(folder: Path, learners: set[str]) -> None:
    """Remove the results of everybody but these learners: their files went from the inbox, or have other names now.

    Only files that a grading has written are removed, and a folder only if nothing else is in it.

    Args:
        folder: the folder that has a folder for each learner.
        learners: whose results stay.
    """
    for other in sorted(folder.iterdir()) if folder.is_dir() else []:
        if other.name in learners or other.is_symlink() or not _written_by_a_grading(other):
            continue
        for name in (RESULTS, FEEDBACK):
            (other / name).unlink(missing_ok=True)
        if not any(other.iterdir()):
            other.rmdir()


def _written_by_a_grading(folder: Path) -> bool:
    try:
        return json.loads((folder / RESULTS).read_text(encoding="utf-8"))["extra_data"]["learner"] == folder.name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def feedback(results: dict) -> str:
    """Return the learner's page as HTML."""
    if results["score"] is None:
        verdict = "not graded"
    else:
        verdict = f"{results['score']:g} of {sum(test['max_score'] for test in results['tests']):g} points"
    title = f"{results['extra_data']['learner']}: {verdict}"
    return render("grading/templates/feedback.html.j2", title=title, results=results)
