"""What lesson 02 shows: arithmetic on published shapes, measurements on this machine, and the recorded sweep.

The sweep (`benchmarks/lora_sweep.py`) trained the CPU tier's model with three seeds for each setting, each on another sample
of the training messages. What is read from it says so, with its date.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

from course_utils import assets, evaluation, hardware, memory, models, plans
from course_utils.errors import CourseError
from course_utils.evidence import MODELS
from course_utils.lessons import source_file
from course_utils.show.tables import Table

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


def rivals() -> Table:
    """LoRA, its variants and full fine-tuning: what they learn and what they forget."""
    record = assets.read_record("lora-sweep")
    untrained = record["runs"]["untrained"]
    names = {
        "LoRA, rank 16, all linear layers": LORA,
        "rank 1": "rank 1",
        "rank 64": "rank 64",
        "attention only, at equal size": "attention only, equal size",
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
    return Table(rows, caption, "what was trained", "LoRA, rank 16, all linear layers")


# -- the rivals, recorded ---------------------------------------------------------------------------------------------------

WAYS = {
    "rules": "rules in the prompt",
    "rules, in the schema": "rules, decoded under the schema",
    "rules + 3": "rules and three solved tickets",
    "rules + 8 of 80 retrieved": "rules and the eight most similar of 80",
    "rules + 8 retrieved": "rules and the eight most similar of 540",
    "LoRA, 80": "trained on 80 tickets",
    "LoRA, 80, 3 passes": "trained on 80 tickets, each read three times",
    "LoRA, 80, 6 passes": "trained on 80 tickets, each read six times",
    "LoRA, 240": "trained on 240 tickets",
    "LoRA, 540": "trained on 540 tickets",
    "QLoRA, 240": "trained on 240 tickets, base in 4 bits",
    "full, 240": "trained on 240 tickets, every weight",
}
MEASURES = ("valid", "category", "escalation", "product", "order_id", "all fields")


def rivals_table(measure: str = "all fields") -> Table:
    """Percent of the hundred test messages that each way gets right, for each model, with its 95 % interval.

    Args:
        measure: "all fields", "valid", or the name of a field.
    """
    record = assets.read_record("laptop-tickets")
    rows: dict[str, dict[str, Any]] = {}
    if share := record["most common"].get(measure):
        rows["always the most common value"] = dict.fromkeys(MODELS.values(), f"{100 * share:.0f}")
    for way, shown in WAYS.items():
        runs = {model: recorded_tickets(size, way) for size, model in MODELS.items()}
        tokens = [run["prompt_tokens"] for model in runs for run in runs[model] if "prompt_tokens" in run]
        rows[shown] = {
            "tokens": f"{statistics.mean(tokens):.0f}" if tokens else None,
            "seeds": ", ".join(str(len(runs[model])) for model in runs),
            **{model: percent_right(runs[model], measure) for model in runs},
        }
    caption = f"{measure}: percent right of 100 test messages [95 % interval], recorded {record['date']}"
    return Table({name: row for name, row in rows.items() if any(row[m] for m in MODELS.values())}, caption, "way", "")


def recorded_tickets(size: str, way: str) -> list[dict[str, Any]]:
    """Return the recorded runs of a model ("135M", "0.5B" or "1.5B") and a way (a key of `WAYS`), one for each seed."""
    record = assets.read_record("laptop-tickets")
    names = [f"{size} | {way} | {seed}" for seed in record["seeds"]]
    return [record["runs"][name] for name in names if name in record["runs"]]


def percent_right(runs: Sequence[Mapping[str, Any]], measure: str) -> str | None:
    """Mean over seeds and messages in percent, with its interval: "31 [23, 41]"; None without runs."""
    if not runs:
        return None
    score = evaluation.over_seeds([run["right"][measure] for run in runs])
    return f"{100 * score.value:.0f} [{100 * score.low:.0f}, {100 * score.high:.0f}]"


def beside_rivals(yours: Mapping[str, float]) -> Table:
    """Your model's shares of the test set (name → share), above the recorded ones of what was trained, in percent."""
    rows = {"your model": {measure: f"{100 * yours[measure]:.0f}" for measure in MEASURES}}
    common = assets.read_record("laptop-tickets")["most common"]
    rows["always the most common value"] = {field: f"{100 * share:.0f}" for field, share in common.items()}
    for size, model in MODELS.items():
        for way in ("LoRA, 80", "LoRA, 240", "LoRA, 540"):
            if runs := recorded_tickets(size, way):
                rows[f"{model}, {WAYS[way]}"] = {measure: str(percent_right(runs, measure)) for measure in MEASURES}
    caption = "Percent right of the 100 test messages; below yours the recorded ones, with their 95 % intervals"
    return Table(rows, caption, "model", "your model")


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
    shown = [method for method in states_gb(names[0]) if method != "full, pure bfloat16"]
    rows = {name: {f"{method}, GB": round(states_gb(name)[method], 1) for method in shown} for name in names}
    return Table(rows, "Weights, gradients and optimizer states, rank 16 on all linear layers", "model", "")


# -- the program, to take away ----------------------------------------------------------------------------------------------


def train_script(file: str | Path, base: str = "") -> str:
    """Write the lesson's cells tagged "program" as one script that does not use this package, and say so.

    Args:
        file: a new file.
        base: the model to train: a name on the hub, a folder, or a tier; by default that of this machine's tier, which on
            a CPU is the packaged model's folder.

    Raises:
        CourseError: the file exists.
    """
    if Path(file).exists():
        raise CourseError(f"{file} exists; choose another name with --out")
    text = source_file("02_lora").read_text(encoding="utf-8")
    cells = [cell.partition("\n\n# %%")[0] for cell in text.split('# %% tags=["program"]\n')[1:]]
    lines = [line for cell in cells for line in cell.splitlines()]
    imports = {line for line in lines if re.match("import |from ", line)} - {"import json"}
    imports |= {"import jsonschema", "import pandas as pd", "import torch", "from peft import LoraConfig, PeftModel"}
    imports -= {"from peft import LoraConfig"}
    answering, training, grading, scoring = (
        "\n".join(line for line in cell.splitlines() if not re.match("import |from ", line)).strip() for cell in cells
    )
    answering = "\n".join(line for line in answering.splitlines() if not re.match("(base|model) = ", line))
    *steps, table = scoring.replace('"validation.jsonl"', "file").splitlines()
    tier, base = (base, "") if base in models.TIERS else (models.tier_of(base), base)
    own = models.TIERS[tier or hardware.detect().tier].name
    plan = plans.plan("02", tier)  # a rate is a model's
    values = f"{plan.learning_rate}, {plan.batch_size}, {plan.answer_tokens}"
    script = (assets.PACKAGE / "evidence" / "train_adapter.txt").read_text(encoding="utf-8")
    script = script.format(
        file=Path(file).name,
        imports="\n".join(sorted(imports, key=lambda line: (line.startswith("from "), line))),
        base=json.dumps(base or (models.fetch() if own == models.PACKAGED.name else own)),
        settings=f"learning_rate, tickets_a_step, answer_tokens = {values}",
        answering=answering,
        training=indent(training, "    "),
        grading=grading,
        scoring=indent("\n".join([*steps, f"print({table}.to_string())"]), "    "),
    )
    Path(file).write_text(script, encoding="utf-8")
    said = f"{file}: {len(script.splitlines())} lines. In a terminal: python {file}, beside train.jsonl and validation.jsonl"
    if not base and own == models.PACKAGED.name:
        said += ". It trains the course's model from a folder of this machine; --model NAME writes it for another one"
    return said
