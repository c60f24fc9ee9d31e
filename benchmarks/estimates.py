"""Predicted against real memory of training steps: by closed form, by trace, and as recorded by the allocator.

    python benchmarks/estimates.py [--peers]

Every row is a real training step with random weights on the CPU; PyTorch's profiler reports each allocation and release, and
the highest sum is the peak. Half of the rows were used to develop the closed form; the other half is drawn with a fixed seed
and was not. `--peers` compares other estimators on the rows that they can express (pip install fitcheck-llm).
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time

from common import picture, write_results
from course_utils import memory
from course_utils.memory import formula
from course_utils.memory.shape import shape

import torch

import training_step as step

SIZES = {  # hidden, feed-forward, layers, heads, key-value heads, vocabulary
    "6M": (256, 704, 4, 8, 4, 8192),
    "50M": (512, 1408, 8, 8, 8, 32000),
    "135M": (576, 1536, 30, 9, 3, 49152),
    "0.5B": (896, 4864, 24, 14, 2, 151936),
    "1B": (2048, 8192, 16, 32, 8, 128256),
}


def config(architecture: str, size: str):
    """A `transformers` configuration."""
    from transformers import AutoConfig

    hidden, wide, layers, heads, kv_heads, vocabulary = SIZES[size]
    more = {"head_dim": hidden // heads} if architecture == "qwen3" else {}
    return AutoConfig.for_model(
        architecture, vocab_size=vocabulary, hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=True, **more,
    )  # fmt: skip


def seen() -> list[tuple[str, str, dict]]:
    """Rows of the kind that the closed form was developed on."""
    rows = []
    for method in ("lora", "qlora", "full"):
        for precision in ("bf16",) if method == "qlora" else ("bf16", "fp32"):
            for checkpointing in (False, True):
                for architecture, size in (("llama", "6M"), ("qwen3", "50M")):
                    options = {"precision": precision, "checkpointing": checkpointing, "batch_size": 4, "length": 128}
                    rows.append((architecture, size, {"method": method, **options}))
    rows += [("llama", "6M", {"method": m, "precision": "amp", "batch_size": 4, "length": 128}) for m in ("lora", "full")]
    prepared = {"method": "qlora", "embeddings": "float32", "batch_size": 4, "length": 128}
    rows += [("qwen3", "50M", prepared | {"checkpointing": checkpointing}) for checkpointing in (False, True)]
    return rows


def unseen(count: int = 24) -> list[tuple[str, str, dict]]:
    """Rows drawn at random. An earlier draw (seed 20261125) revealed a missing gradient of tied embeddings; this is a new
    one.
    """
    generator, rows = random.Random(20261126), []
    while len(rows) < count:
        size = generator.choice(list(SIZES))
        method = generator.choice(["lora", "lora", "qlora", "full"])
        large = size in ("0.5B", "1B")
        options = {
            "method": method,
            "precision": "bf16" if method == "qlora" or large else generator.choice(["bf16", "fp32", "amp"]),
            "checkpointing": generator.random() < 0.5,
            "attention": generator.choice(["sdpa", "sdpa", "eager"]),
            "batch_size": generator.choice([1, 2] if large else [1, 2, 4, 8]),
            "length": generator.choice([48, 96, 160] if large else [64, 160, 320]),
            "optimizer": generator.choice(["adamw", "adamw", "sgd", "adamw_8bit"]) if method != "full" else
                         "sgd" if size == "1B" else generator.choice(["adamw", "sgd", "adamw_8bit"]),
            "accumulation": generator.choice([1, 1, 2]),
            "padded": generator.random() < 0.25,
        }  # fmt: skip
        if method != "full":
            options["rank"] = generator.choice([4, 8, 16, 64])
            options["target_modules"] = generator.choice(
                ["all-linear", ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj")]
            )
        rows.append((generator.choice(["llama", "qwen2", "qwen3"]), size, options))
    return rows


def real_peak(settings, plan) -> int:
    """Highest sum of allocations during two training steps, including the weights."""
    from torch.profiler import ProfilerActivity, profile

    model = step.build(settings, plan)
    storages = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        for part in (tensor, *constants(tensor)):
            storages[part.untyped_storage()._cdata] = part.untyped_storage().nbytes()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step.run(model, plan)
    events = [(e.start_ns(), e.nbytes()) for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        live += change
        peak = max(peak, live)
    return sum(storages.values()) + peak


def constants(tensor) -> list:
    """Tensors that bitsandbytes stores with a 4-bit weight."""
    state = getattr(tensor, "quant_state", None)
    if state is None:
        return []
    return [state.absmax, state.code, *([state.offset, state.state2.absmax, state.state2.code] if state.nested else [])]


def peers(sizes, plan) -> dict[str, float]:
    """Other estimators' predictions for the tensors of this step, as far as they can express it."""
    predictions = {}
    trained = formula.adapter_values(sizes, plan) or sizes.parameters
    weights = formula.weight_bytes(sizes, plan)
    # huggingface.co/spaces/Vokturz/can-it-run-llm: (model + 8 bytes per trained value) x 1.2
    predictions["rule of thumb"] = 1.2 * (weights + 8 * trained)
    if plan.method == "full" and plan.precision in ("fp32", "bf16"):
        from accelerate.commands.estimate import estimate_training_usage

        usage = estimate_training_usage(4 * sizes.parameters, "float32" if plan.precision == "fp32" else "bfloat16")
        predictions["accelerate"] = max(usage.values())
    if plan.precision == "amp":
        return predictions
    import fitcheck

    width = {x.name: x for x in sizes.linears}
    model = fitcheck.ModelConfig(
        name=sizes.name, num_params=sizes.parameters, hidden_size=sizes.hidden, num_layers=sizes.layers,
        num_attention_heads=sizes.heads, num_kv_heads=sizes.kv_heads, intermediate_size=width["gate_proj"].outputs,
        vocab_size=sizes.vocabulary, head_dim=sizes.head_dim, tie_word_embeddings=sizes.head == 0,
    )  # fmt: skip
    targets = [x.name for x in sizes.targets(plan.target_modules)]
    training = fitcheck.TrainingConfig(
        precision=plan.precision, quantization="nf4" if plan.method == "qlora" else "none",
        double_quant=plan.method == "qlora", optimizer={"adamw": "adamw", "sgd": "sgd"}.get(plan.optimizer, "adam8bit"),
        optimizer_dtype=plan.precision if plan.method == "full" else "fp32", batch_size=plan.batch_size,
        seq_len=plan.length, lora_rank=None if plan.method == "full" else plan.rank, lora_targets=targets,
        grad_checkpoint=plan.checkpointing, flash_attn=plan.attention == "sdpa", grad_accum_steps=plan.accumulation,
    )  # fmt: skip
    report = fitcheck.estimate(model, training, fitcheck.get_gpu("t4"))
    predictions["fitcheck-llm"] = (report.total_mib - report.overhead_mib) * 2**20
    return predictions


def measure(architecture: str, size: str, options: dict, with_peers: bool) -> dict:
    """Predictions and real peak of one row."""
    settings, plan = config(architecture, size), memory.StepPlan(device="cpu", **options)
    sizes = shape(settings)
    started = time.perf_counter()
    predicted = {"formula": formula.parts(sizes, plan).peak}
    at = time.perf_counter()
    with torch.device("meta"):
        built = step.build(settings, plan)
    predicted["trace"] = step.trace(built, lambda m, tracker: step.run(m, plan, tracker)).peak
    seconds = {"formula": at - started, "trace": time.perf_counter() - at}
    if with_peers:
        predicted |= peers(sizes, plan)
    real = real_peak(settings, plan)
    errors = {name: 100 * (value / real - 1) for name, value in predicted.items()}
    return {"architecture": architecture, "size": size, "options": options, "real_mb": real / 1e6, "errors": errors,
            "seconds": seconds}  # fmt: skip


def summary(rows: list[dict], names=None) -> dict:
    """Mean and worst absolute error of each estimator, in percent, over the rows that it covers."""
    names = names or sorted({name for row in rows for name in row["errors"]})
    errors_by_method = {}
    for name in names:
        errors = [abs(row["errors"][name]) for row in rows if name in row["errors"]]
        errors_by_method[name] = {"rows": len(errors), "mean": statistics.fmean(errors), "worst": max(errors)}
    return errors_by_method


def main() -> None:
    """Measure all rows, print, record and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--rows", type=int, help="number of rows from each half")
    chosen = parser.parse_args()
    results = {}
    for half, rows in (("seen", seen()), ("unseen", unseen())):
        results[half] = []
        for row in rows[: chosen.rows]:
            results[half].append(measure(*row, chosen.peers))
            print(half, results[half][-1], flush=True)
        print(half, summary(results[half]), flush=True)
    everything = [row for rows in results.values() for row in rows]
    record = {
        "summary": {half: summary(rows) for half, rows in {**results, "all": everything}.items()},
        "too_low_by_formula": [r for r in everything if r["errors"]["formula"] < -1],
        **results,
    }
    if chosen.peers:  # compare all estimators on the same rows
        shared = [row for row in everything if "fitcheck-llm" in row["errors"]]
        record["summary"]["rows that fitcheck-llm can express"] = summary(shared)
    print(record["summary"])
    file = write_results("estimates", record)
    series = {
        f"{estimator}, {half}": ([r["real_mb"] for r in rows], [r["errors"][estimator] for r in rows])
        for half, rows in results.items() for estimator in ("formula", "trace")
    }  # fmt: skip
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(5.6, 3.8))
    axes = canvas.subplots()
    for name, (peaks, errors) in series.items():
        axes.scatter(peaks, errors, label=name)
    axes.set(title="Predicted against real", xlabel="real peak, MB", ylabel="error, percent", xscale="log")
    axes.legend()
    canvas.savefig(picture(file.stem))


if __name__ == "__main__":
    main()
