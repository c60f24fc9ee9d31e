"""Dated records of long measurements, with the machine and the versions.

Every benchmark imports this module before torch: importing it prepares the process, as a lesson's first cell does.
"""

from __future__ import annotations

import json
import os
from datetime import date
from importlib.metadata import version
from pathlib import Path

from course_utils import hardware, session

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
    print(f"written to {file}")
    return file


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
