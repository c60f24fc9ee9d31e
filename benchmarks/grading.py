"""200 submissions of the whole course, graded by `course grade` and by nbgrader in turns; submissions per minute by section.

For nbgrader all exercises are in one notebook per learner, so that it starts one kernel for the whole course instead of six,
and its own loop (`NbGraderAPI`) runs in this process, so that it starts no command. It grades submissions one after the
other, as it always does, with both cores for its kernel; ours has two jobs. Answers are solutions, stubs, and solutions with
one small change. The two graders draw different random cases, so marks of partly right answers may differ.
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

from common import write_results

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "exercises"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "grading"))
from course_utils.exercises import EXERCISES
from course_utils.exercises.definitions import strip_solution
from course_utils.grading import batch, nbgrader_course
from course_utils.grading.marking import setup_for
from course_utils.publishing import builder

from test_grading_runs import tree
from test_mutants import mutants

NAME = "course"
SECTIONS, SECTION_OF = batch.exercises_of("all")
MUTANTS = {id: [source for _, source in mutants(EXERCISES[id])] for id in SECTION_OF}


def sheet(answers: dict[str, str]):
    """A notebook with every exercise of the course and these answers."""
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
    """A learner's answers: 70 % right, 10 % not attempted, the others with one change."""
    draw, answers = random.Random(learner), {}
    for id, section in SECTION_OF.items():
        exercise, luck = EXERCISES[id], draw.random()
        source = exercise.source()
        if luck < 0.1:
            source = strip_solution(source)
        elif luck < 0.3:
            source = f"# EXERCISE: {id}\n{draw.choice(MUTANTS[id])}"
        first, _, rest = source.partition("\n")
        answers[id] = f"{first}\n{setup_for(section, exercise, source)}\n{rest}"
    return answers


def nbgrader_api(folder: Path):
    """nbgrader's API for a course with one assignment; learners' submissions are added later."""
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
    response = api.generate_assignment(NAME)
    assert response["success"], response
    return api


def nbgrader_seconds(api, folder: Path, learners: list[str]) -> float:
    """Seconds that nbgrader takes to grade these learners."""
    started = time.perf_counter()
    for learner in learners:
        response = api.autograde(NAME, learner)
        if not response["success"]:
            print(f"nbgrader on {learner}: {response['error'][-300:]}")
    return time.perf_counter() - started


def marks_of(api) -> dict[str, dict[str, float]]:
    """Learner → exercise id → nbgrader's mark."""
    marks = {}
    with api.gradebook as book:
        for submission in book.assignment_submissions(NAME):
            for notebook in submission.notebooks:
                marks[submission.student.id] = {g.name.removesuffix("_check"): g.score for g in notebook.grades}
    return marks


def sections_a_minute(folder: Path, learners: int) -> dict[str, float]:
    """Submissions per minute for each section alone."""
    rates = {}
    for section in SECTIONS:
        done = batch.grade(section, folder / "inbox", folder / f"out-{section}", seed=1, progress=False, jobs=2)
        assert done.new == learners
        rates[section] = 60 * learners / done.seconds
        print(f"{section}: {rates[section]:.0f} submissions per minute")
    return rates


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
        "exercises": len(SECTION_OF),
        "one run, seconds": one_run.seconds,
        "submissions a minute": {"all": 60 * options.learners / one_run.seconds}
        | sections_a_minute(folder, options.learners),
    }
    record |= killed(folder, inbox, options.learners)
    if not options.without_nbgrader:
        record |= beside_nbgrader(folder, inbox, names, options.batch)
    print(write_results("grading", record))


def killed(folder: Path, inbox: Path, learners: int) -> dict:
    """The same grading, killed three times and restarted; checks that it writes the same bytes, apart from times."""
    out, done_when_killed = folder / "killed", []
    command = [sys.executable, "-m", "course_utils.cli", "grade", "all", inbox, "--out", out, "--seed", "1", "--jobs", "2"]
    for share in (0.2, 0.5, 0.8):
        grading = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(list(out.glob("learners/*/results.json"))) < share * learners:
            assert grading.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        grading.kill()
        grading.wait()
        done_when_killed.append(len(list(out.glob("learners/*/results.json"))))
    done = batch.grade("all", inbox, out, seed=1, progress=False, jobs=2)
    same = tree(out) == tree(folder / "out")
    verdict = "the same bytes" if same else "OTHER bytes"
    print(f"killed with {done_when_killed} of {learners} done, then {done.new} graded and {done.unchanged} kept: {verdict}")
    return {"killed when so many were done": done_when_killed, "then graded": done.new, "the same bytes": same}


def beside_nbgrader(folder: Path, inbox: Path, names: list[str], size: int) -> dict:
    """Both graders on the same batches; they take turns at going first."""
    api = nbgrader_api(folder / "hub")
    rounds = []
    for start in range(0, len(names), size):
        part = names[start : start + size]
        for name in part:
            folder_of_learner = folder / "hub" / "submitted" / name / NAME
            folder_of_learner.mkdir(parents=True)
            shutil.copy(inbox / f"{name}.ipynb", folder_of_learner / f"{NAME}.ipynb")
            shutil.copy(inbox / f"{name}.ipynb", _created(folder / f"batch-{start}") / f"{name}.ipynb")

        def ours(start=start):
            return batch.grade(
                "all", folder / f"batch-{start}", folder / f"graded-{start}", seed=1, progress=False, jobs=2
            ).seconds

        if len(rounds) % 2:
            other = nbgrader_seconds(api, folder, part)
            mine = ours()
        else:
            mine = ours()
            other = nbgrader_seconds(api, folder, part)
        rounds.append({"ours": mine, "nbgrader": other})
        print(f"{start + len(part)} of {len(names)}: ours {mine:.1f} s, nbgrader {other:.1f} s, {other / mine:.1f} times")
    nbgrader_marks, equal, differing = marks_of(api), 0, []
    for name in names:
        own = json.loads((folder / "out" / "learners" / name / "results.json").read_text())
        for test in own["tests"]:
            theirs_ = nbgrader_marks.get(name, {}).get(test["number"])
            if theirs_ is not None and abs(theirs_ - test["score"]) < 0.01:
                equal += 1
            else:
                differing.append([name, test["number"], test["score"], theirs_])
    full_for_one = [
        row
        for row in differing
        if row[3] is None or (row[2] == EXERCISES[row[1]].points) != (row[3] == EXERCISES[row[1]].points)
    ]
    return {
        "rounds, seconds": rounds,
        "nbgrader over ours": statistics.median(r["nbgrader"] / r["ours"] for r in rounds),
        "marks": equal + len(differing),
        "marks equal": equal,
        "marks that differ (learner, exercise, ours, nbgrader's)": differing,
        "of those full for one and not for the other": full_for_one,
    }


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
