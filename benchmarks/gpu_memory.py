"""Predicted against real on a GPU: allocated, reserved and process memory of training steps on random weights (for gpu.py).

Every row runs in a process of its own, so that each has its own context and an empty allocator. Rows marked T4 run in
float16 with the memory capped to that of a T4, as they would there. Process memory is the card's memory in use after the
step, minus what the allocator then reserves, plus the most that it reserved.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys

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


def described(row: dict) -> str:
    """A row and its prediction, in a line."""
    cap = "T4 " if row["cap"] else "   "
    return f"{row['model']:<13} {cap} {row['plan']}: {predicted(row)['total'] / 1e9:.2f} GB"


def compare(row: dict) -> dict:
    """Measure a row in a process of its own, and set the prediction against it."""
    result = {**row, "predicted": predicted(row)}
    completed = subprocess.run([sys.executable, __file__, json.dumps(row)], capture_output=True, text=True)
    if completed.returncode:
        return result | {"error": completed.stderr[-500:]}
    result["measured"] = json.loads(completed.stdout.splitlines()[-1])
    if "process" in result["measured"]:
        for kind, measure_name in (("tensors", "allocated"), ("total", "process")):
            result[f"{kind}_error"] = result["predicted"][kind] / result["measured"][measure_name] - 1
    else:
        result["wrongly_said_to_fit"] = row["cap"] and result["predicted"]["total"] <= memory.GPUS["t4"]
    return result


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
