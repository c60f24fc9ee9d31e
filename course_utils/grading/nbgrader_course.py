"""The course as nbgrader assignments, for JupyterHub and for questions that a person marks.

`write_course` makes a course folder whose `source/` holds the instructor's editions; nbgrader does the rest. `hand_in` puts
the answers of an inbox into clean copies of the released notebooks: lost metadata, copied or deleted cells and renamed files
would otherwise cost learners their whole submission in nbgrader.

nbgrader runs answers in a kernel with its user's rights, and the checks in the same kernel: neither is safe from malicious
submissions. `course grade` is.
"""

from __future__ import annotations

import ast
import builtins
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.errors import CourseError
from course_utils.grading import batch, intake, reading, running

if TYPE_CHECKING:
    from nbformat import NotebookNode

CONFIG = '''\
"""nbgrader's settings for this course; written by `course nbgrader`, change them as you like."""

c = get_config()  # noqa: F821 - Jupyter defines it

c.CourseDirectory.course_id = "finetuning"
c.ClearSolutions.code_stub = {{"python": {stub!r}}}  # a stub must run, so that the notebook runs from top to bottom
c.ExecutePreprocessor.kernel_name = "python3"  # whatever the kernel is called on a learner's machine
c.Execute.timeout = 60
# The lesson's cells train models and are not graded: only exercises run.
c.Autograde.autograde_preprocessors = [
    "course_utils.grading.nbgrader_plugin.ExercisesOnly",
    "nbgrader.preprocessors.Execute",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.ClearMetadataPreprocessor.enabled = False
# nbgrader gives no points for a cell that writes to stderr, and libraries write warnings there.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = "(?s).*"
'''


@dataclass(frozen=True)
class HandedIn:
    """What `hand_in` has done.

    Attributes:
        learners: names of those who now have something in `submitted/`.
        problems: learner → why there is nothing of theirs, or not everything.
    """

    learners: tuple[str, ...]
    problems: dict[str, list[str]]


def write_course(folder: str | Path, assignment: str = "all") -> list[str]:
    """Make or extend an nbgrader course: its settings, and one assignment for each section.

    Args:
        folder: the course's folder; its contents are kept, but the sections' sources are rewritten.
        assignment: "02", "02_lora", several of these separated by commas, or "all".

    Returns:
        The names of the assignments, which are those of the sections.

    Raises:
        CourseError: a lesson is unknown.
    """
    from course_utils.exercises.definitions import STUB
    from course_utils.publishing import builder

    folder = Path(folder)
    sections, _ = batch.exercises_of(assignment)
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "nbgrader_config.py"
    if not settings.exists():
        settings.write_text(CONFIG.format(stub="\n".join(STUB)), encoding="utf-8")
    for section in sections:
        builder.write(builder.instructor_edition(section), folder / "source" / section / f"{section}.ipynb")
    return sections


def hand_in(folder: str | Path, assignment: str, inbox: str | Path) -> HandedIn:
    """Put each learner's answers into a clean copy of the released notebook, in nbgrader's `submitted/`.

    Args:
        folder: folder of a course whose assignment has been generated (`nbgrader generate_assignment`).
        assignment: as for `write_course`.
        inbox: files or folders with any names, as for `course grade`.

    Raises:
        CourseError: the assignment has not been generated, or there is no inbox.
    """
    import nbformat

    folder = Path(folder)
    sections, section_of = batch.exercises_of(assignment)
    released = {}
    for section in sections:
        file = folder / "release" / section / f"{section}.ipynb"
        if not file.exists():
            raise CourseError(f"{file} does not exist; in {folder}, run: nbgrader generate_assignment {section}")
        released[section] = nbformat.read(file, as_version=4)
    learners, problems = [], {}
    for submission in intake.submissions(Path(inbox)):
        answers = intake.answers(reading.contents(*submission.paths), list(section_of))
        missing_ids = [id for id in section_of if id not in answers.cells]
        remarks = [*submission.notes, *answers.problems]
        if missing_ids and answers.cells:
            remarks.append(f"no answer cell for {', '.join(missing_ids)}")
        if remarks:
            problems[submission.learner] = remarks
        if not answers.cells:
            continue
        learners.append(submission.learner)
        for section, notebook in released.items():
            if not any(section_of[id] == section for id in answers.cells):
                continue  # keep what may be there from another source
            filled = notebook.copy()
            filled.cells = [_answered(cell, answers) for cell in notebook.cells]
            target = folder / "submitted" / submission.learner / section
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            nbformat.write(filled, target / f"{section}.ipynb")
    return HandedIn(tuple(learners), problems)


def _answered(cell: NotebookNode, answers: intake.Answers) -> NotebookNode:
    id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
    if id not in answers.cells or cell.cell_type != "code":
        return cell
    cell = cell.copy()
    cell.source = _with_helpers(answers.cells[id])
    return cell


def _with_helpers(answer: intake.LearnerAnswer) -> str:
    """The answer below the definitions of the learner's other cells that it needs, as nbgrader does not run those cells."""
    try:
        own = running.parsed(answer.cell)[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # nbgrader will say what is wrong with it
        return answer.cell
    others = (*answer.after, *answer.before, *answer.between)
    elsewhere = [statement for cell in others for statement in running.statements_of(cell)]
    needed, number = running.missing(own, set(dir(builtins))), -1
    while len(needed) > number:
        number = len(needed)
        definitions = [statement for statement in elsewhere if running.bound(statement) & needed]
        needed |= running.missing(definitions, set(dir(builtins)))
    return "\n".join([*map(ast.unparse, definitions), answer.cell])
