"""What lesson 02 shows: arithmetic on published shapes, measurements on this machine, and the recorded sweep.

The sweep (`benchmarks/lora_sweep.py`) trained the CPU tier's model with three seeds for each setting, each on another sample
of the training messages. What is read from it says so, with its date.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils import assets, charts, evaluation, memory
from course_utils.show.answers import Answers
from course_utils.show.tables import Table

if TYPE_CHECKING:
    from course_utils.data_prep.tasks import Task
    from course_utils.evaluation import Score
    from course_utils.figures import Figure

LORA = "LoRA"


# -- the recorded sweep -----------------------------------------------------------------------------------------------------


def over_seeds(run: str, measure: str) -> list[Any]:
    """One value per seed of a run of the sweep, e.g. ("rank 4", "validation_loss"); variants have one seed only."""
    record = assets.read_record("lora-sweep")
    names = [f"{run} | {seed}" for seed in record["seeds"]]
    return [record["runs"][name][measure] for name in names if name in record["runs"]]


def average(run: str, measure: str = "validation_loss") -> float:
    """Mean over the seeds."""
    return statistics.mean(over_seeds(run, measure))


def fields_right(run: str) -> list[float]:
    """Percent of test messages in which category and escalation are both right, per seed; empty if it was not measured."""
    runs = [row for name, row in assets.read_record("lora-sweep")["runs"].items() if name.startswith(f"{run} | ")]
    return [100 * row["scores"]["all enumeration fields right"][0] for row in runs if "scores" in row]


def _names(start: str) -> list[str]:
    """Runs whose name begins so, without their seeds, in the record's order."""
    names = [name.rpartition(" | ")[0] for name in assets.read_record("lora-sweep")["runs"]]
    return [name for name in dict.fromkeys(names) if name.startswith(start)]


def best_full() -> str:
    """The rate at which full fine-tuning reached the lowest validation loss."""
    return min(_names("full, rate"), key=average)


def setting_curve(name: str) -> Figure:
    """How the validation loss depends on "rank", "alpha" or "learning rate", everything else as in the lesson's run."""
    base = assets.read_record("lora-sweep")["base"]
    runs: dict[float, str] = {
        "rank": {1: "rank 1", 4: "rank 4", base["rank"]: LORA, 64: "rank 64"},
        "alpha": {8: "alpha 8", base["alpha"]: LORA, 128: "alpha 128"},
        "learning rate": {float(n.split()[1]): n for n in _names("rate ")} | {base["learning_rate"]: LORA},
    }[name]
    title = {
        "rank": "In a short run, rank is not what limits",
        "alpha": "In a short run, more alpha helps",
        "learning rate": "The learning rate decides",
    }[name]
    values = sorted(runs)
    return charts.lines(
        {"LoRA: runs, and their mean": (values, [over_seeds(runs[x], "validation_loss") for x in values])},
        title, name, "validation loss (nats per token)", log_x=values, log_y=name == "learning rate",
        levels={"full fine-tuning, at its best rate": average(best_full())},
    )  # fmt: skip


def rivals() -> Table:
    """LoRA, its variants and full fine-tuning: what they learn and what they forget."""
    record = assets.read_record("lora-sweep")
    untrained = record["runs"]["untrained"]
    names = {
        "LoRA, rank 16, all layers": LORA,
        "attention only, at equal size": "attention only, equal size",
        "dropout 0.1": "dropout 0.1",
        "DoRA": "DoRA",
        "embedding too (modules_to_save)": "embedding trained too",
        f"full fine-tuning, {best_full().removeprefix('full, ')}": best_full(),
    }
    rows: dict[str, dict[str, Any]] = {
        "before training": {
            "trained, millions": 0.0,
            "validation loss": f"{untrained['validation_loss']:.2f}",
            "both labels right": f"{100 * untrained['scores']['all enumeration fields right'][0]:.0f} %",
            "prose loss": untrained["prose_loss"],
            "records for everyday questions, %": round(100 * untrained["records_for_questions"]),
        }
    }
    for shown, run in names.items():
        losses = over_seeds(run, "validation_loss")
        spread = f"{min(losses):.3f}-{max(losses):.3f}" if len(losses) > 1 else "one run"
        right = fields_right(run)
        rows[shown] = {
            "trained, millions": average(run, "trained_parameters") / 1e6,
            "validation loss": f"{average(run):.3f} ({spread})",
            "both labels right": f"{statistics.mean(right):.0f} % ({min(right):.0f}-{max(right):.0f})" if right else None,
            "prose loss": average(run, "prose_loss"),
            "records for everyday questions, %": round(100 * average(run, "records_for_questions")),
        }
    caption = (
        f"Recorded {record['date']}: {record['examples']} examples; mean of {len(record['seeds'])} seeds (lowest-highest), "
        "losses in nats per token"
    )
    return Table(rows, caption, "what was trained", "LoRA, rank 16, all layers")


def forgetting() -> Figure:
    """What is learned against what is forgotten, for LoRA at each rate and full fine-tuning at each rate."""
    series, rates = {}, []
    for label, names in (("LoRA", [*_names("rate "), LORA]), ("full fine-tuning", _names("full, rate"))):
        points = sorted((_rate(n), average(n), average(n, "prose_loss")) for n in names)
        series[label] = ([x for _, x, _ in points], [y for _, _, y in points])
        rates += [(f"rate {charts.decimal(rate)}", x, y) for rate, x, y in points]
    untrained = assets.read_record("lora-sweep")["runs"]["untrained"]
    series["before training"] = ([untrained["validation_loss"]], [untrained["prose_loss"]])
    return charts.lines(
        series, "At its best rate, full fine-tuning forgot less", "validation loss on the task (nats per token)",
        "loss on everyday prose (nats per token)", log_x=True, notes=rates,
    )  # fmt: skip


def _rate(run: str) -> float:
    """The learning rate of a run of the sweep."""
    return float(run.split()[-1]) if "rate" in run else float(assets.read_record("lora-sweep")["base"]["learning_rate"])


def before_and_after() -> Answers:
    """A recorded answer before and after fine-tuning on 540 examples, to the first test message that is then right."""
    from course_utils.data_prep import load_task

    record = assets.read_record("lora-seeds")
    task = load_task("support_tickets", record["plan"]["fields"])
    tuned = record["runs"][0]["answers"]
    scored = [task.evaluate([""] * i + [answer]).exact for i, answer in enumerate(tuned)]
    right = next(i for i, exact in enumerate(scored) if all(round(s.value * s.n) == 1 for s in exact.values()))
    return Answers(
        [task.prompts()[right][-1]["content"]],
        {"before": [record["untrained"][right]], "after fine-tuning": [tuned[right]]},
        [task.references()[right]], json.loads, 280,
    )  # fmt: skip


def recorded_scores() -> dict[str, str]:
    """Test scores after 540 examples (`benchmarks/lora_seeds.py`): mean over the samples, with the lowest and highest."""
    rows = [run["scores"] for run in assets.read_record("lora-seeds")["runs"]]

    def written(name: str) -> str:
        values = [100 * row[name][0] for row in rows]
        return f"{statistics.mean(values):.0f} % (runs: {min(values):.0f}-{max(values):.0f})"

    fields = {name.partition(":")[0]: name for name in rows[0] if name.endswith("exact match")}
    return {"valid record": written("valid format")} | {field: written(name) for field, name in fields.items()}


# -- the rivals, recorded ---------------------------------------------------------------------------------------------------

WAYS = {
    "rules": "rules in the prompt",
    "rules + 3": "rules and three solved tickets",
    "rules + 8 retrieved": "rules and the eight most similar solved tickets",
    "rules, in the schema": "rules, decoded under the schema",
    "LoRA, 80": "trained on 80 tickets",
    "LoRA, 240": "trained on 240 tickets",
    "LoRA, 540": "trained on 540 tickets",
}
MEASURES = ("valid", "category", "escalation", "product", "order_id", "all fields")
MODEL_NAMES = {"135M": "SmolLM2-135M", "0.5B": "Qwen2.5-Coder-0.5B", "1.5B": "Qwen2.5-Coder-1.5B"}


def rivals_table(ways: Sequence[str] = tuple(WAYS)) -> Table:
    """Percent right on the hundred test messages, for each model and way, and for the most common value.

    Means over the seeds that are recorded; "all fields" with its 95 % interval.
    """
    record = assets.read_record("laptop-tickets")
    guesses = {field: f"{100 * share:.0f}" for field, share in record["most common"].items()}
    rows: dict[str, dict[str, Any]] = {"no model: always the most common value": {"valid": None, **guesses}}
    for size, model in MODEL_NAMES.items():
        for way in ways:
            names = [f"{size} | {way} | {seed}" for seed in record["seeds"]]
            runs = [record["runs"][name]["right"] for name in names if name in record["runs"]]
            if runs:
                scores = {measure: evaluation.over_seeds([run[measure] for run in runs]) for measure in MEASURES}
                rows[f"{model}, {WAYS[way]}"] = {
                    measure: str(score) if measure == "all fields" else f"{100 * score.value:.0f}"
                    for measure, score in scores.items()
                }
    caption = f"Recorded {record['date']}: percent right of 100 test messages; means of up to {len(record['seeds'])} seeds"
    return Table(rows, caption, "model and way", "")


def beside_rivals(yours: Mapping[str, float]) -> Table:
    """Your model's shares of the test set (name → share), above the recorded ones of what was trained on 240 tickets."""
    recorded = rivals_table(("LoRA, 240",))
    rows = {"your model": {measure: f"{100 * yours[measure]:.0f}" for measure in MEASURES}, **recorded.rows}
    return Table(rows, recorded.caption, "model and way", "your model")


# -- the rival that needs no training ---------------------------------------------------------------------------------------

RULES = {
    "category": "one of delivery, billing, returns, defect, account, question",
    "escalation": "why the message must jump the queue: one of none, danger, misuse, money, legal, deadline; mostly none",
    "product": "the product, copied letter for letter from the message, or null",
    "order_id": "the order number as TB- and five digits, or null",
    "summary": "the message in 4 to 12 words",
}


def with_rules(task: Task, prompts: Sequence[list[dict]]) -> list[list[dict]]:
    """Prompts with the rules of the task in front, and three training examples as earlier turns."""
    fields = "; ".join(f"{name}: {RULES[name]}" for name in task.schema["properties"])
    system = f"Triage this customer message. Answer with one JSON record and nothing else. Its fields are {fields}."
    solved = [message for chat in task.train[:3] for message in chat if message["role"] != "system"]
    return [
        [{"role": "system", "content": system}, *solved, *(m for m in prompt if m["role"] != "system")] for prompt in prompts
    ]


def alarms(records: Sequence[Mapping[str, Any] | None], references: Sequence[Mapping[str, Any]]) -> Table:
    """What became of the messages that had to be escalated, and of those that had not; `records` are those of `Scores`."""
    pairs = [(record["escalation"] if record else None, right["escalation"]) for record, right in zip(records, references)]
    urgent = [(predicted, right) for predicted, right in pairs if right != "none"]
    calm = [predicted for predicted, right in pairs if right == "none"]
    rows = {
        "escalated for the right reason": [predicted == right for predicted, right in urgent],
        "escalated for another reason": [predicted not in (right, "none", None) for predicted, right in urgent],
        "missed: “none”, or no valid record": [predicted in ("none", None) for predicted, _ in urgent],
        "false alarms": [predicted not in ("none", None) for predicted in calm],
        "right to say “none”": [predicted == "none" for predicted in calm],
        "no valid record where nothing was needed": [predicted is None for predicted in calm],
    }
    shown = {name: {"messages": sum(counted), "of": len(counted)} for name, counted in rows.items()}
    return Table(shown, f"Escalation: {len(urgent)} of {len(pairs)} messages need it", "answer", "")


# -- memory and hardware ----------------------------------------------------------------------------------------------------


def states_gb(name: str) -> dict[str, float]:
    """Weights, gradients and optimizer states of a model by method, in GB (10^9 bytes); activations are not counted."""
    count = memory.count_parameters(name, 16)
    shape = memory.ARCHITECTURES[name]
    # Embedding and head stay in 16 bits when the linear layers are quantized.
    tables = (1 if shape["tie_word_embeddings"] else 2) * shape["vocab_size"] * shape["hidden_size"]
    bits_nf4 = 4 + 8 / 64 + 32 / (64 * 256)  # 4-bit codes, 8-bit block scales, 32-bit scales of those (lesson 03)
    in_bytes = {
        "full, mixed precision": 16 * count.base,
        "full, pure bfloat16": 8 * count.base,
        "LoRA": 2 * count.base + 16 * count.trainable,
        "QLoRA": bits_nf4 / 8 * (count.base - tables) + 2 * tables + 16 * count.trainable,
    }
    return {method: size / 1e9 for method, size in in_bytes.items()}


def states_table() -> Table:
    """`states_gb` of several models."""
    names = ("SmolLM2-135M", "Llama-2-7B", "Llama-3.1-8B", "Llama-2-70B")
    rows = {name: {f"{method}, GB": round(gb, 1) for method, gb in states_gb(name).items()} for name in names}
    return Table(rows, "Weights, gradients and optimizer states, rank 16 on all linear layers", "model", "")


def truncation() -> tuple[dict[str, float], dict[str, float]]:
    """Share of the loss reduction of full fine-tuning that is left when its update keeps only r directions.

    Returns:
        rank → share, for the task and for shuffled answers; means over the seeds.
    """

    def shares(run: str) -> dict[str, float]:
        losses = over_seeds(run, "losses")
        ranks = [name for name in losses[0] if name.startswith("rank")]
        share_left = lambda row, rank: (row["before"] - row[rank]) / (row["before"] - row["whole update"])  # noqa: E731
        return {rank: statistics.mean(share_left(row, rank) for row in losses) for rank in ranks}

    return shares("truncated"), shares("truncated, shuffled answers")


def truncation_figure() -> Figure:
    """`truncation` as a figure."""
    shares = zip(("our task", "shuffled answers, by heart"), truncation())
    return charts.lines(
        {what: ([float(rank.split()[1]) for rank in row], [100 * v for v in row.values()]) for what, row in shares},
        "What is left of full fine-tuning if its update keeps only r directions",
        "directions kept in each weight matrix", "share of the loss reduction, %", log_x=True,
    )  # fmt: skip


# -- measured in the notebook -----------------------------------------------------------------------------------------------


def latency(merged: Any, apart: Any, tokenizer: Any) -> dict[str, Score]:
    """Time of six greedy tokens relative to the base's; the three take turns, so that load hurts all alike.

    The base is loaded anew, in the same number format: under PEFT it is slower, its adapter switched off or not. All three
    use the same attention.

    Args:
        merged: the model with the adapter merged into its weights.
        apart: the PEFT model with the adapter beside them.
        tokenizer: theirs.

    Returns:
        "merged" and "kept apart" → mean over six turns of each, with its interval.
    """
    import time

    import numpy as np
    import torch

    from course_utils import memory, models

    base, _ = models.load(dtype=merged.dtype)
    merged.set_attn_implementation(base.config._attn_implementation)
    by_name = {"base": base, "merged": merged, "kept apart": apart}
    inputs = tokenizer("The customer writes that the parcel", return_tensors="pt").to(apart.device)

    def seconds(name: str) -> float:
        with torch.no_grad():
            started = time.perf_counter()
            by_name[name].generate(**inputs, min_new_tokens=6, max_new_tokens=6, do_sample=False)
            return time.perf_counter() - started

    names = list(by_name)
    for name in names:
        by_name[name].eval()
        seconds(name)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(6):
        for name in np.roll(names, turn):
            times[str(name)].append(seconds(str(name)))
    del base, by_name["base"]
    memory.release()
    return {name: evaluation.mean(list(np.divide(times[name], times["base"]))) for name in names[1:]}


def merge_difference(model: Any) -> float:
    """Largest difference of a block's outputs before and after merging, in float32, relative to the largest output."""
    import copy

    import torch

    block = copy.deepcopy(model.base_model.model.model.layers[0].mlp).float().cpu()
    probe = torch.randn(8, block.gate_proj.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = block(probe)
        for name in ("gate_proj", "up_proj", "down_proj"):
            getattr(block, name).merge()
        return float((block(probe) - apart).abs().max() / apart.abs().max())
