"""What lesson 05 takes from elsewhere: an export with known faults as a table, its answer key, and its script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import assets
from course_utils.data_prep import formats, load_task, truth
from course_utils.errors import CourseError
from course_utils.lessons import source_file

if TYPE_CHECKING:
    import pandas as pd


def write_export(file: str | Path) -> None:
    """Write the raw export as the table that a help desk exports: a ticket a row, its number the line in the export.

    An answer that is no record stands in the column `note`, as where an agent wrote a reply instead of filling in the form.
    """
    import pandas as pd

    table = []
    for line, row in truth.load_raw_export().rows().items():
        answer = formats.answer_of(row)
        try:
            record = dict(json.loads(answer))
        except (ValueError, TypeError):
            record = {"summary": answer}
        fields = {name: record.get(name) for name in ("category", "escalation", "order_id")}
        table.append(
            {"ticket": line, "customer": formats.customer_of(row), "message": formats.prompt_of(row)}
            | fields
            | {"note": record.get("summary")}
        )
    pd.DataFrame(table).to_csv(file, index=False)


def answer_key() -> pd.DataFrame:
    """Return the truth about each ticket: its right category where a wrong one was planted (`right`), and its `faults`."""
    import pandas as pd

    export = truth.load_raw_export()
    lines = sorted(export.rows())
    right = {lines[index]: category for index, category in truth.right_categories(export, lines).items()}
    faults = {str(line): {"right": right.get(line), "faults": export.faults(line)} for line in lines}
    return pd.DataFrame.from_dict(faults, orient="index")


def labelled_to_the_guide(split: str) -> pd.DataFrame:
    """Return the course's support tickets, labelled to a guide and audited, as a table of message, category, escalation."""
    import pandas as pd

    task = load_task("support_tickets", ["category", "escalation"])
    messages = [{"message": chat[1]["content"]} for chat in getattr(task, split)]
    return pd.DataFrame([message | record for message, record in zip(messages, task.references(split))])


def clean_script(file: str | Path) -> str:
    """Write the lesson's cells tagged "program" as one script, and say so.

    Raises:
        CourseError: the file exists.
    """
    if Path(file).exists():
        raise CourseError(f"{file} exists; choose another name with --out")
    text = source_file("05_dataset_prep").read_text(encoding="utf-8")
    cells = [cell.partition("\n# %%")[0].strip() for cell in re.split(r'# %% tags=\["program".*\n', text)[1:]]
    lines = "\n\n\n".join(cells).splitlines()
    imports = {line for line in lines if line.startswith(("import ", "from "))} | {"import sys"}
    code = re.sub("\n{4,}", "\n\n\n", "\n".join(line for line in lines if line not in imports)).strip()
    plain, chosen = (sorted(line for line in imports if line.startswith(word)) for word in ("import ", "from "))
    text = (assets.PACKAGE / "evidence" / "clean_export.txt").read_text(encoding="utf-8")
    text = text.replace("{imports}", "\n".join([*plain, *chosen])).replace("{functions}", code)
    Path(file).write_text(text, encoding="utf-8")
    return f"{file}: {len(text.splitlines())} lines. In a terminal: python {file} YOUR_FILE.csv"
