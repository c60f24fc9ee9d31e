"""How long each lesson takes, from dated records of full runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import assets
from course_utils.files import write_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from course_utils.publishing.runner import RunCost

PART_BYTES = 100e6  # a process that holds less is not named in a lesson's header
BINDER_MB = 1900  # of the 2 GB that mybinder.org allows at most; a little goes to Jupyter itself


def timing(name: str) -> str:
    """Markdown: how long the section takes on each tier, from recorded runs."""
    records = recorded()
    rows = []
    for tier, label in (("cpu", "CPU, two cores"), ("t4", "T4"), ("a100", "A100")):
        record = records.get(name, {}).get(tier)
        if record:
            took, peak = f"{record['seconds'] / 60:.1f} minutes", f"{record['peak_mb'] / 1000:.1f} GB"
            rows.append(f"| {label} | {took} | {peak} | {record['date']}, {record['machine']} |")
        else:
            rows.append(f"| {label} | not recorded yet | | |")
    table = "| Run all on | time | peak memory | recorded |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    cpu = records.get(name, {}).get("cpu", {})
    if cpu.get("peak_mb", 0) > BINDER_MB:
        table += f"\n\nBinder promises 1 GB and mostly gives 2: this lesson may not get through there.{_why_so_much(cpu)}"
    return table


# What a process of a lesson is called in its header, by what it runs.
PROCESSES = {
    "ipykernel_launcher": "this notebook",
    "course_utils.openai_server": "the server",
    "course_utils.openai_server.worker": "the process that trains",
}


def _why_so_much(record: dict[str, Any]) -> str:
    """Where in the lesson the peak was, and which processes held how much of it."""
    if not record.get("peak_at"):
        return ""
    parts = [f"{PROCESSES.get(name, name)} {mb / 1000:.1f} GB" for name, mb in record["peak_parts"].items()]
    most = f" Most is needed in “{record['peak_at']}”"
    return f"{most}, by {', '.join(parts[:-1])} and {parts[-1]}." if len(parts) > 1 else f"{most}."


def times_file() -> Path:
    """Dated records of full runs, written by `course build`."""
    return assets.root() / "benchmarks" / "records" / "notebook-times.json"


def recorded() -> dict[str, Any]:
    """Name of a lesson → tier → record of its last full run."""
    records: dict[str, Any] = json.loads(times_file().read_text(encoding="utf-8")) if times_file().exists() else {}
    return records


def record_cost(name: str, notebook: NotebookNode, cost: RunCost) -> None:
    """Note what a full run took, with date and machine."""
    from datetime import date

    from course_utils.hardware import detect

    records = recorded()
    device = detect()
    records.setdefault(name, {})[device.tier] = {
        "date": date.today().isoformat(),
        "machine": f"{device.name}, {device.cores} cores",
        "seconds": round(cost.seconds),
        "peak_mb": round(cost.peak_bytes / 1e6),
        "peak_at": _section_of(notebook, max(cost.cells, key=lambda cell: cell.peak_bytes).index) if cost.cells else "",
        "peak_parts": {part: round(size / 1e6) for part, size in cost.parts if size > PART_BYTES},
    }
    times_file().parent.mkdir(parents=True, exist_ok=True)
    write_whole(times_file(), (json.dumps(records, indent=1) + "\n").encode())


def _section_of(notebook: NotebookNode, index: int) -> str:
    """The last heading of the second level above a cell."""
    texts = (cell.source for cell in notebook.cells[:index] if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", "\n".join(texts), re.MULTILINE)
    return headings[-1] if headings else ""
