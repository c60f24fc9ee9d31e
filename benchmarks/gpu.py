"""Predicted against real on a GPU: allocated, reserved and process memory of training steps on random weights.

    python benchmarks/gpu.py            # needs a GPU with nothing else on it; writes a dated record with the card's name
    python benchmarks/gpu.py --predict  # without a GPU: prints the predictions that would be compared

Every row runs in a process of its own, so that each has its own context and an empty allocator. Rows marked T4 run in
float16 with the memory capped to that of a T4, as they would there. Process memory is the card's memory in use after the
step, minus what the allocator then reserves, plus the most that it reserved.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys

from common import RECORDS, write_results
from course_utils import memory
from course_utils.memory import formula, step
from course_utils.memory.shape import shape

CAP = memory.GPUS["t4"] - memory.CONTEXT  # memory that a T4 leaves for the allocator


def rows() -> list[dict]:
    """Name of the model, plan, and whether the card is capped to a T4's memory."""
    table = []
    for length, checkpointing in ((512, False), (1024, True), (2048, True)):
        common = {"length": length, "checkpointing": checkpointing, "batch_size": 1}
        for method in ("lora", "qlora"):
            table.append({"model": "Llama-3.1-8B", "cap": False, "plan": {"method": method, **common}})
        table.append({"model": "SmolLM2-1.7B", "cap": False, "plan": {"method": "full", **common}})
        table.append({"model": "Llama-3.1-8B", "cap": True, "plan": {"method": "qlora", "precision": "fp16", **common}})
    for batch in (4, 8):
        common = {"length": 256, "batch_size": batch}
        for method in ("lora", "qlora"):
            table.append({"model": "Llama-3.1-8B", "cap": False, "plan": {"method": method, **common}})
        table.append({"model": "SmolLM2-1.7B", "cap": True, "plan": {"method": "lora", "precision": "fp16", **common}})
    return table


def plan_of(row: dict) -> memory.StepPlan:
    """The row's plan, on a GPU."""
    return memory.StepPlan(device="cuda", **row["plan"])


def predicted(row: dict) -> dict:
    """The closed form's prediction: for the tensors, and in total."""
    estimate = memory.estimate(row["model"], **row["plan"])
    return {"tensors": estimate.tensors, "total": estimate.total}


def measure(row: dict) -> dict:
    """Run two steps of a row in this process and measure their memory."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    if row["cap"]:
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP / total))
    plan, sizes = plan_of(row), shape(row["model"])
    config = memory.build_without_weights(row["model"]).config
    try:
        model = step.build_piecewise(config, plan, "cuda")
        gc.collect()
        torch.cuda.empty_cache()  # memory that building took temporarily does not belong to the step
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
    parser.add_argument("--predict", action="store_true", help="without a GPU: print the predictions that would be compared")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        print(json.dumps(measure(chosen.row)))
        return
    if not chosen.predict:
        import torch

        if not torch.cuda.is_available():
            sys.exit("no GPU here; --predict prints the predictions that would be compared")
    table = []
    for row in rows():
        result = {**row, "predicted": predicted(row)}
        text = (
            f"{row['model']:<13} {'T4 ' if row['cap'] else '   '} {row['plan']}: {result['predicted']['total'] / 1e9:.2f} GB"
        )
        if not chosen.predict:
            completed = subprocess.run([sys.executable, __file__, "--row", json.dumps(row)], capture_output=True, text=True)
            result["measured"] = (
                json.loads(completed.stdout.splitlines()[-1])
                if completed.returncode == 0
                else {"error": completed.stderr[-500:]}
            )
            if "process" in result["measured"]:
                for kind, measure_name in (("tensors", "allocated"), ("total", "process")):
                    result[f"{kind}_error"] = result["predicted"][kind] / result["measured"][measure_name] - 1
                text += f", process {result['measured']['process'] / 1e9:.2f} GB, {100 * result['total_error']:+.1f} %"
            else:
                result["wrongly_said_to_fit"] = row["cap"] and result["predicted"]["total"] <= memory.GPUS["t4"]
                text += f", {result['measured']}"
        print(text, flush=True)
        table.append(result)
    if chosen.predict:
        return
    summary = {"wrongly_said_to_fit": sum(result.get("wrongly_said_to_fit", False) for result in table)}
    card = next((result["measured"]["card"] for result in table if "card" in result["measured"]), "unknown card")
    for kind in ("tensors_error", "total_error"):
        errors = [abs(result[kind]) for result in table if kind in result]
        if errors:
            summary[kind] = {"mean": statistics.mean(errors), "worst": max(errors), "rows": len(errors)}
            print(f"{kind}: mean {100 * summary[kind]['mean']:.1f} %, worst {100 * summary[kind]['worst']:.1f} %")
    file = write_results(f"gpu-{card.lower().replace(' ', '-')}", {"card": card, "summary": summary, "rows": table})
    print(file.relative_to(RECORDS.parent.parent))


if __name__ == "__main__":
    main()
