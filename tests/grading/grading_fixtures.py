"""Submissions for the grader: notebooks as learners hand them in, made from the exercises themselves."""

import csv
import json
import os
import re
import uuid
from dataclasses import replace
from pathlib import Path

from course_utils.exercises import EXERCISES, check
from course_utils.exercises.definitions import strip_solution
from course_utils.grading import batch
from course_utils.grading.protocol import Limits
from course_utils.grading.sandbox import ENVIRONMENT_MARKER

os.environ[ENVIRONMENT_MARKER] = f"tests-{uuid.uuid4().hex}-"
# Long enough for an honest answer on a machine that does other things at the same time.
SHORT = replace(Limits(), call_seconds=4.0, cell_seconds=4.0, question_seconds=8.0)


# The right value of `requests_until_paid`, in the names of its arguments; and an answer that returns it.
PAID = (
    "(int(training / ((long * untuned[0] + answer * untuned[1]) / 1e6 - (short * tuned[0] + answer * tuned[1]) / 1e6)) + 1"
    " if long * untuned[0] + answer * untuned[1] > short * tuned[0] + answer * tuned[1] else None)"
)
PAID_ANSWER = f"def requests_until_paid(training, short, long, answer, tuned, untuned):\n    return {PAID}"


def cells(section, answers=None, stub=False):
    """Answer and check cells of a section: solutions (or stubs), with `answers` (id → source) in their places."""
    _, wanted = batch.exercises_of(section)
    made = []
    for id in wanted:
        exercise = EXERCISES[id]
        source = strip_solution(exercise.source()) if stub else exercise.source()
        source = (answers or {}).get(id, source)
        made.append({"cell_type": "markdown", "metadata": {}, "source": f"### {exercise.title}"})
        made.append(code(source, {"nbgrader": {"grade_id": id, "schema_version": 3, "solution": True}}))
        made.append(code(exercise.check_source(), {"nbgrader": {"grade_id": f"{id}_check", "grade": True}}))
    return made


def code(source, metadata=None):
    return {"cell_type": "code", "metadata": metadata or {}, "source": source, "outputs": [], "execution_count": None}


def notebook(made, **more):
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **more})


def with_marker(id, source):
    return f"# EXERCISE: {id}\n{source}"


def in_the_notebook(id, *sources):
    """What the check says after the cells were run by IPython, which is what runs them in a notebook."""
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns |= {"torch": torch, "check": check}
    for source in sources:
        shell.run_cell(source, store_history=False)
    return check(id, shell.user_ns.get(EXERCISES[id].name))


def hand_in(inbox, learner, section, answers=None, stub=False):
    inbox.mkdir(exist_ok=True, parents=True)
    file = inbox / f"{learner}.ipynb"
    file.write_text(notebook(cells(section, answers, stub)))
    return file


def run(section, inbox, out, **options):
    options = {"seed": 7, "limits": SHORT, "progress": False, "jobs": 2} | options
    return batch.grade(section, inbox, out, **options)


def results(out, learner):
    return json.loads((Path(out) / "learners" / learner / "results.json").read_text())


def points(out, learner):
    """Exercise id → points."""
    return {test["number"]: test["score"] for test in results(out, learner)["tests"]}


def said(out, learner, id):
    return next(test["output"] for test in results(out, learner)["tests"] if test["number"] == id)


def rows(file, separator=","):
    """The lines of a table that grading has written or reads."""
    with open(file, newline="", encoding="utf-8-sig") as handle:
        return list(csv.reader(handle, delimiter=separator))


def needing(out):
    """The lines of what a person has to look at: learner, files, reason, on what."""
    return rows(Path(out) / "needs-a-person.csv")[1:]


def full(section):
    _, wanted = batch.exercises_of(section)
    return {id: float(EXERCISES[id].points) for id in wanted}


def left_behind():
    """Numbers of the processes that a sandbox of these tests has left; other graders may be at work on this machine."""
    found = []
    ours = re.compile(
        f"{ENVIRONMENT_MARKER}={os.environ[ENVIRONMENT_MARKER]}[0-9a-f]".encode()
    )  # a grader's own value ends before the last part
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and ours.search(Path("/proc", entry, "environ").read_bytes()):
                found.append(int(entry))
        except OSError:
            continue
    return found
