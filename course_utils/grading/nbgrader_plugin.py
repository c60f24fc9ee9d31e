"""The plugin that nbgrader loads (see `nbgrader_course.CONFIG`); it imports nbgrader, so no other module imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbgrader.preprocessors import NbGraderPreprocessor

if TYPE_CHECKING:
    from nbconvert.exporters.exporter import ResourcesDict
    from nbformat import NotebookNode

SKIP = "skip-execution"  # nbclient does not run cells with this tag


class ExercisesOnly(NbGraderPreprocessor):
    """Runs only a lesson's exercises: its other cells train models for minutes, and no mark depends on them.

    It inserts a cell with the lesson's imports before them. A check cell that a learner tagged to be skipped, which would
    get full marks, is run all the same.
    """

    def preprocess(self, nb: NotebookNode, resources: ResourcesDict) -> tuple[NotebookNode, ResourcesDict]:
        """Mark the cells to be skipped; nbconvert calls this."""
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
