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
    content: dict[str, Any] = json.loads(assets.record("lora-sweep").read_text(encoding="utf-8"))
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


def knob(name: str) -> Figure:
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
        "rank": "Rank 1 learns this task as well as rank 64",
        "alpha": "Alpha works like a second learning rate",
        "learning rate": "The learning rate decides",
    }[name]
    return charts.knob(
        {x: over_seeds(runs[x], "validation_loss") for x in sorted(runs)}, title, name, "validation loss (nats per token)",
        {"full fine-tuning, at its best rate": average(best_full())},
    )  # fmt: skip


def rivals() -> Table:
    """LoRA, its variants and full fine-tuning: what they learn and what they forget."""
    record = sweep()
    untrained = record["runs"]["untrained"]
    names = {
        "LoRA, rank 16, all layers": LORA,
        "attention only, at equal size": "attention only, equal size",
        "dropout 0.1": "dropout 0.1",
        "rsLoRA": "rsLoRA",
        "DoRA": "DoRA",
        "embedding too (modules_to_save)": "embedding trained too",
        f"full fine-tuning, {best_full().removeprefix('full, ')}": best_full(),
    }
    rows: dict[str, dict[str, Any]] = {
        "before training": {
            "trained, millions": 0.0,
            "validation loss": f"{untrained['validation_loss']:.2f}",
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
    series = {}
    for label, names in (("LoRA", [*_names("rate "), LORA]), ("full fine-tuning", _names("full, rate"))):
        points = sorted((average(n), average(n, "prose_loss")) for n in names)
        series[label] = ([x for x, _ in points], [y for _, y in points])
    untrained = sweep()["runs"]["untrained"]
    series["before training"] = ([untrained["validation_loss"]], [untrained["prose_loss"]])
    return charts.trade_off(
        series, "Lower left is better: learned the task, forgot no prose", "validation loss on the task (nats per token)",
        "loss on everyday prose (nats per token)",
    )  # fmt: skip


def before_and_after() -> Answers:
    """Recorded answers of the model before and after the lesson's fine-tuning, to the first test messages."""
    from course_utils.data_prep import load_task

    record = sweep()
    task = load_task("support_tickets", record["fields"])
    shown = record["runs"]["untrained"]["answers"]
    messages = [conversation[-1]["content"] for conversation in task.prompts()[: len(shown)]]
    return Answers(
        messages[:1],
        {"before": shown[:1], "after fine-tuning": record["runs"][f"{LORA} | 0"]["answers"][:1]},
        task.references()[:1], json.loads, 280,
    )  # fmt: skip


def recorded_scores() -> dict[str, str]:
    """Test scores after 540 examples (`benchmarks/lora_seeds.py`): mean over the seeds, lowest and highest of them."""
    rows = [run["scores"] for run in json.loads(assets.record("lora-seeds").read_text(encoding="utf-8"))["runs"]]

    def written(name: str) -> str:
        values = [100 * row[name][0] for row in rows]
        return f"{statistics.mean(values):.0f} % (seeds {min(values):.0f}-{max(values):.0f})"

    fields = {name.partition(":")[0]: name for name in rows[0] if name.endswith("exact match")}
    return {"valid record": written("valid format")} | {field: written(name) for field, name in fields.items()}


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
        possible = needed <= gb <= 1.4 * needed  # the states fit, and at most 40 % is left for activations
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
        "Arithmetic on published shapes. Activations come on top; lesson 03 counts them.",
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
    gap = average(LORA) - average(best_full())
    spread = max(over_seeds(LORA, "validation_loss")) - min(over_seeds(LORA, "validation_loss"))
    comparable = gap <= max(spread, 0.01)
    sentence = (
        f"The share is {count.percent:.2f} % at 7B, but {small.percent:.1f} % at 135M. Memory for weights and states falls "
        f"by {mixed:.1f} from mixed precision and by {pure:.1f} from pure bfloat16, not tenfold, because the frozen weights "
        f"stay. Quality {'is comparable' if comparable else 'is not the same'}: validation loss {average(LORA):.3f} with "
        f"LoRA, {average(best_full()):.3f} with full fine-tuning at its best rate."
    )
    rows = {
        "LoRA": {"validation loss": average(LORA), "enumeration fields right": _mean_score(LORA)},
        "full fine-tuning": {"validation loss": average(best_full()), "enumeration fields right": _mean_score(best_full())},
    }
    return Verdict(
        claims.FAILS if mixed < 8 or not comparable else claims.UNDER_A_CONDITION, sentence,
        (Table(rows, f"Recorded {sweep()['date']}, mean of {len(sweep()['seeds'])} seeds", "method", ""),),
        "Quality measured on the 135M model and a narrow task only.",
    )  # fmt: skip


def _mean_score(run: str) -> str:
    values = [100 * scores["all enumeration fields right"][0] for scores in over_seeds(run, "scores")]
    return f"{statistics.mean(values):.0f} % ({min(values):.0f}-{max(values):.0f})"


def judge_L6(latency: Mapping[str, Score], difference: float, same_answers: float) -> Verdict:
    """A merged model beside its base and beside the adapter kept apart.

    Args:
        latency: "merged" and "kept apart" → time relative to the base's.
        difference: largest difference of one block's outputs in float32, relative to the largest output.
        same_answers: share of answers that are word for word the same in the model's own precision.
    """
    merged, apart = latency["merged"], latency["kept apart"]
    rows = {name: {"times the base's latency": f"{s.value:.2f} ({s.low:.2f}-{s.high:.2f})"} for name, s in latency.items()}
    if merged.low > 1.05 or difference > 1e-5:
        word, start = claims.FAILS, "The merged model was slower, or computed something else"
    else:
        word, start = claims.UNDER_A_CONDITION, "Merged, no latency is added, and in float32 the outputs are the same"
    sentence = (
        f"{start}: {merged.value:.2f} times the base's time, {apart.value:.2f} times if the adapter is kept apart; largest "
        f"relative difference {difference:.0e}. In 16 bits merging rounds the weights once more: "
        f"{100 * same_answers:.0f} % of the answers stayed word for word the same."
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
        kept = lambda row, rank: (row["before"] - row[rank]) / (row["before"] - row["whole update"])  # noqa: E731
        return {rank: statistics.mean(kept(row, rank) for row in losses) for rank in ranks}

    return shares("truncated"), shares("truncated, shuffled answers")


def truncation_figure() -> Figure:
    """`truncation` as a figure."""
    task, shuffled = truncation()
    numbers = [float(name.split()[1]) for name in task]
    return charts.trade_off(
        {
            "our task": (numbers, [100 * v for v in task.values()]),
            "answers dealt out at random": (numbers, [100 * v for v in shuffled.values()]),
        },
        "What is left of full fine-tuning if its update keeps only r directions",
        "directions kept in each weight matrix", "share of the loss reduction, %", log_x=True,
    )  # fmt: skip


def judge_L7() -> Verdict:
    """Cut the update of full fine-tuning down to r directions per matrix and see what of its effect remains."""
    task, shuffled = truncation()
    enough = task["rank 16"] >= 0.9
    rows = {
        rank: {"our task, %": round(100 * task[rank]), "answers at random, %": round(100 * shuffled[rank])} for rank in task
    }
    sentence = (
        f"If the update of full fine-tuning keeps only 16 directions in each matrix, {100 * task['rank 16']:.0f} % of its "
        f"effect on the validation loss remains on our task. For answers dealt out at random, which can only be "
        f"memorised, it is {100 * shuffled['rank 16']:.0f} %."
    )
    return Verdict(
        claims.UNDER_A_CONDITION if enough else claims.FAILS, sentence,
        (Table(rows, f"Effect that remains, recorded {sweep()['date']}", "directions kept", ""),),
        "The condition is a narrow task like this one. Large instruction sets and continued pretraining need more "
        "directions (Biderman et al., 2024, LoRA Learns Less and Forgets Less).",
    )  # fmt: skip


def judge_L8() -> Verdict:
    """The validation loss at rank 1 beside higher ranks and full fine-tuning."""
    untrained = sweep()["runs"]["untrained"]["validation_loss"]
    best = min(average(LORA), average("rank 64"), average(best_full()))
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
        f"training {untrained:.2f})."
    )
    return Verdict(
        claims.HOLDS if share >= 0.95 else claims.UNDER_A_CONDITION if share >= 0.8 else claims.FAILS, sentence,
        (Table(rows, f"Recorded {sweep()['date']}, mean (lowest-highest) of {len(sweep()['seeds'])} seeds", "run", ""),),
        "A format and three short fields. What a rank can hold is limited; more data need more of it.",
    )  # fmt: skip


# -- measured in the notebook -----------------------------------------------------------------------------------------------


def latency(models: Mapping[str, Any], tokenizer: Any, rounds: int = 6) -> dict[str, Score]:
    """Time of six greedy tokens by model relative to the first; the models take turns, so that load hurts all alike."""
    import time

    import numpy as np
    import torch

    def seconds(candidate: Any) -> float:
        inputs = tokenizer("The customer writes that the parcel", return_tensors="pt").to(candidate.device)
        started = time.perf_counter()
        with torch.no_grad():
            candidate.generate(**inputs, min_new_tokens=6, max_new_tokens=6, do_sample=False)
        return time.perf_counter() - started

    for candidate in models.values():
        candidate.eval()
        seconds(candidate)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds):
        for name in np.roll(list(models), turn):
            times[str(name)].append(seconds(models[str(name)]))
    first = next(iter(models))
    return {name: evaluation.mean(list(np.divide(times[name], times[first]))) for name in models if name != first}


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


def compare_with_peft(block: Any, inject: Any, rank: int, alpha: int, seed: int = 0) -> dict[str, float]:
    """Largest absolute differences between the notebook's LoRA and PEFT's on one feed-forward block, in float32.

    Args:
        block: a feed-forward block with `gate_proj`, `up_proj` and `down_proj`; it is not changed.
        inject: the notebook's function, called as inject(block, names, rank=..., alpha=...).
        rank: r.
        alpha: numerator of the scaling.
        seed: of A, B and the input.

    Returns:
        what was compared → largest difference.
    """
    import copy

    import torch
    from peft import LoraConfig, inject_adapter_in_model

    names = ["gate_proj", "up_proj", "down_proj"]
    ours, theirs = copy.deepcopy(block).float(), copy.deepcopy(block).float()
    torch.manual_seed(seed)
    inject(ours, names, rank=rank, alpha=alpha)
    theirs = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), theirs)
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in names]
    for our_layer, peft_layer in pairs:
        our_layer.B.data.normal_(0, 0.05)  # zero would hide a wrong A
        peft_layer.lora_A["default"].weight.data.copy_(our_layer.A.data)
        peft_layer.lora_B["default"].weight.data.copy_(our_layer.B.data)
    x = torch.randn(4, 16, pairs[0][0].base.in_features)
    outputs = ours(x), theirs(x)
    for output in outputs:
        output.square().mean().backward()
    largest = lambda a, b: (a - b).abs().max().item()  # noqa: E731
    gradients = max(largest(o.A.grad, p.lora_A["default"].weight.grad) for o, p in pairs)
    for _, peft_layer in pairs:
        peft_layer.merge()
    return {
        "output": largest(*outputs),
        "gradient of A": gradients,
        "merged weight": max(largest(o.merged(), p.base_layer.weight) for o, p in pairs),
    }
