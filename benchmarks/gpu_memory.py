"""Predicted against real on a GPU: allocated, reserved and process memory of training steps on random weights (for gpu.py).

    python benchmarks/gpu_memory.py        the same rows on the simulated A100, which counts tensors and computes nothing

Every row runs in a process of its own, so that each has its own context and an empty allocator. Rows marked T4 run in
float16 with the memory capped to that of a T4, as they would there. Process memory is the card's memory in use after the
step, minus what the allocator then reserves, plus the most that it reserved.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

from course_utils import memory
from course_utils.memory import formula
from course_utils.memory.shape import configuration, shape

CAP = memory.GPUS["t4"] - memory.CONTEXT  # memory that a T4 leaves for the allocator


def rows() -> list[dict]:
    """Name of the model, plan, and whether the card is capped to a T4's memory."""
    table = []
    for length, checkpointing in ((512, False), (1024, True), (2048, True)):
        common = {"length": length, "checkpointing": checkpointing, "batch_size": 1}
        for base in ({"method": "lora"}, {"method": "qlora"}, {"method": "qlora", "embeddings": "float32"}):
            table.append({"model": "Llama-3.1-8B", "cap": False, "plan": base | common})
        table.append({"model": "SmolLM2-1.7B", "cap": False, "plan": {"method": "full", **common}})
        table.append({"model": "Llama-3.1-8B", "cap": True, "plan": {"method": "qlora", "precision": "fp16", **common}})
    for batch in (4, 8):
        common = {"length": 256, "batch_size": batch}
        for method in ("lora", "qlora"):
            for model in ("Llama-3.1-8B", "Qwen3-8B"):
                table.append({"model": model, "cap": False, "plan": {"method": method, **common}})
        table.append({"model": "SmolLM2-1.7B", "cap": True, "plan": {"method": "lora", "precision": "fp16", **common}})
    return table


def plan_of(row: dict) -> memory.StepPlan:
    """The row's plan, on a GPU."""
    return memory.StepPlan(device="cuda", **row["plan"])


def predicted(row: dict) -> dict:
    """The closed form's prediction: for the tensors, and in total."""
    estimate = memory.estimate(row["model"], **row["plan"])
    return {"tensors": estimate.tensors, "total": estimate.total}


def build_piecewise(config: Any, plan: memory.StepPlan, device: str) -> Any:
    """Build a model that fits on the device only once it is quantised; its weights are made and quantised one at a time.

    Args:
        config: a `transformers` configuration.
        plan: the training step.
        device: device of the model, such as "cuda".

    Raises:
        CourseError: for the same reasons as `training_step.build`.
    """
    import torch

    import training_step as step

    with torch.device("meta"):
        model = step.build(config, replace(plan, method="full", embeddings="bfloat16", objective="sft", checkpointing=False))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "inv_freq"):  # rotary tables are computed from the configuration
                setattr(module, name, type(child)(config=model.config).to(device))
    head = model.get_output_embeddings()
    parameters: dict[int, torch.nn.Parameter] = {}  # so that tied weights are made once
    for module in list(model.modules()):
        if plan.method == "qlora" and type(module) is torch.nn.Linear and module is not head:
            continue  # replaced while its parent was visited
        linears = {n: c for n, c in module.named_children() if type(c) is torch.nn.Linear and c is not head}
        for name, layer in linears.items() if plan.method == "qlora" else ():
            with torch.device(device):
                setattr(module, name, step.four_bit(torch.nn.Linear(
                    layer.in_features, layer.out_features, layer.bias is not None, dtype=layer.weight.dtype
                ), layer.weight.dtype))  # fmt: skip
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.device.type == "meta":
                if id(parameter) not in parameters:
                    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device).normal_(std=0.02)
                    parameters[id(parameter)] = torch.nn.Parameter(values)
                module._parameters[name] = parameters[id(parameter)]
    if plan.method == "qlora":
        from course_utils import quantization

        model.is_loaded_in_4bit = True
        quantization.guard(model)
    return step.adapted(model, plan)


def measure(row: dict) -> dict:
    """Run two steps of a row in this process and measure their memory."""
    import torch

    import training_step as step

    total = torch.cuda.get_device_properties(0).total_memory
    if row["cap"]:
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP / total))
    plan, sizes = plan_of(row), shape(row["model"])
    config = configuration(row["model"])
    try:
        model = build_piecewise(config, plan, "cuda")
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


def on_simulated_card() -> None:
    """Compare the rows on a simulated A100 and write a record; only the tensors, for nothing else is simulated."""
    from common import write_results

    from tests.gpu_simulation import build, driver, room

    os.environ.update(build.environment("a100") | {driver.SKIP: str(room.SKIP_FROM)})  # for the rows' processes
    compared = []
    for row in rows():
        compared.append(compare(row | {"cap": False}))
        print(described(row), compared[-1].get("tensors_error", compared[-1]), flush=True)
    worst = max(abs(row["tensors_error"]) for row in compared)
    write_results("estimates-card", {"card": "simulated A100", "worst_percent": 100 * worst, "rows": compared})


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    else:
        on_simulated_card()
