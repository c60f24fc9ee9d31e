"""200 submissions of the whole course, graded by `course grade` and by nbgrader, in turns; submissions a minute by section.

For nbgrader all exercises stand in one notebook a learner, so that it starts one kernel for the whole course instead of six,
and its own loop (`NbGraderAPI`) runs in this process, so that it starts no command. It grades one after the other, as it
always does, with both cores for its kernel; ours has two jobs. Answers are solutions, stubs, and solutions with one small
change. The two draw different random cases, so that marks of partly right answers may differ.
"""

from __future__ import annotations

import argparse
import atexit
import json
import logging
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import write_record

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "exercises"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "exercises" / "grading"))
from course_utils.exercises.definitions import strip_solution
from course_utils.exercises.registry import EXERCISES
from course_utils.grading import batch, nbgrader_course
from course_utils.grading.marking import setup_for
from course_utils.publishing import builder

from test_grading_runs import tree
from test_mutants import mutants

NAME = "course"
SECTIONS, WANTED = batch.exercises_of("all")
CHANGED = {id: [source for _, source in mutants(EXERCISES[id])] for id in WANTED}


def sheet(answers: dict[str, str]):
    """Notebook with every exercise of the course and these answers."""
    notebook = builder.instructor_edition(SECTIONS[0])
    notebook.cells = [nbformat.v4.new_markdown_cell("The whole course")]
    for section in SECTIONS:
        for cell in builder.instructor_edition(section).cells:
            id = cell.metadata.get("nbgrader", {}).get("grade_id")
            if id in answers:
                cell.source = answers[id]
            if id:
                notebook.cells.append(cell)
    return notebook


def answers_of(learner: int) -> dict[str, str]:
    """A learner's answers: 70 % right, 10 % not tried, the others with one change."""
    draw, found = random.Random(learner), {}
    for id, section in WANTED.items():
        exercise, luck = EXERCISES[id], draw.random()
        source = exercise.source()
        if luck < 0.1:
            source = strip_solution(source)
        elif luck < 0.3:
            source = f"# EXERCISE: {id}\n{draw.choice(CHANGED[id])}"
        first, _, rest = source.partition("\n")
        found[id] = f"{first}\n{setup_for(section, exercise, source)}\n{rest}"
    return found


def nbgraders(folder: Path):
    """nbgrader's API on a course with one assignment, everything learner's `submitted/` comes later."""
    from nbgrader.apps.api import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    nbgrader_course.write_course(folder, SECTIONS[0])
    builder.write(sheet({}), folder / "source" / NAME / f"{NAME}.ipynb")
    config = PyFileConfigLoader("nbgrader_config.py", str(folder)).load_config()
    config.CourseDirectory.root = str(folder)
    config.Execute.timeout = 10
    api = NbGraderAPI(config=config)
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    api.log.setLevel(logging.CRITICAL)
    said = api.generate_assignment(NAME)
    assert said["success"], said
    return api


def theirs(api, folder: Path, learners: list[str]) -> float:
    """Seconds that nbgrader takes for these learners."""
    began = time.perf_counter()
    for learner in learners:
        said = api.autograde(NAME, learner)
        if not said["success"]:
            print(f"nbgrader on {learner}: {said['error'][-300:]}")
    return time.perf_counter() - began


def marks_of(api) -> dict[str, dict[str, float]]:
    """learner → exercise id → nbgrader's mark."""
    found = {}
    with api.gradebook as book:
        for submission in book.assignment_submissions(NAME):
            for notebook in submission.notebooks:
                found[submission.student.id] = {g.name.removesuffix("_check"): g.score for g in notebook.grades}
    return found


def sections_a_minute(folder: Path, learners: int) -> dict[str, float]:
    """Submissions a minute of each section alone."""
    found = {}
    for section in SECTIONS:
        done = batch.grade(section, folder / "inbox", folder / f"out-{section}", seed=1, progress=False, jobs=2)
        assert done.new == learners
        found[section] = 60 * learners / done.seconds
        print(f"{section}: {found[section]:.0f} submissions a minute")
    return found


def main() -> None:
    """Run everything and write the record."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--learners", type=int, default=200)
    options.add_argument("--batch", type=int, default=20)
    options.add_argument("--without-nbgrader", action="store_true")
    options = options.parse_args()
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic by its name
    )
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    names = [f"learner-{number:03}" for number in range(options.learners)]
    inbox = folder / "inbox"
    for number, name in enumerate(names):
        builder.write(sheet(answers_of(number)), inbox / f"{name}.ipynb")
    one_run = batch.grade("all", inbox, folder / "out", seed=1, jobs=2)
    print(f"{options.learners} whole submissions in one run: {one_run.seconds:.0f} s")
    record = {
        "learners": options.learners,
        "exercises": len(WANTED),
        "one run, seconds": one_run.seconds,
        "submissions a minute": {"all": 60 * options.learners / one_run.seconds}
        | sections_a_minute(folder, options.learners),
    }
    record |= killed(folder, inbox, options.learners)
    if not options.without_nbgrader:
        record |= beside_nbgrader(folder, inbox, names, options.batch)
    print(write_record("grading", record))


def killed(folder: Path, inbox: Path, learners: int) -> dict:
    """The same grading, ended by SIGKILL three times and started again; whether it leaves the same bytes but for times."""
    out, at = folder / "killed", []
    command = [sys.executable, "-m", "course_utils.cli", "grade", "all", inbox, "--out", out, "--seed", "1", "--jobs", "2"]
    for share in (0.2, 0.5, 0.8):
        grading = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(list(out.glob("learners/*/results.json"))) < share * learners:
            assert grading.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        grading.kill()
        grading.wait()
        at.append(len(list(out.glob("learners/*/results.json"))))
    done = batch.grade("all", inbox, out, seed=1, progress=False, jobs=2)
    same = tree(out) == tree(folder / "out")
    said = "the same bytes" if same else "OTHER bytes"
    print(f"killed with {at} of {learners} done, then {done.new} graded and {done.kept} kept: {said}")
    return {"killed when so many were done": at, "then graded": done.new, "the same bytes": same}


def beside_nbgrader(folder: Path, inbox: Path, names: list[str], size: int) -> dict:
    """Both on the same batches, in turns, each first in every other."""
    api = nbgraders(folder / "hub")
    rounds = []
    for start in range(0, len(names), size):
        part = names[start : start + size]
        for name in part:
            place = folder / "hub" / "submitted" / name / NAME
            place.mkdir(parents=True)
            shutil.copy(inbox / f"{name}.ipynb", place / f"{NAME}.ipynb")
            shutil.copy(inbox / f"{name}.ipynb", _made(folder / f"batch-{start}") / f"{name}.ipynb")

        def ours(start=start):
            return batch.grade(
                "all", folder / f"batch-{start}", folder / f"graded-{start}", seed=1, progress=False, jobs=2
            ).seconds

        if len(rounds) % 2:
            other = theirs(api, folder, part)
            mine = ours()
        else:
            mine = ours()
            other = theirs(api, folder, part)
        rounds.append({"ours": mine, "nbgrader": other})
        print(f"{start + len(part)} of {len(names)}: ours {mine:.1f} s, nbgrader {other:.1f} s, {other / mine:.1f} times")
    given, same, apart = marks_of(api), 0, []
    for name in names:
        own = json.loads((folder / "out" / "learners" / name / "results.json").read_text())
        for test in own["tests"]:
            theirs_ = given.get(name, {}).get(test["number"])
            if theirs_ is not None and abs(theirs_ - test["score"]) < 0.01:
                same += 1
            else:
                apart.append([name, test["number"], test["score"], theirs_])
    full = [
        row
        for row in apart
        if row[3] is None or (row[2] == EXERCISES[row[1]].points) != (row[3] == EXERCISES[row[1]].points)
    ]
    return {
        "rounds, seconds": rounds,
        "nbgrader over ours": statistics.median(r["nbgrader"] / r["ours"] for r in rounds),
        "marks": same + len(apart),
        "marks equal": same,
        "marks that differ (learner, exercise, ours, nbgrader's)": apart,
        "of those full for one and not for the other": full,
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
