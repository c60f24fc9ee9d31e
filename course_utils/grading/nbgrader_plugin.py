"""What nbgrader loads from the course (see `nbgrader_course.CONFIG`); imports nbgrader, so nothing else imports this."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbgrader.preprocessors import NbGraderPreprocessor

if TYPE_CHECKING:
    from nbconvert.exporters.exporter import ResourcesDict
    from nbformat import NotebookNode

SKIP = "skip-execution"  # nbclient runs no cell that has this tag


class ExercisesOnly(NbGraderPreprocessor):
    """Leaves of a lesson the exercises to run: its other cells train models for minutes, and no mark depends on them.

    Before them it puts a cell with the imports of the lesson. A learner who gave a check cell the tag to skip it, which
    would be full marks, gets it run.
    """

    def preprocess(self, nb: NotebookNode, resources: ResourcesDict) -> tuple[NotebookNode, ResourcesDict]:
        """Mark cells to be skipped; see nbconvert."""
        from nbformat.v4 import new_code_cell

        from course_utils.grading.marking import imports_of
        from course_utils.lessons import NAMES

        lines = ["from course_utils.exercises import check"]
        course = nb.metadata.get("course")
        section = course.get("section") if isinstance(course, dict) else None
        if isinstance(section, str) and section in NAMES:
            lines += imports_of(section)
        for cell in nb.cells:
            tags = set(cell.metadata.get("tags", [])) - {SKIP}
            if cell.cell_type == "code" and "nbgrader" not in cell.metadata:
                tags.add(SKIP)
            cell.metadata["tags"] = sorted(tags)
        nb.cells.insert(0, new_code_cell("\n".join(lines), metadata={"tags": ["setup"]}))
        return nb, resources
