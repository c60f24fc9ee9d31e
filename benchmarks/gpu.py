"""Predicted against real on a GPU: allocated, reserved and process memory of training steps on random weights.

    python benchmarks/gpu.py            # needs a GPU with nothing else on it; writes a dated record with the card's name
    python benchmarks/gpu.py --predict  # the same rows without a GPU: what would be compared

Every row runs in a process of its own, so that each has the context and an empty allocator to itself. Rows marked T4 run
with the memory capped to a T4's and in float16, as they would there. Process memory is what the card has in use when the
step is over, less what the allocator holds then, plus what it held at its highest.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys

from common import RECORDS, write_record
from course_utils import memory
from course_utils.memory import formula, step
from course_utils.memory.shape import shape

CAP = memory.GPUS["t4"] - memory.CONTEXT  # what a T4 leaves to the allocator


def rows() -> list[dict]:
    """Name of the model, plan, and whether the card is capped to a T4's memory."""
    made = []
    for length, checkpointing in ((512, False), (1024, True), (2048, True)):
        here = {"length": length, "checkpointing": checkpointing, "batch_size": 1}
        for method in ("lora", "qlora"):
            made.append({"model": "Llama-3.1-8B", "cap": False, "plan": {"method": method, **here}})
        made.append({"model": "SmolLM2-1.7B", "cap": False, "plan": {"method": "full", **here}})
        made.append({"model": "Llama-3.1-8B", "cap": True, "plan": {"method": "qlora", "precision": "fp16", **here}})
    for batch in (4, 8):
        here = {"length": 256, "batch_size": batch}
        for method in ("lora", "qlora"):
            made.append({"model": "Llama-3.1-8B", "cap": False, "plan": {"method": method, **here}})
        made.append({"model": "SmolLM2-1.7B", "cap": True, "plan": {"method": "lora", "precision": "fp16", **here}})
    return made


def plan_of(row: dict) -> memory.Plan:
    """The row's plan, on a GPU."""
    return memory.Plan(device="cuda", **row["plan"])


def predicted(row: dict) -> dict:
    """What the closed form says: of the tensors, and with what comes on top."""
    found = memory.estimate(row["model"], **row["plan"])
    return {"tensors": found.tensors, "total": found.total}


def measure(row: dict) -> dict:
    """Run two steps of a row in this process and read what they took."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    if row["cap"]:
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP / total))
    plan, sizes = plan_of(row), shape(row["model"])
    config = memory.build_without_weights(row["model"]).config
    try:
        model = step.build_piecewise(config, plan, "cuda")
        gc.collect()
        torch.cuda.empty_cache()  # what building took for a moment is not the step's
        torch.cuda.reset_peak_memory_stats()
        step.run(model, plan)
    except torch.OutOfMemoryError as error:
        return {"card": torch.cuda.get_device_name(0), "out_of_memory": str(error).splitlines()[0]}
    torch.cuda.synchronize()
    free, _ = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    return {
        "card": torch.cuda.get_device_name(0),
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "process": torch.cuda.max_memory_reserved() + outside,
        "outside_allocator": outside,
        "weights_by_formula": formula.weight_bytes(sizes, plan),
    }


def main() -> None:
    """Measure every row, print errors, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predict", action="store_true", help="no GPU: print what would be compared")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        print(json.dumps(measure(chosen.row)))
        return
    if not chosen.predict:
        import torch

        if not torch.cuda.is_available():
            sys.exit("no GPU here; --predict prints what would be compared")
    table = []
    for row in rows():
        found = {**row, "predicted": predicted(row)}
        text = (
            f"{row['model']:<13} {'T4 ' if row['cap'] else '   '} {row['plan']}: {found['predicted']['total'] / 1e9:.2f} GB"
        )
        if not chosen.predict:
            ran = subprocess.run([sys.executable, __file__, "--row", json.dumps(row)], capture_output=True, text=True)
            found["measured"] = (
                json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else {"error": ran.stderr[-500:]}
            )
            if "process" in found["measured"]:
                for kind, against in (("tensors", "allocated"), ("total", "process")):
                    found[f"{kind}_error"] = found["predicted"][kind] / found["measured"][against] - 1
                text += f", process {found['measured']['process'] / 1e9:.2f} GB, {100 * found['total_error']:+.1f} %"
            else:
                found["wrongly_said_to_fit"] = row["cap"] and found["predicted"]["total"] <= memory.GPUS["t4"]
                text += f", {found['measured']}"
        print(text, flush=True)
        table.append(found)
    if chosen.predict:
        return
    summary = {"wrongly_said_to_fit": sum(found.get("wrongly_said_to_fit", False) for found in table)}
    card = next((found["measured"]["card"] for found in table if "card" in found["measured"]), "unknown card")
    for kind in ("tensors_error", "total_error"):
        errors = [abs(found[kind]) for found in table if kind in found]
        if errors:
            summary[kind] = {"mean": statistics.mean(errors), "worst": max(errors), "rows": len(errors)}
            print(f"{kind}: mean {100 * summary[kind]['mean']:.1f} %, worst {100 * summary[kind]['worst']:.1f} %")
    file = write_record(f"gpu-{card.lower().replace(' ', '-')}", {"card": card, "summary": summary, "rows": table})
    print(file.relative_to(RECORDS.parent.parent))


if __name__ == "__main__":
    main()
