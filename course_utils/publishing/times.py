"""How long each lesson takes, according to dated records of full runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import assets, facts
from course_utils.files import write_whole
from course_utils.languages import later, lesson_domain, say

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from course_utils.publishing.runner import RunCost

PART_BYTES = 100e6  # smaller processes are not named in a lesson's header
BINDER_MB = 1900  # of the 2 GB that mybinder.org allows at most; Jupyter itself needs some


def timing(name: str) -> str:
    """Markdown table of how long the section takes on each tier, from recorded runs."""
    records = load_times()
    rows = []
    for tier in facts.table("tiers"):
        label = say("CPU, two cores") if tier == "cpu" else tier.upper()
        record = records.get(name, {}).get(tier)
        if record:
            time_text = say("{minutes} minutes", minutes=f"{record['seconds'] / 60:.1f}")
            memory_text = f"{record['peak_mb'] / 1000:.1f} GB"
            if card_mb := record.get("card_peak_mb"):
                memory_text += ", " + say("{gigabytes} GB of the card", gigabytes=f"{card_mb / 1000:.1f}")
            rows.append(f"| {label} | {time_text} | {memory_text} | {record['date']}, {record['machine']} |")
    heads = (say("Run all on"), say("time"), say("peak memory"), say("recorded"))
    table = f"| {' | '.join(heads)} |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    cpu = records.get(name, {}).get("cpu", {})
    if cpu.get("peak_mb", 0) > BINDER_MB:
        warning = say("Binder promises 1 GB and usually gives 2: this lesson may run out of memory there.")
        table += f"\n\n{warning}{_peak_text(cpu, name)}"
    return table


# Names of a lesson's processes in its header, by the module they run.
PROCESS_NAMES = {
    "ipykernel_launcher": later("this notebook"),
    "course_utils.openai_server": later("the server"),
    "course_utils.openai_server.worker": later("the process that trains"),
}


def _peak_text(record: dict[str, Any], lesson: str) -> str:
    """Where in the lesson the memory peak was, and how much each process held."""
    if not record.get("peak_at"):
        return ""
    parts = [f"{say(PROCESS_NAMES.get(name, name))} {mb / 1000:.1f} GB" for name, mb in record["peak_parts"].items()]
    section = say(record["peak_at"], lesson_domain(lesson))
    if len(parts) > 1:
        most, last = ", ".join(parts[:-1]), parts[-1]
        return " " + say("Memory peaks in “{section}”, by {most} and {last}.", section=section, most=most, last=last)
    return " " + say("Memory peaks in “{section}”.", section=section)


def times_file() -> Path:
    """File with dated records of full runs, written by `course build`."""
    return assets.root() / "benchmarks" / "records" / "notebook-times.json"


def load_times() -> dict[str, Any]:
    """Return what is known of the lessons' last full runs: name of the lesson → tier → date, machine, seconds, memory."""
    records: dict[str, Any] = json.loads(times_file().read_text(encoding="utf-8")) if times_file().exists() else {}
    return records


def save_run_cost(name: str, notebook: NotebookNode, cost: RunCost, card_peak_bytes: int | None = None) -> None:
    """Record time and memory of a full run, with date and machine; on a GPU also the peak of the card's memory."""
    from datetime import date

    from course_utils.hardware import detect

    records = load_times()
    device = detect()
    records.setdefault(name, {})[device.tier] = {
        "date": date.today().isoformat(),
        "machine": f"{device.name}, {device.cores} cores",
        "seconds": round(cost.seconds),
        "peak_mb": round(cost.peak_bytes / 1e6),
        "peak_at": _section_of(notebook, max(cost.cells, key=lambda cell: cell.peak_bytes).index) if cost.cells else "",
        "peak_parts": {part: round(size / 1e6) for part, size in cost.parts if size > PART_BYTES},
    } | ({} if card_peak_bytes is None else {"card_peak_mb": round(card_peak_bytes / 1e6)})
    times_file().parent.mkdir(parents=True, exist_ok=True)
    write_whole(times_file(), (json.dumps(records, indent=1) + "\n").encode())


def _section_of(notebook: NotebookNode, index: int) -> str:
    """The last second-level heading above a cell."""
    texts = (cell.source for cell in notebook.cells[:index] if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", "\n".join(texts), re.MULTILINE)
    return headings[-1] if headings else ""
