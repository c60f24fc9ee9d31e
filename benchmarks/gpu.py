"""Everything that only a real GPU can say, in one go; what was cut off goes on where it stopped.

    python benchmarks/gpu.py                       # all parts, in this order
    python benchmarks/gpu.py lessons --lesson 02   # a part, of it one lesson
    python benchmarks/gpu.py --predict             # without a GPU: the memory that would be compared

memory   Peak memory of training steps on random weights beside `memory.estimate`, some capped to a T4 (gpu_memory.py).
lessons  Each lesson from top to bottom at this card's tier: time, memory, memory of the card.
speed    An epoch of SFT and of DPO on the tier's model: ours beside TRL as installed, with packing and flash attention, with
         Liger's kernels, and Unsloth, as far as these are installed. Each in a process of its own; medians of three epochs.
rates    The learning rates of the tier's plans times 1/4 to 4: the loss after training on data that were not trained on.

Nothing else should use the card meanwhile. Each result stands in benchmarks/records/gpu-CARD-DATE.json as soon as there is
one. A run takes the newest record of this card that is not complete, and measures what it lacks, failures included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import RECORDS, write_results
from course_utils import hardware, lessons

import gpu_memory
import gpu_steps

PARTS = ("memory", "lessons", "speed", "rates")


class Record:
    """A card's record: results by part and key, written after each of them."""

    def __init__(self, device: hardware.Device, folder: Path = RECORDS) -> None:
        self.device, self.name = device, f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.name.lower())}"
        self.results: dict[str, Any] = {"card": device.name, "complete": False, **{part: {} for part in PARTS}}
        earlier = [
            json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob(f"{self.name}-????-??-??.json"))
        ]
        if earlier and not earlier[-1].get("complete", True):
            self.results |= {name: value for name, value in earlier[-1].items() if name in self.results}

    def has(self, part: str, key: str, missing_counts: bool = False) -> bool:
        """Whether there is a result and no failure; that a library is missing counts if asked for."""
        result = self.results[part].get(key, {"error": ""})
        return "error" not in result and (missing_counts or "missing" not in result)

    def add(self, part: str, key: str, result: dict[str, Any]) -> None:
        """Write a result down."""
        self.results[part][key] = result
        self.write()

    def write(self) -> None:
        """Write everything, with date, machine and versions."""
        write_results(self.name, self.results, self.device)


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Run a step of `gpu_steps` in a process of its own, and return its result, which may be that it failed.

    This process must not use the card: each that does holds half a gigabyte of it.
    """
    started = time.monotonic()
    done = subprocess.run([sys.executable, gpu_steps.__file__, *arguments], stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"error": f"exit code {done.returncode}", "seconds": round(time.monotonic() - started, 1)}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def steps(part: str, only_lessons: list[str]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield each result that a part consists of: its key, and how it is measured."""
    if part == "memory":
        for row in gpu_memory.rows():
            yield json.dumps(row), lambda row=row: gpu_memory.compare(row)
    elif part == "lessons":
        for number in only_lessons:
            yield number, lambda number=number: in_a_process("lesson", number)
    elif part == "speed":
        for kind in gpu_steps.KINDS:
            for name in gpu_steps.CONTENDERS:
                yield f"{kind}: {name}", lambda kind=kind, name=name: in_a_process("speed", kind, name)
    else:
        for number in gpu_steps.SWEPT:
            for factor in gpu_steps.FACTORS:
                key = f"{number} x {factor:g}"
                yield key, lambda number=number, factor=factor: in_a_process("rate", number, str(factor))


def tables(results: dict[str, Any]) -> str:
    """Return what a record says, as lines of text."""
    lines = []
    errors = [row["total_error"] for row in results["memory"].values() if "total_error" in row]
    if errors:
        mean, worst = statistics.mean(map(abs, errors)), max(errors, key=abs)
        lines.append(f"memory: {len(errors)} steps, mean error {100 * mean:.1f} %, worst {100 * worst:+.1f} %")
    for number, row in sorted(results["lessons"].items()):
        if "error" not in row:
            card = f", {row['card_peak_bytes'] / 1e9:.1f} GB of the card" if row["card_peak_bytes"] is not None else ""
            lines.append(f"lesson {number}: {row['seconds']:.0f} s, {row['peak_bytes'] / 1e9:.1f} GB{card}")
    for key, row in results["speed"].items():
        ours = results["speed"].get(f"{key.partition(':')[0]}: ours", {}).get("seconds")
        if "seconds" in row and ours and "error" not in row:
            lines.append(
                f"{key}: {row['seconds']:.1f} s, {row['seconds'] / ours:.2f} times ours, "
                f"{row['peak_bytes'] / 1e9:.1f} GB, held-out loss {row['loss']:.3f}"
            )
        elif "missing" in row:
            lines.append(f"{key}: {row['missing']}")
    for key, row in results["rates"].items():
        if "error" not in row:
            lines.append(f"rate {key}: {row['rate']:g}, loss {row['loss']:.4f}")
    for part in PARTS:
        lines += [f"FAILED {part} {key}: {row['error'][:300]}" for key, row in results[part].items() if "error" in row]
    return "\n".join(lines)


def main() -> int:
    """Measure what this card's record lacks; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--lesson", action="append", choices=sorted(lessons.NOTEBOOKS), help="its number; all if not given")
    parser.add_argument("--predict", action="store_true", help="without a GPU: print the memory that would be compared")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.predict:
        for row in gpu_memory.rows():
            print(gpu_memory.described(row))
        return 0
    device = hardware.Device(**in_a_process("device"))
    if device.kind != "cuda":
        sys.exit("no GPU here; --predict prints the memory that would be compared")
    chosen, numbers = options.parts or list(PARTS), options.lesson or sorted(lessons.NOTEBOOKS)
    record = Record(device)
    for part in chosen:
        for key, measure in steps(part, numbers):
            if record.has(part, key):
                continue
            print(f"{part}: {key}", flush=True)
            try:
                record.add(part, key, measure())
            except Exception as error:  # one result less is no reason to give the card back
                traceback.print_exc()
                record.add(part, key, {"error": f"{type(error).__name__}: {error}"[:2000]})
    wanted = [(part, key) for part in PARTS for key, _ in steps(part, sorted(lessons.NOTEBOOKS))]
    if all(record.has(part, key, missing_counts=True) for part, key in wanted):
        record.results["complete"] = True
        record.write()
    print(tables(record.results))
    return int(any("error" in row for part in chosen for row in record.results[part].values()))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
