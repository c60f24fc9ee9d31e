"""Dated records of long measurements, with the machine and the versions.

Every benchmark imports this module before torch: importing it prepares the process, as a lesson's first cell does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Self

from course_utils import hardware, memory, session

session.prepare_process()
RECORDS = Path(__file__).parent / "records"
PACKAGES = ("torch", "transformers", "peft", "accelerate")


def write_results(name: str, results: dict, device: hardware.Device | None = None) -> Path:
    """Write `results` with date, machine (this one if None) and versions to records/NAME-DATE.json."""
    device = device or hardware.detect()
    record = {
        "date": date.today().isoformat(),
        "machine": f"{device.name}, {device.cores} cores",
        "dtype": device.dtype,
        "versions": {package: version(package).split("+")[0] for package in PACKAGES},
        **results,
    }
    RECORDS.mkdir(exist_ok=True)
    file = RECORDS / f"{name}-{record['date']}.json"
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, file)
    print(f"written to {file.name}")
    return file


def run_missing(name: str, jobs: Mapping[str, Callable[[], dict]], shared: dict) -> Path:
    """Run the jobs that the newest record of `name` does not have, and write the record anew after each.

    A benchmark of many hours can so be cut off at any time, go on on another day, and get more jobs later; two processes
    may each run a part of its jobs. Each run says when and on which machine it was measured.

    Args:
        name: name of the record.
        jobs: name of a run → what measures it.
        shared: what holds for all runs.
    """
    import psutil
    import torch

    def recorded() -> tuple[list[Path], dict]:
        files = sorted(RECORDS.glob(f"{name}-[0-9]*.json"))
        return files, json.loads(files[-1].read_text(encoding="utf-8"))["runs"] if files else {}

    for job, measure in jobs.items():
        if job in recorded()[1]:
            continue
        device, started = hardware.detect(), time.perf_counter()
        result = measure() | {
            "measured": {
                "date": date.today().isoformat(),
                "machine": f"{device.name}, {device.cores} cores",
                "dtype": device.dtype,
                "threads": torch.get_num_threads(),
                "seconds": round(time.perf_counter() - started),
                "resident_mb": round(psutil.Process().memory_info().rss / 1e6),  # of the process, after it
            }
        }
        print(job, {key: value for key, value in result.items() if isinstance(value, int | float | str)}, flush=True)
        earlier, runs = recorded()  # read again: another process may have recorded something meanwhile
        file = write_results(name, {**shared, "runs": runs | {job: result}})
        for old in earlier:
            if old != file:
                old.unlink(missing_ok=True)  # the new record has all of its runs
    return (recorded()[0] or [RECORDS])[-1]


class MemoryAdded:
    """By how many `bytes` a `with` block raises the resident memory of this process at its peak.

    Linux alone tells the peak of a block; blocks may not be nested.
    """

    bytes = 0

    def __enter__(self) -> Self:
        memory.release()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        self._start = self._peak()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bytes = self._peak() - self._start

    @staticmethod
    def _peak() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])


def picture(stem: str) -> str:
    """Return where the figure of a record goes: beside the records, not among them, which travel in the wheel."""
    folder = RECORDS.parent / "pictures"
    folder.mkdir(exist_ok=True)
    return str(folder / f"{stem}.png")


def peak_flops() -> float:
    """Operations per second of a large matrix product in this machine's fast format: the upper limit for any training."""
    import time

    import torch

    a, b = (torch.randn(2048, 2048, dtype=getattr(torch, hardware.detect().dtype)) for _ in range(2))
    times = []
    for _ in range(12):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / sorted(times)[3]


def for_training(rows: Iterable[dict], fields: Sequence[str], longest: int) -> list[list[dict]]:
    """Return conversations that are short enough for a small budget.

    An answer that is not a record is left as it is, because that is what a raw export teaches.

    Args:
        rows: chat rows.
        fields: the fields to which records are reduced.
        longest: rows whose user's message has more words are left out.
    """
    conversations = []
    for row in rows:
        *system, user, assistant = ({k: m[k] for k in ("role", "content")} for m in row["messages"])
        if len(user["content"].split()) > longest:
            continue
        try:
            record = json.loads(assistant["content"])
            assistant["content"] = json.dumps({field: record[field] for field in fields}, ensure_ascii=False)
        except (ValueError, KeyError, TypeError):
            pass
        conversations.append([*system, user, assistant])
    return conversations
