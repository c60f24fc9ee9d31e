"""What lesson 02 claims, and what decides: arithmetic on published shapes, this machine's runs, and the recorded sweep.

The sweep (`benchmarks/lora_sweep.py`) trained the CPU tier's model with three seeds for each setting, each on another sample
of the training messages. What is read from it says so, with its date.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from course_utils import assets, charts, claims, evaluation, memory
from course_utils.evidence.cards import Verdict
from course_utils.show.answers import Answers
from course_utils.show.tables import Table

if TYPE_CHECKING:
    from course_utils.data_prep.tasks import Task
    from course_utils.evaluation import Score
    from course_utils.figures import Figure

METHODS = ("full, mixed precision", "full, pure bfloat16", "LoRA", "QLoRA")
USABLE = 0.9  # of a card, for weights and optimizer states; activations need the rest
LORA = "LoRA"


# -- the recorded sweep -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def sweep() -> dict[str, Any]:
    """The newest record of the sweep.

    Raises:
        CourseError: there is none.
    """
    content: dict[str, Any] = json.loads(assets.benchmark_results("lora-sweep").read_text(encoding="utf-8"))
    return content


def over_seeds(run: str, measure: str) -> list[Any]:
    """One value per seed of a run of the sweep, e.g. ("rank 4", "validation_loss"); variants have one seed only."""
    record = sweep()
    names = [f"{run} | {seed}" for seed in record["seeds"]]
    return [record["runs"][name][measure] for name in names if name in record["runs"]]


def average(run: str, measure: str = "validation_loss") -> float:
    """Mean over the seeds."""
    return statistics.mean(over_seeds(run, measure))


def _names(start: str) -> list[str]:
    """Runs whose name begins so, without their seeds, in the record's order."""
    return list(dict.fromkeys(name.rpartition(" | ")[0] for name in sweep()["runs"] if name.startswith(start)))


def best_full() -> str:
    """The rate at which full fine-tuning reached the lowest validation loss."""
    return min(_names("full, rate"), key=average)


def setting_curve(name: str) -> Figure:
    """How the validation loss depends on one setting, everything else as in the lesson's run.

    Args:
        name: "rank", "alpha" or "learning rate".
    """
    base = sweep()["base"]
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
    record = sweep()
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
        if not losses:
            continue
        spread = f"{min(losses):.3f}-{max(losses):.3f}" if len(losses) > 1 else "one run"
        rows[shown] = {
            "trained, millions": average(run, "trained_parameters") / 1e6,
            "validation loss": f"{average(run):.3f} ({spread})",
            "both labels right": _written(_fields_right(run)) if _fields_right(run) else None,
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
    untrained = sweep()["runs"]["untrained"]
    series["before training"] = ([untrained["validation_loss"]], [untrained["prose_loss"]])
    same = average(best_full(), "prose_loss") < average(LORA, "prose_loss") and average(best_full()) <= average(LORA)
    title = "At its best rate, full fine-tuning forgot less" if same else "Lower left is better: learned, and forgot little"
    return charts.lines(
        series, title, "validation loss on the task (nats per token)",
        "loss on everyday prose (nats per token)", log_x=True, notes=rates,
    )  # fmt: skip


def _rate(run: str) -> float:
    """The learning rate of a run of the sweep."""
    return float(run.split()[-1]) if "rate" in run else float(sweep()["base"]["learning_rate"])


def before_and_after() -> Answers:
    """A recorded answer before and after fine-tuning on 540 examples, to the first test message that is then right."""
    from course_utils.data_prep import load_task

    record = json.loads(assets.benchmark_results("lora-seeds").read_text(encoding="utf-8"))
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
    rows = [run["scores"] for run in json.loads(assets.benchmark_results("lora-seeds").read_text(encoding="utf-8"))["runs"]]

    def written(name: str) -> str:
        values = [100 * row[name][0] for row in rows]
        return f"{statistics.mean(values):.0f} % (runs: {min(values):.0f}-{max(values):.0f})"

    fields = {name.partition(":")[0]: name for name in rows[0] if name.endswith("exact match")}
    return {"valid record": written("valid format")} | {field: written(name) for field, name in fields.items()}


# -- the rival that needs no training ---------------------------------------------------------------------------------------

RULES = {
    "category": "one of delivery, billing, returns, defect, account, question",
    "escalation": "why the message must jump the queue: one of none, danger, misuse, money, legal, deadline; mostly none",
    "product": "the product, copied letter for letter from the message, or null",
    "order_id": "the order number as TB- and five digits, or null",
    "summary": "the message in 4 to 12 words",
}


def with_rules(task: Task, prompts: Sequence[list[dict]], examples: int = 3) -> list[list[dict]]:
    """Prompts with the rules of the task and solved examples in front.

    Args:
        task: with training examples and a schema.
        prompts: conversations that end with the customer's message.
        examples: how many of the training examples are shown as earlier turns.
    """
    fields = "; ".join(f"{name}: {RULES[name]}" for name in task.schema["properties"])
    system = f"Triage this customer message. Answer with one JSON record and nothing else. Its fields are {fields}."
    solved = [message for chat in task.train[:examples] for message in chat if message["role"] != "system"]
    return [
        [{"role": "system", "content": system}, *solved, *(m for m in prompt if m["role"] != "system")] for prompt in prompts
    ]


def alarms(records: Sequence[Mapping[str, Any] | None], references: Sequence[Mapping[str, Any]]) -> Table:
    """What became of the messages that had to be escalated, and of those that had not.

    Args:
        records: the model's answers, None where an answer was not a valid record (`Scores.records`).
        references: the right records.
    """
    pairs = [(record["escalation"] if record else None, right["escalation"]) for record, right in zip(records, references)]
    urgent = [(predicted, right) for predicted, right in pairs if right != "none"]
    calm = [predicted for predicted, right in pairs if right == "none"]
    rows = {
        "escalated for the right reason": sum(predicted == right for predicted, right in urgent),
        "escalated for another reason": sum(predicted not in (right, "none", None) for predicted, right in urgent),
        "missed: “none”, or no valid record": sum(predicted in ("none", None) for predicted, _ in urgent),
        "false alarms": sum(predicted not in ("none", None) for predicted in calm),
        "right to say “none”": calm.count("none"),
        "no valid record where nothing was needed": calm.count(None),
    }
    of = [len(urgent)] * 3 + [len(calm)] * 3
    shown = {name: {"messages": count, "of": total} for (name, count), total in zip(rows.items(), of)}
    return Table(shown, f"Escalation: {len(urgent)} of {len(pairs)} messages need it", "answer", "")


# -- memory and hardware ----------------------------------------------------------------------------------------------------


def states_gb(name: str, rank: int = 16) -> dict[str, float]:
    """Weights, gradients and optimizer states of a model by method, in GB (10^9 bytes); activations are not counted."""
    count = memory.count_parameters(name, rank)
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


def states_table(names: Sequence[str] = ("SmolLM2-135M", "Llama-2-7B", "Llama-3.1-8B", "Llama-2-70B")) -> Table:
    """`states_gb` of several models."""
    rows = {name: {f"{method}, GB": round(gb, 1) for method, gb in states_gb(name).items()} for name in names}
    return Table(rows, "Weights, gradients and optimizer states, rank 16 on all linear layers", "model", "")


def fits_table() -> Table:
    """Which method's states fit in nine tenths of which card."""
    cards = {"RTX 3060": "rtx3060", "RTX 4090": "rtx4090", "A100, 40 GB": "a100-40gb", "A100, 80 GB": "a100"}
    rows = {}
    for name in ("Llama-2-7B", "Llama-2-70B"):
        for method, gb in states_gb(name).items():
            rows[f"{name}, {method}"] = {"states, GB": round(gb, 1)} | {
                card: "fits" if 1e9 * gb <= USABLE * memory.GPUS[key] else "no" for card, key in cards.items()
            }
    return Table(rows, f"States in {100 * USABLE:.0f} % of the card's memory", "model and method", "")


def judge_L1() -> Verdict:
    """Each claimed figure against the states, which are only part of what a step needs."""
    claimed = {
        ("Llama-2-7B", "full, pure bfloat16"): 60, ("Llama-2-7B", "LoRA"): 17, ("Llama-2-7B", "QLoRA"): 6,
        ("Llama-2-70B", "full, pure bfloat16"): 600, ("Llama-2-70B", "LoRA"): 160, ("Llama-2-70B", "QLoRA"): 35,
    }  # fmt: skip
    states = {name: states_gb(name) for name in ("Llama-2-7B", "Llama-2-70B")}
    rows, wrong = {}, []
    for (name, method), gb in claimed.items():
        needed = states[name][method]
        possible = needed <= gb <= 1.4 * needed
        rows[f"{name}, {method}"] = {"claimed, GB": gb, "states alone, GB": round(needed, 1), "possible": possible}
        if not possible:
            wrong.append(f"{gb} GB for {name} with {method} is less than the {needed:.0f} GB its states take")
    mixed = states["Llama-2-7B"]["full, mixed precision"]
    sentence = (
        f"{'; '.join(wrong)}. The others are possible if “full” means pure bfloat16: mixed precision takes {mixed:.0f} GB."
    )
    return Verdict(
        claims.FAILS if wrong else claims.UNDER_A_CONDITION, sentence if wrong else sentence.removeprefix(". "),
        (Table(rows, "Claimed memory beside the states", "model and method", ""),),
        "Arithmetic on published shapes. Called possible: the states fit, and activations take at most 40 % of their size.",
    )  # fmt: skip


def judge_L2() -> Verdict:
    """Each named card against the states of the model it is named for."""
    fits = lambda card, name, method: 1e9 * states_gb(name)[method] <= USABLE * memory.GPUS[card]  # noqa: E731
    named = [("rtx4090", "Llama-2-7B", "LoRA"), ("rtx3060", "Llama-2-7B", "QLoRA"), ("a100", "Llama-2-70B", "QLoRA")]
    if not all(fits(*case) for case in named):
        return Verdict(claims.FAILS, "At least one of the named cards is too small for the states.", (fits_table(),))
    small_a100, pure = fits("a100-40gb", "Llama-2-70B", "QLoRA"), fits("a100", "Llama-2-7B", "full, pure bfloat16")
    sentence = (
        "The named cards hold what they are named for, on the condition that the A100 for 70B is the one with 80 GB"
        f"{'' if small_a100 else ' (40 GB is too small)'}. Full fine-tuning of 7B needs no cluster"
        f"{' in pure bfloat16: one A100 with 80 GB holds its states' if pure else ''}. But pure bfloat16 rounds most of "
        "Adam's small steps away (lesson 03 measures it), and with a float32 master copy one card is too small."
    )
    return Verdict(
        claims.UNDER_A_CONDITION, sentence, (fits_table(),), "Arithmetic; activations need part of the last tenth."
    )


def judge_L3() -> Verdict:
    """Size of an adapter for Mistral-7B on all linear layers, and of its smallest and largest usual forms."""
    count = memory.count_parameters("Mistral-7B-v0.1", 16)
    megabytes = {
        "rank 16, all linear layers, bfloat16": 2 * count.trainable / 1e6,
        "rank 16, all linear layers, float32": 4 * count.trainable / 1e6,
        "rank 8, q and v only, bfloat16": 2
        * memory.count_parameters("Mistral-7B-v0.1", 8, ["q_proj", "v_proj"]).trainable
        / 1e6,
        "rank 64, all linear layers, bfloat16": 2 * memory.count_parameters("Mistral-7B-v0.1", 64).trainable / 1e6,
    }
    low, high = list(megabytes.values())[:2]
    holds = low >= 50 and high <= 200
    sentence = (
        f"At rank 16 on all linear layers a 7B adapter has {low:.0f} MB in bfloat16 and {high:.0f} MB in float32, "
        f"{count.percent:.2f} % of the parameters. Other ranks and targets go from {min(megabytes.values()):.0f} to "
        f"{max(megabytes.values()):.0f} MB."
    )
    rows = {name: {"file, MB": round(size, 1)} for name, size in megabytes.items()}
    return Verdict(
        claims.UNDER_A_CONDITION if holds else claims.FAILS, sentence,
        (Table(rows, "Adapter of Mistral-7B", "settings", ""),),
        "Exact counts from the model's published shape.",
    )  # fmt: skip


def judge_L4() -> Verdict:
    """The printed counts against those of the model they are printed for."""
    count = memory.count_parameters("Mistral-7B-v0.1", 16)
    claimed_trainable, claimed_total = 41_943_040, 7_284_015_104
    right = (count.trainable == claimed_trainable, count.total == claimed_total)
    rows = {
        "trainable": {"claimed": claimed_trainable, "counted": count.trainable},
        "total": {"claimed": claimed_total, "counted": count.total},
    }
    if all(right):
        return Verdict(claims.HOLDS, f"Mistral-7B: {count}.")
    sentence = (
        f"The trainable count is right for Mistral-7B ({count.trainable:,}), the total is {claimed_total - count.total:,} "
        f"too high: it is {count.total:,}, so {count.percent:.4f} % are trained."
    )
    return Verdict(
        claims.FAILS, sentence, (Table(rows, "Mistral-7B-v0.1, rank 16, seven projections", "parameters", ""),),
        "Counted on the model built without weights from its published configuration.",
    )  # fmt: skip


def judge_L5() -> Verdict:
    """Three parts: share of the parameters, memory, quality beside full fine-tuning."""
    states, count = states_gb("Llama-2-7B"), memory.count_parameters("Llama-2-7B", 16)
    small = memory.count_parameters("SmolLM2-135M", 16)
    mixed, pure = (states[method] / states["LoRA"] for method in METHODS[:2])
    lora, full = _fields_right(LORA), _fields_right(best_full())
    comparable = max(lora) >= min(full)  # the ranges over the seeds meet
    sentence = (
        f"The share is {count.percent:.2f} % at 7B, but {small.percent:.1f} % at 135M. Memory for weights and states falls "
        f"by a factor of {mixed:.1f} from mixed precision and {pure:.1f} from pure bfloat16, not "
        "tenfold, because the frozen "
        f"weights stay. Quality {'is comparable' if comparable else 'is open'}: in a short run of the 135M model, category "
        f"and escalation are both right in {_written(lora)} of the test messages with LoRA, in {_written(full)} with full "
        f"fine-tuning at its best rate (validation loss {average(LORA):.3f} and {average(best_full()):.3f})."
    )
    rows = {
        name: {"validation loss": average(run), "category and escalation right": _written(_fields_right(run))}
        for name, run in (("LoRA", LORA), ("full fine-tuning", best_full()))
    }
    return Verdict(
        claims.FAILS if mixed < 8 else claims.UNDER_A_CONDITION, sentence,
        (Table(rows, f"Recorded {sweep()['date']}, mean of {len(sweep()['seeds'])} seeds", "method", ""),),
        f"Quality after 30 steps of {sweep()['batch']} examples, on one narrow task. With larger models and longer training "
        "LoRA on all layers has been measured to equal full fine-tuning on small and medium data sets (Schulman et al., "
        "2025) and to stay behind it where much is to be learned (Biderman et al., 2024).",
    )  # fmt: skip


def _fields_right(run: str) -> list[float]:
    """Percent of test messages in which category and escalation are both right, per seed; empty if it was not measured."""
    runs = [sweep()["runs"].get(f"{run} | {seed}", {}) for seed in sweep()["seeds"]]
    return [100 * row["scores"]["all enumeration fields right"][0] for row in runs if "scores" in row]


def _written(percents: Sequence[float]) -> str:
    return f"{statistics.mean(percents):.0f} % ({min(percents):.0f}-{max(percents):.0f})"


def judge_L6(latency: Mapping[str, Score], difference: float, same_answers: float, dtype: str) -> Verdict:
    """A merged model beside its base and beside the adapter kept apart.

    Args:
        latency: "merged" and "kept apart" → time relative to the base's.
        difference: largest difference of one block's outputs in float32, relative to the largest output.
        same_answers: share of answers that are word for word the same in the model's own precision.
        dtype: that precision, e.g. "float32".
    """
    merged, apart = latency["merged"], latency["kept apart"]
    rows = {name: {"times the base's latency": f"{s.value:.2f} ({s.low:.2f}-{s.high:.2f})"} for name, s in latency.items()}
    if merged.low > 1.05 or difference > 1e-5:
        word, start = claims.FAILS, "The merged model was slower, or computed something else"
    elif merged.high < 0.95:  # the same products of the same sizes: whatever this is, it is not the merging
        word, start = (
            claims.NOT_TESTED,
            "Something disturbed the measurement, as a merged model cannot be faster than its base",
        )
    else:
        word, start = claims.UNDER_A_CONDITION, "Merged, no added latency was measured"
    sentence = (
        f"{start}: {merged.value:.2f} times the base's time (95 % interval {merged.low:.2f}-{merged.high:.2f}), against "
        f"{apart.value:.2f} times with the adapter kept apart. The outputs are the same, up to "
        "rounding, on one condition: the "
        f"weights are merged and run in float32 (largest relative difference {difference:.0e}). In 16 "
        "bits the merged weights are "
        f"rounded once more, and single answers can change. In {dtype}, as the model runs here, "
        f"{100 * same_answers:.0f} % of "
        "the answers stayed word for word the same."
    )
    return Verdict(
        word, sentence, (Table(rows, "Six tokens, six rounds in turn", "model", ""),), "This machine, this model."
    )


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
    task, shuffled = truncation()
    numbers = [float(name.split()[1]) for name in task]
    return charts.lines(
        {
            "our task": (numbers, [100 * v for v in task.values()]),
            "shuffled answers, by heart": (numbers, [100 * v for v in shuffled.values()]),
        },
        "What is left of full fine-tuning if its update keeps only r directions",
        "directions kept in each weight matrix", "share of the loss reduction, %", log_x=True,
    )  # fmt: skip


def judge_L7() -> Verdict:
    """Cut the update of full fine-tuning down to r directions per matrix and see what of its effect remains."""
    task, shuffled = truncation()
    enough = task["rank 16"] >= 0.9
    rows = {
        rank: {"our task, %": round(100 * task[rank]), "shuffled answers, %": round(100 * shuffled[rank])} for rank in task
    }
    sentence = (
        "Our largest matrix has 576 × 1,536 numbers, so that one of 4,096 × 4,096 was not tested. In "
        "ours: if the update of full "
        f"fine-tuning keeps only 16 directions in each matrix, {100 * task['rank 16']:.0f} % of its "
        f"effect on our task's validation loss remains; with one direction it is {100 * task['rank 1']:.0f} %. Of what was "
        f"learned by heart from 40 messages with shuffled answers, {100 * shuffled['rank 16']:.0f} and "
        f"{100 * shuffled['rank 1']:.0f} % remain."
    )
    return Verdict(
        claims.NOT_TESTED if enough else claims.FAILS, sentence,
        (Table(rows, f"Effect that remains, recorded {sweep()['date']}", "directions kept", ""),),
        "On a narrow task like this one. Large instruction sets and continued pretraining need more "
        "directions (Biderman et al., 2024, LoRA Learns Less and Forgets Less).",
    )  # fmt: skip


def judge_L8() -> Verdict:
    """The validation loss at rank 1 beside higher ranks and full fine-tuning."""
    untrained = sweep()["runs"]["untrained"]["validation_loss"]
    best = min(average("rank 1"), average("rank 4"), average(LORA), average("rank 64"), average(best_full()))
    share = (untrained - average("rank 1")) / (untrained - best)
    rows = {
        name: {"validation loss": f"{average(run):.3f} ({min(over_seeds(run, 'validation_loss')):.3f}-"
                                  f"{max(over_seeds(run, 'validation_loss')):.3f})"}
        for name, run in (("rank 1", "rank 1"), ("rank 4", "rank 4"), ("rank 16", LORA), ("rank 64", "rank 64"),
                          ("full fine-tuning", best_full()))
    }  # fmt: skip
    sentence = (
        f"Rank 1 reaches {100 * share:.0f} % of the loss reduction of the best run (validation loss "
        f"{average('rank 1'):.3f}; rank 16 {average(LORA):.3f}, rank 64 {average('rank 64'):.3f}, before "
        f"training {untrained:.2f}). The condition: that is the loss after a short run, most of which is form. Whether the "
        "labels are learned as well at rank 1 was not measured."
    )
    return Verdict(
        claims.UNDER_A_CONDITION if share >= 0.95 else claims.FAILS, sentence,
        (Table(rows, f"Recorded {sweep()['date']}, mean (lowest-highest) of {len(sweep()['seeds'])} seeds", "run", ""),),
        "A form and a few short fields in 30 steps, judged by the loss, most of which is form. What a rank can hold is "
        "limited: with more data than that, low ranks fall behind (Schulman et al., 2025).",
    )  # fmt: skip


# -- measured in the notebook -----------------------------------------------------------------------------------------------


def latency(merged: Any, apart: Any, tokenizer: Any, rounds: int = 6) -> dict[str, Score]:
    """Time of six greedy tokens relative to the base's; the three take turns, so that load hurts all alike.

    The base is loaded anew, in the same number format: under PEFT it is slower, its adapter switched off or not. All three
    use the same attention.

    Args:
        merged: the model with the adapter merged into its weights.
        apart: the PEFT model with the adapter beside them.
        tokenizer: theirs.
        rounds: turns of each.

    Returns:
        "merged" and "kept apart" → mean over the rounds, with its interval.
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
    for turn in range(rounds):
        for name in np.roll(names, turn):
            times[str(name)].append(seconds(str(name)))
    del base, by_name["base"]
    memory.release()
    return {name: evaluation.mean(list(np.divide(times[name], times["base"]))) for name in names[1:]}


def merge_difference(model: Any, seed: int = 0) -> float:
    """Largest difference of a block's outputs before and after merging, in float32, relative to the largest output."""
    import copy

    import torch

    block = copy.deepcopy(model.base_model.model.model.layers[0].mlp).float().cpu()
    probe = torch.randn(8, block.gate_proj.in_features, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        apart = block(probe)
        for name in ("gate_proj", "up_proj", "down_proj"):
            getattr(block, name).merge()
        return float((block(probe) - apart).abs().max() / apart.abs().max())
