"""The files a grading writes for each learner: `results.json` in Gradescope's format, and `feedback.html`, one page."""

from __future__ import annotations

import json
from pathlib import Path

from course_utils.assets import render
from course_utils.exercises import EXERCISES
from course_utils.files import write_whole
from course_utils.grading.intake import Answers, Submission
from course_utils.grading.marking import Mark
from course_utils.lessons import find

NOT_YOURS = "could not be graded, for a reason that is not yours; your instructor has been told."
AGAIN = "; the learner's row is empty in every table: call again, and do not import before"
RESULTS, FEEDBACK = "results.json", "feedback.html"


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


def compose(
    submission: Submission,
    answers: Answers,
    marks: dict[str, Mark],
    assignment: list[str],
    isolation: str,
    key: str,
    seconds: float,
) -> dict:
    """Put the results together in Gradescope's format.

    As long as one answer could not be graded, there is no mark: `score` is None, and so is that of each test, since a
    platform would take the sum of the others for a mark. `extra_data` has each answer's points, None for those that could
    not be graded.

    Args:
        submission: the learner's submission.
        answers: the answers in it.
        marks: exercise id → mark, in the assignment's order; empty if nothing could be graded.
        assignment: full names of the sections.
        isolation: what separated the answers from the machine: "bubblewrap", "docker" or "none".
        key: hash of the submission, the exercises, the seed and the limits; "" to grade the submission again next time.
        seconds: how long grading took.
    """
    learner, notes = submission.learner, submission.notes
    not_graded = [id for id, mark in marks.items() if mark.outcome == "not graded"]
    shown_problems = [*answers.problems, *_missing(marks, assignment)]
    faults = [*answers.faults, *(f"{id} {marks[id].message}" for id in not_graded)]
    # What is missing may stand in the file that cannot be read, so that it is no zero.
    unread = answers.unread and any(mark.outcome == "missing" for mark in marks.values())
    complete = bool(marks) and not faults and not unread
    tests = []
    for id, mark in marks.items():
        exercise = EXERCISES[id]
        remarks = [*answers.notes_on.get(id, []), *mark.notes]
        text = f"This answer {NOT_YOURS}" if id in not_graded else mark.message
        text += "".join(f"\nNote: {remark}." for remark in remarks)
        if mark.outcome in ("wrong", "partly"):
            text += f"\nHint: {exercise.hint}"
        status = {} if id in not_graded else {"status": "passed" if mark.outcome == "right" else "failed"}
        tests.append(
            {
                "name": f"{id}: {exercise.title}",
                "number": id,
                "score": mark.points if complete else None,
                "max_score": float(exercise.points),
                **status,
                "output": text,
                "visibility": "visible",
            }
        )
    if marks:
        no_mark = [f"There is no mark yet: {', '.join(not_graded)} {NOT_YOURS}"] if not_graded else []
        no_mark += ["There is no mark yet, because of the file that cannot be read"] if unread else []
        output = "; ".join([*notes, *answers.notes, *shown_problems, *no_mark])
    else:
        reasons = [*shown_problems, *([f"it {NOT_YOURS.removesuffix('.')}"] if faults else [])]
        output = f"Not graded; a person will look at it: {'; '.join(reasons)}."
    return {
        "score": round(sum(mark.points for mark in marks.values()), 2) if complete else None,
        "output": output,
        "visibility": "visible",
        "execution_time": round(seconds, 2),
        "tests": tests,
        "extra_data": {
            "learner": learner,
            "name": submission.name,
            "clash": submission.clash,
            "assignment": assignment,
            "files": answers.files,
            "platform_id": submission.platform_id,
            "outcomes": {id: mark.outcome for id, mark in marks.items()},
            "points": {id: None if id in not_graded else mark.points for id, mark in marks.items()},
            "mistakes": {id: mark.mistake for id, mark in marks.items() if mark.mistake},
            "notes": [*notes, *answers.notes],
            "problems": [*shown_problems, *(fault + AGAIN for fault in faults)],
            "isolation": isolation,
            "no_new_processes": all(mark.sealed is not False for mark in marks.values()),
            "key": key,
        },
    }


def _missing(marks: dict[str, Mark], sections: list[str]) -> list[str]:
    """What has no answer cell: the exercises, and in one sentence the lessons of which there is none at all."""
    missing_ids = {id for id, mark in marks.items() if mark.outcome == "missing"}
    ids_of = {section: {id for id in marks if find(section).has(id)} for section in sections}
    absent = [section for section, ids in ids_of.items() if ids and ids <= missing_ids]
    single_ids = [id for id in marks if id in missing_ids.difference(*(ids_of[section] for section in absent))]
    problems = [f"no answer cell for {', '.join(single_ids)}"] if single_ids else []
    return [*problems, f"no answer cell for any exercise of {', '.join(absent)}"] if absent else problems


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
        if other.name in learners or other.is_symlink():
            continue
        earlier = read(other)
        if earlier is None or earlier["extra_data"].get("learner") != other.name:
            continue
        for name in (RESULTS, FEEDBACK):
            (other / name).unlink(missing_ok=True)
        if not any(other.iterdir()):
            other.rmdir()


def feedback(results: dict) -> str:
    """Return the learner's page as HTML."""
    if results["score"] is None:
        verdict = "not graded"
    else:
        verdict = f"{results['score']:g} of {sum(test['max_score'] for test in results['tests']):g} points"
    title = f"{results['extra_data']['learner']}: {verdict}"
    return render("grading/templates/feedback.html.j2", title=title, results=results)
